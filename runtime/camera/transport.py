"""One way of sending a batch and hearing the server's answer: HTTPS here, MQTT in mqtt_transport.py."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...errors import CameraError
from ..parts import part
from .options import CameraConfig

PATH = "/v1/batches"
MAX_ANSWER = 65_536


class Unreachable(Exception):
    """No answer came; whether the server has the batch is unknown, and sending it again is harmless."""


@dataclass(frozen=True)
class Answer:
    """What the server said.

    Attributes:
        status: HTTP status, also over MQTT.
        content: the JSON object of the answer.
        wait: seconds to wait at least before the next try.
    """

    status: int
    content: dict[str, Any]
    wait: float = 0.0

    def acknowledges(self, epoch: int, first: int, count: int) -> bool:
        """Whether it says that exactly these faces are stored. A captive portal's friendly page does not."""
        place = {"epoch": epoch, "first": first, "count": count}
        return self.status == 200 and place.items() <= self.content.items()

    @property
    def reason(self) -> str:
        """For people."""
        return f"{self.status} {self.content.get('error') or self.content.get('detail') or 'no acknowledgement'}"


class Transport(ABC):
    """A connection that is made when needed and made again when lost."""

    @abstractmethod
    def send(self, content: bytes, name: str) -> Answer:
        """Send one batch and wait for the answer.

        Args:
            content: the batch.
            name: tells its answer from that of another batch.

        Raises:
            Unreachable: none came in time.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection up."""


class HttpTransport(Transport):
    """POST over one kept-alive connection."""

    def __init__(self, config: CameraConfig) -> None:
        """Read token and certificates; nothing is connected yet.

        Raises:
            CameraError: one cannot be read.
        """
        upload = config.upload
        parts = urlsplit(upload.url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/") + PATH
        self._timeout = upload.timeout
        self._token = read_token(config)
        self._context = tls_context(config) if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def send(self, content: bytes, name: str) -> Answer:
        """See `Transport`."""
        headers = {"Content-Type": "application/octet-stream", "Connection": "keep-alive"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            response = self._post(content, headers)
            text = response.read(MAX_ANSWER)
            wait = response.headers.get("Retry-After", "")
            if response.will_close or not response.isclosed():
                self.close()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(f"{self._host}: {error or type(error).__name__}") from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        seconds = float(wait) if wait.isdigit() else 0.0
        return Answer(response.status, answer if isinstance(answer, dict) else {}, min(seconds, 3600.0))

    def _post(self, content: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Ask over the connection that is there; once more over a new one if the server has closed it meanwhile."""
        if self._connection is not None:
            try:
                self._connection.request("POST", self._path, content, headers)
                return self._connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()
        self._connection = self._connect()
        self._connection.request("POST", self._path, content, headers)
        return self._connection.getresponse()

    def close(self) -> None:
        """See `Transport`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._context)


def open_transport(config: CameraConfig) -> Transport:
    """The transport of a configuration's upload.url.

    Raises:
        CameraError: a token or certificate cannot be read.
        BackendMissing: MQTT's library is not installed.
    """
    if urlsplit(config.upload.url).scheme in ("mqtt", "mqtts"):
        transport: Transport = part("runtime.camera.mqtt_transport").MqttTransport(config)
        return transport
    return HttpTransport(config)


def read_token(config: CameraConfig) -> str:
    """The device's token from its file or the environment; "" when none is configured.

    Raises:
        CameraError: it cannot be read.
    """
    place = config.secret(config.upload.token)
    if not place:
        return ""
    try:
        token = os.environ[place[4:]] if place.startswith("env:") else Path(place).read_text(encoding="ascii")
    except (KeyError, OSError, UnicodeDecodeError):
        raise CameraError(f"token {place} cannot be read; make one on the server: stcq token add DEVICE") from None
    if not token.strip() or not token.strip().isprintable():
        raise CameraError(f"token {place} is empty or no token; make one on the server: stcq token add DEVICE")
    return token.strip()


def tls_context(config: CameraConfig) -> ssl.SSLContext:
    """Which servers to trust, and the client's own certificate.

    Raises:
        CameraError: a file cannot be read.
    """
    upload = config.upload
    try:
        context = ssl.create_default_context(cafile=str(config.path(upload.ca)) if upload.ca else None)
        if upload.certificate:
            context.load_cert_chain(config.path(upload.certificate), config.path(upload.certificate_key))
    except OSError as error:
        raise CameraError(f"upload's certificates cannot be read: {error}") from error
    return context
