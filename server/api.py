"""What viewers may ask: list, look, erase, metrics. Every route needs a viewer's token (header or cookie)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool

from ..errors import ServerError
from ..runtime.packet import MAX_PACKET, from_file
from .pictures import FORMATS
from .services import Services
from .store import Selection

COOKIE = "stcq_viewer"
Suffix = Literal["png", "webp", "jpg"]
SAMPLE = 24
DATES = (8, 14)  # digits of 20261101 and of 20261101120000, which would be a moment in 1970 and one in 2612


def make_api(services: Services) -> APIRouter:
    """The viewers' routes."""

    def viewer(request: Request) -> str:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        holder = services.viewer(token.strip() if kind.lower() == "bearer" else request.cookies.get(COOKIE))
        if holder is None:
            raise HTTPException(401, "sign in with a viewer's token; make one with: stcq token add NAME --role viewer")
        return holder.name

    open_routes = APIRouter()
    routes = APIRouter(prefix="/api", dependencies=[Depends(viewer)])

    @open_routes.post("/login")
    async def login(request: Request) -> Response:
        body = await _body(request, 4096)
        token = parse_qs(body.decode("latin-1")).get("token", [""])[0]
        if await run_in_threadpool(services.viewer, token) is None:
            return RedirectResponse("/?refused", 303)
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, max_age=30 * 86400)
        return response

    @open_routes.post("/logout")
    def logout() -> Response:
        response = RedirectResponse("/", 303)
        response.delete_cookie(COOKIE)
        return response

    @open_routes.get("/metrics", dependencies=[Depends(viewer)])
    def metrics() -> Response:
        return Response(services.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/faces")
    def faces(
        device: str | None = None,
        since: str | None = None,
        until: str | None = None,
        before: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
        after: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[dict[str, Any]]:
        chosen = Selection(device, _time(since), _time(until), before, after)
        return [_face(row) for row in services.store.faces(chosen, limit)]

    @routes.get("/faces/{number}")
    def face(number: int) -> dict[str, Any]:
        row = _found(services, number)
        return _face(row) | services.pictures.facts(bytes(row.digest), bytes(row.payload))

    @routes.get("/faces/{number}/picture.{suffix}")
    def picture(number: int, suffix: Suffix) -> Response:
        row = _found(services, number)
        content = services.pictures.picture(bytes(row.digest), bytes(row.payload), suffix)
        return Response(content, media_type=FORMATS[suffix][1])

    @routes.get("/faces/{number}/packet.stcq")
    def packet(number: int) -> Response:
        row = _found(services, number)
        facts = services.pictures.facts(bytes(row.digest), bytes(row.payload))
        content = b"STCQ" + bytes.fromhex(facts["packet"])
        return Response(content, media_type="application/octet-stream")

    @routes.post("/decode")
    async def decode(request: Request, format: Suffix = "png") -> Response:
        packet = from_file(await _body(request, MAX_PACKET + 4))
        content = await run_in_threadpool(services.pictures.decode_packet, packet, format)
        return Response(content, media_type=FORMATS[format][1])

    @routes.delete("/faces/{number}")
    def erase_one(number: int) -> dict[str, int]:
        _found(services, number)
        return {"erased": services.erase(Selection(face=number))}

    @routes.delete("/faces")
    def erase(
        request: Request, device: str | None = None, since: str | None = None, until: str | None = None
    ) -> dict[str, int]:
        if unknown := sorted(set(request.query_params) - {"device", "since", "until"}):
            raise HTTPException(400, f"{', '.join(unknown)}: faces are erased by device, since and until only")
        if device is None and since is None and until is None:
            raise HTTPException(400, "say which faces: device, since or until")
        return {"erased": services.erase(Selection(device, _time(since), _time(until)))}

    @routes.get("/stats")
    def stats() -> dict[str, Any]:
        devices = services.store.devices()
        sample = services.store.faces(Selection(), SAMPLE)
        known = [row for row in sample if bytes(row.digest) in services.pictures.layouts]
        sizes = [len(services.pictures.picture(bytes(row.digest), bytes(row.payload), "jpg")) for row in known]
        count, size = sum(d["faces"] for d in devices), sum(d["bytes"] for d in devices)
        jpeg = sum(sizes) / len(sizes) if sizes else 0.0
        return {"faces": count, "bytes": size, "jpeg_bytes": round(jpeg * count), "devices": devices}

    @routes.get("/live")
    async def live() -> StreamingResponse:
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(services.live.events(), media_type="text/event-stream", headers=headers)

    open_routes.include_router(routes)
    return open_routes


async def _body(request: Request, limit: int) -> bytes:
    """A small body; a larger one is refused while it comes in."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise HTTPException(413, f"at most {limit} bytes")
    return bytes(body)


def _found(services: Services, number: int) -> Row[Any]:
    row = services.store.face(number) if abs(number) < 1 << 63 else None
    if row is None:
        raise HTTPException(404, f"there is no face {number}")
    return row


def _face(row: Row[Any]) -> dict[str, Any]:
    """A face for JSON; big numbers as strings, because JavaScript's are floats."""
    box = None if row.box is None else [round(value / 255, 3) for value in bytes(row.box)]
    return {
        "id": row.id,
        "device": row.device,
        "epoch": str(row.epoch),
        "sequence": str(row.sequence),
        "captured": row.captured,
        "received": row.received,
        "track": row.track,
        "box": box,
        "score": None if row.score is None else round(row.score / 255, 3),
        "sharpness": row.sharpness,
        "bytes": len(row.payload),
    }


def _time(text: str | None) -> int | None:
    """ISO 8601 (without a zone: UTC) or milliseconds since 1970 -> milliseconds since 1970."""
    if text is None:
        return None
    if re.fullmatch("-?[0-9]+", text) and len(text) not in DATES:
        return max(-(1 << 62), min(int(text[:20]), 1 << 62))
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ServerError(f"time {text!r} is neither ISO 8601 nor milliseconds since 1970") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
