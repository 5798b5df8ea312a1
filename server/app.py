"""The HTTP application: devices send to /v1/batches, viewers use /api and the page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import PacketError, StcqError
from ..runtime.batch import MAX_BATCH
from .api import make_api
from .ingest import Ingest, Refusal
from .services import Services

log = logging.getLogger("stcq.server")
BODY_SECONDS = 60.0
RETRY_SECONDS = "5"
PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # what is erased here is nowhere else
}


def make_app(services: Services) -> FastAPI:
    """The application of a server.

    Args:
        services: database, decoders and what else it needs; closed by the caller.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(title="stcq", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=lifespan)
    app.include_router(make_api(services))

    app.add_middleware(SafeHeaders)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        about = {503: {"Retry-After": RETRY_SECONDS}, 413: {"Connection": "close"}, 408: {"Connection": "close"}}
        return JSONResponse(refusal.to_dict(), refusal.status, about.get(refusal.status))

    @app.exception_handler(StcqError)
    async def failed(_: Request, error: StcqError) -> JSONResponse:
        status = 422 if isinstance(error, PacketError) else 400
        return JSONResponse({"status": status, "kind": type(error).__name__, "error": str(error)}, status)

    @app.exception_handler(SQLAlchemyError)
    async def away(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("database: %s", error)
        return await refused(request, Refusal(503, "Unavailable", "the database does not answer; try again later"))

    @app.post("/v1/batches")
    async def batches(request: Request) -> JSONResponse:
        return JSONResponse(await take_batch(request, services.ingest))

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    def ready() -> JSONResponse:
        try:
            services.store.check()
        except Exception as error:
            log.error("database: %s", error)
            return JSONResponse({"status": "database does not answer"}, 503)
        return JSONResponse({"status": "ok", "models": [digest.hex() for digest in services.pictures.layouts]})

    for name, kind in PAGE.items():
        content = files(__package__).joinpath("page", name or "index.html").read_bytes()
        app.add_api_route(f"/{name}", _serve(content, kind), methods=["GET"], include_in_schema=False)
    return app


class SafeHeaders:
    """Adds HEADERS to every answer that does not say otherwise; streams pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in HEADERS.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


async def take_batch(request: Request, ingest: Ingest) -> dict[str, Any]:
    """Identify the sender, read at most MAX_BATCH bytes, store, acknowledge."""
    token = bearer(request)
    certificate = request.scope.get("state", {}).get("certificate_name")
    device = await run_in_threadpool(ingest.identify, token, certificate)
    if int(request.headers.get("content-length") or 0) > MAX_BATCH:
        raise Refusal(413, "TooLarge", f"a batch has at most {MAX_BATCH} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BATCH:
                    raise Refusal(413, "TooLarge", f"a batch has at most {MAX_BATCH} bytes")
    except TimeoutError:
        raise Refusal(408, "Timeout", f"the batch did not come within {BODY_SECONDS:.0f} s") from None
    return await run_in_threadpool(ingest.accept, device, bytes(body))


def bearer(request: Request) -> str | None:
    """The token of an Authorization header."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def _serve(content: bytes, kind: str) -> Callable[[], Response]:
    def page() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return page
