"""Headless Chromium, driven by the DevTools protocol: opens a page, notes its requests and what its console says."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_EXIT_S = 60.0  # in which a browser that was told to closes
_ADDRESS = re.compile(r"DevTools listening on (ws://\S+)")


class Tab:
    """A page in a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._number = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []  # errors and warnings of the console, uncaught exceptions

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": params, "sessionId": self._session})
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

    async def picture(self, path: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Write a PNG of the page as it looks in a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def _tab(*options: str):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", *options, "about:blank"], stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            address = next(filter(None, map(_ADDRESS.search, process.stderr))).group(1)
            async with aiohttp.ClientSession() as client, client.ws_connect(address, max_msg_size=0) as socket:
                await socket.send_json({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}})
                target = await _answer(socket, 1)
                attach = {"targetId": target["targetId"], "flatten": True}
                await socket.send_json({"id": 2, "method": "Target.attachToTarget", "params": attach})
                tab = Tab(socket, (await _answer(socket, 2))["sessionId"])
                for domain in ("Page", "Network", "Log", "Runtime"):
                    await tab.call(f"{domain}.enable")
                yield tab
                await socket.send_json({"id": 3, "method": "Browser.close"})
                process.wait(_EXIT_S)
        finally:
            process.kill()
            process.wait()


async def _answer(socket: aiohttp.ClientWebSocketResponse, number: int) -> dict[str, Any]:
    while (message := json.loads((await socket.receive()).data)).get("id") != number:
        pass
    return message["result"]


def in_browser(visit: Callable[[Tab], Awaitable[Any]], *options: str) -> Any:
    """What `visit` returns for a fresh tab. The browser ends with it."""

    async def whole() -> Any:
        async with _tab(*options) as tab:
            return await visit(tab)

    return asyncio.run(whole())
