"""The labels of the shipped emotion network: seven classes in FER2013's order, and five of them.

A bundle of one's own may have others: the labels in use are those of its manifest.
"""

from __future__ import annotations

SEVEN: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FIVE: tuple[str, ...] = ("angry", "disgust", "sad", "happy", "surprise")
EMOTIONS: dict[str, tuple[str, ...]] = {"seven": SEVEN, "five": FIVE}
