"""Would an abstain output pay? How well faces that FER+'s voters could not read are told from the others.

    python benchmarks/abstention.py RUN FER2013.csv      # FER+'s fer2013new.csv beside it

Unreadable: "unknown" and "not a face" have more votes together than any emotion. An abstain output is stood in for by a
logistic regression on what the heads of RUN's network see, its pooled last map, fitted on all training faces; it is
judged on PublicTest beside what is there without it: the largest probability of the FER+ head, and the keypoint
network's drift between two looks. Area under the ROC curve, and the share of unreadable faces that is caught where 1%
and 5% of the readable ones are lost. Needs the extras `train` and `cpu`.
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
from facexp_train.emotion_data import EmotionFaces, read_emotion
from facexp_train.votes import VOTES


def unreadable(faces: EmotionFaces) -> NDArray[np.bool_]:
    assert faces.votes is not None
    none = [VOTES.index(name) for name in ("unknown", "NF")]
    emotions = [column for column in range(len(VOTES)) if column not in none]
    return np.asarray(faces.votes[:, none].sum(axis=1) > faces.votes[:, emotions].max(axis=1))


def drift(images: NDArray[np.uint8]) -> NDArray[np.float64]:
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
    seen = keras.Model(model.input, {"pool": model.get_layer("pool").output, **model.output})
    train, held = faces.part("train"), faces.part("val")
    known, asked = (seen.predict(part.images[..., None], batch_size=512, verbose=0) for part in (train, held))
    probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
    scale = known["pool"].std(axis=0) + 1e-6
    probe.fit(known["pool"] / scale, unreadable(train))
    truth = unreadable(held)
    print(f"facexp {facexp.__version__}: {truth.sum()} of {len(truth)} PublicTest faces are unreadable")
    print("| by | area under ROC | caught at 1% lost | at 5% lost |\n| --- | --- | --- | --- |")
    signals = {
        "abstain output": probe.decision_function(asked["pool"] / scale),
        "largest probability": -softmax(asked["ferplus"], axis=1).max(axis=1),
        "drift of the points": drift(held.images),
    }
    for name, signal in signals.items():
        caught = [float((signal[truth] > np.quantile(signal[~truth], 1 - lost)).mean()) for lost in (0.01, 0.05)]
        print(f"| {name} | {roc_auc_score(truth, signal):.3f} | {caught[0]:.0%} | {caught[1]:.0%} |")


if __name__ == "__main__":
    main()
