"""The server's page in headless Chromium, driven through the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stcq.runtime.batch import Batch, pack_batch
from stcq.runtime.codec import Codec
from stcq.runtime.record import Face, Record


class Browser:
    """One page of one browser."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def place() -> None:  # the protocol's pipe is on descriptors 3 and 4
            one, two = os.dup(to_read), os.dup(to_write)
            os.dup2(one, 3)
            os.dup2(two, 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command = [program, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, preexec_fn=place, pass_fds=(3, 4), **quiet)
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._rest = itertools.count(1), b""
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            while b"\0" not in self._rest:
                assert select.select([self._read], [], [], 60)[0], method
                content = os.read(self._read, 1 << 20)
                assert content, "the browser has gone"
                self._rest += content
            text, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
        raise AssertionError(method)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_until(self, script: str, expected: Any = True) -> None:
        end = time.monotonic() + 60
        while (found := self.run(script)) != expected:
            assert time.monotonic() < end, f"{script} is {found!r}, not {expected!r}"
            time.sleep(0.1)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium (apt install chromium)")
    opened = Browser(program, tmp_path / "profile")
    yield opened
    opened.close()


def send(server: Any, codec: Codec, device: str, first: int, count: int, token: str) -> None:
    """A batch with pictures that differ: the embedded codec's tokens at random."""
    layout, rng = codec.bundle.manifest.codec.packets, np.random.default_rng(first)
    payloads = layout.pack_payload(rng.integers(0, 4, count), rng.integers(0, 256, (count, 64)))
    now = time.time_ns() // 1_000_000
    faces = [Face(payload.tobytes(), Record(now, 7, (20, 30, 40, 50), 230, 99)) for payload in payloads]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    content = pack_batch(Batch(device, 1, first, layout.digest, faces, now))
    connection.request("POST", "/v1/batches", content, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def test_faces_appear_live_and_can_be_looked_at(serve: Callable[..., Any], browser: Browser, codec: Codec) -> None:
    server = serve()
    door, gate = server.token("door-1"), server.token("gate")
    send(server, codec, "door-1", 0, 3, door)
    figures = "document.querySelectorAll('figure').length"
    browser.call("Page.navigate", url=server.url)
    browser.wait_until("document.readyState === 'complete' && !document.getElementById('login').hidden")
    assert browser.run(figures) == 0  # nothing without signing in
    browser.call("Page.navigate", url=f"{server.url}/?again#token={server.viewer}")
    browser.wait_until(figures, 3)
    assert browser.run("location.href") == f"{server.url}/"  # no token in the address
    browser.wait_until("document.getElementById('live').textContent", "live")
    send(server, codec, "gate", 0, 2, gate)
    browser.wait_until(figures, 5)  # without a reload
    browser.wait_until("[...document.images].filter(i => i.closest('figure') && i.naturalWidth === 128).length", 5)
    browser.wait_until("document.getElementById('totals').textContent.startsWith('5 faces')")
    assert "saved against JPEG" in browser.run("document.getElementById('totals').textContent")
    browser.wait_until("[...document.getElementById('device').options].map(o => o.value).join()", ",door-1,gate")
    browser.run(
        "{ const d = document.getElementById('device'); d.value = 'gate'; d.dispatchEvent(new Event('change')) }"
    )
    browser.wait_until(figures, 2)
    browser.run("document.querySelector('figure').click()")
    browser.wait_until("document.getElementById('detail').open")
    fields = browser.run("document.getElementById('fields').innerText")
    for part in ("gate", "74 bytes", "65 bytes", "face-65", "Sequence", "Group"):
        assert part in fields
    packet = browser.run("document.getElementById('packet').innerText")
    assert packet.startswith("10" + codec.info.digest[:8])  # version 1 and the tag of the model
    browser.wait_until("document.getElementById('large').naturalWidth", 128)
    picture = browser.call("Page.captureScreenshot", format="png")["data"]
    assert len(picture) > 10_000
    if folder := os.environ.get("STCQ_SCREENSHOTS"):
        (Path(folder) / "page.png").write_bytes(base64.b64decode(picture))
    browser.run("window.confirm = () => true; window.alert = () => {}")
    browser.run("document.getElementById('erase-one').click()")
    browser.wait_until(figures, 1)
    assert len(server.get("/api/faces")) == 4
    browser.run("document.querySelector('#leave button').click()")
    browser.wait_until("document.getElementById('login')?.hidden === false")
