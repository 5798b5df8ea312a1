"""`stcq inspect`: what a packet or a bundle is, without running a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import PacketError
from .bundle import Bundle
from .convert import read_packet
from .entropy import EntropyFormat
from .manifest import TABLES, Variant
from .packet import TAG, TAIL, is_coded, tag_of


def inspect(source: str, bundle: Bundle) -> dict[str, Any]:
    """Describe a bundle (folder or zip) or a packet (.stcq file, bare packet or "-").

    Args:
        source: the path.
        bundle: the bundle that a packet is checked against.

    Raises:
        BundleError: the bundle is damaged.
        PacketError: the packet cannot be read at all; one that is read but not valid has "valid": false.
    """
    path = Path(source)
    if path.is_dir() or path.suffix.lower() == ".zip" or path.name == "manifest.json":
        opened = Bundle(path.parent if path.name == "manifest.json" else path)
        try:
            return describe_bundle(opened)
        finally:
            opened.close()
    return describe_packet(read_packet(source), bundle)


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """The manifest's facts; "codec" has T, K, M, d, image_size, payload_bytes and digest."""
    manifest, packets = bundle.manifest, bundle.manifest.codec.packets
    return {
        "kind": "bundle",
        "name": manifest.name,
        "codec": manifest.codec.to_dict()
        | {
            "payload_bytes": packets.payload_bytes,
            "packet_bytes": packets.packet_bytes,
            "compact_bytes": packets.compact_bytes,
            "digest": packets.digest.hex(),
        },
        "policy": manifest.policy,
        "preprocess": manifest.preprocess,
        "variants": [_describe_variant(variant) | {"size": bundle.size_of(variant)} for variant in manifest.variants],
        "size": sum(entry.size for entry in manifest.files.values()),
        "provenance": manifest.provenance,
    }


def _describe_variant(variant: Variant) -> dict[str, Any]:
    """A variant's facts with the parity reports cut to their main figures; manifest.json has all."""
    figures = ("passed", "faces", "token_agreement", "group_agreement", "largest_gap", "largest_pixel")
    facts = variant.to_dict()
    parity = facts.get("parity") or {}
    return facts | {"parity": {what: {f: r[f] for f in figures if f in r} for what, r in parity.items()}}


def describe_packet(packet: bytes, bundle: Bundle) -> dict[str, Any]:
    """A packet's header, and its tokens when it is a valid packet of the bundle."""
    facts: dict[str, Any] = {"kind": "packet", "size": len(packet), "checked_against": bundle.manifest.name}
    tag = tag_of(packet)
    if len(packet) > TAIL:
        facts |= {"version": packet[0] >> 4, "flags": packet[0] & 15, "model": tag.hex() if tag else None}
    try:
        layout = bundle.manifest.codec.packets
        if is_coded(packet) and TABLES in bundle.manifest.files:
            group, indices = EntropyFormat.load(bundle.file(TABLES), layout, bundle.manifest.codec.switching).unpack(
                [packet]
            )
        else:
            group, indices = layout.unpack([packet])
    except PacketError as error:
        return facts | {"valid": False, "error": type(error).__name__, "message": str(error)}
    return facts | {
        "valid": True,
        "payload_bytes": len(packet) - 1 - (TAG if tag else 0) - TAIL,
        "group": int(group[0]),
        "indices": indices[0].tolist(),
    }
