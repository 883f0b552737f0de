"""A real Chromium, driven through the DevTools protocol over a pipe: no driver, no websocket, no network.

with Browser() as browser:
    page = browser.open(path)
    page.evaluate("document.title")
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 300.0  #: seconds until an answer of the browser is given up; a busy machine is slow
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def chromium() -> str | None:
    """Where it is, if it is installed."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )


class Browser:
    """One process with a profile of its own, gone at the end."""

    def __enter__(self) -> Browser:
        found = chromium()
        assert found is not None
        self.profile = tempfile.mkdtemp(prefix="ratchet-chromium-")
        theirs_in, self.out = os.pipe()
        self.back, theirs_out = os.pipe()
        # the browser reads file descriptor 3 and writes 4, a message up to each zero byte; sh knows no
        # descriptor above 9, bash does
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", script, found, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.held, self.events = 0, b"", []  # type: ignore[var-annotated]
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.back)
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer. Events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.held:
            assert time.monotonic() < end, "the browser does not answer"
            if select.select([self.back], [], [], 1.0)[0]:
                more = os.read(self.back, 1 << 20)
                assert more, "the browser is gone"
                self.held += more
        text, self.held = self.held.split(b"\0", 1)
        return json.loads(text)

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Tab:
        """A page of a file, loaded, charts and traces and trees in place."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.ask(f"{domain}.enable")
        tab.size(width, height)
        scheme = "dark" if dark else "light"
        tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.ask("Page.navigate", url=path.as_uri())
        tab.wait("typeof ready === 'object' && ready.charts && ready.traces && ready.trees")
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **params)

    def size(self, width: int, height: int) -> None:
        mobile = width < 600
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until an expression is true."""
        return self._until(lambda: self.evaluate(expression), expression)

    def _until(self, asked: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + PATIENCE
        while not (found := asked()):
            assert time.monotonic() < end, f"never true: {what}; {self.problems()}"
            time.sleep(0.05)
        return found

    def problems(self) -> list[str]:
        """Everything that went wrong in this page: exceptions, errors and warnings of the console."""
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"])[:500])
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(params["args"])[:500])
        return found

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.browser.events
            if event.get("sessionId") == self.session and event.get("method") == "Network.requestWillBeSent"
        ]

    def click(self, selector: str) -> None:
        """A real click in the middle of an element."""
        self.evaluate(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        box = self.evaluate(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, as a keyboard sends it."""
        codes = {
            "Enter": 13,
            " ": 32,
            "Tab": 9,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        more = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        code = codes.get(key, ord(key[0]))
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.ask("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """An entry of a select, as a user's choice announces itself."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(
            f"{place}.value = {json.dumps(value)}; for (const kind of ['input', 'change'])"
            f" {place}.dispatchEvent(new Event(kind, {{bubbles: true}}))"
        )

    def picture(self, path: Path, selector: str | None = None) -> None:
        """A screenshot of the whole page, or of one element."""
        where = f"document.querySelector({json.dumps(selector or 'html')})"
        x, y, width, height = self.evaluate(
            f"(() => {{ const b = {where}.getBoundingClientRect(); return [b.x + scrollX, b.y + scrollY, b.width, b.height]; }})()"
        )
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        shot = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
