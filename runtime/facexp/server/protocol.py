"""TensorFlow Serving's REST interface: its JSON, read and written.

    {"signature_name": ..., "instances": [row, row ...]}  ->  {"predictions": [row, row ...]}
    {"signature_name": ..., "inputs": all rows}           ->  {"outputs": all rows}

Rows of a signature with one input, or one output, stand there without its name; {"b64": ...} is binary. A record of
`faces` is a JSON object itself, not a text that holds one.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from facexp.bundle import TensorSpec
from facexp.server.errors import BadRequest, Code, TooLarge
from facexp.server.models import DEFAULT_SIGNATURE, Arrays, Signature
from facexp.server.tensors import BYTES, DTYPES, Array, check_shape
from facexp.server.versions import Version

VALUES = 1_000_000
"""JSON of more values, lists included, is refused: nothing else is answered while it is read, for about 0.2 s."""

_B64 = "b64"


@dataclass(slots=True)
class Body:
    """A predict request's JSON."""

    signature: str
    rows: bool
    """Whether it has `instances`, and the answer `predictions`."""
    value: Any
    """What stands under `instances` or `inputs`; None once it is read."""


def read_body(data: bytes | bytearray) -> Body:
    """Raises BadRequest where the body is not such a JSON object, TooLarge beyond VALUES."""
    if sum(map(data.count, (b",", b"[", b"{"))) > VALUES:
        raise TooLarge(f'the body has more than {VALUES} values: send pictures as {{"b64": ...}}, or ask by gRPC')
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("the body must be JSON") from None
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise BadRequest("the body must be an object with either instances or inputs")
    signature = body.get("signature_name")
    if not isinstance(signature, str | None):
        raise BadRequest("signature_name must be a text")
    rows = "instances" in body
    value = body["instances" if rows else "inputs"]
    if rows and (not isinstance(value, list) or not value):
        raise BadRequest("instances must be a list with at least one element")
    return Body(signature or DEFAULT_SIGNATURE, rows, value)


def read_input(body: Body, signature: Signature) -> Array:
    """The request's input as the signature has it, taken out of the body. Raises BadRequest."""
    # a list of numbers takes many times as much memory as what is made of it
    spec, value, body.value = signature.input, body.value, None
    if body.rows:
        value = [_named(row, spec, f"instance {number}") for number, row in enumerate(value)]
    else:
        value = _named(value, spec, "inputs")
    return _files(value, spec) if spec.dtype == BYTES else _numbers(value, spec)


def predict_answer(body: Body, signature: Signature, outputs: Arrays) -> dict[str, Any]:
    """The JSON of the outputs, in the form in which the request came."""
    columns = {spec.name: _plain(outputs[spec.name]) for spec in signature.outputs}
    single = next(iter(columns.values())) if len(columns) == 1 else None
    if not body.rows:
        return {"outputs": columns if single is None else single}
    if single is not None:
        return {"predictions": single}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def metadata_answer(model: str, version: int, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """What GET .../metadata answers."""
    definitions = {
        name: {
            "inputs": {signature.input.name: _tensor_info(signature.input, name)},
            "outputs": {spec.name: _tensor_info(spec, name) for spec in signature.outputs},
            "method_name": METHOD,
        }
        for name, signature in signatures.items()
    }
    return {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


METHOD = "tensorflow/serving/predict"
"""What TensorFlow calls a signature that is asked by Predict."""


def tensor_name(spec: TensorSpec, signature: str) -> str:
    """What stands for a tensor's name in a graph."""
    return f"{signature}_{spec.name}:0"


def status_answer(versions: list[Version]) -> dict[str, Any]:
    """What GET /v1/models/NAME answers."""
    return {"model_version_status": [_status(version) for version in versions]}


NOT_LOADED = "it cannot be loaded; the server's log says why"
"""What a client is told of a version that failed; the reason names files of this machine."""


def _status(version: Version) -> dict[str, Any]:
    code, text = (Code.INTERNAL, NOT_LOADED) if version.failed else (Code.OK, "")
    status = {"error_code": code.name, "error_message": text}
    return {"version": str(version.number), "state": version.state.name, "status": status}


def _tensor_info(spec: TensorSpec, signature: str) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in (-1, *spec.row)]
    return {
        "dtype": DTYPES[spec.dtype][0],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": tensor_name(spec, signature),
    }


def _named(value: Any, spec: TensorSpec, where: str) -> Any:
    """The value itself, or what an object has under the input's name."""
    if not isinstance(value, dict) or (set(value) == {_B64} and spec.name != _B64):
        return value
    if set(value) != {spec.name}:
        raise BadRequest(f"{where}: must be a value or an object with {spec.name} alone")
    return value[spec.name]


def _numbers(value: Any, spec: TensorSpec) -> Array:
    # by the first of everything, so that little is looked at where the form is wrong
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else 0
    if type(first) is not int:
        raise _not_whole(spec)
    check_shape(spec.name, spec, tuple(shape))
    flat = value
    for size in shape[1:]:
        if not all(isinstance(each, list) and len(each) == size for each in flat):
            raise BadRequest(f"input {spec.name}: the rows differ in shape")
        flat = list(itertools.chain.from_iterable(flat))
    if set(map(type, flat)) != {int}:
        raise _not_whole(spec)
    try:
        return np.frombuffer(bytes(flat), np.uint8).reshape(shape)
    except ValueError:
        raise _not_whole(spec) from None


def _not_whole(spec: TensorSpec) -> BadRequest:
    return BadRequest(f"input {spec.name}: must be of whole numbers from 0 to 255")


def _files(value: Any, spec: TensorSpec) -> Array:
    if not isinstance(value, list) or not value:
        raise BadRequest(f"input {spec.name}: must be a list with at least one element")
    files = np.empty(len(value), dtype=object)
    for number, each in enumerate(value):
        files[number] = _binary(each, f"input {spec.name}, row {number}")
    return files


def _binary(value: Any, where: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or set(value) != {_B64} or not isinstance(value[_B64], str):
        raise BadRequest(f'{where}: must be {{"b64": the file in Base64}}')
    try:
        return base64.b64decode(value[_B64], validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{where}: is not valid Base64") from None


def _plain(array: Array) -> list[Any]:
    return list(map(json.loads, array)) if array.dtype == object else array.tolist()
