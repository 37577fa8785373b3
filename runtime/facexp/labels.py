"""The labels of the shipped emotion network: seven classes in FER2013's order, and five of them.

Other bundles may have other labels: the labels in use are always those in the bundle's manifest.
"""

from __future__ import annotations

SEVEN: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FIVE: tuple[str, ...] = ("angry", "disgust", "sad", "happy", "surprise")
EMOTIONS: dict[str, tuple[str, ...]] = {"seven": SEVEN, "five": FIVE}
