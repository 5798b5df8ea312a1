"""Starting a server: mistakes in its options are one line, found before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from stcq.errors import ServerError, StcqError
from stcq.server.serve import Address, serve
from stcq.server.services import MqttOptions, Services, open_services
from stcq.server.tables import open_database
from stcq.server.tokens import Tokens


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keys": "nowhere"}, "is no folder"),
        ({"mqtt": MqttOptions("http://user:SECRET@host")}, "is no URL"),
        ({"database": "sqlite://"}, "name a file"),
    ],
)
def test_mistakes_are_found_at_the_start(tmp_path: Path, options: dict, reason: str) -> None:
    chosen = {"database": f"sqlite:///{tmp_path}/faces.db"} | options
    if "keys" in chosen:
        chosen["keys"] = tmp_path / chosen["keys"]
    with pytest.raises(StcqError, match=reason) as caught:
        open_services(**chosen)
    assert "SECRET" not in str(caught.value)


def test_wrong_certificates_are_found_at_the_start(services: Services, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="give --certificate too"):
        serve(services, Address(key=tmp_path / "k.pem"))


@pytest.mark.parametrize("url", ["oracle://x", "sqlite:////no/such/folder/x.db", "postgresql://u:secret@127.0.0.1:1/x"])
def test_unusable_databases_are_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ServerError, match="cannot be opened") as caught:
        open_database(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ServerError, match="cannot be opened"):
        Tokens(open_database(f"sqlite:///{tmp_path}/x.db")).list()


def test_a_server_on_all_addresses_names_itself() -> None:
    assert Address("0.0.0.0").url == f"http://{socket.gethostname()}:8008"
    assert Address("::1", 80).url == "http://[::1]:80"
