"""The JSON of TensorFlow Serving's REST interface: parsing of requests and building of answers.

    {"signature_name": ..., "instances": [row, row ...]}  ->  {"predictions": [row, row ...]}
    {"signature_name": ..., "inputs": all rows}           ->  {"outputs": all rows}

If a signature has only one input or output, its rows are written without its name; {"b64": ...} is binary data. A
record of `faces` is a JSON object, not a string that contains one.
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

PREDICT_METHOD = "tensorflow/serving/predict"
"""TensorFlow's method name of a signature that Predict can call."""
NOT_LOADED = "it cannot be loaded; the server's log says why"
"""The error message of a version that failed to load. The reason is only logged: it may name files of this machine."""
MAX_VALUES = 1_000_000
"""Maximum number of JSON values, lists included, in a request: nothing else is answered while it is parsed, which
takes about 0.2 s for this many."""

_B64 = "b64"


@dataclass(slots=True)
class Body:
    """The parsed JSON of a predict request."""

    signature: str
    rows: bool
    """Whether the request has `instances`, so that the answer has `predictions`."""
    value: Any
    """The value of `instances` or `inputs`; None after `read_input`."""


def read_body(data: bytes | bytearray) -> Body:
    """Parse the body of a predict request. Raises BadRequest if it is malformed, TooLarge beyond MAX_VALUES."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise TooLarge(f'the body has more than {MAX_VALUES} values: send pictures as {{"b64": ...}}, or use gRPC')
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("the body must be JSON") from None
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise BadRequest("the body must be an object with either instances or inputs")
    signature = body.get("signature_name")
    if not isinstance(signature, str | None):
        raise BadRequest("signature_name must be a string")
    rows = "instances" in body
    value = body["instances" if rows else "inputs"]
    if rows and (not isinstance(value, list) or not value):
        raise BadRequest("instances must be a list with at least one element")
    return Body(signature or DEFAULT_SIGNATURE, rows, value)


def read_input(body: Body, signature: Signature) -> Array:
    """Return the request's input as an array of the signature's type, and clear it in the body. Raises BadRequest."""
    # so that the list of numbers can be freed: it takes many times the memory of the array
    spec, value, body.value = signature.input, body.value, None
    if body.rows:
        value = [_unwrap(row, spec, f"instance {number}") for number, row in enumerate(value)]
    else:
        value = _unwrap(value, spec, "inputs")
    return _file_array(value, spec) if spec.dtype == BYTES else _integer_array(value, spec)


def predict_answer(body: Body, signature: Signature, outputs: Arrays) -> dict[str, Any]:
    """Return the JSON answer to a predict request: `predictions` for `instances`, `outputs` for `inputs`."""
    columns = {spec.name: _to_json(outputs[spec.name]) for spec in signature.outputs}
    single = next(iter(columns.values())) if len(columns) == 1 else None
    if not body.rows:
        return {"outputs": columns if single is None else single}
    if single is not None:
        return {"predictions": single}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def metadata_answer(model: str, version: int, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """Return the JSON answer to GET .../metadata."""
    definitions = {
        name: {
            "inputs": {signature.input.name: _tensor_info(signature.input, name)},
            "outputs": {spec.name: _tensor_info(spec, name) for spec in signature.outputs},
            "method_name": PREDICT_METHOD,
        }
        for name, signature in signatures.items()
    }
    return {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def tensor_name(spec: TensorSpec, signature: str) -> str:
    """Return a name in the form of a graph tensor's, which the metadata must contain."""
    return f"{signature}_{spec.name}:0"


def status_answer(versions: list[Version]) -> dict[str, Any]:
    """Return the JSON answer to GET /v1/models/NAME."""
    return {"model_version_status": [_status(version) for version in versions]}


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


def _unwrap(value: Any, spec: TensorSpec, where: str) -> Any:
    """Return the value itself, or from an object the value under the input's name."""
    if not isinstance(value, dict) or (set(value) == {_B64} and spec.name != _B64):
        return value
    if set(value) != {spec.name}:
        raise BadRequest(f"{where}: must be a value or an object with only {spec.name}")
    return value[spec.name]


def _integer_array(value: Any, spec: TensorSpec) -> Array:
    # derive the shape from the first elements, so that a wrong shape is found before all values are read
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else 0
    if type(first) is not int:
        raise _not_integers(spec)
    check_shape(spec.name, spec, tuple(shape))
    flat = value
    for size in shape[1:]:
        if not all(isinstance(each, list) and len(each) == size for each in flat):
            raise BadRequest(f"input {spec.name}: the rows differ in shape")
        flat = list(itertools.chain.from_iterable(flat))
    if set(map(type, flat)) != {int}:
        raise _not_integers(spec)
    try:
        return np.frombuffer(bytes(flat), np.uint8).reshape(shape)
    except ValueError:
        raise _not_integers(spec) from None


def _not_integers(spec: TensorSpec) -> BadRequest:
    return BadRequest(f"input {spec.name}: the values must be whole numbers from 0 to 255")


def _file_array(value: Any, spec: TensorSpec) -> Array:
    if not isinstance(value, list) or not value:
        raise BadRequest(f"input {spec.name}: must be a list with at least one element")
    files = np.empty(len(value), dtype=object)
    for number, each in enumerate(value):
        files[number] = _decode_binary(each, f"input {spec.name}, row {number}")
    return files


def _decode_binary(value: Any, where: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or set(value) != {_B64} or not isinstance(value[_B64], str):
        raise BadRequest(f'{where}: must be {{"b64": the file in Base64}}')
    try:
        return base64.b64decode(value[_B64], validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{where}: is not valid Base64") from None


def _to_json(array: Array) -> list[Any]:
    return list(map(json.loads, array)) if array.dtype == object else array.tolist()
