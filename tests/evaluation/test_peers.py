"""Classical peers get a fair chance: the budget is kept, headers are counted, more bytes never hurt."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from stcq.errors import BackendMissing, StcqError
from stcq.evaluation import peers
from stcq.evaluation.peers import FORMATS, Encoding, available, best, encodings, psnr, require


@pytest.fixture(scope="module", params=available())
def found(request: pytest.FixtureRequest, face: np.ndarray) -> list[Encoding]:
    return encodings(request.param, Image.fromarray(face))


def test_base_formats_are_there() -> None:
    assert {"jpeg", "webp", "avif", "jpeg2000"} <= set(available())


def test_every_file_decodes_and_its_headers_are_counted(found: list[Encoding]) -> None:
    for one in found[::9]:
        assert one.image().size == (128, 128)
        assert 0 < one.codestream <= len(one.content)
    if found[0].codec == "jpeg2000":
        assert not any(b"OpenJPEG" in one.content for one in found)


def test_the_budget_is_kept_and_more_bytes_are_never_worse(found: list[Encoding], face: np.ndarray) -> None:
    picture = Image.fromarray(face)
    previous = 0.0
    for budget in (50, 100, 200, 400, 800, 3000):
        one, image, fits = best(found, budget, lambda image: psnr(picture, image))
        assert fits == (len(one.content) <= budget)
        if fits:
            quality = psnr(picture, image)
            assert quality >= previous - 0.3
            previous = quality
        else:
            assert len(one.content) == min(len(other.content) for other in found)
    assert previous > 24


def test_psnr_of_known_errors() -> None:
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (255, 255, 255))
    assert psnr(black, grey) == pytest.approx(0)
    assert psnr(black, black) > 100


def test_peers_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StcqError, match="unknown"):
        require(["gif"])
    monkeypatch.setattr(peers, "_has", lambda form: form is not FORMATS["jxl"])
    with pytest.raises(BackendMissing, match=r"stcq\[eval\]"):
        require(["jxl"])
