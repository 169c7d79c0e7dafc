"""A headless Chromium that tests drive over the DevTools protocol, and a server for its pages.

The protocol's messages go over two pipes (--remote-debugging-pipe): JSON, each ended by a zero
byte. Methods are described on https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import contextlib
import fcntl
import http.server
import json
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--no-first-run", "--remote-debugging-pipe", "--use-fake-device-for-media-stream",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
SHELL = 'exec "$@" 3<&{} 4>&{}'  # the pipes have these numbers in Chromium
TIMEOUT_S = 120


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a plain server of the folder's files."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Browser:
    """``folder``: for its profile."""

    def __init__(self, folder: Path):
        assert CHROMIUM
        self._last, self._buffer, self.events = 0, b"", list[dict]()
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        pipes = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs, back)]
        command = ["bash", "-c", SHELL.format(*pipes), "bash", CHROMIUM, *FLAGS]
        command.append(f"--user-data-dir={folder}")
        with open(folder / "log", "w") as log:
            self._process = subprocess.Popen(command, pass_fds=pipes, stdout=log, stderr=log)
        for each in (theirs, back, *pipes):
            os.close(each)

    def call(self, method: str, session: str | None = None, **params: object) -> dict:
        """The result of a method of the protocol."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], TIMEOUT_S)
            assert ready, "Chromium does not answer"
            received = os.read(self._from, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


class Tab:
    """A page in a window of its own; ``before`` is JavaScript that runs before the page's own."""

    def __init__(self, browser: Browser, address: str, before: str = "", camera: bool = True):
        self._browser = browser
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        self._context = {"browserContextId": context}
        if camera:
            browser.call("Browser.grantPermissions", permissions=["videoCapture"], **self._context)
        made = browser.call("Target.createTarget", url="about:blank", **self._context)
        self._session = browser.call(
            "Target.attachToTarget", targetId=made["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Network.setCacheDisabled", cacheDisabled=True)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method: str, **params: object) -> dict:
        return self._browser.call(method, self._session, **params)

    def evaluate(self, script: str, **values: object) -> Any:
        """The value of a JavaScript expression, waited for if it is a promise; ``values`` are
        constants in it.
        """
        constants = "".join(f"const {name} = {json.dumps(it)};" for name, it in values.items())
        result = self.call(
            "Runtime.evaluate", expression=f"(async () => {{ {constants} return {script}; }})()",
            awaitPromise=True, returnByValue=True, userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = TIMEOUT_S) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"{condition} is never true: {self.text('body')}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """The text of an element as a person reads it; empty where it is hidden."""
        return self.evaluate("document.querySelector(selector).innerText", selector=selector)

    def choose_file(self, selector: str, path: Path) -> None:
        """As a person does with a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str) -> None:
        """A key, by its name in the web's events."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}
        text = {" ": " ", "Enter": "\r"}.get(key)
        event = {"key": key, "windowsVirtualKeyCode": codes[key]}
        down = {**event, "text": text} if text else event
        self.call("Input.dispatchKeyEvent", type="keyDown", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def set_window(self, width: int, scheme: str = "light", height: int = 900) -> None:
        """Its size in pixels of CSS; the scheme is light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip
        self.call("Emulation.setScrollbarsHidden", hidden=True)  # as on a phone
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return base64.b64decode(data)

    def downloads(self, folder: Path) -> None:
        """Where files are saved."""
        self._browser.call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder),
            **self._context,
        )  # fmt: skip

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        self.evaluate("null")  # events up to now
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event.get("sessionId") == self._session
            and event["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", **self._context)
