"""What a running server consists of, and its background work: expiry, MQTT, systemd."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from ..errors import ServerError
from ..runtime.parts import part
from ..runtime.systemd import notify, watchdog_seconds
from .ingest import Ingest
from .live import Live
from .metrics import Metrics
from .pictures import Pictures
from .store import Selection, Store, now_ms
from .tables import open_database
from .tokens import Holder, Tokens

log = logging.getLogger("stcq.server")
DAY_MS = 86_400_000


@dataclass(frozen=True)
class MqttOptions:
    """The broker that a server listens to: mqtt://[user[:password]@]host[:port] or mqtts://."""

    url: str
    ca: Path | None = None
    client_id: str = "stcq-server"


@dataclass
class Services:
    """The parts of one server; see `open_services`."""

    store: Store
    tokens: Tokens
    pictures: Pictures
    metrics: Metrics
    live: Live
    ingest: Ingest
    keep_days: float | None = None
    mqtt: MqttOptions | None = None
    link_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def viewer(self, token: str | None) -> Holder | None:
        """Whose viewer token this is; the start's own link token is one until the server ends."""
        if not token:
            return None
        if secrets.compare_digest(token.encode(), self.link_token.encode()):
            return Holder("link", "viewer")
        holder = self.tokens.find(token)
        return holder if holder is not None and holder.role == "viewer" else None

    def erase(self, selection: Selection, reason: str = "request", received_before: int | None = None) -> int:
        """Erase faces and what is kept of their pictures."""
        count = self.store.erase(selection, received_before)
        if count:
            self.pictures.forget()
            self.metrics.erased.labels(reason).inc(count)
        return count

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Background work while the application runs."""
        self.live.start()
        bridge = None
        tasks = [asyncio.create_task(self._watchdog())]
        if self.keep_days is not None:
            tasks.append(asyncio.create_task(self._expire(self.keep_days)))
        if self.mqtt is not None:
            bridge = part("server.mqtt").Bridge(self.ingest, self.mqtt)
            bridge.start()
        notify("READY=1")
        try:
            yield
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if bridge is not None:
                await run_in_threadpool(bridge.stop)

    def close(self) -> None:
        """Free decoders and connections."""
        self.pictures.close()
        self.store.engine.dispose()

    async def _expire(self, days: float) -> None:
        """Erase faces received more than `days` ago; a clock that jumps while the server runs changes nothing."""
        while True:
            try:
                count = await run_in_threadpool(self.erase, Selection(), "expired", now_ms() - round(days * DAY_MS))
                if count:
                    log.info("erased %d faces that were older than %g days", count, days)
            except Exception as error:  # the database is away: later
                log.error("expiry: %s", error)
            await asyncio.sleep(min(60.0, max(0.5, days * 8640)))

    async def _watchdog(self) -> None:
        """Tell systemd that the event loop still turns."""
        seconds = watchdog_seconds()
        while seconds is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(seconds / 3)


def open_services(
    database: str,
    bundles: Sequence[Path] = (),
    *,
    keep_days: float | None = None,
    keys: Path | None = None,
    mqtt: MqttOptions | None = None,
    threads: int | None = None,
) -> Services:
    """Open everything that a server needs.

    Args:
        database: see `open_database`.
        bundles: models that are taken and decoded; none = the embedded one.
        keep_days: erase faces this long after they came; None = never.
        keys: a folder with DEVICE.key files for sealed batches.
        mqtt: a broker to listen to besides HTTP.
        threads: CPU threads of each decoder.

    Raises:
        ServerError, BundleError: something cannot be opened.
        StcqError: not a broker's URL, or unreadable certificates.
    """
    if keys is not None and not keys.is_dir():
        raise ServerError(f"--keys {keys} is no folder; make it and put DEVICE.key files into it")
    if mqtt is not None:
        part("runtime.mqtt").broker_client(mqtt.url, mqtt.client_id, mqtt.ca)  # a wrong URL is an error now
    metrics, live = Metrics(), Live()
    engine = open_database(database)
    store, tokens, pictures = Store(engine), Tokens(engine), Pictures(bundles, metrics, threads)
    ingest = Ingest(store, tokens, pictures.layouts, metrics, keys, live.announce)
    return Services(store, tokens, pictures, metrics, live, ingest, keep_days, mqtt)
