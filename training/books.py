"""The books stages: switchable codebooks and the router, learnt on the frozen encoder's latents.

Stage "shared" has one book per group, stage "specific" one per (group, token). Each starts from Lloyd's iteration
or from the stage before it and may go on with gradients or moving averages, as the paper does, while the router
learns to expect the group of least error.
"""

from __future__ import annotations

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..models.checkpoint import not_finite
from ..models.codec import CodecModel
from ..models.config import BooksKind, CodecConfig
from ..models.transplant import transplant
from .ema import BookAverage
from .first_books import first_books, forget
from .latents import collect
from .lloyd import group_errors
from .losses import router_losses
from .material import Material
from .options import BooksOptions
from .run import GO_ON, Run
from .trellis import WALKS


class BooksStage:
    """A resumable fit of books and router; `name` is "shared" or "specific".

    Args:
        source: a codec whose encoder and decoder are taken over, and for start "copy" its shared books.
        config: of the codec to make, but for its kind of books.
    """

    def __init__(
        self,
        name: BooksKind,
        source: CodecModel,
        config: CodecConfig,
        options: BooksOptions,
        material: Material,
        run: Run | None = None,
    ) -> None:
        self.name, self.options, self.material, self.run, self.step = name, options, material, run, 0
        self.model = CodecModel(config.of_kind(name))
        transplant(source, self.model)
        self.model.to(material.device).eval()
        self.source_books = source.codebooks.weight.detach()
        books, router = self.model.codebooks, self.model.router
        self.generator = torch.Generator(material.device)
        groups = [
            {"params": books.parameters(), "lr": options.lr, "weight_decay": 0.0},
            {"params": router.parameters(), "lr": options.router_lr, "weight_decay": 1e-2},
        ]
        self.optimizer = torch.optim.AdamW(groups)
        self.average = BookAverage(books, options.book_decay)
        self.used = torch.zeros(books.weight.shape[:-1], device=material.device)  # since the last revival

    def restore(self) -> None:
        """Go on from the run's kept state, if there is one."""
        kept = self.run.load_state(self.name) if self.run else None
        if kept is None:
            return
        self.step, tensors = kept
        for part in (self.model.codebooks, self.model.router):
            for name, value in part.state_dict().items():
                value.copy_(tensors[f"{type(part).__name__}.{name}"])
        self.average.counts.copy_(tensors["counts"])
        self.average.sums.copy_(tensors["sums"])
        self.used.copy_(tensors["used"])
        document = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, field = name.split(".")
                document["state"].setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict(document)

    def keep(self) -> None:
        """Write the state to the run directory."""
        if self.run is None:
            return
        tensors = {"counts": self.average.counts, "sums": self.average.sums, "used": self.used}
        for part in (self.model.codebooks, self.model.router):
            tensors |= {f"{type(part).__name__}.{name}": value for name, value in part.state_dict().items()}
        for index, kept in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{field}": torch.as_tensor(value) for field, value in kept.items()}
        self.run.save_state(self.name, self.step, tensors)

    def fit(self) -> CodecModel:
        """Start the books unless restored, run to the last step; the codec has its books rounded to half precision.

        Raises:
            TrainingError: the loss, the books or the router are not finite; the last kept state is untouched. Or see
                `first_books`.
        """
        options = self.options
        latents = collect(self.model, options, self.material, self.run)
        fresh = self.run is None or self.run.load_state(self.name) is None
        if fresh:
            self.start(latents)
            self.keep()
        if self.run:
            forget(self.model.config, self.run)
        errors = self.group_errors(latents) if options.update == "none" else None
        steps = 0 if options.update == "none" and self.model.config.groups == 1 else options.steps
        with click.progressbar(range(self.step, steps), label=f"{self.name:8}") as bar:
            for _ in bar:
                parts = self.train_step(latents, errors)
                self.step += 1
                if self.step % 50 == 0 and self.run:
                    self.run.log(stage=self.name, step=self.step, **parts)
                if self.step % options.checkpoint == 0:
                    self.keep()
        for group in self.model.codebooks.weight.data:  # one by one: all books can be gigabytes
            group.copy_(group.half())  # exact in two bytes, which halves them in a bundle
        self.check_finite()
        return self.model.cpu()

    def check_finite(self, **parts: float) -> None:
        """Refuse to go on from terms of the loss, or without any from books or a router, that are not finite."""
        tensors = {name: torch.tensor(value) for name, value in parts.items()} or dict(self.model.state_dict())
        if wrong := not_finite(tensors):
            raise TrainingError(f"{self.name} stage: {wrong} is not finite at step {self.step}; {GO_ON}")

    def start(self, latents: Tensor) -> None:
        """First values of the books; raises as `first_books` does."""
        self.generator.manual_seed(self.material.seed)
        given = (self.source_books, self.model.config, self.options, self.generator, self.run)
        self.model.codebooks.weight.data = first_books(latents, *given)
        self.average.restart()

    @torch.no_grad()
    def group_errors(self, latents: Tensor) -> Tensor:
        """Squared errors (N, M) of all groups for latents (N, T, d)."""
        books = self.model.codebooks
        if books.trellis:
            parts = torch.split(latents, max(1, WALKS // books.weight[..., 0].numel()))
            return torch.cat([self._errors(part)[1] for part in parts])
        runs = zip(latents.chunk(books.switches, 1), books.weight.chunk(books.switches, 1), strict=True)
        return books.group_errors(torch.stack([group_errors(*run) for run in runs], 2))

    def _errors(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (B, V, T, K) less |z|^2, and the groups' squared errors (B, M)."""
        books = self.model.codebooks
        distances = books.distances(latents)
        return distances, books.all_errors(distances) + latents.square().sum((1, 2))[:, None]

    def train_step(self, latents: Tensor, known: Tensor | None) -> dict[str, float]:
        """One step of router and, unless their errors (N, M) are known and so fixed, of the books."""
        options, books = self.options, self.model.codebooks
        self.generator.manual_seed(self.material.seed * 1_000_003 + self.step)
        picks = torch.randint(len(latents), (options.batch,), generator=self.generator, device=latents.device)
        part = latents[picks]
        loss = part.new_zeros(())
        if known is not None:
            errors = known[picks]
        else:
            with torch.no_grad():
                distances, errors = self._errors(part)
                group, indices = books.choose(distances)
            self.count(group, indices)
            if options.update == "ema":
                drawn = torch.Generator(part.device).manual_seed(self.material.seed + self.step)
                self.average.update(part, group, indices, drawn)
            else:
                loss = (part - books.lookup(group, indices)).square().sum((1, 2)).mean()
        parts = {"quantization": float(errors.amin(1).mean()) / part[0].numel()}
        scores = self.model.router(part)
        quality, entropy, decisive = router_losses(scores, errors)
        routed = (
            options.router_quality * quality + options.router_entropy * entropy + options.router_decisive * decisive
        )
        routed = routed + options.router_nearest * F.cross_entropy(scores, errors.argmin(1))
        parts |= {"router": float(routed.detach()), "entropy": float(entropy.detach())}
        self.check_finite(**parts)
        left = 1 - self.step / options.steps
        for settings, rate in zip(self.optimizer.param_groups, (options.lr, options.router_lr), strict=True):
            settings["lr"] = rate * left
        self.optimizer.zero_grad()
        (loss + routed).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if known is None and options.update == "gradient" and options.revive and (self.step + 1) % options.revive == 0:
            self.revive(part)
        return parts

    def count(self, group: Tensor, indices: Tensor) -> None:
        """Remember which codewords were chosen: group (B,), indices (B, T)."""
        rows = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
        rows = torch.zeros_like(rows) if self.model.codebooks.shared else rows
        self.used[self.model.codebooks.expand(group, indices), rows, indices] = 1

    @torch.no_grad()
    def revive(self, latents: Tensor) -> None:
        """Put codewords that nothing chose since the last time onto latents (B, T, d) of their token."""
        dead = (self.used == 0).nonzero()  # (n, 3)
        picks = torch.randint(len(latents), (len(dead),), generator=self.generator, device=latents.device)
        tokens = torch.randint(latents.shape[1], (len(dead),), generator=self.generator, device=latents.device)
        tokens = tokens if self.model.codebooks.shared else dead[:, 1]
        self.model.codebooks.weight[tuple(dead.T)] = latents[picks, tokens]
        self.used.zero_()
