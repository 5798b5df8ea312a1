"""Pictures in the device's memory: the same crops as from files, the same batch for the same step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stcq.errors import TrainingError
from stcq.runtime.sources import open_source
from stcq.training.data import Faces, augment, fixed_set
from stcq.training.options import DataOptions
from stcq.training.resident import ResidentFaces

STILL = DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0)
CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path: Path, face: np.ndarray) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        picture = Image.fromarray(np.roll(face, 5 * number, 1)).resize((40, 40)).convert("RGBA")
        alpha = np.full((40, 40), 255, np.uint8)
        alpha[: 2 * number] = 0
        picture.putalpha(Image.fromarray(alpha))
        picture.save(folder / f"{number}.png")
    return folder


def resident(folder: Path, options: DataOptions) -> ResidentFaces:
    return ResidentFaces(Faces([open_source(folder)], 32, options), CPU)


def test_unmoved_pictures_are_those_of_the_files(pictures: Path) -> None:
    found = resident(pictures, STILL)
    assert found.side == 40
    wanted = fixed_set(open_source(pictures), 32, STILL, 6)
    assert (found.plain(6)[0].int() - wanted.int()).abs().max() <= 1


def test_a_step_is_always_the_same_batch(pictures: Path) -> None:
    found = resident(pictures, DataOptions(crop=0.8))
    batches = [batch.pictures for batch in found.batches(4, 0, 3, 7)]
    torch.testing.assert_close(next(iter(found.batches(4, 2, 3, 7))).pictures, batches[2], atol=0, rtol=0)
    assert not torch.equal(batches[0], batches[1])
    assert batches[0].shape == (4, 4, 32, 32)
    assert batches[0].dtype == torch.uint8
    shares = [next(iter(found.batches(4, 2, 3, 7, (rank, 2)))).pictures for rank in range(2)]
    assert [len(share) for share in shares] == [2, 2]


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (0, DataOptions(crop=0.8, shift=0.1, zoom=0, rotate=0, light=0)),
        (1, DataOptions(crop=0.8, shift=0.1, zoom=0, rotate=0, light=0)),
        (2, DataOptions(crop=0.8, shift=0, zoom=0, rotate=20, light=0)),
        (3, DataOptions(crop=0.8, shift=0, zoom=0.2, rotate=0, light=0)),
        (4, STILL),
        (5, DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0.3)),
        (6, DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0.3)),
        (7, DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0.8)),
    ],
)
def test_each_number_moves_pictures_as_files_are_moved(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, place: int, options: DataOptions
) -> None:
    """One of the eight numbers at a time, the others 0, against `augment` with a generator that says the same."""
    value = -0.75 if place == 4 else 0.5

    class Drawn:
        def __init__(self) -> None:
            self.left = [value if place == number else 0.0 for number in (0, 1, 2, 3)]
            self.left += [value if place == number else 0.0 for number in (5, 6, 7)]

        def uniform(self, low: float, high: float) -> float:
            return self.left.pop(0)

        def random(self) -> float:
            return 0.1 if place == 4 else 0.9

    drawn = torch.zeros(1, 8)
    drawn[0, 4] = 1
    drawn[0, place] = value
    found = resident(pictures, options)
    moved = found.augment(found.pictures[0][:1], drawn)[0, :3].int()
    image = Image.open(pictures / "0.png").convert("RGBA")
    wanted = np.asarray(augment(image, 32, options, Drawn()).convert("RGB"), int).transpose(2, 0, 1)  # type: ignore[arg-type]
    inside = (slice(None), slice(4, 28), slice(4, 28))
    assert np.abs(moved.numpy() - wanted)[inside].mean() < 2.5
    still = found.augment(found.pictures[0][:1], torch.eye(8)[4:5])[0, :3].int().numpy()
    assert np.abs(still - wanted)[inside].mean() > 4


def test_unreadable_pictures_are_named_once_and_left_out(pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"no picture")
    (pictures / "4.png").write_bytes((pictures / "4.png").read_bytes()[:200])
    found = resident(pictures, STILL)
    assert len(found.pictures[0]) == 4
    first, second = found.batches(4, 0, 2, 0)
    assert [Path(name.partition(":")[0]).name for name in first.unreadable] == ["3.png", "4.png"]
    assert second.unreadable == ()


def test_no_readable_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match="holds no readable picture"):
        resident(tmp_path, STILL)
