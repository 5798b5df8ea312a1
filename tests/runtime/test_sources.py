"""Pictures of a zip read by forked processes at once."""

from __future__ import annotations

import multiprocessing
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stcq.runtime.sources import Source, open_source

SHARED: Source | None = None


def read_all(_: int) -> list[bytes]:
    assert SHARED is not None
    return [SHARED.read(name) for name in SHARED.names]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads beside forks
def test_forked_processes_do_not_share_the_place_in_a_zip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = [rng.bytes(30_000) for _ in range(40)]
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number:02}.png", content)
    global SHARED
    SHARED = open_source(tmp_path / "faces.zip")
    SHARED.read("00.png")  # open before the fork
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        for found in pool.map(read_all, range(20)):
            assert found == contents
