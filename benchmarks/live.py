"""Measure the latency of a live source.

    python benchmarks/live.py [--fps 60] [--seconds 30] [--size 512] [--policy latest]

A simulated camera, in a process of its own, sends the astronaut as JPEGs over HTTP, faster than they can be analysed.
Printed are the frames sent, analysed and dropped, and for each quarter of the time the age of a frame when its record
is made, and the number of frames that the camera had sent by then but that had not been read. With --policy latest both
stay constant. With --policy all the reader falls behind, until the system's buffers between sender and receiver are
full.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import cv2
import numpy as np

import facexp
from facexp.pipeline import analyze_sources
from facexp.reading import ReadOptions
from facexp.sources import open_sources
from facexp_cli.demo import astronaut


def camera(port: Any, sent: Synchronized[int], fps: float, size: int) -> None:
    """Serve the camera; send its port number through `port`, and count the frames in `sent`."""
    import http.server

    image = cv2.resize(cv2.imread(str(astronaut())), (size, size), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    part = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg + b"\r\n"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            due = time.monotonic()
            while True:
                self.wfile.write(part)
                sent.value += 1
                due += 1 / fps
                time.sleep(max(0.0, due - time.monotonic()))

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--policy", choices=["latest", "all"], default="latest")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    analyzer = facexp.Analyzer(threads=1)
    receiver, port = multiprocessing.Pipe(duplex=False)
    sent = multiprocessing.Value("q", 0)
    process = multiprocessing.Process(target=camera, args=(port, sent, options.fps, options.size), daemon=True)
    process.start()
    address = f"http://127.0.0.1:{receiver.recv()}/"
    rows = []
    reading = ReadOptions(duration_s=options.seconds, policy=options.policy)
    for frame, _ in analyze_sources(analyzer, open_sources([address]), reading):
        timings = frame.timings or facexp.Timings()
        ms = timings.detect_ms + timings.keypoints_ms + timings.emotion_ms
        rows.append((frame.time_ms, frame.age_ms, sent.value - frame.index, frame.dropped, ms))
    table = np.array(rows, np.float64)
    print(f"{sent.value / options.seconds:.1f} frames/s sent, {len(table) / options.seconds:.1f} analysed, ", end="")
    print(f"{table[:, 3].sum():.0f} dropped; analysis {np.median(table[:, 4]):.1f} ms")
    for number, part in enumerate(np.array_split(table, 4)):
        age, late, behind = np.median(part[:, 1]), np.percentile(part[:, 1], 99), np.median(part[:, 2])
        print(f"quarter {number + 1}: age {age:6.1f} ms (p99 {late:6.1f}), {behind:4.0f} frames behind")


if __name__ == "__main__":
    main()
