"""The SavedModels answer TensorFlow Serving's own messages as the ONNX files do, and the code of docs/serving.md runs.

The server's binary is not available here. A stand-in takes the bytes of the official messages, calls the signature
that they name and returns the bytes of the official response.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow_serving", reason="the messages come with the dev extra")

import grpc
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    add_PredictionServiceServicer_to_server,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from facexp.bundle import Bundle
from facexp.geometry import to_gray
from facexp.session import Session
from facexp_export.faces import drawn_faces

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
OUTPUTS = {"keypoints": {"keypoints": (15, 2)}, "emotion": {"fer2013": (7,), "ferplus": (7,)}}
TASKS = tuple(OUTPUTS)
NEAR = 1e-4

Rows = dict[str, NDArray[np.float32]]


class Server:
    """The stand-in for the server, with every SavedModel of a bundle."""

    def __init__(self, directory: Path) -> None:
        self.models = {task: tf.saved_model.load(str(directory / task / "1")) for task in TASKS}

    def predict(self, wire: bytes) -> bytes:
        """A PredictRequest's bytes -> a PredictResponse's."""
        request = PredictRequest.FromString(wire)
        signature = self.models[request.model_spec.name].signatures[request.model_spec.signature_name]
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = PredictResponse(model_spec=request.model_spec)
        for name, value in signature(**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return bytes(response.SerializeToString())


@pytest.fixture(scope="module")
def server(bundle: Any) -> Server:
    return Server(bundle.directory)


@pytest.fixture(scope="module")
def expected(bundle: Any) -> Callable[[str, NDArray[np.uint8]], Rows]:
    """What the float32 ONNX file of a task answers."""
    read = Bundle.load(bundle.directory)
    models = {"keypoints": read.keypoints, "emotion": read.emotion}
    key = "float32.onnx"
    sessions = {task: Session(read.read(model, key), model, key) for task, model in models.items()}
    return lambda task, crops: sessions[task].run(crops)


def crops_of(task: str) -> NDArray[np.uint8]:
    return drawn_faces({"keypoints": 96, "emotion": 48}[task])


def ask(server: Server, task: str, signature: str, name: str, value: Any) -> Rows:
    request = PredictRequest()
    request.model_spec.name = task
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    response = PredictResponse.FromString(server.predict(request.SerializeToString()))
    return {output: tf.make_ndarray(tensor) for output, tensor in response.outputs.items()}


def encoded(image: NDArray[np.uint8], suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def assert_near(found: Rows, wanted: Rows) -> None:
    assert set(found) == set(wanted)
    for name, rows in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == rows.shape
        assert np.abs(found[name] - rows).max() < NEAR
        # different faces must have different answers, or any answer would be near
        assert np.ptp(rows, axis=0).max() > 100 * NEAR


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_pixels_are_answered(server: Server, expected: Any, task: str) -> None:
    """Guards names, types and numbers of serving_default, alone and in a batch."""
    crops = crops_of(task)
    whole = expected(task, crops)
    assert_near(ask(server, task, "serving_default", "image", crops), whole)
    for name, rows in ask(server, task, "serving_default", "image", crops[2:3]).items():
        assert np.abs(rows - whole[name][2:3]).max() < NEAR


@pytest.mark.parametrize("task", TASKS)
def test_encoded_files_are_answered(server: Server, expected: Any, task: str) -> None:
    """Guards serving_encoded: PNG and JPEG in one batch, gray and colour, each decoded as the runtime would see it."""
    crops = crops_of(task)
    files = [encoded(crop, ".jpg" if index % 2 else ".png") for index, crop in enumerate(crops[..., 0])]
    # JPEG decoders differ by single gray levels; the server runs TensorFlow's own
    pixels = np.stack([tf.io.decode_image(file, channels=1).numpy() for file in files])
    assert_near(ask(server, task, "serving_encoded", "encoded", files), expected(task, pixels))
    gray = [encoded(cv2.cvtColor(crop, cv2.COLOR_GRAY2BGR), ".png") for crop in crops[..., 0]]
    assert_near(ask(server, task, "serving_encoded", "encoded", gray), expected(task, crops))


@pytest.mark.parametrize("task", TASKS)
def test_colours_are_weighted_as_in_the_runtime(server: Server, expected: Any, task: str) -> None:
    """Guards against swapped red and blue, with which the gray would differ."""
    crops = crops_of(task)[..., 0]
    # bright red where the crop is dark, so that the weights matter
    colour = np.stack([crops // 2, crops, 255 - crops // 2], axis=-1)
    right, wrong = (
        expected(task, np.stack([to_gray(np.ascontiguousarray(image))[..., None] for image in images]))
        for images in (colour, colour[..., ::-1])
    )
    found = ask(server, task, "serving_encoded", "encoded", [encoded(image, ".png") for image in colour])
    for name, rows in found.items():
        # rounding changes single gray levels
        assert np.abs(rows - right[name]).max() < 0.1 * np.abs(wrong[name] - right[name]).max()


@pytest.fixture(scope="module")
def shown(bundle: Any) -> dict[str, str]:
    """What `saved_model_cli show --all` prints of each model; both run at once, as each takes seconds to import."""
    tool = Path(sys.executable).with_name("saved_model_cli")
    running = {
        task: subprocess.Popen(
            [tool, "show", "--all", "--dir", bundle.directory / task / "1"], stdout=subprocess.PIPE, text=True
        )
        for task in TASKS
    }
    texts = {task: process.communicate(timeout=300)[0] for task, process in running.items()}
    assert [process.returncode for process in running.values()] == [0, 0]
    return texts


@pytest.mark.parametrize("task", TASKS)
def test_saved_model_cli_shows_the_signatures(shown: dict[str, str], task: str) -> None:
    """Guards what TensorFlow's own tool shows of the file: signatures, names, types and shapes."""
    text = shown[task]
    size = crops_of(task).shape[1]
    outputs = {f"outputs['{name}']": ("DT_FLOAT", str((-1, *row))) for name, row in OUTPUTS[task].items()}
    inputs = {
        "serving_default": {"inputs['image']": ("DT_UINT8", f"(-1, {size}, {size}, 1)")},
        "serving_encoded": {"inputs['encoded']": ("DT_STRING", "(-1)")},
    }
    signatures = re.findall(r"signature_def\['(\w+)'\]:\n(.*?)(?=\n\w|\nsignature_def|\Z)", text, re.DOTALL)
    found = {
        name: {
            tensor: (dtype, shape)
            for tensor, dtype, shape in re.findall(
                r"(\w+\['\w+'\]) tensor_info:\s+dtype: (\w+)\s+shape: (\([^)]*\))", body
            )
        }
        for name, body in signatures
        if name.startswith("serving")
    }
    assert found == {name: tensors | outputs for name, tensors in inputs.items()}
    for name, tensors in inputs.items():
        (tensor,) = tensors
        assert f"| `{name}` | `{tensor[8:-2]}` |" in DOCS


def test_the_models_config_of_the_docs_is_valid() -> None:
    """Guards the file that the server reads: it parses as the official message type, with a model per task."""
    (text,) = re.findall(r"<<'END'\n(.*?)END\n", DOCS, re.DOTALL)
    config = text_format.Parse(text, ModelServerConfig())
    models = {model.name: (model.base_path, model.model_platform) for model in config.model_config_list.config}
    assert models == {task: (f"/models/{task}", "tensorflow") for task in TASKS}


class Service(PredictionServiceServicer):  # type: ignore[misc]
    """The stand-in behind real gRPC."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        return PredictResponse.FromString(self.server.predict(request.SerializeToString()))


@pytest.fixture
def grpc_port(server: Server) -> Iterator[int]:
    with ThreadPoolExecutor(1) as pool:
        service = grpc.server(pool)
        add_PredictionServiceServicer_to_server(Service(server), service)
        port = service.add_insecure_port("127.0.0.1:0")
        service.start()
        yield port
        service.stop(None).wait()


@pytest.fixture
def rest_port(server: Server) -> Iterator[int]:
    """The part of TensorFlow Serving's REST interface that the docs use, as its reference describes it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            task = re.fullmatch(r"/v1/models/(\w+):predict", self.path)[1]  # type: ignore[index]
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            files = [base64.b64decode(instance["b64"], validate=True) for instance in body["instances"]]
            outputs = ask(server, task, body["signature_name"], "encoded", files)
            rows = [{name: values[row].tolist() for name, values in outputs.items()} for row in range(len(files))]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"predictions": rows}).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service.server_port
        service.shutdown()
        thread.join()


def test_the_clients_of_the_docs_run(
    bundle: Any,
    expected: Any,
    grpc_port: int,
    rest_port: int,
    clients: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guards the two examples: each runs unchanged over a real connection, and prints the network's answer."""
    rest, stub = clients
    crop = crops_of("emotion")[1:2]
    cv2.imwrite("face.png", crop[0])
    exec(rest.replace("localhost:8501", f"127.0.0.1:{rest_port}"), {})
    logits = expected("emotion", crop)["ferplus"][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    labels = Bundle.load(bundle.directory).emotion.labels
    share, label = re.fullmatch(r"\((.*), '(\w+)'\)\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert label == labels[shares.argmax()]
    assert abs(float(share) - shares.max()) < NEAR
    exec(stub.replace("localhost:8500", f"127.0.0.1:{grpc_port}"), {})
    # one face, fifteen points of two numbers
    assert len(re.findall(r"-?\d+\.", capsys.readouterr().out)) == 30
