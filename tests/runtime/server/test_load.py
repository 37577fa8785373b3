"""More than can be taken, too late, and the end: refused with a reason, and what was taken is answered."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.analyzer import AnalyzerOptions
from facexp.server import models
from facexp.server.access import Access
from facexp.server.batching import Batching
from facexp.server.errors import TooLate
from facexp.server.limits import Limits
from facexp.server.messages import message
from facexp.server.pictures import read_picture
from facexp.server.service import Service
from facexp.session import Session

PATIENCE_S = 60.0
EMOTION = "/v1/models/emotion"
BODY = {"instances": np.zeros((1, 48, 48, 1), int).tolist()}


class Held:
    """The emotion network, held back until `go` is set."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=PATIENCE_S)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    holding, original = Held(), Session.run

    def run(session: Session, batch: NDArray[np.uint8]) -> Any:
        if batch.shape[1:] == (48, 48, 1):
            holding.begun.release()
            assert holding.go.wait(PATIENCE_S)
        return original(session, batch)

    monkeypatch.setattr(Session, "run", run)
    yield holding
    holding.go.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def ask(pool: ThreadPoolExecutor, server: Any, count: int) -> list[Future[Any]]:
    return [pool.submit(server.ask, f"{EMOTION}:predict", BODY) for _ in range(count)]


def under_way(server: Any, count: int) -> None:
    """Wait until so many requests are taken."""
    reaches(server, 'facexp_requests_under_way{model="emotion"}', count)


def reaches(server: Any, name: str, value: float) -> None:
    """Wait until a line of /metrics has this value."""
    for _ in range(2000):
        if server.figure(name) == value:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{name} was never {value}")


def raw(server: Any) -> socket.socket:
    host, port = server.ports.rest.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def stub(server: Any) -> tuple[grpc.Channel, Any]:
    channel = grpc.insecure_channel(server.ports.grpc)
    return channel, channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message("PredictResponse").FromString,
    )


def request() -> Any:
    made = message("PredictRequest")()
    made.model_spec.name = "emotion"
    tensor = made.inputs["image"]
    tensor.dtype, tensor.tensor_content = 4, bytes(48 * 48)
    for size in (1, 48, 48, 1):
        tensor.tensor_shape.dim.add(size=size)
    return made


def test_the_queue_is_bounded(start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor) -> None:
    """Guards the memory under a flood: 503 and RESOURCE_EXHAUSTED at once; the other models and the waiting go on."""
    server = start(limits=Limits(queue=3), batching=Batching(size=1))
    taken = ask(pool, server, 3)
    held.wait_for(1)
    under_way(server, 3)
    answer = server.ask(f"{EMOTION}:predict", BODY)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.error == "model emotion: 3 requests are under way already; try again later"
    channel, predict = stub(server)
    with channel, pytest.raises(grpc.RpcError) as refused:
        predict(request(), timeout=PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    other = {"instances": np.zeros((1, 96, 96, 1), int).tolist()}
    assert server.ask("/v1/models/keypoints:predict", other).status == 200
    held.go.set()
    assert [each.result(PATIENCE_S).status for each in taken] == [200, 200, 200]
    assert server.ask(f"{EMOTION}:predict", BODY).status == 200


def test_requests_share_the_memory(start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor) -> None:
    """Guards against many large requests at once: what they hold together is bounded, and given back."""
    body = b'{"instances": ' + b" " * 20_000 + str(BODY["instances"]).encode() + b"}"
    limits = Limits(request_bytes=40_000, queue=1000)
    server = start(limits=limits, batching=Batching(size=1))
    fits = limits.memory_bytes // len(body)
    with ThreadPoolExecutor(fits) as many:
        taken = [many.submit(server.ask, f"{EMOTION}:predict", body) for _ in range(fits)]
        under_way(server, fits)
        answer = server.ask(f"{EMOTION}:predict", body)
        assert (answer.status, "memory" in answer.error) == (503, True)
        held.go.set()
        assert {each.result(PATIENCE_S).status for each in taken} == {200}
    assert server.ask(f"{EMOTION}:predict", body).status == 200


def test_a_body_is_let_go_when_it_is_read(start: Callable[..., Any], held: Held) -> None:
    """Guards a small machine: what is counted for a request is all that it holds, not a third of it."""
    body = b'{"instances": ' + b" " * 1_000_000 + str(BODY["instances"]).encode() + b"}"
    server = start(limits=Limits(request_bytes=2_000_000), batching=Batching(size=1))
    count = 12
    with ThreadPoolExecutor(count) as many:
        tracemalloc.start()
        try:
            taken = [many.submit(server.ask, f"{EMOTION}:predict", body) for _ in range(count)]
            under_way(server, count)
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            held.go.set()
        assert {each.result(PATIENCE_S).status for each in taken} == {200}
    assert now < count * len(body) / 2


def test_few_pictures_are_decoded_at_once(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the memory: a small file may be a large picture, and both networks, of all versions, share one memory."""
    going: list[None] = []
    most: list[int] = []

    def slow(*what: Any) -> Any:
        going.append(None)
        most.append(len(going))
        time.sleep(0.1)
        going.pop()
        return read_picture(*what)

    monkeypatch.setattr(models, "read_picture", slow)
    server = start()
    file = {"b64": base64.b64encode(cv2.imencode(".png", np.zeros((48, 48, 3), np.uint8))[1].tobytes()).decode()}
    body = {"signature_name": "serving_encoded", "instances": [file]}
    with ThreadPoolExecutor(8) as many:
        names = ("emotion", "keypoints") * 4
        answers = list(many.map(lambda name: server.ask(f"/v1/models/{name}:predict", body), names))
    assert {answer.status for answer in answers} == {200}
    assert max(most) == 2


def test_short_messages_of_large_arrays_share_the_memory(start: Callable[..., Any], held: Held) -> None:
    """Guards against one value that stands for all: what is held is the array, not the few bytes that ask for it."""
    rows = 10
    limits = Limits(request_bytes=rows * 48 * 48)
    server = start(limits=limits, batching=Batching(size=1))
    short = request()
    tensor = short.inputs["image"]
    tensor.ClearField("tensor_content")
    tensor.int_val.append(0)
    tensor.tensor_shape.dim[0].size = rows
    channel, predict = stub(server)
    fits = limits.memory_bytes // limits.request_bytes
    with channel:
        taken = [predict.future(short, timeout=PATIENCE_S) for _ in range(fits)]
        under_way(server, fits)
        with pytest.raises(grpc.RpcError) as refused:
            predict(short, timeout=PATIENCE_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "memory" in refused.value.details()
        held.go.set()
        assert {len(each.result(PATIENCE_S).outputs) for each in taken} == {2}


def test_who_hangs_up_is_not_worked_for(
    start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the models' time and the log: a client that closes its connection is no fault, and gets no answer made."""
    server = start(batching=Batching(size=1))
    (first,) = ask(pool, server, 1)
    held.wait_for(1)
    data = json.dumps(BODY).encode()
    head = f"POST {EMOTION}:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    cancelled = 'facexp_requests_total{code="CANCELLED",model="emotion",protocol="rest"}'
    with raw(server) as waiting:
        waiting.sendall(head + data)
        under_way(server, 2)
    reaches(server, cancelled, 1)
    under_way(server, 1)
    with raw(server) as sending:
        sending.sendall(head + data[:9])
    reaches(server, cancelled, 2)
    held.go.set()
    assert first.result(PATIENCE_S).status == 200
    assert server.ask(f"{EMOTION}:predict", BODY).status == 200
    assert server.figure('facexp_batch_rows_sum{model="emotion"}') == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_deadlines(start: Callable[..., Any], held: Held) -> None:
    """Guards against waiting for ever: the server's own deadline, and the client's by gRPC; its place becomes free."""
    server = start(limits=Limits(timeout_s=0.2), batching=Batching(size=1))
    answer = server.ask(f"{EMOTION}:predict", BODY)
    assert (answer.status, answer.error) == (504, "the answer was not ready in time")
    channel, predict = stub(server)
    with channel:
        # the server's is shorter, then the client's
        for patience in (PATIENCE_S, 0.1):
            with pytest.raises(grpc.RpcError) as late:
                predict(request(), timeout=patience)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    under_way(server, 0)
    held.go.set()
    # a body that never ends
    connection = server.connect()
    connection.putrequest("POST", f"{EMOTION}:predict")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 504
    connection.close()


def test_no_time_left_is_none() -> None:
    """Guards a call whose deadline is over when it comes: it does not get the server's own instead."""
    service = Service(None, AnalyzerOptions(), Limits(timeout_s=PATIENCE_S), Batching())

    async def asked() -> None:
        async with service.request("grpc", "emotion", 0.0):
            await asyncio.sleep(PATIENCE_S)

    with pytest.raises(TooLate):
        asyncio.run(asked())


def test_slow_clients_hold_nothing(start: Callable[..., Any]) -> None:
    """Guards against a byte now and then, in a head, in the next head, in a body that nobody wants: others are answered
    meanwhile, and after the time the connections are cut."""
    patience_s = 3.0
    server = start(limits=Limits(timeout_s=patience_s))
    kinds = [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    kinds += [b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"]
    begun = time.monotonic()
    with contextlib.ExitStack() as opened:
        alive = set()
        for begin in kinds * 20:
            slow = opened.enter_context(raw(server))
            slow.sendall(begin)
            assert not begin or slow.recv(4096).startswith(b"HTTP/1.1 ")
            alive.add(slow)
        assert server.ask(f"{EMOTION}:predict", BODY).status == 200
        while alive and time.monotonic() < begun + PATIENCE_S:
            for slow in list(alive):
                try:
                    slow.sendall(b"x")
                except ConnectionError:
                    assert time.monotonic() >= begun + patience_s
                    alive.remove(slow)
            threading.Event().wait(0.1)
        assert not alive


def test_calls_without_a_message_hold_nothing(start: Callable[..., Any]) -> None:
    """Guards gRPC's places: a stranger's call is refused at once, another's when its time is over."""
    token = "a-token-of-some-length"
    server = start(access=Access(token), limits=Limits(queue=1, timeout_s=2))
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(PATIENCE_S)
        yield b""

    def call(*metadata: tuple[str, str]) -> Any:
        channel = grpc.insecure_channel(server.ports.grpc, options=[("n", len(channels))])
        channels.append(channel)
        name = "/tensorflow.serving.PredictionService/Predict"
        return channel.stream_unary(name).future(nothing(), metadata=metadata, timeout=PATIENCE_S)

    channels: list[grpc.Channel] = []
    try:
        assert {call().exception(PATIENCE_S).code() for _ in range(6)} == {grpc.StatusCode.UNAUTHENTICATED}
        late = call(("authorization", f"Bearer {token}")).exception(PATIENCE_S)
        assert (late.code(), late.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no message arrived within 2 s")
    finally:
        never.set()
        for channel in channels:
            channel.close()


def test_a_client_that_takes_nothing(start: Callable[..., Any]) -> None:
    """Guards against answers that are never read: their memory and the connection are given back."""
    server = start(limits=Limits(timeout_s=0.5))
    host, port = server.ports.rest.removeprefix("http://").split(":")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(PATIENCE_S)
        deaf.connect((host, int(port)))
        with contextlib.suppress(ConnectionError):
            # more than the sockets' own memory takes
            deaf.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500)
            for _ in range(100):
                deaf.sendall(b"x")
                threading.Event().wait(0.1)
            raise AssertionError("it was never cut")


def test_the_end_answers_what_was_taken(start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor) -> None:
    """Guards the graceful stop by both protocols: taken requests are answered, new ones find nobody."""
    server = start(batching=Batching(size=1))
    taken = ask(pool, server, 4)
    channel, predict = stub(server)
    with channel:
        called = predict.future(request(), timeout=PATIENCE_S)
        under_way(server, 5)
        open_still = server.connect()
        open_still.connect()
        server.ask_to_stop()
        # until new ones are refused, the old ones wait
        for _ in range(2000):
            try:
                server.connect().connect()
            except ConnectionRefusedError:
                break
            threading.Event().wait(0.01)
        assert not any(each.done() for each in taken)
        held.go.set()
        assert [each.result(PATIENCE_S).status for each in taken] == [200] * 4
        assert set(called.result(PATIENCE_S).outputs) == {"fer2013", "ferplus"}
        server.join()
        with pytest.raises(grpc.RpcError) as refused:
            predict(request(), timeout=PATIENCE_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    open_still.close()


def test_the_end_tells_what_was_not_answered(
    start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the end of the patience: clients learn why, the log how many they were, and nothing waits any longer."""
    caplog.set_level("INFO", "facexp")
    server = start(limits=Limits(drain_s=0.2), batching=Batching(size=1))
    taken = ask(pool, server, 2)
    channel, predict = stub(server)
    with channel:
        called = predict.future(request(), timeout=PATIENCE_S)
        under_way(server, 3)
        server.ask_to_stop()
        for each in taken:
            answer = each.result(PATIENCE_S)
            assert (answer.status, answer.json) == (503, {"error": "the server is stopping"})
        assert called.code() is grpc.StatusCode.UNAVAILABLE
        assert called.details() == "the server is stopping"
    server.join()
    assert not held.go.is_set()
    assert caplog.messages[-1] == "requests accepted but not answered within 0.2 s: 3"
