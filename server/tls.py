"""Who a client certificate is of: uvicorn checks it, this hands its common name to the application."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class CertificateProtocol(H11Protocol):
    """HTTP/1.1 with scope["state"]["certificate_name"] where the client showed a certificate."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the name once per connection."""
        super().connection_made(transport)
        name = common_name(transport.get_extra_info("ssl_object"))
        if name:
            self.app_state = {**self.app_state, "certificate_name": name}


def common_name(connection: Any) -> str | None:
    """The common name of the other side's checked certificate."""
    certificate = connection.getpeercert() if connection is not None else None
    for parts in (certificate or {}).get("subject", ()):
        for key, value in parts:
            if key == "commonName":
                return str(value)
    return None
