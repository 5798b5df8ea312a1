"""Requested against built: what a target wrote is read back and must be what was asked for."""

from __future__ import annotations

from typing import Any

from ..errors import AuditError
from ..runtime.manifest import GRAPHS
from .request import Built, Request

POLICY_GRAPHS = {"nn": {"tokenizer", "decoder"}, "router": {"encoder", "router", "decoder"}}


def audit(request: Request, built: Built, opset: int, policy: str) -> dict[str, Any]:
    """Compare a variant with its request.

    Returns:
        "requested" and "built" for the manifest; every key of the first is in the second with the same value.

    Raises:
        AuditError: precision, opset, batch or policy is not what was requested; the message names it.
    """
    requested = request.to_dict(opset) | {"policy": policy}
    able = [name for name, graphs in POLICY_GRAPHS.items() if graphs <= set(built.graphs)]
    found = built.facts | {"policy": policy if policy in able else f"one of {able}"}
    for what, wanted in requested.items():
        if found.get(what) != wanted:
            raise AuditError(f"{request.name}: {what} is {found.get(what)!r}, requested {wanted!r}; nothing was kept")
    if unknown := sorted(set(built.graphs) - set(GRAPHS)):
        raise AuditError(f"{request.name}: wrote unknown graphs {unknown}")
    return {"requested": requested, "built": found}
