"""A headless Chromium that is driven over pipes with its DevTools protocol, without a driver or a library."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

PATIENCE_S = 240.0


class Browser:
    """A browser with one page, started with `options`. It is killed at the end of its `with` block."""

    def __init__(self, program: str, home: Path, options: Sequence[str] = ()) -> None:
        to_browser, self._commands = os.pipe()
        self._messages, from_browser = os.pipe()
        command = [
            *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *(f"--user-data-dir={home}", "--remote-debugging-pipe", *options, "about:blank"),
        ]
        # the browser reads commands from descriptor 3 and writes messages to descriptor 4
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._last_id, self._unread, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        """Messages of the browser that are not replies to a command, in order."""
        self._watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        self._watchdog.start()

    def __enter__(self) -> Self:
        (page,) = (each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait(PATIENCE_S)
        os.close(self._commands)
        os.close(self._messages)

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command of the protocol and return its result."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next_message()
            if message.get("id") == self._last_id:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, address: str, width: int, height: int) -> None:
        """Load a page on a screen of width x height CSS pixels, each two device pixels wide and high, as on phones."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True)
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Evaluate a script and return its value."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition is true. The browser is killed PATIENCE_S after its start, which ends the wait."""
        while not self.run(condition):
            self.run("new Promise((done) => setTimeout(done, 50))")

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in the file input that matches a selector."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def screenshot(self) -> bytes:
        """Return the page in its full length as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def errors(self) -> list[str]:
        """Return the errors of the page: exceptions, and log entries such as content security policy violations."""
        self.run("0")  # any command: it collects the messages sent before its reply
        found = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
        return found

    def _next_message(self) -> Any:
        while b"\0" not in self._unread:
            chunk = os.read(self._messages, 1 << 16)
            assert chunk, "the browser has ended"
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)
