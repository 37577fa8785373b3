"""Every wrong setting is named before anything is read or written."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from facexp_train import run
from facexp_train.errors import DataError
from facexp_train.fitting.run_directory import held_run_directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epohcs=2", "epohcs is unknown; expected one of task, data"),
        ("epochs=many", "epochs must be a whole number, got 'many'"),
        ("epochs=0", "epochs must be 1 or more, got 0"),
        ("epochs=1.5", "epochs must be a whole number"),
        ("epochs=true", "epochs must be a whole number, got True"),
        ("batch_size=0", "batch_size must be 1 or more"),
        ("seed=4294967296", "seed must be from 0 to 4294967295"),
        ("patience=-1", "patience must be 0 or more"),
        ("learning_rate=fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate=NaN", "learning_rate must be 0 or more, and finite, got nan"),
        ("learning_rate=Infinity", "learning_rate must be 0 or more, and finite, got inf"),
        ("ema=1", "ema must be 0 or more, and below 1"),
        ("label_smoothing=2", "label_smoothing must be between 0 and 1"),
        ("aligned=NaN", "aligned must be between 0 and 1"),
        ("augmentation.flips=1", "augmentation.flips is unknown"),
        ("augmentation.flip=2", "augmentation.flip must be between 0 and 1"),
        ("augmentation=5", "augmentation must be a table, got 5"),
        ("settled=[]", r"settled must be a table, got \[\]"),
        ("network=5", "network must be a table"),
        ("repeat=5", "repeat must be a table"),
        ("repeat.helen=two", "repeat.helen must be a whole number and not negative, got 'two'"),
        ("leave_out=abc", "leave_out must be a list of strings, got 'abc'"),
        ("leave_out=[1]", "leave_out must be a list of strings"),
        ("teachers=5", "teachers must be a list of tables"),
        ('teachers=["a"]', "teachers must be a list of tables"),
        ('teachers=[{"augmentation": 5}]', r"teachers\[0\]: augmentation must be a table"),
        ('teachers=[{"votes": "a.csv"}]', "votes is not a setting"),
        ("start_from=5", "start_from must be a string"),
        ("grow=no", "grow must be true or false, got 'no'"),
        ("optimizer=lion", "optimizer must be one of sgd, adam, adamw"),
        ("optimizer=[]", "optimizer must be one of sgd, adam, adamw"),
        ("data=other.csv", "data is not a setting: give it on the command line"),
        ("task=keypoints", "task is not a setting"),
        ("epochs", "expected KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_named(change: str, message: str) -> None:
    """Guards names, types and ranges, in tables and teachers too."""
    with pytest.raises(DataError, match=message):
        run.configure("emotion", "fer2013.csv", changes=[change])


def test_a_wrong_configuration_file_is_named(tmp_path: Path) -> None:
    """Guards what editors write: a byte order mark, which is accepted, and encodings other than UTF-8."""
    path = tmp_path / "my.toml"
    path.write_text('classes = ["läuft", "ruht"]\n', encoding="utf-8-sig")
    assert run.configure("emotion", "faces.csv", name=str(path)).classes == ["läuft", "ruht"]
    for content in ("# läuft\n".encode("latin-1"), "epochs = 2\n".encode("utf-16"), b"epochs = \n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"my\.toml: cannot be read as TOML"):
            run.configure("emotion", "faces.csv", name=str(path))
    path.write_text('votes = "mine.csv"\n')
    with pytest.raises(DataError, match=r"my\.toml: votes is not a setting"):
        run.configure("emotion", "faces.csv", name=str(path))


def test_the_command_repeats_the_configuration(tmp_path: Path) -> None:
    # guards quoting, nested tables, values that are valid as JSON and as text, and settings that the shipped file lacks
    data, out = tmp_path / "my data.csv", tmp_path / "it's a run"
    changes = [
        "epochs=3",
        "augmentation.flip=0",
        'network={"stem": 8}',
        "optimizer=adamw",
        "teachers=[]",
        "dtype=float32",
    ]
    config = run.configure("emotion", str(data), str(tmp_path / "votes $1.csv"), changes=changes)
    with held_run_directory(config, out, False):
        pass
    versions, line = (out / "command.txt").read_text().splitlines()
    assert versions.startswith("# facexp ")
    words = shlex.split(line)
    assert words[:4] == ["facexp", "train", "emotion", str(data)]
    assert words[words.index("--out") + 1] == f"{out}-again"
    settings = [value for word, value in itertools.pairwise(words) if word == "--set"]
    votes = words[words.index("--votes") + 1]
    assert run.configure("emotion", words[3], votes, changes=settings) == config
