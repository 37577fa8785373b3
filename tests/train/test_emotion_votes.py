"""FER+'s ten votes a face become a distribution and a majority over the seven emotions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import EmotionFaces, EmotionReport
from facexp_train.emotion import EmotionJob
from facexp_train.errors import DataError

BALLOTS = np.array(
    [
        # neutral happiness surprise sadness anger disgust fear contempt unknown NF
        [0, 8, 1, 0, 0, 0, 0, 1, 0, 0],  # happy; single votes dropped
        [4, 0, 0, 4, 2, 0, 0, 0, 0, 0],  # a tie
        [1, 0, 1, 0, 0, 1, 0, 7, 0, 0],  # contempt leads
        [2, 0, 0, 0, 0, 0, 0, 0, 8, 0],  # unknown leads
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 10],  # not a face
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],  # nothing but single votes
        [0, 0, 0, 0, 3, 6, 1, 0, 0, 0],  # disgust, then anger
        [0, 0, 0, 0, 0, 0, 5, 0, 5, 0],  # fear shares the lead with unknown
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # no votes
        [4, 3, 3, 0, 0, 0, 0, 0, 0, 0],  # the most votes, but not half of them
    ]
)


@pytest.fixture
def voted() -> EmotionFaces:
    return EmotionFaces(
        images=np.zeros((10, 48, 48), np.uint8),
        labels=np.zeros(10, np.int64),
        votes=BALLOTS.astype(np.float32),
        split=np.full(10, "train"),
        rows=np.arange(1, 11),
        copies=np.arange(10).astype(np.str_),
        group=np.arange(10).astype(np.str_),
        names=np.arange(10).astype(np.str_),
        report=EmotionReport(rows=10, copies=0, near_copies=0, flat=0),
    )


def test_votes_become_distributions(voted: EmotionFaces) -> None:
    """Guards how votes become probabilities: single votes dropped, no share for the other three columns."""
    shares, usable = voted.distributions()
    assert shares.dtype == np.float32
    assert usable.tolist() == [True, True, False, False, False, True, True, True, False, True]
    expected = np.zeros((10, 7), np.float32)  # angry disgust fear happy sad surprise neutral
    expected[0, 3] = 1
    expected[1, [6, 4, 0]] = [0.4, 0.4, 0.2]
    expected[5] = 1 / 7
    expected[6, [1, 0]] = [2 / 3, 1 / 3]
    expected[7, 2] = 1
    expected[9, [6, 3, 5]] = [0.4, 0.3, 0.3]
    assert np.allclose(shares, expected, atol=1e-6)


def test_votes_have_a_majority_or_none(voted: EmotionFaces) -> None:
    """Guards FER+'s majority: a code of the seven, or -1 for a tie, no clear lead, contempt, unknown and no face."""
    assert voted.majority().tolist() == [3, -1, -1, -1, -1, -1, 1, -1, -1, -1]
    assert voted.majority().dtype == np.int64


def test_a_clear_majority_is_more_than_half_of_all_votes(voted: EmotionFaces) -> None:
    """Guards the narrower rule: five of ten are enough only where single votes are dropped, six always are."""
    five, six = [5, 1, 1, 1, 1, 1, 0, 0, 0, 0], [6, 4, 0, 0, 0, 0, 0, 0, 0, 0]
    faces = dataclasses.replace(voted, votes=np.array([five, six, [0] * 7 + [6, 4, 0]] + [six] * 7, np.float32))
    assert faces.majority().tolist()[:3] == [6, 6, -1]
    assert faces.clear_majority().tolist()[:3] == [-1, 6, -1]
    assert voted.clear_majority().tolist() == [3, -1, -1, -1, -1, -1, 1, -1, -1, -1]


def test_a_labelling_without_a_rated_face_is_named(voted: EmotionFaces) -> None:
    """Guards against a NaN score after the first epoch: in one of the splits no face has votes that count."""
    faces = dataclasses.replace(
        voted, votes=voted.votes.copy(), labels=np.arange(10) % 2, split=np.repeat(["train", "val"], 5)
    )
    config = TrainConfig("emotion", "fer2013.csv")
    EmotionJob(faces, config, quiet=True)
    for split, rows in (("training", slice(0, 5)), ("validation", slice(5, 10))):
        votes = voted.votes.copy()
        votes[rows] = 0
        with pytest.raises(DataError, match=rf"fer2013\.csv: no {split} face is rated by FER\+.*; move the votes away"):
            EmotionJob(dataclasses.replace(faces, votes=votes), config, quiet=True)


def test_training_without_faces_is_refused_with_the_reason(voted: EmotionFaces) -> None:
    """Guards that the message counts what was left out: copies of held-out faces are not training faces."""
    report = EmotionReport(rows=30, copies=12, near_copies=5, flat=3)
    faces = dataclasses.replace(voted, split=np.full(10, "val"), report=report)
    with pytest.raises(DataError, match=r"0 training and 10 .*: 12 copies and 5 near copies .*, 3 flat pictures"):
        EmotionJob(faces, TrainConfig("emotion", "fer2013.csv"), quiet=True)
