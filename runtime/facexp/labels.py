"""The emotion labels: seven classes in FER2013's order, and the five that are the same probabilities renormalised."""

from __future__ import annotations

SEVEN: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FIVE: tuple[str, ...] = ("angry", "disgust", "sad", "happy", "surprise")
EMOTIONS: dict[str, tuple[str, ...]] = {"seven": SEVEN, "five": FIVE}
