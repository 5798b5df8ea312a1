"""The MQTT 5 side of the server: batches from a broker, acknowledged by the application after the commit.

Devices publish to stcq/v1/DEVICE/batches with their token in the user property "token"; the answer goes to
stcq/v1/DEVICE/acks with the same correlation data. The broker's own acknowledgement means only that the broker has it.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import paho.mqtt.client as paho

from ..runtime.mqtt import ACKS, BATCHES, PREFIX, broker_client, reply_properties
from .ingest import Ingest, Refusal
from .services import MqttOptions

log = logging.getLogger("stcq.server")


class Bridge:
    """A subscription that feeds an `Ingest`; reconnects by itself."""

    def __init__(self, ingest: Ingest, options: MqttOptions) -> None:
        """Nothing is connected yet."""
        self._ingest = ingest
        self._client, self._host, self._port = broker_client(options.url, options.client_id, options.ca)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._failed
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._message
        self._client.on_disconnect = lambda *about: log.warning("MQTT broker: disconnected, %s", about[3])
        self._client.reconnect_delay_set(1, 30)
        self._said = ""

    def start(self) -> None:
        """Connect in the background, as soon as the broker is there."""
        self._client.connect_async(self._host, self._port, keepalive=30)
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect; a batch being stored is finished first."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            log.error("MQTT broker refuses the server: %s; check the user and password in --mqtt", code)
            return
        log.info("MQTT broker: connected")
        self._said = ""
        client.subscribe(f"{PREFIX}/+/{BATCHES}", qos=1)

    def _failed(self, _client: paho.Client, _data: Any) -> None:
        reason = str(sys.exc_info()[1] or "unknown reason")  # paho calls this where it caught it
        if reason != self._said:
            log.error("MQTT broker: no connection to %s:%d: %s; trying again", self._host, self._port, reason)
        self._said = reason

    def _subscribed(self, _client: paho.Client, _data: Any, _number: int, codes: Any, _properties: Any) -> None:
        for code in codes:
            if code.is_failure:
                log.error("MQTT broker refuses %s/+/%s: %s; allow this user to read it", PREFIX, BATCHES, code)

    def _message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        """Store one batch and answer; nothing that comes in may end the loop."""
        parts = message.topic.split("/")
        topic_device = parts[2] if len(parts) == 4 else ""
        properties = message.properties
        token = dict(getattr(properties, "UserProperty", [])).get("token")
        try:
            device = self._ingest.identify(token)
            if device != topic_device:
                raise Refusal(403, "Forbidden", f"the topic is of {topic_device}, the token of {device}")
            answer = self._ingest.accept(device, bytes(message.payload)) | {"status": 200}
        except Refusal as refusal:
            answer = refusal.to_dict()
        except Exception as error:
            log.exception("MQTT batch")
            answer = {"status": 503, "kind": "Unavailable", "error": type(error).__name__}
        correlation = getattr(properties, "CorrelationData", b"")
        topic = f"{PREFIX}/{topic_device}/{ACKS}"
        client.publish(topic, json.dumps(answer), qos=1, properties=reply_properties(correlation))
