"""What both ends of an MQTT 5 connection share: topics, broker URLs, properties."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ..errors import StcqError
from .urls import without_password

PREFIX, BATCHES, ACKS = "stcq/v1", "batches", "acks"
PORTS = {"mqtt": 1883, "mqtts": 8883}


def broker_client(
    url: str,
    client_id: str,
    ca: Path | None = None,
    certificate: tuple[Path, Path] | None = None,
) -> tuple[paho.Client, str, int]:
    """A client that is not connected yet, with the broker's host and port.

    Args:
        url: mqtt://[user[:password]@]host[:port], or mqtts:// for TLS.
        client_id: must be unique at the broker.
        ca: certificates to trust instead of the system's.
        certificate: the client's own certificate and key files.

    Raises:
        StcqError: not such a URL, or unreadable certificates.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if parts.scheme not in PORTS or not parts.hostname or not port:
        raise StcqError(
            f"broker {without_password(url)!r} is no URL like mqtt://host:1883 or mqtts://user:password@host:8883"
        )
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    if parts.username:
        client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
    if parts.scheme == "mqtts":
        try:
            context = ssl.create_default_context(cafile=None if ca is None else str(ca))
            if certificate is not None:
                context.load_cert_chain(*certificate)
        except OSError as error:
            raise StcqError(f"certificates for {parts.hostname} cannot be read: {error}") from error
        client.tls_set_context(context)
    return client, parts.hostname, port


def request_properties(topic: str, correlation: bytes, token: str | None) -> Properties:
    """Of a batch: where the answer goes, what it is called, who sends."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = topic
    properties.CorrelationData = correlation
    if token:
        properties.UserProperty = [("token", token)]
    return properties


def reply_properties(correlation: bytes) -> Properties:
    """Of an answer."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if correlation:
        properties.CorrelationData = correlation
    return properties
