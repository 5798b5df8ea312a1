"""Links between the project's pages lead to pages and headings that exist; commands in them are commands of ours."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from stcq.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def headings(page: Path) -> set[str]:
    """The anchors of a page, made as GitHub makes them."""
    lines = [line.lstrip("#") for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", line.strip().lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def commands(page: Path) -> list[str]:
    """The calls of stcq in a page's code, a backslash's next line with them."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    calls = [re.sub(r"^stcq-(export|profile)(?!\S)", r"stcq \1", call) for call in (*lines, *spans)]
    return [call for call in calls if re.match(r"stcq [a-z]", call)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    context = click.Context(main)
    for call in commands(page):
        words = call.split("#")[0].split()
        command = main.get_command(context, words[1])
        assert command is not None, call
        if isinstance(command, click.Group) and len(words) > 2:
            command = command.get_command(context, words[2])
            assert command is not None, call
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"-h", "--help", "--version"}
        used = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert used <= known, call


def test_pages_hold_commands() -> None:
    assert len({call.split()[1] for page in PAGES for call in commands(page)}) > 10
