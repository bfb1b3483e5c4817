"""A real browser that tests look through: headless Chromium, driven over the pipe of its own protocol, so that nothing is installed."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; `.ci/install-browser` installs Debian's")
_WAIT_S = 60.0
# The protocol is spoken at the descriptors 3 and 4: both are moved out of the way first.
_AT_3_AND_4 = """
import fcntl, os, sys
commands, says = (fcntl.fcntl(int(at), fcntl.F_DUPFD, 10) for at in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(says, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One tab. `errors`: what the page wrote to the console as an error, threw, or failed to load."""

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers, self._numbers, self._rest = to, answers, iter(range(1, 1 << 30)), b""
        self._session: dict[str, str] = {}
        self._loaded = False
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the screen, and whether its owner likes it dark."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Loads a page, until all its files are there."""
        self._loaded = False
        self._call("Page.navigate", url=url)
        while not self._loaded:
            self._note(self._next())

    def evaluate(self, script: str) -> Any:
        """What an expression comes to, as JSON; a promise is awaited."""
        done = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, condition: str) -> Any:
        """The first true value of an expression, looked at with each picture that the page draws."""
        look = f"new Promise((done) => {{ const at = () => ({condition}) ? done({condition}) : requestAnimationFrame(at); at(); }})"
        return self.evaluate(look)

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """The page as a PNG: all of it, or the first screen."""
        taken = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        began = time.monotonic()
        os.write(self._to, json.dumps({"id": number, "method": method, "params": parameters, **self._session}).encode() + b"\0")
        while True:
            message = self._next()
            assert time.monotonic() - began < _WAIT_S, f"{method}: no answer for {_WAIT_S:.0f} s, {parameters}"
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _WAIT_S)
            assert ready, f"the browser said nothing for {_WAIT_S:.0f} s"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))

    def _note(self, message: Mapping[str, Any]) -> None:
        about = message.get("params", {})
        self._loaded |= message.get("method") == "Page.loadEventFired"
        if message.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(str([argument.get("value") for argument in about["args"]]))
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile below `folder`."""
    assert CHROMIUM is not None
    commands, to = os.pipe()
    answers, says = os.pipe()
    # No sandbox: a container has no user namespaces, and the page is our own.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--hide-scrollbars"]
    command = [CHROMIUM, *flags, f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_3_AND_4, str(commands), str(says), *command],
        pass_fds=(commands, says),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(says)
    try:
        yield Browser(to, answers)
    finally:
        process.kill()
        process.wait(_WAIT_S)
        os.close(to)
        os.close(answers)
