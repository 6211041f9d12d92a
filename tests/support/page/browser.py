"""Headless Chromium, driven by the DevTools protocol: opens a page, notes its requests and what its console says."""

import asyncio
import atexit
import base64
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp
from support.machine.parents import end_with_parent

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
_ADDRESS = re.compile(r"DevTools listening on (ws://\S+)")


class Tab:
    """A page in a browser, or the browser itself, which has no session."""

    _numbers = count(1)

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, session: str | None, context: dict[str, str] | None = None
    ) -> None:
        self._socket = socket
        self._session = {"sessionId": session} if session else {}
        self._context = context or {}
        self.requests: list[str] = []
        self.complaints: list[str] = []  # errors and warnings of the console, uncaught exceptions

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params, **self._session})
        while (message := await self._receive()).get("id") != number:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    async def _receive(self) -> dict[str, Any]:
        message = json.loads((await self._socket.receive()).data)
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        return message

    async def wait_for(self, method: str) -> None:
        while (await self._receive()).get("method") != method:
            pass

    async def save_downloads(self, folder: Path) -> None:
        await self.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(folder),
            eventsEnabled=True,
            **self._context,
        )

    async def export_answers(self, folder: Path) -> Path:
        """Click the export of answers, whose downloads go to a folder; gives the file once it is there."""
        await self.run("document.querySelector('#export').click()")
        path = folder / "brainray-answers.csv"
        while not path.exists():
            await asyncio.sleep(0.02)
        return path

    async def open(self, page: Path) -> Self:
        await self.call("Page.navigate", url=page.as_uri())
        await self.wait_for("Page.loadEventFired")
        return self

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")

    async def hold(self, key: str, times: int) -> None:
        """Press a key and hold it, so that it comes again `times` times."""
        for repeats in (False,) + (True,) * times:
            await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key, autoRepeat=repeats)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    @asynccontextmanager
    async def beside(self) -> AsyncIterator["Tab"]:
        """Another tab of the same browser and profile, which ends with the block."""
        browser = Tab(self._socket, None)
        target = await browser.call("Target.createTarget", url="about:blank", **self._context)
        attached = await browser.call("Target.attachToTarget", flatten=True, **target)
        other = Tab(self._socket, attached["sessionId"], self._context)
        for domain in ("Page", "Runtime"):
            await other.call(f"{domain}.enable")
        try:
            yield other
        finally:
            await browser.call("Target.closeTarget", **target)

    async def picture(self, path: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Write a PNG of the page as it looks in a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@cache
def _address() -> str:
    """Of the browser of this process, which starts with the first page and ends with the tests: a start takes 0.5 s."""
    profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    process = subprocess.Popen(
        [str(CHROMIUM), *_OPTIONS, f"--user-data-dir={profile.name}", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )

    def end() -> None:
        process.kill()
        process.wait()
        profile.cleanup()

    atexit.register(end)
    assert process.stderr is not None
    address = next(filter(None, map(_ADDRESS.search, process.stderr))).group(1)
    threading.Thread(target=process.stderr.read, daemon=True).start()  # what it says later must not fill the pipe
    return address


@asynccontextmanager
async def _tab() -> AsyncIterator[Tab]:
    """The one tab of this process, as if it were new: a new window would take 0.4 s. Overrides end with the session."""
    async with aiohttp.ClientSession() as client, client.ws_connect(_address(), max_msg_size=0) as socket:
        browser = Tab(socket, None)
        if not _place:
            _place.update(await browser.call("Target.createBrowserContext"))
            _place.update(await browser.call("Target.createTarget", url="about:blank", **_place))
        attached = await browser.call("Target.attachToTarget", targetId=_place["targetId"], flatten=True)
        tab = Tab(socket, attached["sessionId"], {"browserContextId": _place["browserContextId"]})
        for domain in ("Page", "Network", "Log", "Runtime", "DOMStorage"):
            await tab.call(f"{domain}.enable")
        await tab.call("Page.navigate", url="about:blank")
        await tab.wait_for("Page.loadEventFired")
        tab.requests.clear()
        tab.complaints.clear()
        try:
            yield tab
        finally:
            if tab.requests:
                for is_local in (True, False):
                    place = {"securityOrigin": "file://", "isLocalStorage": is_local}
                    await tab.call("DOMStorage.clear", storageId=place)
            await tab.call("Network.clearBrowserCache")


_place: dict[str, str] = {}  # ids of the tab and its profile


def in_browser(visit: Callable[[Tab], Awaitable[Any]]) -> Any:
    """What `visit` returns for a fresh tab."""

    async def whole() -> Any:
        async with _tab() as tab:
            return await visit(tab)

    return asyncio.run(whole())
