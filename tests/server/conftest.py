"""Fixtures: the application on SQLite and on a real PostgreSQL, and batches of the embedded model."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from stcq.runtime.batch import Batch, pack_batch
from stcq.runtime.codec import Codec
from stcq.runtime.record import Face, Record
from stcq.server.app import make_app
from stcq.server.services import Services, open_services
from stcq.server.tables import METADATA, open_database


def postgres_programs() -> Path | None:
    """The folder with initdb and postgres, where Debian or the path have them."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a fresh PostgreSQL server; its folder is not pytest's, whose next run would close that to others."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (apt install postgresql)")
    user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("needs the user postgres, because PostgreSQL does not run as root")
        user = ["runuser", "-u", "postgres", "--"]
    with tempfile.TemporaryDirectory(prefix="stcq-postgres-") as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "postgres")
        data, log = folder / "data", folder / "log"
        quiet = {"check": True, "capture_output": True, "cwd": folder}
        subprocess.run([*user, programs / "initdb", "-D", data, "-U", "stcq", "-A", "trust", "--no-sync"], **quiet)
        options = f"-k {folder} -c listen_addresses="
        subprocess.run([*user, programs / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start"], **quiet)
        yield f"postgresql://stcq@/postgres?host={folder}"
        subprocess.run([*user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/faces.db"
        return
    url = request.getfixturevalue("postgres")
    yield url
    engine = open_database(url)
    METADATA.drop_all(engine)
    engine.dispose()


@pytest.fixture
def services(database: str, tmp_path: Path) -> Iterator[Services]:
    (tmp_path / "keys").mkdir()
    opened = open_services(database, keys=tmp_path / "keys", threads=1)
    yield opened
    opened.close()


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(make_app(services)) as opened:
        yield opened


@pytest.fixture(scope="session")
def batches() -> Callable[..., bytes]:
    """Make a batch: batches(first, count, device=..., epoch=..., seed=..., time=..., key=...)."""
    with Codec.load() as codec:
        layout = codec.bundle.manifest.codec.packets

    def make(
        first: int = 0,
        count: int = 3,
        device: str = "door-1",
        epoch: int = 5,
        seed: int = 0,
        time: int = 1_000_000,
        key: bytes | None = None,
        **other: bytes,
    ) -> bytes:
        faces = []
        for sequence in range(first, first + count):
            rng = np.random.default_rng([seed, sequence])
            payload = layout.pack_payload(rng.integers(0, 4, 1), rng.integers(0, 256, (1, 64)))[0].tobytes()
            faces.append(Face(payload, Record(time + 1000 * sequence, sequence % 65536, (10, 20, 30, 40), 200, 50)))
        digest = other.get("digest", layout.digest)
        return pack_batch(Batch(device, epoch, first, digest, faces, time), key)

    return make
