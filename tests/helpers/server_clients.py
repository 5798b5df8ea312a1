"""Clients of a server's application, as tests need them."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient
from stcq.server.services import Services

Batches = Callable[..., bytes]


def sender(services: Services, client: TestClient, name: str = "door-1") -> Callable[[bytes], tuple[int, dict]]:
    token = services.tokens.add(name)

    def send(content: bytes) -> tuple[int, dict]:
        answer = client.post("/v1/batches", content=content, headers={"Authorization": f"Bearer {token}"})
        return answer.status_code, answer.json()

    return send


def viewer(services: Services) -> dict[str, str]:
    return {"Authorization": f"Bearer {services.tokens.add('me', 'viewer')}"}
