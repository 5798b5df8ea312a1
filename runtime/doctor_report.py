"""What `stcq doctor` found, as lines for people."""

from __future__ import annotations

from typing import Any


def summary(found: dict[str, Any]) -> str:
    """The findings as lines for people."""
    facts = found["machine"]
    lines = [f"Python {facts['python']}, {facts['os']}, {facts['machine']}"]
    memory = f", {facts['memory_gb']} GB" if facts["memory_gb"] else ""
    lines.append(f"{facts['board'] or ''} {facts['cpu'] or 'unknown CPU'}, {facts['cpus']} CPUs{memory}".strip())
    lines.append(f"CPU features: {' '.join(facts['cpu_features']) or 'none of those that matter'}")
    if facts["jetpack"]:
        lines.append(f"Jetson: L4T {facts['jetpack']['l4t']}, JetPack {facts['jetpack']['jetpack']}")
    lines += [f"GPU: {' '.join(str(v) for v in gpu.values())}" for gpu in facts["gpus"]] or ["GPU: none found"]
    for name, entry in found["targets"].items():
        opset = f", opset <= {entry['opset']}" if entry["opset"] else ""
        can = f"{', '.join(entry['precisions'])}{opset}" if entry["run"] else "cannot run here"
        lines.append(f"{name:9} {'yes' if entry['run'] else 'no ':3} {entry['version'] or '-'}: {can}")
        for what, value in entry["details"].items():
            lines.append(f"          {what}: {_flat(value)}")
        lines += [f"          {p['problem']}; fix: {p['fix']}" for p in entry["problems"]]
    export = found["export"]
    missing = f"lacks {', '.join(export['missing'])}; fix: {export['fix']}"
    lines.append("stcq-export: ready" if export["ready"] else f"stcq-export: {missing}")
    return "\n".join(lines)


def _flat(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
