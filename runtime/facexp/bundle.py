"""Read a model bundle: a directory with manifest.json and the model files that it names, each checked by its hash."""

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
"""Keys of a model's files in a bundle: precision and format, the most exact of each format first.

A SavedModel is float32.
"""

_MAX_CROP_SIDE = 4096


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One form of a model in a bundle: a file, or the directory of a SavedModel."""

    key: str
    """One of KEYS."""
    file: str
    """File name in the bundle's directory."""
    sha256: str
    """SHA-256 as `digest` computes it, 64 lower-case hexadecimal digits."""
    bytes: int
    """Size in bytes; of a directory, all its files together."""

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
    """Name of the numpy dtype."""
    row: tuple[int, ...]
    """The shape without the first dimension, which is the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """The manifest's description of one network."""

    name: str
    files: Mapping[str, FileSpec]
    """Key (one of KEYS) -> file."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    """Names of the rows (keypoints) or columns (emotion) of the outputs."""
    size: int
    """Side of the network's square gray input crop, in pixels."""
    preprocessing: Mapping[str, Any]
    """The preprocessing as it is in the manifest."""
    training: Mapping[str, Any]
    """How the weights were trained (configuration, data), as in the manifest; empty if it has no such entry."""
    figures: tuple[Mapping[str, Any], ...]
    """Measured scores; empty if the manifest has none."""

    def most_exact_key(self, file_format: str = "onnx") -> str | None:
        """Return the key of the most exact file of a format ("onnx", "tflite", "savedmodel"); None if there is none."""
        return next((key for key in KEYS if key in self.files and self.files[key].format == file_format), None)


@dataclass(frozen=True, slots=True, eq=False)
class KeypointsSpec(ModelSpec):
    """The keypoint network; its labels are `facexp.KEYPOINTS`."""

    framing: Framing
    """Position and size of the training square relative to a detector's box."""
    mean_shape: Points
    """(15, 2) float32, read-only: the keypoints of an average face, in pixels of the crop."""


@dataclass(frozen=True, slots=True, eq=False)
class EmotionSpec(ModelSpec):
    """The emotion network; its labels are the seven emotions, or two or more classes of a custom dataset."""

    template: Points
    """(15, 2) float32, read-only: the positions to which alignment moves the keypoints, in pixels of the crop."""
    heads: tuple[str, ...]
    """The outputs with the logits of the emotions, one per labelling; the first is the default."""

    def head(self, name: str | None) -> str:
        """Return the output of that name, or the first for None. Raises ValueError if there is no such output."""
        if name is not None and name not in self.heads:
            raise ValueError(f"labels must be one of {', '.join(self.heads)}, the bundle's, got {name!r}")
        return name or self.heads[0]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle on disk. Its manifest has been read and checked; each model file is checked when it is read."""

    path: Path
    name: str
    version: str
    created: str
    terms: str
    keypoints: KeypointsSpec
    emotion: EmotionSpec

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """Read the manifest of the bundle in a directory, or of the one that ships with facexp.

        Raises BundleError, naming file and key, if the manifest is missing, not JSON, of another schema, incomplete, or
        contradicts facexp's label lists.
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
        """Return the bytes of a model's file, as `read_model` does."""
        return read_model(self.path, model, key)

    def check(self, model: ModelSpec, key: str) -> Path:
        """Return the path of a model's file or directory, its hash checked. Raises BundleError as `read_model`."""
        spec = _spec(self.path, model, key)
        path = self.path / spec.file
        try:
            found = digest(path)[0]
        except OSError as error:
            raise _unreadable(path, error) from error
        _expect_hash(path, spec, found)
        return path


def shipped() -> Path:
    """Return the directory of the bundle that ships with facexp."""
    return Path(__file__).with_name("models")


def read_manifest(directory: Path) -> Node:
    """Return the manifest of the bundle in a directory, with only its schema checked. Errors as for `Bundle.load`."""
    root = Node.read(directory / MANIFEST)
    schema = root.get("schema", int)
    if schema != SCHEMA:
        raise BundleError(
            f"{root.file}: schema is {schema}, this version of facexp reads {SCHEMA}; install a matching facexp"
        )
    return root


def load_models(directory: Path) -> tuple[ModelSpec, ...]:
    """Return the models of a bundle that may not have both yet. Raises BundleError as `Bundle.load`."""
    models = read_manifest(directory).child("models")
    return tuple(read(models.child(name)) for name, read in _READERS.items() if name in models.value)


def load_keypoints(directory: Path) -> KeypointsSpec:
    """Return the keypoint network of a bundle that may not have the other yet. Raises BundleError as `Bundle.load`."""
    return _keypoints(read_manifest(directory).child("models").child("keypoints"))


def read_model(directory: Path, model: ModelSpec, key: str) -> bytes:
    """Return the bytes of a model's file, as `Session` takes them, after checking their hash.

    Raises BundleError if the model has no such file, or if the file is missing or its hash differs from the manifest's.
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
    """Return the SHA-256 in hex and the size in bytes of a file, or of a directory with all files in it.

    A directory's hash is that of the text that `sha256sum` prints for its files: a line "<hex>  <path>" for each, with
    paths relative to the directory, sorted by path.
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
    preprocessing = node.child("preprocessing")
    framing = preprocessing.child("framing")
    scale, dx, dy = (framing.get(key, float) for key in ("scale", "dx", "dy"))
    if not scale > 0:
        raise framing.error("scale", f"must be above 0, got {scale}")
    labels = node.get("labels", list)
    if tuple(map(str, labels)) != KEYPOINTS:
        raise node.error("labels", f"must be {list(KEYPOINTS)}, got {as_json(labels)}")
    common = _common(node, "keypoints", KEYPOINTS)
    _expect_outputs(node, common["outputs"], {"keypoints": (len(KEYPOINTS), 2)})
    return KeypointsSpec(**common, framing=Framing(scale, dx, dy), mean_shape=_points(preprocessing, "mean_shape"))


def _emotion(node: Node) -> EmotionSpec:
    preprocessing = node.child("preprocessing")
    labels = _classes(node)
    common = _common(node, "emotion", labels)
    names = [output.name for output in common["outputs"]]
    _expect_outputs(node, common["outputs"], dict.fromkeys(names, (len(labels),)))
    heads = preprocessing.get("heads", list)
    if not heads or len(set(map(str, heads))) != len(heads) or not all(head in names for head in heads):
        raise preprocessing.error("heads", f"must name one or more different outputs of {names}, got {as_json(heads)}")
    return EmotionSpec(**common, template=_points(preprocessing, "template"), heads=tuple(heads))


def _classes(node: Node) -> tuple[str, ...]:
    """Return the emotion network's labels: any names, but the seven emotions only in the order of `SEVEN`."""
    labels = node.get("labels", list)
    if len(labels) < 2 or len(set(map(str, labels))) < len(labels) or not all(_is_name(label) for label in labels):
        raise node.error("labels", f"must be two or more different names, such as {list(SEVEN)}, got {as_json(labels)}")
    if set(labels) == set(SEVEN) and tuple(labels) != SEVEN:
        raise node.error("labels", f"must be {list(SEVEN)}, got {as_json(labels)}")
    return tuple(labels)


def _is_name(label: object) -> bool:
    return isinstance(label, str) and label.isprintable() and bool(label.strip())


_READERS: dict[str, Callable[[Node], ModelSpec]] = {"keypoints": _keypoints, "emotion": _emotion}


def _common(node: Node, name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    preprocessing = node.child("preprocessing")
    if preprocessing.get("colour", str) != "gray":
        raise preprocessing.error("colour", f"must be 'gray', got {as_json(preprocessing.value['colour'])}")
    size = preprocessing.get("size", int)
    if not 1 <= size <= _MAX_CROP_SIDE:
        raise preprocessing.error("size", f"must be from 1 to {_MAX_CROP_SIDE} pixels, got {as_json(size)}")
    files = node.child("files")
    if not files.value:
        raise node.error("files", "must name at least one file")
    tensor = _tensor(node.child("input"))
    if (tensor.dtype, tensor.row) != ("uint8", (size, size, 1)):
        shape = ["batch", size, size, 1]
        raise node.error("input", f"must be uint8 of shape {shape}, got {as_json(node.value['input'])}")
    return {
        "name": name,
        "files": {key: _file(files, key) for key in files.value},
        "input": tensor,
        "outputs": tuple(map(_tensor, node.children("outputs"))),
        "labels": labels,
        "size": size,
        "preprocessing": preprocessing.value,
        "training": node.get("training", dict) if "training" in node.value else {},
        "figures": node.objects("figures") if "figures" in node.value else (),
    }


def _file(files: Node, key: str) -> FileSpec:
    if key not in KEYS:
        raise files.error(key, f"is not one of {', '.join(KEYS)}")
    node = files.child(key)
    name = node.get("file", str)
    if Path(name).name != name or name in ("", "..") or "\\" in name or not name.isprintable():
        raise node.error("file", f"must be a plain file name, next to the manifest, got {as_json(name)}")
    sha256 = node.get("sha256", str)
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise node.error("sha256", f"must be 64 lower-case hexadecimal digits, got {as_json(sha256)}")
    return FileSpec(key, name, sha256, node.get("bytes", int))


def _tensor(node: Node) -> TensorSpec:
    shape = node.get("shape", list)
    if not shape or not isinstance(shape[0], str) or not all(type(size) is int and size > 0 for size in shape[1:]):
        raise node.error("shape", f"must be the name of the batch dimension, then sizes, got {as_json(shape)}")
    return TensorSpec(node.get("name", str), node.get("dtype", str), tuple(shape[1:]))


def _expect_outputs(node: Node, outputs: tuple[TensorSpec, ...], rows: Mapping[str, tuple[int, ...]]) -> None:
    found = {output.name: output.row for output in outputs}
    if not outputs or found != rows or any(output.dtype != "float32" for output in outputs):
        expected = {name: ["batch", *shape] for name, shape in rows.items()} or "at least one output"
        raise node.error("outputs", f"must be float32 {expected}, got {as_json(node.value['outputs'])}")


def _points(node: Node, key: str) -> Points:
    value = node.get(key, list)
    try:
        with np.errstate(over="ignore"):
            points = np.array(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0, np.float32)
    # alignment divides by the spread of these points: it must not be 0
    if points.shape != (len(KEYPOINTS), 2) or not np.isfinite(points).all() or not np.ptp(points, axis=0).all():
        raise node.error(key, f"must be {len(KEYPOINTS)} different pairs of finite numbers, got {as_json(value)}")
    points.setflags(write=False)
    return points
