"""URLs in messages: whoever reads a log, a status file or a process list need not know the password."""

from __future__ import annotations


def without_password(url: str) -> str:
    """A URL for people: user:password@ becomes user@."""
    head, at, tail = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.split(':')[0]}{at}{tail}"
