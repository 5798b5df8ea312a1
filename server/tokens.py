"""Tokens: one per device or viewer, random, kept as a hash only, revocable at once."""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

from sqlalchemy import Engine, insert, select, update

from ..errors import ServerError
from ..runtime.batch import DEVICE
from .store import now_ms
from .tables import TOKENS

ROLES = ("device", "viewer")


class Holder(NamedTuple):
    """Whom a token belongs to: a device may send its own faces, a viewer may see and erase all."""

    name: str
    role: str


class Tokens:
    """The tokens of a database."""

    def __init__(self, engine: Engine) -> None:
        """See `open_database`."""
        self.engine = engine

    def add(self, name: str, role: str = "device") -> str:
        """Make a token; it is shown once and cannot be read again.

        Raises:
            ServerError: a name that devices cannot have.
        """
        if not DEVICE.fullmatch(name):
            raise ServerError(f"name {name!r} is not 1 to 64 letters, digits, dots, dashes, underscores")
        token = "stcq_" + secrets.token_urlsafe(32)
        row = {"hash": _hash(token), "name": name, "role": role, "created": now_ms(), "revoked": None}
        with self.engine.begin() as db:
            db.execute(insert(TOKENS), row)
        return token

    def find(self, token: str) -> Holder | None:
        """Whose token this is; None when unknown or revoked."""
        query = select(TOKENS.c.name, TOKENS.c.role).where(TOKENS.c.hash == _hash(token), TOKENS.c.revoked.is_(None))
        with self.engine.connect() as db:
            row = db.execute(query).first()
        return None if row is None else Holder(row.name, row.role)

    def revoke(self, name: str) -> int:
        """Make all tokens of a name useless; returns how many there were."""
        with self.engine.begin() as db:
            valid = (TOKENS.c.name == name) & TOKENS.c.revoked.is_(None)
            return db.execute(update(TOKENS).where(valid).values(revoked=now_ms())).rowcount

    def list(self) -> list[dict[str, object]]:
        """Name, role, times and the hash's first digits of every token."""
        with self.engine.connect() as db:
            rows = db.execute(select(TOKENS).order_by(TOKENS.c.created)).all()
        return [
            {"name": r.name, "role": r.role, "created": r.created, "revoked": r.revoked, "hash": r.hash[:8]}
            for r in rows
        ]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
