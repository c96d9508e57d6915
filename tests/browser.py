"""A headless Chromium, driven through its DevTools protocol."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 30.0


class LoopThread:
    """An event loop in a thread of its own, for tests that are not coroutines."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_PATIENCE)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


class Tab:
    """A page of the browser; ``complaints`` is what its console and its policies said."""

    def __init__(self, loop: LoopThread, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._loop = loop
        self._socket = socket
        self._answers: dict[int, asyncio.Future] = {}
        self._number = 0

    def open(self, address: str) -> None:
        for domain in ("Runtime", "Log", "Page", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def call(self, method: str, **parameters):
        """A command of the protocol and its result."""
        return self._loop.run(self._call(method, parameters))

    def evaluate(self, expression: str):
        """The JSON value of an expression, or of what it promises."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def texts(self, selector: str) -> list[str]:
        quoted = json.dumps(selector)
        return self.evaluate(f"[...document.querySelectorAll({quoted})].map(e => e.innerText)")

    def wait_for(self, condition: str) -> None:
        """Return once an expression is true."""
        end = time.monotonic() + _PATIENCE
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to a file chooser, as a person would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path, width: int, height: int = 1000, dark: bool = False) -> Path:
        """The whole page as it looks in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(0.6)
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))
        self.call("Emulation.clearDeviceMetricsOverride")
        return path

    async def _call(self, method, parameters):
        self._number += 1
        number = self._number
        self._answers[number] = coming = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await coming
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    async def listen(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Log.entryAdded":  # failed requests, violated policies
                self.complaints.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(event["params"]["args"]))


@contextmanager
def chromium(profile: Path) -> Iterator["Browser"]:
    """A browser with an empty profile; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here (looked for {', '.join(_NAMES)})")
    process = subprocess.Popen(
        [
            *(program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"),
            *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-extensions", "--disable-background-networking"),
            *("--hide-scrollbars", "about:blank"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
                break
        else:
            pytest.fail(f"{program} did not start:\n{said}")
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        browser = Browser(found[1])
        yield browser
        browser.close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


class Browser:
    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = LoopThread()
        self._session = self._loop.run(self._open_session())
        self._listeners: list[asyncio.Task] = []

    def new_tab(self) -> Tab:
        return self._loop.run(self._new_tab())

    def close(self) -> None:
        self._loop.run(self._close())
        self._loop.close()

    async def _open_session(self):
        return aiohttp.ClientSession()

    async def _new_tab(self):
        async with self._session.put(f"http://{self._address}/json/new?about:blank") as response:
            target = await response.json(content_type=None)
        socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        tab = Tab(self._loop, socket)
        self._listeners.append(asyncio.ensure_future(tab.listen()))
        return tab

    async def _close(self):
        for listener in self._listeners:
            listener.cancel()
        await self._session.close()
