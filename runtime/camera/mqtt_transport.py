"""Batches over MQTT 5: QoS 1 to the broker, and the server's own acknowledgement on a topic of the device.

paho-mqtt keeps nothing on the disk and the broker's acknowledgement says nothing about the server; the spool forgets
a face only after the server's answer.
"""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from ..mqtt import ACKS, BATCHES, PREFIX, broker_client, request_properties
from .config import CameraConfig
from .transport import Answer, Transport, Unreachable, read_token


class MqttTransport(Transport):
    """One connection to a broker; paho connects again by itself."""

    def __init__(self, config: CameraConfig) -> None:
        """Start connecting.

        Raises:
            CameraError: the token cannot be read.
            StcqError: not a broker's URL, or unreadable certificates.
        """
        upload = config.upload
        certificate: tuple[Path, Path] | None = None
        if upload.certificate:
            certificate = config.path(upload.certificate), config.path(upload.certificate_key)
        ca = config.path(upload.ca) if upload.ca else None
        self._token, self._timeout = read_token(config), upload.timeout
        self._topic = f"{PREFIX}/{config.device}"
        self._answers: queue.Queue[tuple[bytes, bytes]] = queue.Queue()
        self._ready, self._why = threading.Event(), "no connection"
        self._client, host, port = broker_client(upload.url, f"stcq-{config.device}", ca, certificate)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = lambda *about: self._ready.set()
        self._client.on_message = self._message
        self._client.reconnect_delay_set(1, 60)
        self._client.connect_async(host, port, keepalive=30)
        self._client.loop_start()

    def send(self, content: bytes, name: str) -> Answer:
        """See `Transport`."""
        if not self._ready.wait(self._timeout):
            raise Unreachable(f"MQTT broker: {self._why}")
        properties = request_properties(f"{self._topic}/{ACKS}", name.encode(), self._token)
        sent = self._client.publish(f"{self._topic}/{BATCHES}", content, qos=1, properties=properties)
        if sent.rc != paho.MQTT_ERR_SUCCESS:
            raise Unreachable(f"MQTT broker: {paho.error_string(sent.rc)}")
        while True:
            try:
                correlation, text = self._answers.get(timeout=self._timeout)
            except queue.Empty:
                raise Unreachable("no acknowledgement from the server came through the broker") from None
            if correlation == name.encode():  # an answer to an earlier try may come late
                break
        try:
            answer = json.loads(text)
            return Answer(int(answer.get("status", 0)), answer)
        except (ValueError, AttributeError, TypeError):
            return Answer(0, {})

    def close(self) -> None:
        """See `Transport`."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._why = f"refused: {code}; check the user and password in upload.url"
        else:
            client.subscribe(f"{self._topic}/{ACKS}", qos=1)

    def _disconnected(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._ready.clear()
        self._why = f"connection lost: {code}"

    def _message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._answers.put((getattr(message.properties, "CorrelationData", b""), bytes(message.payload)))
