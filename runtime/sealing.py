"""AES-256-GCM for batches and for the spool; keys come from a file or the environment, never from a command line."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import OtherKey, StcqError

NONCE, TAG, KEY = 12, 16, 32


def seal(key: bytes, content: bytes, bound: bytes) -> bytes:
    """Encrypt: nonce (12 bytes, random), ciphertext, tag (16 bytes).

    Args:
        key: 32 bytes.
        content: what nobody without the key may read.
        bound: travels in clear beside it and cannot be exchanged.
    """
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, bound)


def unseal(keys: Sequence[bytes], sealed: bytes, bound: bytes) -> bytes:
    """Decrypt with the first key that fits.

    Raises:
        OtherKey: none is given or fits, or the content or what it is bound to was changed.
    """
    if not keys:
        raise OtherKey("batch is sealed and no key is given; name the device's key file")
    if len(sealed) >= NONCE + TAG:
        for key in keys:
            try:
                return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], bound)
            except InvalidTag:
                continue
    raise OtherKey("sealed batch does not open with this key; it was forged, damaged or sealed with another key")


def read_key(source: str) -> bytes:
    """A key from a file of 32 raw bytes, 64 hex digits or base64; "env:NAME" reads the environment.

    Raises:
        StcqError: missing, or not 256 bits.
    """
    try:
        raw = os.environ[source[4:]].encode() if source.startswith("env:") else Path(source).read_bytes()
    except (KeyError, OSError):
        raise StcqError(f"key {source} cannot be read; make one with: openssl rand -hex 32") from None
    if len(raw) == KEY:
        return raw
    text = raw.strip()
    for decode in (binascii.unhexlify, base64.b64decode):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == KEY:
            return key
    raise StcqError(f"key {source} is not 32 bytes, as raw bytes, hex or base64; make one with: openssl rand -hex 32")


def key_id(key: bytes) -> bytes:
    """Four bytes that tell keys apart without saying anything about them."""
    return hashlib.sha256(b"stcq key " + key).digest()[:4]
