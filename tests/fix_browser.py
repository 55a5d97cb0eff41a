"""A headless Chromium, spoken to by its own DevTools protocol, and axe to judge a page.

Debian's ``chromium`` is all that is needed: no driver and no download of a browser.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fix_npm import npm_file
from tests.fix_postgres import Workspace

_AXE = "axe-core@4.14.1"
_AXE_SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)
_PATIENCE_S = 60.0

DESKTOP = (1280, 900)
PHONE = (375, 812)


@dataclass
class Tab:
    """One page. Everything that it asked for over the network and complained about is noted."""

    socket: aiohttp.ClientWebSocketResponse
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _number: int = 0
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Take what the browser sends, until it ends."""
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Page.loadEventFired":
                self._loaded.set()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; its result."""
        self._number += 1
        number = self._number
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(_PATIENCE_S):
            said = await self._answers[number]
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, address: str) -> None:
        """Go there, and wait until it has loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=address)
        async with asyncio.timeout(_PATIENCE_S):
            await self._loaded.wait()

    async def look(self, expression: str) -> Any:
        """The value of an expression, a promise's too."""
        said = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """Until an expression is true; its value then."""
        async with asyncio.timeout(_PATIENCE_S):
            while not (value := await self.look(expression)):
                await asyncio.sleep(0.1)
        return value

    async def text(self, selector: str) -> str:
        """What can be read there."""
        found = await self.look(f"document.querySelector({json.dumps(selector)})?.innerText")
        assert isinstance(found, str), f"there is no {selector}"
        return found

    async def show_as(
        self, size: tuple[int, int] = DESKTOP, *, scheme: str = "light", scripts: bool = True
    ) -> None:
        """Be a desktop or a phone, light or dark, with scripts or without."""
        width, height = size
        phone = width < 500
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    async def point(self, x: float, y: float) -> None:
        """Click with the mouse."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                clickCount=0 if kind == "mouseMoved" else 1,
            )

    async def touch(self, x: float, y: float) -> None:
        """Tap with a finger."""
        points = [{"x": x, "y": y}]
        await self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=points)
        await self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    async def press(self, key: str) -> None:
        """Press a key, by its DOM name."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def picture(self, path: Path) -> None:
        """Keep what the whole page looks like."""
        said = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(said["data"]))

    async def judge(self, axe: str) -> list[str]:
        """What axe calls serious or critical."""
        await self.look(f"{axe}; null")
        found = await self.look("axe.run().then((one) => one.violations)")
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
        ]


@pytest.fixture
async def tab(workspace: Workspace) -> AsyncIterator[Tab]:
    """An empty page in a browser of its own, which ends with the test."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is missing: install the package chromium")
    profile = workspace.directory("chromium")
    process = subprocess.Popen(
        [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            "PATH": os.defpath,
            "HOME": str(profile),
            "TMPDIR": str(profile),
            "LANG": "C.UTF-8",
            "TZ": "Europe/Berlin",
        },
        start_new_session=True,
        **workspace.owner.process_options(),
    )
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            address = await _page(session, port)
            async with session.ws_connect(address, max_msg_size=0) as socket:
                made = Tab(socket)
                async with asyncio.TaskGroup() as group:
                    listening = group.create_task(made.listen())
                    for domain in ("Page", "Runtime", "Network", "Log"):
                        await made.call(f"{domain}.enable")
                    yield made
                    listening.cancel()
    finally:
        process.kill()
        process.wait()


async def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    async with asyncio.timeout(_PATIENCE_S):
        while not file.exists() or not file.read_text().strip():
            assert process.poll() is None, f"chromium ended with {process.returncode}"
            await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])


async def _page(session: aiohttp.ClientSession, port: int) -> str:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                for one in await answer.json():
                    if one["type"] == "page":
                        address: str = one["webSocketDebuggerUrl"]
                        return address
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which judges how accessible a page is."""
    return npm_file(_AXE, _AXE_SHA512, "axe.min.js")
