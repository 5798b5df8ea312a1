"""Standalone packets at a server with several models: the tag says whose one is, without it the checksum."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq import Codec
from stcq.errors import Corrupt, UnsupportedVersion, WrongModel
from stcq.runtime.bundle import EMBEDDED
from stcq.server.metrics import Metrics
from stcq.server.pictures import Pictures


@pytest.fixture(scope="module")
def pictures(small_bundle: Path) -> Iterator[Pictures]:
    opened = Pictures([EMBEDDED, small_bundle], Metrics())
    yield opened
    opened.close()


@pytest.mark.parametrize("compact", [False, True])
def test_every_open_models_packets_are_decoded(pictures: Pictures, small_bundle: Path, compact: bool) -> None:
    for bundle in (EMBEDDED, small_bundle):
        with Codec.load(bundle, compact=compact) as codec:
            packet = codec.encode(np.full((200, 200, 3), 90, np.uint8))
            expected = codec.decode(packet)
        found = np.asarray(Image.open(io.BytesIO(pictures.decode_packet(packet, "png"))))
        assert np.array_equal(found, expected)
        with pytest.raises(Corrupt):
            pictures.decode_packet(packet[:-1], "png")


def test_other_packets_are_refused(pictures: Pictures) -> None:
    with pytest.raises(WrongModel, match="start the server with its --bundle"):
        pictures.decode_packet(b"\x10" + bytes(73), "png")
    with pytest.raises(Corrupt, match="fits no open model"):
        pictures.decode_packet(b"\x12" + bytes(69), "png")
    with pytest.raises(UnsupportedVersion):
        pictures.decode_packet(b"\x20" + bytes(73), "png")
