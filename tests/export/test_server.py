"""`facexp serve` compared with TensorFlow Serving: the official messages and stubs, and the SavedModels' own answers.

The server runs in a separate process, which never loads TensorFlow; the official stubs in this process do.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow_serving", reason="the stubs come with the dev extra")

import grpc
import tensorflow as tf
from google.protobuf.descriptor import FieldDescriptor
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2, status_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from facexp.labels import SEVEN
from facexp.server import messages
from facexp.server.errors import Code
from facexp.server.tensors import DTYPES
from facexp.server.versions import State
from facexp_export.faces import drawn_faces
from serving_process import serving

TASKS = {"keypoints": 96, "emotion": 48}
NEAR = 1e-4

OFFICIAL = {
    "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
    "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
    "TensorProto": tensor_pb2.TensorProto,
    "TensorInfo": meta_graph_pb2.TensorInfo,
    "SignatureDef": meta_graph_pb2.SignatureDef,
    "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "ModelSpec": model_pb2.ModelSpec,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "StatusProto": status_pb2.StatusProto,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
}


def wire(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    """The wire format of a message's fields; an enumeration is a whole number there."""
    found = {}
    for field in descriptor.fields:
        kind = FieldDescriptor.TYPE_INT32 if field.type == FieldDescriptor.TYPE_ENUM else field.type
        inner = field.message_type
        entry = wire(inner) if inner is not None and inner.GetOptions().map_entry else None
        found[field.name] = (
            field.number,
            kind,
            field.is_repeated,
            entry and entry["key"],
            entry and entry["value"][:3],
        )
    return found


@pytest.mark.parametrize("name", list(messages.FIELDS))
def test_the_messages_are_the_official_ones(name: str) -> None:
    """Guards names, numbers and types of every field, and the numbers of types, states and codes."""
    own, official = wire(messages.message(name).DESCRIPTOR), wire(OFFICIAL[name].DESCRIPTOR)
    assert own == {field: official[field] for field in own}
    for label, number in DTYPES.values():
        assert types_pb2.DataType.Value(label) == number
    for state in State:
        assert get_model_status_pb2.ModelVersionStatus.State.Value(state.name) == state
    for code in Code:
        assert error_codes_pb2.Code.Value(code.name) == code


@pytest.fixture(scope="module")
def process(bundle: Any) -> Iterator[Any]:
    with serving(["--bundle", str(bundle.directory), "--precision", "float32", "--device", "cpu"]) as started:
        yield started


@pytest.fixture(scope="module")
def models(bundle: Any) -> dict[str, Any]:
    return {task: tf.saved_model.load(str(bundle.directory / task / "1")) for task in TASKS}


@pytest.fixture
def prediction(process: Any) -> Iterator[PredictionServiceStub]:
    with grpc.insecure_channel(process.grpc) as channel:
        yield PredictionServiceStub(channel)


def request(task: str, signature: str, **inputs: Any) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = task
    made.model_spec.signature_name = signature
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value))
    return made


def assert_near(answer: predict_pb2.PredictResponse, wanted: dict[str, Any]) -> None:
    assert set(answer.outputs) == set(wanted)
    for name, tensor in answer.outputs.items():
        rows = wanted[name].numpy()
        assert tensor.dtype == types_pb2.DT_FLOAT
        assert np.abs(tf.make_ndarray(tensor) - rows).max() < NEAR
        # different faces must have different answers, or any answer would be near
        assert np.ptp(rows, axis=0).max() > 100 * NEAR


def pictures(task: str) -> list[bytes]:
    """Files of the network's size, larger and smaller, gray and colour, all of which the SavedModel reads, too."""
    files = []
    for number, crop in enumerate(drawn_faces(TASKS[task])[..., 0]):
        side = (TASKS[task], 200, 31)[number % 3]
        image = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        if number % 2:
            image = np.stack([image // 2, image, 255 - image // 2], axis=-1)
        files.append(cv2.imencode(".png", image)[1].tobytes())
    return files


@pytest.mark.parametrize("task", TASKS)
def test_predict_answers_as_the_savedmodel_does(
    prediction: PredictionServiceStub, models: dict[str, Any], task: str
) -> None:
    """Guards names, types and numbers by the official stubs: pixels as bytes, as single values, one value for all."""
    crops = drawn_faces(TASKS[task])
    whole = models[task].signatures["serving_default"](image=tf.constant(crops))
    answer = prediction.Predict(request(task, "serving_default", image=crops), timeout=60)
    assert_near(answer, whole)
    assert (answer.model_spec.name, answer.model_spec.version.value) == (task, 1)
    assert answer.model_spec.signature_name == "serving_default"
    loose = tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, int_val=crops[:2].ravel().tolist())
    loose.tensor_shape.CopyFrom(tf.TensorShape(crops[:2].shape).as_proto())
    # also without a signature's name
    assert_near(
        prediction.Predict(request(task, "", image=loose), timeout=60), {name: rows[:2] for name, rows in whole.items()}
    )
    black = tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, int_val=[7], tensor_shape=loose.tensor_shape)
    seven = models[task].signatures["serving_default"](image=tf.fill(crops[:2].shape, tf.constant(7, tf.uint8)))
    for name, tensor in prediction.Predict(request(task, "", image=black), timeout=60).outputs.items():
        assert np.abs(tf.make_ndarray(tensor) - seven[name].numpy()).max() < NEAR


@pytest.mark.parametrize("task", TASKS)
def test_encoded_pictures_are_answered_as_by_the_savedmodel(
    prediction: PredictionServiceStub, models: dict[str, Any], task: str
) -> None:
    """Guards the gray conversion, resize and rounding of encoded pictures."""
    files = pictures(task)
    answer = prediction.Predict(request(task, "serving_encoded", encoded=files), timeout=60)
    assert_near(answer, models[task].signatures["serving_encoded"](encoded=tf.constant(files)))


def test_rest_answers_as_the_savedmodel_does(process: Any, models: dict[str, Any]) -> None:
    """Guards REST's numbers, which must be near those of the SavedModel."""
    files = pictures("keypoints")
    instances = [{"b64": base64.b64encode(file).decode()} for file in files]
    body = json.dumps({"signature_name": "serving_encoded", "instances": instances}).encode()
    with urllib.request.urlopen(f"{process.rest}/v1/models/keypoints:predict", body, timeout=60) as answer:
        found = np.array(json.load(answer)["predictions"])
    wanted = models["keypoints"].signatures["serving_encoded"](encoded=tf.constant(files))["keypoints"]
    assert np.abs(found - wanted.numpy()).max() < NEAR


def test_faces_by_grpc_gives_records(
    prediction: PredictionServiceStub, astronaut: NDArray[np.uint8], bundle: Any
) -> None:
    """Guards the third model: a photo's bytes in, the record's JSON out."""
    file = cv2.imencode(".png", astronaut)[1].tobytes()
    answer = prediction.Predict(request("faces", "", encoded=[file, b""]), timeout=60)
    found, empty = (json.loads(record) for record in tf.make_ndarray(answer.outputs["record"]))
    assert (found["schema"], found["width"], found["source"]) == (2, 512, "-")
    assert empty["error"] == "-: is empty (0 bytes)"


@pytest.mark.parametrize("task", TASKS)
def test_metadata_describes_the_savedmodels_signatures(
    prediction: PredictionServiceStub, models: dict[str, Any], task: str
) -> None:
    """Guards what a client reads before it sends requests: the signatures, their names, types and shapes."""
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = task
    answer = prediction.GetModelMetadata(asked, timeout=60)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    assert set(found.signature_def) == {"serving_default", "serving_encoded"}
    for name, definition in found.signature_def.items():
        model = models[task].signatures[name]
        for tensors, specs in (
            (definition.inputs, model.structured_input_signature[1]),
            (definition.outputs, model.structured_outputs),
        ):
            assert {
                key: (tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape).as_list())
                for key, info in tensors.items()
            } == {key: (spec.dtype, spec.shape.as_list()) for key, spec in specs.items()}
        assert definition.method_name == tf.compat.v1.saved_model.signature_constants.PREDICT_METHOD_NAME


def test_model_status_is_answered(process: Any) -> None:
    """Guards ModelService: the state of a version, and the refusal of an unknown one."""
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "emotion"
    with grpc.insecure_channel(process.grpc) as channel:
        (status,) = ModelServiceStub(channel).GetModelStatus(asked, timeout=60).model_version_status
        assert (status.version, status.state, status.status.error_code) == (
            1,
            get_model_status_pb2.ModelVersionStatus.AVAILABLE,
            0,
        )
        asked.model_spec.version.value = 8
        with pytest.raises(grpc.RpcError) as refused:
            ModelServiceStub(channel).GetModelStatus(asked, timeout=60)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_predict_refuses_invalid_requests(prediction: PredictionServiceStub) -> None:
    """Guards the reasons by gRPC, and that a short message cannot request a huge array."""
    crops = drawn_faces(48)
    huge = tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, int_val=[7])
    huge.tensor_shape.CopyFrom(tf.TensorShape((10**9, 48, 48, 1)).as_proto())
    short = tf.make_tensor_proto(crops)
    short.tensor_content = short.tensor_content[:-1]
    filtered = request("emotion", "", image=crops)
    filtered.output_filter.append("x")
    labelled = request("emotion", "", image=crops)
    labelled.model_spec.version_label = "stable"
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    for asked, code, says in (
        (request("emotion", "", image=crops.astype(np.float32)), invalid, "must be DT_UINT8, got DT_FLOAT"),
        (request("emotion", "", image=crops[0]), invalid, "the shape must be (N, 48, 48, 1), got (48, 48, 1)"),
        (request("emotion", "", image=huge), grpc.StatusCode.RESOURCE_EXHAUSTED, "elements are more than"),
        (request("emotion", "", image=short), invalid, "bytes of content for"),
        (request("emotion", "", picture=crops), invalid, "the only input must be image"),
        (request("faces", "", encoded=["x"]), None, ""),
        (request("emotion", "serving_encoded", encoded=["x"]), invalid, "picture 0 is not a picture"),
        (request("emotion", "other", image=crops), missing, "it has serving_default, serving_encoded"),
        (request("other", "", image=crops), missing, "there are keypoints, emotion, faces"),
        (filtered, invalid, "the outputs are"),
        (labelled, missing, "version labels"),
    ):
        if code is None:
            prediction.Predict(asked, timeout=60)
            continue
        with pytest.raises(grpc.RpcError) as refused:
            prediction.Predict(asked, timeout=60)
        assert (refused.value.code(), says in refused.value.details()) == (code, True), refused.value.details()
    only = request("emotion", "", image=crops)
    only.output_filter.append("ferplus")
    assert set(prediction.Predict(only, timeout=60).outputs) == {"ferplus"}


def test_the_clients_of_the_docs_run(
    process: Any,
    bundle: Any,
    models: dict[str, Any],
    clients: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guards the promise of docs/serving.md: the clients shown for TensorFlow Serving run against this server."""
    rest, stub = clients
    crop = drawn_faces(48)[1]
    cv2.imwrite("face.png", crop)
    exec(rest.replace("http://localhost:8501", process.rest), {})
    heads = models["emotion"].signatures["serving_default"](image=tf.constant(crop[None]))
    shares = tf.nn.softmax(heads["ferplus"][0]).numpy()
    share, label = re.fullmatch(r"\((.*), '(\w+)'\)\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert label == SEVEN[shares.argmax()]
    assert abs(float(share) - shares.max()) < NEAR
    exec(stub.replace("localhost:8500", process.grpc), {})
    # one face, fifteen points of two numbers
    assert len(re.findall(r"-?\d+\.", capsys.readouterr().out)) == 30
