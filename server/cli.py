"""The `stcq serve` and `stcq token` commands."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import ServerError
from ..runtime.options import json_option
from ..runtime.parts import part

DATABASE = "sqlite:///stcq-faces.db"
database_option = click.option(
    "--database",
    envvar="STCQ_DATABASE",
    default=DATABASE,
    show_default=True,
    help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; better in $STCQ_DATABASE when it has a password.",
)
path = click.Path(path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 = all.")
@click.option("--port", default=8008, show_default=True, type=click.IntRange(1, 65535))
@database_option
@click.option("--bundle", "-b", "bundles", type=path, multiple=True, help="Model to take; repeat (default: embedded).")
@click.option("--keep", type=click.FloatRange(0, min_open=True), metavar="DAYS", help="Erase faces after this time.")
@click.option("--certificate", type=path, help="TLS certificate chain (PEM).")
@click.option("--key", type=path, help="Its key (PEM).")
@click.option("--client-ca", type=path, help="Ask devices for certificates of this authority; their CN is the device.")
@click.option("--keys", type=path, help="Folder with DEVICE.key for sealed batches.")
@click.option("--mqtt", envvar="STCQ_MQTT", help="Also listen to this broker: mqtt://[user:password@]host[:port].")
@click.option("--mqtt-ca", type=path, help="Certificates to trust for mqtts:// instead of the system's.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the decoder.")
@click.option("--link/--no-link", default=True, help="Print a link that signs a browser in until the server ends.")
@click.option("--verbose", "-v", is_flag=True, help="Log every request.")
def serve(
    host: str,
    port: int,
    database: str,
    bundles: Sequence[Path],
    keep: float | None,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    keys: Path | None,
    mqtt: str | None,
    mqtt_ca: Path | None,
    threads: int | None,
    link: bool,
    verbose: bool,
) -> None:
    """Take faces in from cameras, keep them, and show them on a page."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    services_module, module = part("server.services"), part("server.serve")
    options = None if mqtt is None else services_module.MqttOptions(mqtt, mqtt_ca)
    services = services_module.open_services(
        database, bundles, keep_days=keep, keys=keys, mqtt=options, threads=threads
    )
    address = module.Address(host, port, certificate, key, client_ca)
    click.echo(f"stcq serve on {address.url}", err=True)
    if link:
        click.echo(f"look at the faces: {address.url}/#token={services.link_token}", err=True)
    try:
        module.serve(services, address, verbose)
    finally:
        services.close()


@click.group()
def token() -> None:
    """Tokens of devices and viewers."""


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["device", "viewer"]), default="device", show_default=True)
@database_option
def add(name: str, role: str, database: str) -> None:
    """Make a token and print it, once."""
    click.echo(_tokens(database).add(name, role))


@token.command()
@click.argument("name")
@database_option
def revoke(name: str, database: str) -> None:
    """Make all tokens of a name useless, at once."""
    count = _tokens(database).revoke(name)
    if not count:
        raise ServerError(f"{name!r} has no valid token; see: stcq token list")
    click.echo(f"{count} revoked")


@token.command("list")
@database_option
@json_option
def list_tokens(database: str, as_json: bool) -> None:
    """All tokens; what they are is not kept, only their hash."""
    rows = _tokens(database).list()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:20} {row['role']:7} {row['hash']}  {'revoked' if row['revoked'] else 'valid'}")


def _tokens(database: str) -> Any:
    engine = part("server.tables").open_database(database)
    return part("server.tokens").Tokens(engine)
