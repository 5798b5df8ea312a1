"""A batch from anywhere (HTTPS or MQTT): checked, stored, and only then acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from ..errors import Corrupt, OtherKey, PacketError, StcqError, UnsupportedVersion, WrongModel
from ..runtime.batch import MAX_BATCH, SEALED, peek_device, unpack_batch
from ..runtime.packet import PacketFormat
from ..runtime.sealing import read_key
from .metrics import Metrics
from .store import Conflict, Store
from .tokens import Tokens

log = logging.getLogger("stcq.server")


class Refusal(StcqError):
    """A batch that was not stored.

    Attributes:
        status: HTTP status; 503 and 507 mean "again later", the others "not like this".
        kind: the error's name for programs.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        """One line for the device's log."""
        super().__init__(message)
        self.status, self.kind = status, kind

    def to_dict(self) -> dict[str, Any]:
        """For the answer."""
        return {"status": self.status, "kind": self.kind, "error": str(self)}


class Ingest:
    """What every transport calls with the bytes it got and the name it has authenticated."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        layouts: Mapping[bytes, PacketFormat],
        metrics: Metrics,
        keys: Path | None = None,
        announce: Callable[[int], None] = lambda stored: None,
    ) -> None:
        """Wire it up.

        Args:
            store, tokens: of one database.
            layouts: the models that are taken, by digest.
            metrics: counted into.
            keys: a folder with DEVICE.key files for sealed batches.
            announce: called with the number of new faces after each commit.
        """
        self.store, self.tokens, self.layouts, self.metrics = store, tokens, layouts, metrics
        self._keys, self._announce = keys, announce

    def identify(self, token: str | None, certificate: str | None = None) -> str:
        """The device that a token or a client certificate belongs to.

        Raises:
            Refusal: 401.
        """
        if token:
            holder = self._answered(lambda: self.tokens.find(token))
            if holder is not None and holder.role == "device":
                return str(holder.name)
        elif certificate:
            return certificate
        self.metrics.batches.labels("Unauthorized").inc()
        raise Refusal(401, "Unauthorized", "no valid device token; make one with: stcq token add DEVICE")

    def accept(self, device: str, content: bytes) -> dict[str, Any]:
        """Store a batch.

        Args:
            device: the authenticated sender.
            content: the batch.

        Returns:
            The acknowledgement: device, epoch, first, count, stored, duplicates. The faces are committed.

        Raises:
            Refusal: not stored.
        """
        try:
            result = self._accept(device, content)
        except Refusal as refusal:
            self.metrics.batches.labels(refusal.kind).inc()
            log.warning("batch of %s refused: %s", device, refusal)
            raise
        self.metrics.batches.labels("stored").inc()
        return result

    def _accept(self, device: str, content: bytes) -> dict[str, Any]:
        began = time.perf_counter()
        if len(content) > MAX_BATCH:
            raise Refusal(413, "TooLarge", f"a batch has at most {MAX_BATCH} bytes")
        if (claimed := peek_device(content)) and claimed != device:
            raise Refusal(403, "Forbidden", f"the batch is of {claimed}, the token of {device}")
        keys = self._keys_of(device)
        if keys and len(content) > 4 and not content[4] & SEALED:
            raise Refusal(403, "NotSealed", f"{device} has a key here, so its batches must be sealed; set upload.key")
        try:
            batch = unpack_batch(content, self.layouts, keys)
            stored = self._answered(lambda: self.store.add(batch))
        except Conflict as error:
            raise Refusal(409, "Conflict", str(error)) from error
        except OtherKey as error:  # not the faces' fault: they must wait for the right key
            raise Refusal(403, "OtherKey", str(error)) from error
        except (WrongModel, UnsupportedVersion) as error:
            raise Refusal(415, type(error).__name__, str(error)) from error
        except (Corrupt, PacketError) as error:
            raise Refusal(422, type(error).__name__, str(error)) from error
        self.metrics.seconds.observe(time.perf_counter() - began)
        self.metrics.stored.labels(device).inc(stored)
        self.metrics.duplicates.labels(device).inc(len(batch.faces) - stored)
        self.metrics.bytes.labels(device).inc(len(content))
        self.metrics.last.labels(device).set_to_current_time()
        if stored:
            self._announce(stored)
        count = len(batch.faces)
        place = {"device": device, "epoch": batch.epoch, "first": batch.first, "count": count}
        return place | {"stored": stored, "duplicates": count - stored}

    def _keys_of(self, device: str) -> list[bytes]:
        """The device's key, if it has one. While the folder is away nobody knows, and nothing may come in unsealed."""
        if self._keys is None:
            return []
        path = self._keys / f"{device}.key"
        try:
            try:
                path.stat()
            except FileNotFoundError:
                self._keys.stat()  # its folder is there, so it has none
                return []
            return [read_key(str(path))]
        except (StcqError, OSError) as error:
            log.error("%s", error)
            raise Refusal(503, "Unavailable", f"the server cannot read its key of {device}; try again later") from error

    @staticmethod
    def _answered(question: Callable[[], Any]) -> Any:
        """Ask the database; a full disk or a lost connection is for the device to try again."""
        try:
            return question()
        except SQLAlchemyError as error:
            log.error("database: %s", error)
            raise Refusal(503, "Unavailable", "the database takes nothing just now; try again later") from error
