"""A recipe falls back to the defaults, and an error in one is reported with its file and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from facexp.bundle import KEYS
from facexp_export.errors import ExportError
from facexp_export.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "export" / "facexp_export" / "recipes"


def test_the_default_recipe_makes_every_file() -> None:
    """Guards the seven files, and a verification split that is not that of the calibration."""
    recipe = read_recipe()
    assert recipe.keys == KEYS
    assert recipe.calibration.split != recipe.verification.split


def test_a_saved_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    """Guards the copy next to the result: complete, whatever its file left to the defaults."""
    recipe = read_recipe(RECIPES / "ship-keypoints.toml")
    assert recipe.keys == ("float32.onnx", "int8.onnx", "int8.tflite")
    assert recipe.name == "facexp-baseline"
    (tmp_path / "again.toml").write_text(recipe.text())
    assert read_recipe(tmp_path / "again.toml") == recipe
    assert recipe != read_recipe()


def test_any_text_can_be_read_after_saving(tmp_path: Path) -> None:
    """Guards a recipe's free texts: JSON and TOML write some characters differently."""
    recipe = read_recipe()
    recipe = replace(recipe, tolerances=replace(recipe.tolerances, why='\U0001f600 \x7f \x00 "\\ \t\r\n é'))
    (tmp_path / "again.toml").write_text(recipe.text(), encoding="utf-8")
    assert read_recipe(tmp_path / "again.toml") == recipe


def test_a_recipe_that_notepad_saved_is_read(tmp_path: Path) -> None:
    """Guards files with a byte order mark, which the configurations may have as well."""
    (tmp_path / "mine.toml").write_text("[margins]\nrmse_px = 0.5\n", encoding="utf-8-sig")
    assert read_recipe(tmp_path / "mine.toml").margins.rmse_px == 0.5


def test_a_savedmodel_alone_can_be_judged(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[files]\nkeys = ["savedmodel"]\n')
    assert read_recipe(tmp_path / "mine.toml").keys == ("savedmodel",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[calibrate]",
            "calibrate is unknown; expected one of bundle, calibration, verification, files, .*",
        ),
        ("[calibration]\nface = 3", "calibration.face is unknown; expected one of split, faces, method"),
        ("[calibration]\nfaces = 512.5", "calibration.faces must be a whole number, got 512.5"),
        ("[calibration]\nfaces = true", "calibration.faces must be a whole number, got True"),
        ("[calibration]\nfaces = 256", "calibration.faces must be 512 or more, got 256"),
        ("[verification]\nfaces = 1", "verification.faces must be 512 or more, got 1"),
        ("[calibration]\nmethod = 'best'", "calibration.method must be one of MinMax, Percentile, Entropy, got 'best'"),
        ("[verification]\nsplit = 'train'", "verification.split must be another split than calibration's, train"),
        ("[verification]\nsplit = 'dev'", "verification.split must be one of train, val, test, got 'dev'"),
        ("files = 3", "files must be a table, got 3"),
        ("[files]\nkeys = ['int8']", "files.keys must be some of float32.onnx, .*, got \\['int8'\\]"),
        ("[files]\nkeys = []", "files.keys must be some of"),
        (
            "[files]\nkeys = ['int8.onnx', 'int8.tflite']",
            r"files.keys must hold a float32 or float16 file besides the int8 ones, .*, got \['int8.onnx', 'int8.tfl",
        ),
        ("[margins]\nrmse_px = '1'", "margins.rmse_px must be a number, got '1'"),
        ("[tolerances.golden]\nint8 = 0", "tolerances.golden.int8 must be finite and more than 0, got 0"),
        ("[margins]\naccuracy_points = inf", "margins.accuracy_points must be finite and more than 0, got inf"),
        ("[margins]\nrmse_px = nan", "margins.rmse_px must be finite and more than 0, got nan"),
        (f"[margins]\nrmse_px = 1{'0' * 400}", "margins.rmse_px must be finite and more than 0"),
        ("[tolerances.golden]\nint8 = inf", "tolerances.golden.int8 must be finite and more than 0, got inf"),
        ("[files", "cannot be read as TOML"),
        (f"[files]\nkeys = {'[' * 10_000}", "cannot be read as TOML"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, words: str) -> None:
    """Guards a mistyped option, for which the default would otherwise be used silently."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ExportError, match=words) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value)
