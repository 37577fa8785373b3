"""Measure the throughput, latency and memory of `facexp serve`.

    python benchmarks/serving.py [--seconds 10] [--requests 100000] [--batch-wait 0]

The clients run in a process of their own on the same cores, and connect over loopback. The table is for the emotion
network with one face crop per request, by gRPC (raw pixels) and by REST (a PNG in Base64), with 1, 8 and 64 clients,
each of which waits for its answer before its next request, with batching on and off; for comparison it has a plain
loop of the same network over the same crops. Then 64 gRPC clients send --requests requests, while the server's resident
memory is recorded. Each answer is compared with the expected one for its crop: an answer that is missing or wrong ends
the program. "CPU ms" is the CPU time of the server, or of the loop, per request; on a busy machine rely on it rather
than on wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import cv2
import grpc
import numpy as np
from numpy.typing import NDArray

from facexp.bundle import Bundle
from facexp.server.messages import message
from facexp.server.pictures import crop_of
from facexp.session import Session
from facexp_cli.demo import astronaut

CLIENTS = (1, 8, 64)
MEMORY, CPU = "process_resident_memory_bytes", "process_cpu_seconds_total"
HEADS = ("fer2013", "ferplus")
# an int8 network may round differently in another batch; answers to two crops differ by far more
TOLERANCE = 0.05

Ask = Callable[[int], Awaitable[NDArray[np.float64]]]


def faces() -> tuple[list[bytes], NDArray[np.uint8]]:
    """Return 64 PNG files of the astronaut's face, each rotated and lit differently, and the server's crops of them."""
    image = cv2.imread(str(astronaut()))[60:180, 170:290]
    files, crops = [], []
    for number in range(64):
        turn = cv2.getRotationMatrix2D((60, 60), number - 32, 0.8 + number / 100)
        turned = cv2.convertScaleAbs(cv2.warpAffine(image, turn, (120, 120)), alpha=0.6 + number / 120)
        files.append(cv2.imencode(".png", cv2.resize(turned, (48, 48)))[1].tobytes())
        crops.append(crop_of(cv2.imdecode(np.frombuffer(files[-1], np.uint8), cv2.IMREAD_COLOR), 48))
    return files, np.stack(crops)


@contextmanager
def server(*arguments: str) -> Iterator[tuple[str, str]]:
    """Run `facexp serve`; yield its REST and gRPC addresses as HOST:PORT."""
    command = [sys.executable, "-c", "from facexp_cli.main import main; main()", "serve", "--device", "cpu"]
    ports = ["--rest-port", "0", "--grpc-port", "0"]
    running = subprocess.Popen([*command, *ports, *arguments], stderr=subprocess.PIPE, text=True)
    assert running.stderr
    try:
        found = next(filter(None, (re.search(r"on http://(\S+)/, gRPC on (\S+)", line) for line in running.stderr)))
        yield found[1], found[2]
    finally:
        running.terminate()
        running.wait()
        running.stderr.close()


async def rest_client(address: str, files: list[bytes]) -> Ask:
    """Return a REST client with one connection that stays open."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    requests = []
    for file in files:
        instances = [{"b64": base64.b64encode(file).decode()}]
        body = json.dumps({"signature_name": "serving_encoded", "instances": instances}).encode()
        head = f"POST /v1/models/emotion:predict HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)

    async def ask(number: int) -> NDArray[np.float64]:
        writer.write(requests[number])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        body = json.loads(await reader.readexactly(length))
        (row,) = body["predictions"]
        return np.array([row[head] for head in HEADS])

    return ask


async def grpc_client(address: str, crops: NDArray[np.uint8]) -> Ask:
    """Return a gRPC client with a connection of its own."""
    channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    response = message("PredictResponse")
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict", None, response.FromString)
    requests = []
    for crop in crops:
        request = message("PredictRequest")()
        request.model_spec.name = "emotion"
        tensor = request.inputs["image"]
        tensor.dtype, tensor.tensor_content = 4, crop.tobytes()
        for size in (1, 48, 48, 1):
            tensor.tensor_shape.dim.add(size=size)
        requests.append(request.SerializeToString())

    async def ask(number: int) -> NDArray[np.float64]:
        answer = await call(requests[number])
        return np.array([answer.outputs[head].float_val for head in HEADS])

    return ask


async def measure(
    clients: list[Ask], wanted: NDArray[np.float64], enough: Callable[[int], bool], after_each: Callable[[int], None]
) -> tuple[float, NDArray[np.float64]]:
    """Run the clients until `enough(number of requests)`; return the requests per second and each one's time in ms.

    `after_each` is called with the number of answers so far. Raises SystemExit if an answer is missing or wrong.
    """
    times: list[float] = []
    sent = 0

    async def client(ask: Ask, first: int) -> None:
        nonlocal sent
        number = first
        while not enough(sent):
            sent += 1
            start = time.perf_counter()
            found = await ask(number % len(wanted))
            times.append(1000 * (time.perf_counter() - start))
            if not np.abs(found - wanted[number % len(wanted)]).max() < TOLERANCE:
                raise SystemExit(f"the answer to crop {number % len(wanted)} is wrong")
            number += 1
            after_each(len(times))

    start = time.perf_counter()
    await asyncio.gather(*(client(ask, 7 * place) for place, ask in enumerate(clients)))
    if len(times) != sent:
        raise SystemExit(f"{sent} requests, {len(times)} answers")
    return len(times) / (time.perf_counter() - start), np.array(times)


def read_metric(address: str, name: str) -> float:
    """Read a metric of the server's process from /metrics."""
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    return float(re.search(rf"^{name} (\S+)", text, re.MULTILINE)[1])


def plain(session: Session, crops: NDArray[np.uint8], seconds: float) -> None:
    """Measure a plain loop of the network, with 1 and 32 crops per run."""
    for size in (1, 32):
        count, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            session.run(crops[count % 32 : count % 32 + size])
            count += size
        rate = count / (time.perf_counter() - start)
        cpu_ms = 1000 * (time.process_time() - cpu) / count
        print(f"| plain loop, {size} a run | | | {rate:,.0f} | {1000 * size / rate:.1f} | | {cpu_ms:.2f} |", flush=True)


async def table(
    options: argparse.Namespace, files: list[bytes], crops: NDArray[np.uint8], wanted: NDArray[np.float64]
) -> None:
    """Measure each interface, batch size and number of clients."""
    for size in (1, options.batch_size):
        with server("--batch-size", str(size), "--batch-wait", str(options.batch_wait)) as (rest, rpc):
            for name in ("gRPC", "REST"):
                for count in CLIENTS:
                    clients = [
                        await (grpc_client(rpc, crops) if name == "gRPC" else rest_client(rest, files))
                        for _ in range(count)
                    ]
                    # one request per connection first, so that connecting is not measured
                    await asyncio.gather(*(ask(0) for ask in clients))
                    cpu = read_metric(rest, CPU)
                    end = time.perf_counter() + options.seconds
                    rate, ms = await measure(
                        clients,
                        wanted,
                        lambda _, end=end: time.perf_counter() > end,
                        lambda _: None,
                    )
                    cpu_ms = 1000 * (read_metric(rest, CPU) - cpu) / len(ms)
                    p50, p99 = np.percentile(ms, [50, 99])
                    batching = "off" if size == 1 else f"{size}, {options.batch_wait:g} ms"
                    print(
                        f"| {name} | {batching} | {count} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu_ms:.2f} |",
                        flush=True,
                    )


async def endurance(options: argparse.Namespace, crops: NDArray[np.uint8], wanted: NDArray[np.float64]) -> None:
    """Send many requests, and print the server's memory after each tenth of them."""
    with server("--batch-size", str(options.batch_size), "--batch-wait", str(options.batch_wait)) as (rest, rpc):
        clients = [await grpc_client(rpc, crops) for _ in range(CLIENTS[-1])]
        step = max(1, options.requests // 10)
        memory: list[float] = []

        def note(done: int) -> None:
            if done % step == 0:
                memory.append(read_metric(rest, MEMORY) / 1e6)

        rate, ms = await measure(clients, wanted, lambda sent: sent >= options.requests, note)
    print(f"\n{len(ms):,} requests of {len(clients)} clients, all answered, {rate:,.0f} a second.")
    print("Resident memory of the server in MB, after each tenth: " + ", ".join(f"{value:.0f}" for value in memory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of each line of the table; 0 leaves the table out"
    )
    parser.add_argument(
        "--requests", type=int, default=100_000, help="number of requests while memory is recorded; 0 leaves this out"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batch-wait", type=float, default=0.0, help="milliseconds")
    options = parser.parse_args()
    bundle = Bundle.load()
    session = Session(bundle.read(bundle.emotion, "int8.onnx"), bundle.emotion, "int8.onnx")
    files, crops = faces()
    outputs = session.run(crops)
    wanted = np.stack([outputs[head] for head in HEADS], axis=1).astype(np.float64)
    if options.seconds > 0:
        print("| | batch | clients | requests/s | p50 ms | p99 ms | CPU ms |\n" + "| --- " * 7 + "|")
        plain(session, crops, options.seconds)
        asyncio.run(table(options, files, crops, wanted))
    if options.requests > 0:
        asyncio.run(endurance(options, crops, wanted))


if __name__ == "__main__":
    main()
