"""Overload, deadlines and the stop: refusals give a reason, and accepted requests are answered."""

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
from facexp.server.errors import DeadlineExceeded
from facexp.server.limits import Limits
from facexp.server.messages import message
from facexp.server.pictures import read_picture
from facexp.server.service import Service
from facexp.session import Session

TIMEOUT_S = 60.0
EMOTION = "/v1/models/emotion"
BODY = {"instances": np.zeros((1, 48, 48, 1), int).tolist()}


class Held:
    """The emotion network, blocked until `go` is set."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=TIMEOUT_S)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    holding, original = Held(), Session.run

    def run(session: Session, batch: NDArray[np.uint8]) -> Any:
        if batch.shape[1:] == (48, 48, 1):
            holding.begun.release()
            assert holding.go.wait(TIMEOUT_S)
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


def wait_until_under_way(server: Any, count: int) -> None:
    """Wait until this many requests are under way."""
    wait_for_metric(server, 'facexp_requests_under_way{model="emotion"}', count)


def wait_for_metric(server: Any, name: str, value: float) -> None:
    """Wait until a line of /metrics has this value."""
    for _ in range(2000):
        if server.metric(name) == value:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{name} was never {value}")


def open_socket(server: Any) -> socket.socket:
    host, port = server.ports.rest.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


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
    """Guards the memory under a flood: an error at once; other models and the waiting requests are not affected."""
    server = start(limits=Limits(queue=3), batching=Batching(size=1))
    taken = ask(pool, server, 3)
    held.wait_for(1)
    wait_until_under_way(server, 3)
    answer = server.ask(f"{EMOTION}:predict", BODY)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.error == "model emotion: 3 requests are under way already; try again later"
    channel, predict = stub(server)
    with channel, pytest.raises(grpc.RpcError) as refused:
        predict(request(), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    other = {"instances": np.zeros((1, 96, 96, 1), int).tolist()}
    assert server.ask("/v1/models/keypoints:predict", other).status == 200
    held.go.set()
    assert [each.result(TIMEOUT_S).status for each in taken] == [200, 200, 200]
    assert server.ask(f"{EMOTION}:predict", BODY).status == 200


def test_requests_share_a_memory_limit(start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor) -> None:
    """Guards against many large requests at once: the memory that they hold together is bounded, and given back."""
    body = b'{"instances": ' + b" " * 20_000 + str(BODY["instances"]).encode() + b"}"
    limits = Limits(request_bytes=40_000, queue=1000)
    server = start(limits=limits, batching=Batching(size=1))
    fits = limits.memory_bytes // len(body)
    with ThreadPoolExecutor(fits) as many:
        taken = [many.submit(server.ask, f"{EMOTION}:predict", body) for _ in range(fits)]
        wait_until_under_way(server, fits)
        answer = server.ask(f"{EMOTION}:predict", body)
        assert (answer.status, "memory" in answer.error) == (503, True)
        held.go.set()
        assert {each.result(TIMEOUT_S).status for each in taken} == {200}
    assert server.ask(f"{EMOTION}:predict", body).status == 200


def test_a_body_is_released_once_it_is_read(start: Callable[..., Any], held: Held) -> None:
    """Guards a small machine: the memory counted for a request is all that it holds, not a third of it."""
    body = b'{"instances": ' + b" " * 1_000_000 + str(BODY["instances"]).encode() + b"}"
    server = start(limits=Limits(request_bytes=2_000_000), batching=Batching(size=1))
    count = 12
    with ThreadPoolExecutor(count) as many:
        tracemalloc.start()
        try:
            taken = [many.submit(server.ask, f"{EMOTION}:predict", body) for _ in range(count)]
            wait_until_under_way(server, count)
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            held.go.set()
        assert {each.result(TIMEOUT_S).status for each in taken} == {200}
    assert now < count * len(body) / 2


def test_two_pictures_at_most_are_decoded_at_once(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the memory: a small file may be a large picture, and the networks of all versions share one limit."""
    running: list[None] = []
    counts: list[int] = []

    def slow(*arguments: Any) -> Any:
        running.append(None)
        counts.append(len(running))
        time.sleep(0.1)
        running.pop()
        return read_picture(*arguments)

    monkeypatch.setattr(models, "read_picture", slow)
    server = start()
    file = {"b64": base64.b64encode(cv2.imencode(".png", np.zeros((48, 48, 3), np.uint8))[1].tobytes()).decode()}
    body = {"signature_name": "serving_encoded", "instances": [file]}
    with ThreadPoolExecutor(8) as many:
        names = ("emotion", "keypoints") * 4
        answers = list(many.map(lambda name: server.ask(f"/v1/models/{name}:predict", body), names))
    assert {answer.status for answer in answers} == {200}
    assert max(counts) == 2


def test_short_messages_count_as_the_arrays_they_stand_for(start: Callable[..., Any], held: Held) -> None:
    """Guards against one value that fills an array: what counts is the array, not the few bytes of the message."""
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
        taken = [predict.future(short, timeout=TIMEOUT_S) for _ in range(fits)]
        wait_until_under_way(server, fits)
        with pytest.raises(grpc.RpcError) as refused:
            predict(short, timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "memory" in refused.value.details()
        held.go.set()
        assert {len(each.result(TIMEOUT_S).outputs) for each in taken} == {2}


def test_requests_of_closed_connections_are_not_computed(
    start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the networks' time and the log: a client that closes its connection is no error and gets no answer."""
    server = start(batching=Batching(size=1))
    (first,) = ask(pool, server, 1)
    held.wait_for(1)
    data = json.dumps(BODY).encode()
    head = f"POST {EMOTION}:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    cancelled = 'facexp_requests_total{code="CANCELLED",model="emotion",protocol="rest"}'
    with open_socket(server) as waiting:
        waiting.sendall(head + data)
        wait_until_under_way(server, 2)
    wait_for_metric(server, cancelled, 1)
    wait_until_under_way(server, 1)
    with open_socket(server) as sending:
        sending.sendall(head + data[:9])
    wait_for_metric(server, cancelled, 2)
    held.go.set()
    assert first.result(TIMEOUT_S).status == 200
    assert server.ask(f"{EMOTION}:predict", BODY).status == 200
    assert server.metric('facexp_batch_rows_sum{model="emotion"}') == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_requests_end_at_their_deadline(start: Callable[..., Any], held: Held) -> None:
    """Guards against waiting indefinitely: the server's deadline, and a gRPC client's; the place becomes free."""
    server = start(limits=Limits(timeout_s=0.2), batching=Batching(size=1))
    answer = server.ask(f"{EMOTION}:predict", BODY)
    assert (answer.status, answer.error) == (504, "the answer was not ready in time")
    channel, predict = stub(server)
    with channel:
        # first the server's deadline is the shorter one, then the client's
        for timeout_s in (TIMEOUT_S, 0.1):
            with pytest.raises(grpc.RpcError) as late:
                predict(request(), timeout=timeout_s)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until_under_way(server, 0)
    held.go.set()
    # a body that never ends
    connection = server.connect()
    connection.putrequest("POST", f"{EMOTION}:predict")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 504
    connection.close()


def test_an_expired_deadline_is_not_replaced_by_the_servers() -> None:
    """Guards a call whose deadline has passed when it arrives: it must not get the server's own instead."""
    service = Service(None, AnalyzerOptions(), Limits(timeout_s=TIMEOUT_S), Batching())

    async def asked() -> None:
        async with service.request("grpc", "emotion", 0.0):
            await asyncio.sleep(TIMEOUT_S)

    with pytest.raises(DeadlineExceeded):
        asyncio.run(asked())


def test_slow_clients_block_nobody_and_are_cut_off(start: Callable[..., Any]) -> None:
    """Guards against a byte now and then in a head, in the next head, or in a body that is not read: others are
    answered meanwhile, and after the timeout the connections are cut."""
    timeout_s = 3.0
    server = start(limits=Limits(timeout_s=timeout_s))
    kinds = [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    kinds += [b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"]
    begun = time.monotonic()
    with contextlib.ExitStack() as opened:
        alive = set()
        for begin in kinds * 20:
            slow = opened.enter_context(open_socket(server))
            slow.sendall(begin)
            assert not begin or slow.recv(4096).startswith(b"HTTP/1.1 ")
            alive.add(slow)
        assert server.ask(f"{EMOTION}:predict", BODY).status == 200
        while alive and time.monotonic() < begun + TIMEOUT_S:
            for slow in list(alive):
                try:
                    slow.sendall(b"x")
                except ConnectionError:
                    assert time.monotonic() >= begun + timeout_s
                    alive.remove(slow)
            threading.Event().wait(0.1)
        assert not alive


def test_calls_without_a_message_do_not_occupy_the_queue(start: Callable[..., Any]) -> None:
    """Guards gRPC's places: a call without the token is refused at once, one with it when its time is over."""
    token = "a-token-of-some-length"
    server = start(access=Access(token), limits=Limits(queue=1, timeout_s=2))
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(TIMEOUT_S)
        yield b""

    def call(*metadata: tuple[str, str]) -> Any:
        channel = grpc.insecure_channel(server.ports.grpc, options=[("n", len(channels))])
        channels.append(channel)
        name = "/tensorflow.serving.PredictionService/Predict"
        return channel.stream_unary(name).future(nothing(), metadata=metadata, timeout=TIMEOUT_S)

    channels: list[grpc.Channel] = []
    try:
        assert {call().exception(TIMEOUT_S).code() for _ in range(6)} == {grpc.StatusCode.UNAUTHENTICATED}
        late = call(("authorization", f"Bearer {token}")).exception(TIMEOUT_S)
        assert (late.code(), late.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no message arrived in time")
    finally:
        never.set()
        for channel in channels:
            channel.close()


def test_stopping_answers_what_was_accepted(start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor) -> None:
    """Guards the graceful stop of both protocols: accepted requests are answered, new ones find no server."""
    server = start(batching=Batching(size=1))
    taken = ask(pool, server, 4)
    channel, predict = stub(server)
    with channel:
        called = predict.future(request(), timeout=TIMEOUT_S)
        wait_until_under_way(server, 5)
        open_still = server.connect()
        open_still.connect()
        server.ask_to_stop()
        # until new connections are refused, the accepted requests wait
        for _ in range(2000):
            try:
                server.connect().connect()
            except ConnectionRefusedError:
                break
            threading.Event().wait(0.01)
        assert not any(each.done() for each in taken)
        held.go.set()
        assert [each.result(TIMEOUT_S).status for each in taken] == [200] * 4
        assert set(called.result(TIMEOUT_S).outputs) == {"fer2013", "ferplus"}
        server.join()
        with pytest.raises(grpc.RpcError) as refused:
            predict(request(), timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    open_still.close()


def test_stopping_reports_what_was_not_answered(
    start: Callable[..., Any], held: Held, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the end of the drain: clients get the reason, the log gets the number, and nothing waits any longer."""
    caplog.set_level("INFO", "facexp")
    server = start(limits=Limits(drain_s=0.2), batching=Batching(size=1))
    taken = ask(pool, server, 2)
    channel, predict = stub(server)
    with channel:
        called = predict.future(request(), timeout=TIMEOUT_S)
        wait_until_under_way(server, 3)
        server.ask_to_stop()
        for each in taken:
            answer = each.result(TIMEOUT_S)
            assert (answer.status, answer.json) == (503, {"error": "the server is stopping"})
        assert called.code() is grpc.StatusCode.UNAVAILABLE
        assert called.details() == "the server is stopping"
    server.join()
    assert not held.go.is_set()
    assert caplog.messages[-1] == "requests accepted but not answered within 0.2 s: 3"
