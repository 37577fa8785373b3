"""Measure whether an abstain output would be useful: how well it detects faces that FER+'s voters could not read.

    python benchmarks/abstention.py RUN FER2013.csv      # with FER+'s fer2013new.csv next to it

A face is unreadable if "unknown" and "not a face" together have more votes than any emotion. The abstain output is
simulated by a logistic regression on the pooled last feature map of RUN's network, which is the input of its heads; it
is fitted on all training faces. On PublicTest it is compared with two signals that exist already: the largest
probability of the FER+ head, and the drift between the keypoint network's two passes. Printed are the area under the
ROC curve, and the share of unreadable faces that is detected if 1% and 5% of the readable ones are rejected. Needs the
extras `train` and `cpu`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import facexp
from facexp.bundle import Bundle
from facexp.keypoints import KeypointFinder
from facexp.session import Session
from facexp_train.data.emotion_data import EmotionFaces, read_emotion
from facexp_train.data.votes import VOTES


def unreadable(faces: EmotionFaces) -> NDArray[np.bool_]:
    """Return which of N faces are unreadable, bool (N,)."""
    assert faces.votes is not None
    no_emotion = [VOTES.index(name) for name in ("unknown", "NF")]
    emotions = [column for column in range(len(VOTES)) if column not in no_emotion]
    return np.asarray(faces.votes[:, no_emotion].sum(axis=1) > faces.votes[:, emotions].max(axis=1))


def drift(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the keypoint drift between the two passes, (N,), over the inter-ocular distance; gray images (N, H, W)."""
    bundle = Bundle.load()
    spec, key = bundle.keypoints, "int8.onnx"
    finder = KeypointFinder(Session(bundle.read(spec, key), spec, key), spec)
    parts = [images[start : start + 64] for start in range(0, len(images), 64)]
    return np.concatenate([finder.find_in_crops(list(part)).drift for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    faces = read_emotion(options.data)
    model = keras.saving.load_model(options.run / "model.keras", compile=False)
    features = keras.Model(model.input, {"pool": model.get_layer("pool").output, **model.output})
    train, held = faces.part("train"), faces.part("val")
    fitted, judged = (features.predict(part.images[..., None], batch_size=512, verbose=0) for part in (train, held))
    probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
    scale = fitted["pool"].std(axis=0) + 1e-6
    probe.fit(fitted["pool"] / scale, unreadable(train))
    truth = unreadable(held)
    print(f"facexp {facexp.__version__}: {truth.sum()} of {len(truth)} PublicTest faces are unreadable")
    print("| signal | area under ROC | detected with 1% lost | with 5% lost |\n| --- | --- | --- | --- |")
    signals = {
        "abstain output": probe.decision_function(judged["pool"] / scale),
        "largest probability": -softmax(judged["ferplus"], axis=1).max(axis=1),
        "drift of the points": drift(held.images),
    }
    for name, signal in signals.items():
        caught = [float((signal[truth] > np.quantile(signal[~truth], 1 - lost)).mean()) for lost in (0.01, 0.05)]
        print(f"| {name} | {roc_auc_score(truth, signal):.3f} | {caught[0]:.0%} | {caught[1]:.0%} |")


if __name__ == "__main__":
    main()
