"""Telling open pages that faces came (server-sent events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

PING = 15.0


class Live:
    """Listeners of one event loop; `announce` may be called from any thread."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self._queues: set[asyncio.Queue[int]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Belong to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def announce(self, stored: int) -> None:
        """Wake the listeners."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, stored)

    async def events(self) -> AsyncIterator[str]:
        """One event for each batch, or a ping; what comes while a listener is busy is added up."""
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        self._queues.add(queue)
        try:
            yield "event: ping\ndata: 0\n\n"
            while True:
                try:
                    stored = await asyncio.wait_for(queue.get(), PING)
                    yield f"event: faces\ndata: {stored}\n\n"
                except TimeoutError:
                    yield "event: ping\ndata: 0\n\n"
        finally:
            self._queues.discard(queue)

    def _wake(self, stored: int) -> None:
        for queue in self._queues:
            earlier = 0 if queue.empty() else queue.get_nowait()
            queue.put_nowait(earlier + stored)
