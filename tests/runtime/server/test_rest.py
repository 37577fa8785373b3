"""REST as TensorFlow Serving's clients use it: forms, names and numbers, and one reason for each refusal."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

import facexp
from facexp.labels import SEVEN
from facexp.server.limits import Limits
from facexp.server.messages import message

GRAYS = np.stack([np.full((48, 48, 1), value, np.uint8) for value in (0, 85, 170, 255)])
EMOTION, KEYPOINTS, FACES = (f"/v1/models/{name}" for name in ("emotion", "keypoints", "faces"))


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def encoded(image: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def logits(value: float, head: str) -> NDArray[np.float64]:
    """The tiny network's logits for a gray crop, by its definition."""
    return -4 * {"fer2013": 1.0, "ferplus": 2.0}[head] * (value / 255 * 6 - np.arange(7)) ** 2


def test_row_and_column_form_are_answered(server: Any) -> None:
    """Guards both forms of the JSON, named and unnamed inputs, and that each row has its own answer."""
    wanted = {head: np.array([logits(crop[0, 0, 0], head) for crop in GRAYS]) for head in ("fer2013", "ferplus")}
    rows, column = GRAYS.tolist(), {"image": GRAYS.tolist()}
    for body in ({"instances": rows}, {"instances": [{"image": row} for row in rows]}):
        found = server.ask(f"{EMOTION}:predict", body).json["predictions"]
        for head, values in wanted.items():
            assert np.abs(np.array([each[head] for each in found]) - values).max() < 1e-3
    for body in (
        {"inputs": rows},
        {"inputs": column, "signature_name": "serving_default"},
        {"inputs": rows, "signature_name": None},
    ):
        found = server.ask(f"{EMOTION}/versions/1:predict", body).json["outputs"]
        assert set(found) == set(wanted)
        assert np.abs(np.array(found["ferplus"]) - wanted["ferplus"]).max() < 1e-3
    # a single output is returned without its name
    crop = np.zeros((1, 96, 96, 1), np.uint8)
    for form, answer in (("instances", "predictions"), ("inputs", "outputs")):
        found = np.array(server.ask(f"{KEYPOINTS}:predict", {form: crop.tolist()}).json[answer])
        assert found.shape == (1, 15, 2)


def test_encoded_pictures_are_answered(server: Any) -> None:
    """Guards {"b64"}, with and without the input's name, in both forms, and the resize to the network's size."""
    files = [b64(encoded(cv2.resize(crop, (size, size)))) for crop, size in zip(GRAYS, (48, 20, 96, 131), strict=True)]
    signature = {"signature_name": "serving_encoded"}
    bodies: list[dict[str, Any]] = [
        {"instances": files},
        {"instances": [{"encoded": file} for file in files]},
        {"inputs": files},
        {"inputs": {"encoded": files}},
    ]
    for body in bodies:
        answer = server.ask(f"{EMOTION}:predict", body | signature).json
        found = (
            answer["outputs"]["ferplus"] if "outputs" in answer else [each["ferplus"] for each in answer["predictions"]]
        )
        assert [SEVEN[int(np.argmax(row))] for row in found] == [SEVEN[0], SEVEN[2], SEVEN[4], SEVEN[6]]


def test_faces_gives_the_record_of_facexp_infer(
    server: Any, analyzer: facexp.Analyzer, astronaut: NDArray[np.uint8]
) -> None:
    """Guards the whole analysis behind REST: the record's fields and numbers, and a bad photo among good ones."""
    file = encoded(astronaut)
    first, bad, last = server.ask(f"{FACES}:predict", {"instances": [b64(file), b64(b"GIF89a.."), b64(file)]}).json[
        "predictions"
    ]
    (face,) = analyzer.analyze(astronaut)
    assert list(first) == ["schema", "source", "frame", "time_ms", "width", "height", "device", "faces", "ms"]
    assert (first["schema"], first["source"], first["width"]) == (2, "-", 512)
    assert first["faces"][0]["box"] == [round(value, 2) for value in face.box]
    assert first["faces"][0]["emotion"]["label"] == face.emotion.label
    assert first["faces"] == last["faces"]
    assert bad == {"schema": 2, "source": "-", "frame": 0, "error": "-: is GIF, not JPEG, PNG or WebP"}


def test_status_and_metadata_are_those_of_tensorflow_serving(server: Any) -> None:
    """Guards what clients read before they send requests."""
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (KEYPOINTS, EMOTION, FACES, f"{EMOTION}/versions/1"):
        assert server.ask(path).json == {"model_version_status": [status]}
    answer = server.ask(f"{EMOTION}/versions/1/metadata").json
    assert answer["model_spec"] == {"name": "emotion", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "serving_encoded"}
    image = signatures["serving_default"]["inputs"]["image"]
    assert (image["dtype"], [dim["size"] for dim in image["tensor_shape"]["dim"]]) == (
        "DT_UINT8",
        ["-1", "48", "48", "1"],
    )
    assert signatures["serving_encoded"]["inputs"]["encoded"]["dtype"] == "DT_STRING"
    record = server.ask(f"{FACES}/metadata").json["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert record["outputs"]["record"]["dtype"] == "DT_STRING"


DEEP = b'{"instances": ' + b"[" * 200_000


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (f"{EMOTION}:predict", b"{", 400, "must be JSON"),
        (f"{EMOTION}:predict", DEEP, 400, "must be JSON"),
        (f"{EMOTION}:predict", b"[1]", 400, "either instances or inputs"),
        (f"{EMOTION}:predict", {}, 400, "either instances or inputs"),
        (f"{EMOTION}:predict", {"instances": [1], "inputs": [1]}, 400, "either instances or inputs"),
        (f"{EMOTION}:predict", {"instances": []}, 400, "at least one element"),
        (f"{EMOTION}:predict", {"instances": [GRAYS[0].tolist(), [[0]]]}, 400, "differ in shape"),
        (f"{EMOTION}:predict", {"instances": [[[0]]]}, 400, r"the shape must be \(N, 48, 48, 1\), got \(1, 1, 1\)"),
        (f"{EMOTION}:predict", {"instances": (GRAYS.astype(int) + 1).tolist()}, 400, "from 0 to 255"),
        (f"{EMOTION}:predict", {"instances": (GRAYS / 255).tolist()}, 400, "whole numbers"),
        (f"{EMOTION}:predict", {"instances": [{"b64": "AAAA"}]}, 400, "whole numbers"),
        (f"{EMOTION}:predict", b'{"instances": [' + b"[]," * 1_000_000 + b"0]}", 413, "b64"),
        (f"{EMOTION}:predict", {"instances": [{"picture": 1}]}, 400, "with only image"),
        (
            f"{EMOTION}:predict",
            {"instances": [1], "signature_name": "x"},
            404,
            "it has serving_default, serving_encoded",
        ),
        (
            f"{EMOTION}:predict",
            {"instances": [b64(b"no")], "signature_name": "serving_encoded"},
            400,
            "picture 0 is not",
        ),
        (f"{FACES}:predict", {"instances": [{"b64": "AA*A"}]}, 400, "row 0: is not valid Base64"),
        (f"{FACES}:predict", {"instances": [7]}, 400, "must be"),
        (f"{FACES}:predict", {"inputs": "x"}, 400, "must be a list"),
        ("/v1/models/faces/versions/7:predict", {"instances": [1]}, 404, "version 7 does not answer; version 1 does"),
        ("/v1/models/other:predict", {"instances": [1]}, 404, "there are keypoints, emotion, faces"),
        ("/v1/models/other", None, 404, "there are keypoints, emotion, faces"),
        ("/v1/models/faces/versions/7", None, 404, "no version 7"),
        pytest.param(f"/v1/models/faces/versions/{'7' * 5000}", None, 404, "Not Found", id="more digits than are read"),
        ("/v1/models/faces:classify", b"{}", 405, "Method Not Allowed"),
        ("/v1/models/faces:predict", None, 405, "Method Not Allowed"),
        ("/v1/models/faces/versions/1:predict", None, 405, "Method Not Allowed"),
        ("/page.py", None, 404, "Not Found"),
        ("/v1/models/faces", b"{}", 405, "Method Not Allowed"),
    ],
)
def test_invalid_requests_get_a_status_and_a_reason(server: Any, path: str, body: Any, status: int, says: str) -> None:
    """Guards the one reason that a client gets; an invalid request is never reported as an error of the server."""
    answer = server.ask(path, body)
    assert (answer.status, bool(re.search(says, answer.error))) == (status, True), answer.body
    if status == 405:
        assert set(answer.headers["allow"].split(", ")) == ({"POST"} if body is None else {"GET", "HEAD"})


def test_oversized_requests_are_refused(start: Callable[..., Any], astronaut: NDArray[np.uint8]) -> None:
    """Guards the memory: bodies and pictures beyond the limits are refused, whether or not the length is declared."""
    server = start(limits=Limits(request_bytes=100_000, pixels=200 * 200))
    small, large = (encoded(cv2.resize(astronaut, (side, side)), ".jpg") for side in (200, 201))
    assert server.ask(f"{FACES}:predict", {"instances": [b64(small)]}).status == 200
    for path in (f"{FACES}:predict", f"{EMOTION}:predict"):
        answer = server.ask(
            path,
            {"signature_name": "", "instances": [b64(large)]}
            if path == f"{FACES}:predict"
            else {"signature_name": "serving_encoded", "instances": [b64(large)]},
        )
        assert (answer.status, "201x201 pixels" in answer.error) == (413, True)
    # by the header alone, before a byte of the body
    connection = server.connect()
    connection.putrequest("POST", f"{FACES}:predict")
    connection.putheader("Content-Length", "100001")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    # and by counting if the length is not declared
    connection = server.connect()
    connection.request(
        "POST",
        f"{FACES}:predict",
        iter([bytes(60_000), bytes(40_001)]),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_a_server_error_reveals_nothing(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards paths, versions and stack traces: they are in the log, and never in an answer."""
    server = start()

    def broken(*_: object) -> None:
        raise RuntimeError("/secret/place of Python 3.11")

    monkeypatch.setattr("facexp.server.models.analyze_shot", broken)
    answer = server.ask(f"{FACES}:predict", {"instances": [b64(encoded(GRAYS[0]))]})
    assert (answer.status, answer.json) == (500, {"error": "the server failed to process this request"})
    assert "server" not in answer.headers
    assert "/secret/place" in caplog.text
    request = message("PredictRequest")()
    request.model_spec.name = "faces"
    tensor = request.inputs["encoded"]
    tensor.dtype = 7
    tensor.string_val.append(encoded(GRAYS[0]))
    tensor.tensor_shape.dim.add(size=1)
    with grpc.insecure_channel(server.ports.grpc) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as failed:
            predict(request.SerializeToString(), timeout=60)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert failed.value.details() == "the server failed to process this request"
    monkeypatch.setattr("facexp.server.rest.status_answer", broken)
    answer = server.ask(FACES)
    assert (answer.status, answer.json) == (500, {"error": "the server failed to process this request"})


def test_health_and_metrics_are_reported(start: Callable[..., Any]) -> None:
    """Guards what a supervisor and Prometheus read: counts by model and status, rows, the process, and no Python."""
    server = start()
    assert (server.ask("/healthz").status, server.ask("/readyz").status) == (200, 200)
    server.ask(f"{EMOTION}:predict", {"instances": GRAYS.tolist()})
    server.ask("/v1/models/invented:predict", {"instances": [1]})
    assert server.metric('facexp_requests_total{code="OK",model="emotion",protocol="rest"}') == 1
    assert server.metric('facexp_requests_total{code="NOT_FOUND",model="other",protocol="rest"}') == 1
    # requests for status and metadata count like predictions, in both protocols
    for path in (EMOTION, f"{EMOTION}/metadata"):
        assert server.ask(path).status == 200
    asked = message("GetModelMetadataRequest")(metadata_field=["signature_def"])
    asked.model_spec.name = "emotion"
    with grpc.insecure_channel(server.ports.grpc) as channel:
        for method in ("ModelService/GetModelStatus", "PredictionService/GetModelMetadata"):
            channel.unary_unary(f"/tensorflow.serving.{method}")(asked.SerializeToString(), timeout=60)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"no message", timeout=60)
    assert server.metric('facexp_requests_total{code="OK",model="emotion",protocol="rest"}') == 3
    assert server.metric('facexp_requests_total{code="OK",model="emotion",protocol="grpc"}') == 2
    # also a message that does not even name a model
    assert server.metric('facexp_requests_total{code="INVALID_ARGUMENT",model="other",protocol="grpc"}') == 1
    assert server.metric('facexp_batch_rows_sum{model="emotion"}') == len(GRAYS)
    assert server.metric('facexp_requests_under_way{model="emotion"}') == 0
    assert server.metric("facexp_version") == 1
    assert server.metric("process_resident_memory_bytes") > 1e6
    text = server.ask("/metrics").body.decode()
    assert "python" not in text.lower()
    assert "invented" not in text
