"""A broker that is not there, on both ends: somebody is told why."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import pytest
from stcq.runtime.camera.config import read_config
from stcq.runtime.camera.mqtt_transport import MqttTransport
from stcq.runtime.camera.transport import Unreachable
from stcq.server.mqtt import Bridge
from stcq.server.services import MqttOptions


@pytest.fixture
def closed() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_server_says_why_and_once(closed: int, caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge(None, MqttOptions(f"mqtt://127.0.0.1:{closed}"))  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR, "stcq.server"):
        bridge.start()
        end = time.monotonic() + 10
        while time.monotonic() < end and not caplog.records:
            time.sleep(0.05)
        time.sleep(1.5)  # it has tried again
        bridge.stop()
    [record] = caplog.records
    assert f"no connection to 127.0.0.1:{closed}" in record.getMessage()
    assert "refused" in record.getMessage()


def test_the_camera_says_why_and_ends_soon(closed: int, tmp_path: Path) -> None:
    path = tmp_path / "camera.toml"
    (tmp_path / "token").write_text("stcq_x")
    path.write_text(f'device = "d"\n[upload]\nurl = "mqtt://127.0.0.1:{closed}"\ntoken = "token"\ntimeout = 1.0\n')
    transport = MqttTransport(read_config(path))
    with pytest.raises(Unreachable, match=r"MQTT broker: no connection: .*refused"):
        transport.send(b"x", "name")
    began = time.monotonic()
    transport.close()
    assert time.monotonic() - began < 5
