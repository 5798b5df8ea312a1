"""systemd's readiness and watchdog messages; nothing happens where systemd did not start the process."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send a message such as "READY=1", "WATCHDOG=1" or "STOPPING=1"; returns whether anybody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())
        return True
    return False


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear WATCHDOG=1 at the latest; None = never."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(wanted) / 1e6 if wanted.isdigit() and own else None
