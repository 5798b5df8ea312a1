"""Batches over MQTT 5: QoS 1 to the broker, and the server's own acknowledgement on a topic of the device.

paho-mqtt keeps nothing on the disk and the broker's acknowledgement says nothing about the server; the spool forgets
a face only after the server's answer.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from ..mqtt import ACKS, BATCHES, PREFIX, broker_client, request_properties
from .options import CameraConfig
from .transport import Answer, Transport, Unreachable, read_token

AROUND = 100  # bytes of a batch's packet besides content, topics, name and token


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
        self._most = 0  # bytes that the broker takes in one packet; 0 = it has not said
        self._broker = upload.url, f"stcq-device-{config.device}", ca, certificate
        self._client = self._start()

    def send(self, content: bytes, name: str) -> Answer:
        """See `Transport`."""
        if not self._ready.wait(self._timeout):
            raise Unreachable(f"MQTT broker: {self._why}")
        properties = request_properties(f"{self._topic}/{ACKS}", name.encode(), self._token)
        around = AROUND + 2 * len(self._topic) + len(name) + len(self._token)
        if self._most and len(content) + around > self._most:
            return Answer(413, {"error": f"the broker takes packets of {self._most} bytes"})
        try:
            sent = self._client.publish(f"{self._topic}/{BATCHES}", content, qos=1, properties=properties)
            if sent.rc != paho.MQTT_ERR_SUCCESS:
                raise Unreachable(f"MQTT broker: {paho.error_string(sent.rc)}")
            text = self._answer_to(name.encode())
        except Unreachable:
            self.close()  # paho would send this batch again and again, before all others
            self._client = self._start()
            raise
        try:
            answer = json.loads(text)
            return Answer(int(answer.get("status", 0)), answer)
        except (ValueError, AttributeError, TypeError):
            return Answer(0, {})

    def close(self) -> None:
        """See `Transport`; a name lookup or a half-open connection may hold paho's thread for half a minute."""
        self._client.disconnect()
        stopping = threading.Thread(target=self._client.loop_stop, daemon=True)
        stopping.start()
        stopping.join(1.0)

    def _start(self) -> paho.Client:
        """A new client, connecting in the background."""
        self._ready.clear()
        client, host, port = broker_client(*self._broker)
        client.on_connect = self._connected
        client.on_connect_fail = self._failed
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.reconnect_delay_set(1, 60)
        client.connect_async(host, port, keepalive=30)
        client.loop_start()
        return client

    def _answer_to(self, name: bytes) -> bytes:
        """The server's answer to a batch; one to an earlier try may come late and is dropped."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                correlation, text = self._answers.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Unreachable("no acknowledgement from the server came through the broker") from None
            if correlation == name:
                return text

    def _failed(self, _client: paho.Client, _data: Any) -> None:
        self._why = f"no connection: {sys.exc_info()[1] or 'unknown reason'}"  # paho calls this where it caught it

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._why = f"refused: {code}; check the user and password in upload.url"
        else:
            self._most = int(getattr(properties, "MaximumPacketSize", 0))
            client.subscribe(f"{self._topic}/{ACKS}", qos=1)

    def _subscribed(self, _client: paho.Client, _data: Any, _number: int, codes: Any, _properties: Any) -> None:
        if any(code.is_failure for code in codes):
            self._why = f"it refuses {self._topic}/{ACKS}: {codes[0]}; allow this user to read it"
        else:
            self._ready.set()

    def _disconnected(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._ready.clear()
        self._why = f"connection lost: {code}"

    def _message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._answers.put((getattr(message.properties, "CorrelationData", b""), bytes(message.payload)))
