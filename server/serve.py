"""Running the server: address, TLS, shutdown."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ..errors import ServerError
from .app import make_app
from .services import Services
from .tls import CertificateProtocol


@dataclass(frozen=True)
class Address:
    """Where the server listens; `client_ca` asks every client for a certificate of it."""

    host: str = "127.0.0.1"
    port: int = 8008
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @property
    def url(self) -> str:
        """What to type into a browser."""
        own = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        host = f"[{own}]" if ":" in own else own
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}"


def serve(services: Services, address: Address, verbose: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; batches being stored are finished.

    Raises:
        ServerError: the certificates cannot be read or the address cannot be used.
    """
    if address.certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(address.certificate, address.key)
        except OSError as error:
            raise ServerError(f"certificate {address.certificate} or its key cannot be read: {error}") from error
    elif address.client_ca is not None or address.key is not None:
        raise ServerError("a key and client certificates need TLS; give --certificate too")
    if address.client_ca is not None:
        try:
            ssl.create_default_context(cafile=str(address.client_ca))
        except OSError as error:
            raise ServerError(f"--client-ca {address.client_ca} cannot be read: {error}") from error
    config = uvicorn.Config(
        make_app(services),
        host=address.host,
        port=address.port,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        ssl_ca_certs=None if address.client_ca is None else str(address.client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if address.client_ca is None else ssl.CERT_REQUIRED,
        http=CertificateProtocol,
        ws="none",
        access_log=verbose,
        log_level="info" if verbose else "warning",
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,  # a camera sends every few seconds at most, and connecting anew costs it much
        server_header=False,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except (SystemExit, OSError) as error:
        raise ServerError(f"{address.url} cannot be used (is the port taken?)") from error
    if not server.started:
        raise ServerError(f"{address.url} cannot be used (is the port taken?)")
