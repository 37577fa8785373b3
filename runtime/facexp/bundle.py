"""The model bundle: a directory with manifest.json and the models that it names, each checked by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facexp.errors import BundleError
from facexp.geometry import KEYPOINTS, Framing, Points
from facexp.json_node import Node, as_json
from facexp.labels import SEVEN

SCHEMA = 2
MANIFEST = "manifest.json"
SAVEDMODEL = "savedmodel"
KEYS = ("float32.onnx", "float16.onnx", "int8.onnx", "float32.tflite", "float16.tflite", "int8.tflite", SAVEDMODEL)
"""What a bundle may hold of a model: precision and format, in each format the most exact first.

A SavedModel is float32.
"""

_LARGEST_CROP = 4096


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One form of a model in a bundle: a file, or the directory of a SavedModel."""

    key: str
    """One of KEYS."""
    file: str
    """Its name in the bundle's directory."""
    sha256: str
    """`digest` of its content, 64 lower-case hexadecimal digits."""
    bytes: int
    """Its size."""

    @property
    def format(self) -> str:
        """ "onnx", "tflite" or "savedmodel"."""
        return self.key.rpartition(".")[2]

    @property
    def precision(self) -> str:
        """ "float32", "float16" or "int8"."""
        return self.key.partition(".")[0] if self.key != SAVEDMODEL else "float32"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    dtype: str
    """numpy's name of the type."""
    row: tuple[int, ...]
    """The shape without the batch, which is the first dimension."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """What the manifest says about one network."""

    name: str
    files: Mapping[str, FileSpec]
    """Key, one of KEYS -> file."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    """Names of the outputs' rows (keypoints) or columns (emotion)."""
    size: int
    """Side of the square gray crop that the network takes, in pixels."""
    preprocessing: Mapping[str, Any]
    """As the manifest has it."""
    training: Mapping[str, Any]
    """Where the weights come from; empty where the manifest does not say."""
    figures: tuple[Mapping[str, Any], ...]
    """Measured scores; empty where the manifest has none."""

    def exact(self, form: str = "onnx") -> str | None:
        """Key of its most exact file of a format, None where it has none."""
        return next((key for key in KEYS if key in self.files and self.files[key].format == form), None)


@dataclass(frozen=True, slots=True, eq=False)
class KeypointsSpec(ModelSpec):
    """The keypoints network: labels are `facexp.KEYPOINTS`."""

    framing: Framing
    """How the training square lies round a detector's box."""
    mean_shape: Points
    """(15, 2) float32: where the points of an average face lie in the crop, in pixels of the crop, read-only."""


@dataclass(frozen=True, slots=True, eq=False)
class EmotionSpec(ModelSpec):
    """The emotion network: labels are the seven emotions, or two or more classes of whoever trained it."""

    template: Points
    """(15, 2) float32: where alignment puts the points, in pixels of the crop, read-only."""
    heads: tuple[str, ...]
    """The outputs that give probabilities, each by labels of its own; the first is what is taken unless asked."""

    def head(self, asked: str | None) -> str:
        """The output of that name, the first for None; ValueError where there is none."""
        if asked is not None and asked not in self.heads:
            raise ValueError(f"labels must be one of {', '.join(self.heads)}, the bundle's, got {asked!r}")
        return asked or self.heads[0]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle on disk. The manifest has been read and checked; a model's file is checked when it is read."""

    path: Path
    name: str
    version: str
    created: str
    terms: str
    keypoints: KeypointsSpec
    emotion: EmotionSpec

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """Read the bundle in a directory, or the one that ships with facexp.

        Raises BundleError, naming file and key, when the manifest is missing, not JSON, of another schema, incomplete
        or contradicts facexp's label lists.
        """
        directory = shipped() if path is None else Path(path)
        root = read_manifest(directory)
        models = root.child("models")
        return cls(
            path=directory,
            name=root.get("name", str),
            version=root.get("version", str),
            created=root.get("created", str),
            terms=root.get("terms", str),
            keypoints=_keypoints(models.child("keypoints")),
            emotion=_emotion(models.child("emotion")),
        )

    def read(self, model: ModelSpec, key: str) -> bytes:
        """`read_model` of this bundle."""
        return read_model(self.path, model, key)

    def check(self, model: ModelSpec, key: str) -> Path:
        """Where a file or directory of a model lies, its hash checked; BundleError as for `read_model`."""
        spec = _spec(self.path, model, key)
        path = self.path / spec.file
        try:
            found = digest(path)[0]
        except OSError as error:
            raise _unreadable(path, error) from error
        _expect_hash(path, spec, found)
        return path


def shipped() -> Path:
    """The directory of the bundle that ships with facexp."""
    return Path(__file__).with_name("models")


def read_manifest(directory: Path) -> Node:
    """The manifest of the bundle in a directory, as far as its schema is checked; BundleError as for `Bundle.load`."""
    root = Node.read(directory / MANIFEST)
    schema = root.get("schema", int)
    if schema != SCHEMA:
        raise BundleError(f"{root.file}: schema is {schema}, this facexp reads {SCHEMA}; install a matching facexp")
    return root


def load_models(directory: Path) -> tuple[ModelSpec, ...]:
    """The models of a bundle that may lack one still; BundleError as for `Bundle.load`."""
    models = read_manifest(directory).child("models")
    return tuple(read(models.child(name)) for name, read in _READERS.items() if name in models.value)


def load_keypoints(directory: Path) -> KeypointsSpec:
    """The keypoint network of a bundle that may have no other yet; BundleError as for `Bundle.load`."""
    return _keypoints(read_manifest(directory).child("models").child("keypoints"))


def read_model(directory: Path, model: ModelSpec, key: str) -> bytes:
    """The bytes of a model's file, as `Session` takes them, with their hash checked.

    Raises BundleError when the model has no such file, or it is missing or differs from the manifest.
    """
    spec = _spec(directory, model, key)
    file = directory / spec.file
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error
    _expect_hash(file, spec, hashlib.sha256(content).hexdigest())
    return content


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 in hex and size in bytes of a file, or of a directory with all that lies in it.

    A directory's hash is that of the text which `sha256sum` prints for its files, in order of their paths relative to
    it: "<hex>  <path>", a line each.
    """
    if not path.is_dir():
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), len(content)
    files = {file.relative_to(path).as_posix(): digest(file) for file in path.rglob("*") if file.is_file()}
    listing = "".join(f"{files[name][0]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(listing.encode()).hexdigest(), sum(size for _, size in files.values())


def _spec(directory: Path, model: ModelSpec, key: str) -> FileSpec:
    try:
        return model.files[key]
    except KeyError:
        known = ", ".join(model.files)
        raise BundleError(f"{directory / MANIFEST}: model {model.name} has no {key} file, it has {known}") from None


def _unreadable(path: Path, error: OSError) -> BundleError:
    why = error.strerror or str(error)
    return BundleError(f"{path}: cannot be read ({why}); the bundle is incomplete, install it again")


def _expect_hash(path: Path, spec: FileSpec, found: str) -> None:
    if found != spec.sha256:
        raise BundleError(
            f"{path}: sha256 is {found[:12]}..., the manifest says {spec.sha256[:12]}...; "
            "the file is damaged or was replaced, export or install the bundle again"
        )


def _keypoints(node: Node) -> KeypointsSpec:
    how = node.child("preprocessing")
    framing = how.child("framing")
    scale, dx, dy = (framing.get(key, float) for key in ("scale", "dx", "dy"))
    if not scale > 0:
        raise framing.wrong("scale", f"must be above 0, got {scale}")
    labels = node.get("labels", list)
    if tuple(map(str, labels)) != KEYPOINTS:
        raise node.wrong("labels", f"must be {list(KEYPOINTS)}, got {as_json(labels)}")
    common = _common(node, "keypoints", KEYPOINTS)
    _expect_outputs(node, common["outputs"], {"keypoints": (len(KEYPOINTS), 2)})
    return KeypointsSpec(**common, framing=Framing(scale, dx, dy), mean_shape=_points(how, "mean_shape"))


def _emotion(node: Node) -> EmotionSpec:
    how = node.child("preprocessing")
    labels = _classes(node)
    common = _common(node, "emotion", labels)
    names = [output.name for output in common["outputs"]]
    _expect_outputs(node, common["outputs"], dict.fromkeys(names, (len(labels),)))
    heads = how.get("heads", list)
    if not heads or len(set(map(str, heads))) != len(heads) or not all(head in names for head in heads):
        raise how.wrong("heads", f"must name one or more different outputs of {names}, got {as_json(heads)}")
    return EmotionSpec(**common, template=_points(how, "template"), heads=tuple(heads))


def _classes(node: Node) -> tuple[str, ...]:
    """The emotion network's labels, whichever they are; the seven have one order only."""
    labels = node.get("labels", list)
    if len(labels) < 2 or len(set(map(str, labels))) < len(labels) or not all(_is_name(label) for label in labels):
        raise node.wrong("labels", f"must be two or more different names, such as {list(SEVEN)}, got {as_json(labels)}")
    if set(labels) == set(SEVEN) and tuple(labels) != SEVEN:
        raise node.wrong("labels", f"must be {list(SEVEN)}, got {as_json(labels)}")
    return tuple(labels)


def _is_name(label: object) -> bool:
    return isinstance(label, str) and label.isprintable() and bool(label.strip())


_READERS: dict[str, Callable[[Node], ModelSpec]] = {"keypoints": _keypoints, "emotion": _emotion}


def _common(node: Node, name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    how = node.child("preprocessing")
    if how.get("colour", str) != "gray":
        raise how.wrong("colour", f"must be 'gray', got {as_json(how.value['colour'])}")
    size = how.get("size", int)
    if not 1 <= size <= _LARGEST_CROP:
        raise how.wrong("size", f"must be from 1 to {_LARGEST_CROP} pixels, got {as_json(size)}")
    files = node.child("files")
    if not files.value:
        raise node.wrong("files", "must name at least one file")
    tensor = _tensor(node.child("input"))
    if (tensor.dtype, tensor.row) != ("uint8", (size, size, 1)):
        shape = ["batch", size, size, 1]
        raise node.wrong("input", f"must be uint8 of shape {shape}, got {as_json(node.value['input'])}")
    return {
        "name": name,
        "files": {key: _file(files, key) for key in files.value},
        "input": tensor,
        "outputs": tuple(map(_tensor, node.children("outputs"))),
        "labels": labels,
        "size": size,
        "preprocessing": how.value,
        "training": node.get("training", dict) if "training" in node.value else {},
        "figures": node.objects("figures") if "figures" in node.value else (),
    }


def _file(files: Node, key: str) -> FileSpec:
    if key not in KEYS:
        raise files.wrong(key, f"is none of {', '.join(KEYS)}")
    node = files.child(key)
    name = node.get("file", str)
    if Path(name).name != name or name in ("", "..") or "\\" in name or not name.isprintable():
        raise node.wrong("file", f"must be a plain file name beside the manifest, got {as_json(name)}")
    sha256 = node.get("sha256", str)
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise node.wrong("sha256", f"must be 64 lower-case hexadecimal digits, got {as_json(sha256)}")
    return FileSpec(key, name, sha256, node.get("bytes", int))


def _tensor(node: Node) -> TensorSpec:
    shape = node.get("shape", list)
    if not shape or not isinstance(shape[0], str) or not all(type(size) is int and size > 0 for size in shape[1:]):
        raise node.wrong("shape", f"must be the batch's name, then sizes, got {as_json(shape)}")
    return TensorSpec(node.get("name", str), node.get("dtype", str), tuple(shape[1:]))


def _expect_outputs(node: Node, outputs: tuple[TensorSpec, ...], rows: Mapping[str, tuple[int, ...]]) -> None:
    found = {output.name: output.row for output in outputs}
    if not outputs or found != rows or any(output.dtype != "float32" for output in outputs):
        expected = {name: ["batch", *shape] for name, shape in rows.items()} or "at least one output"
        raise node.wrong("outputs", f"must be float32 {expected}, got {as_json(node.value['outputs'])}")


def _points(node: Node, key: str) -> Points:
    value = node.get(key, list)
    try:
        with np.errstate(over="ignore"):
            points = np.array(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0, np.float32)
    # alignment divides by the spread of these points
    if points.shape != (len(KEYPOINTS), 2) or not np.isfinite(points).all() or not np.ptp(points, axis=0).all():
        raise node.wrong(key, f"must be {len(KEYPOINTS)} different pairs of finite numbers, got {as_json(value)}")
    points.setflags(write=False)
    return points
