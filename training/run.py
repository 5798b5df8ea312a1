"""A run directory: the recipe, the log, the pictures and the state that --resume goes on from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import TrainingError
from ..models import checkpoint
from ..runtime.files import replace_file
from .curves import draw_curves
from .data import Batch, Unreadable
from .recipe import Recipe

GO_ON = "the last good state is kept: lower the rates in the recipe and start anew, or --resume"


class Run:
    """The folder of one training run; everything in it is replaced whole, so kill -9 loses at most one interval."""

    def __init__(self, folder: Path, recipe: Recipe, resume: bool, writes: bool = True) -> None:
        """Open or make the folder; without `writes` (the further processes of several devices) only read from it.

        Raises:
            TrainingError: it holds another recipe, or a run that was not asked to be resumed.
        """
        self.folder, self.writes, self.unreadable = folder, writes, Unreadable()
        if not writes:
            return
        text = json.dumps(recipe.to_dict(), indent=2, sort_keys=True) + "\n"
        path = folder / "recipe.json"
        if path.exists() and not resume:
            raise TrainingError(f"{folder} already holds a run; add --resume to go on with it or give another --out")
        if path.exists() and path.read_text() != text:
            raise TrainingError(f"{folder} was started with another recipe; give that recipe or another --out")
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: temporary.write_text(text))

    def checkpoint(self, stage: str) -> Path:
        """The finished stage's checkpoint folder."""
        return self.folder / stage

    def log(self, **record: Any) -> None:
        """Append one JSON line."""
        if not self.writes:
            return
        line = json.dumps({"time": round(time.time(), 1), **record}) + "\n"
        with (self.folder / "log.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else "\n" + line  # behind one that was cut
            file.write(line.encode())

    def save_state(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep a stage's state after `step` steps.

        Raises:
            TrainingError: a tensor holds NaN or infinity; the state before is left.
            OSError: the disk is full.
        """
        if not self.writes:
            return
        if wrong := checkpoint.not_finite(tensors):
            raise TrainingError(f"{stage} stage: {wrong} holds NaN or infinity at step {step}; {GO_ON}")
        flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        checkpoint.write_tensors(flat, self.folder / f"{stage}.state", {"step": str(step)})

    def load_state(self, stage: str) -> tuple[int, dict[str, Tensor]] | None:
        """The last kept state of a stage, or None.

        Raises:
            TrainingError: the file is damaged.
        """
        path = self.folder / f"{stage}.state"
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                step = int(file.metadata()["step"])
            return step, load_file(path)
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise TrainingError(f"{path} is damaged ({error}); delete it to restart this stage") from error

    def drop_state(self, stage: str) -> None:
        """Forget the state of a finished stage."""
        if self.writes:
            (self.folder / f"{stage}.state").unlink(missing_ok=True)

    def readable(self, batch: Batch) -> Tensor:
        """The pictures of a batch; unreadable ones are named once on stderr and in unreadable.txt."""
        for name in self.unreadable.new(batch):
            if self.writes:
                with (self.folder / "unreadable.txt").open("a") as file:
                    file.write(name + "\n")
        return batch.pictures

    def curves(self) -> None:
        """Draw the log so far to curves.png."""
        if self.writes and (self.folder / "log.jsonl").exists():
            draw_curves(self.folder / "log.jsonl", self.folder / "curves.png")

    def picture(self, name: str, rows: list[Tensor]) -> None:
        """Save rows of images, each (N, 3, S, S) in [0, 1], as one PNG grid."""
        lines = [np.concatenate(list(row.clamp(0, 1).permute(0, 2, 3, 1).numpy()), 1) for row in rows]
        grid = Image.fromarray((np.concatenate(lines, 0) * 255).round().astype(np.uint8))
        replace_file(self.folder / f"{name}.png", lambda path: grid.save(path, "PNG"))
