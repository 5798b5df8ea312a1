"""Where a node of a graph was traced: what goes by it works without torch."""

from __future__ import annotations


def is_scoped(name: str, scope: str = "network") -> bool:
    """Whether a node was traced inside a module's attribute, such as the backbone."""
    return scope in name.split("/")
