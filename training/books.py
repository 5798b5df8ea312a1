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
from .latents import collect
from .lloyd import State, fit_groups, fit_independent, group_errors
from .losses import router_losses
from .material import Material
from .options import BooksOptions
from .run import GO_ON, Run
from .trellis import WALKS, fit_trellis


class BooksStage:
    """A resumable fit of books and router; `name` is "shared" or "specific".

    Args:
        source: a codec whose encoder and decoder are taken over, and for start "copy" its shared books.
        config: of the codec to make, but for its kind of books.

    Raises:
        TrainingError: start "copy" from books that are no shared ones of as many groups.
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
            TrainingError: the loss, the books or the router are not finite; the last kept state is untouched.
        """
        options = self.options
        latents = collect(self.model, options, self.material, self.run)
        fresh = self.run is None or self.run.load_state(self.name) is None
        if fresh:
            self.start(latents)
            self.keep()
        if self.run:
            for switch in range(self.model.config.switches):
                self.run.drop_state(self._start_of(switch))
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
        """First values of the books."""
        options, config, weight = self.options, self.model.config, self.model.codebooks.weight
        if options.start == "copy":
            if self.source_books.shape[:2] != (config.sets, 1) or self.source_books.shape[2:] != weight.shape[2:]:
                raise TrainingError(
                    f"[{self.name}] start = copy needs shared books of {config.sets} groups x {config.codes} codes; "
                    "run the shared stage before it, or take start = lloyd"
                )
            weight.data.copy_(self.source_books.expand_as(weight))
        else:
            self.generator.manual_seed(self.material.seed)
            fitted = [self._fitted(latents.chunk(config.switches, 1)[i], i) for i in range(config.switches)]
            weight.data = torch.cat(fitted, 1) if config.switches > 1 else fitted[0]  # one is not copied: gigabytes
        self.average.restart()

    def _fitted(self, latents: Tensor, switch: int) -> Tensor:
        """Books (V, T or 1, K, d) of one switch's tokens, whose latents (N, T, d) are given: switches choose apart."""
        options, config = self.options, self.model.config
        apart, shared = options.start == "independent" and not config.memory, self.name == "shared"
        kind, count = ("group", config.sets) if apart else ("iteration", options.iterations)
        of = f" of switch {switch + 1}/{config.switches}" if config.switches > 1 else ""

        def report(number: int, error: float) -> None:
            if self.run:
                facts = {kind: number} | ({"switch": switch} if of else {})
                self.run.log(stage=self.name, quantization=error / config.dim, **facts)
            click.echo(f"{self.name} {kind} {number + 1}/{count}{of}: error {error / config.dim:.5f}", err=True)

        def keep(step: int, state: State) -> None:
            if self.run:
                self.run.save_state(self._start_of(switch), step, state)

        kept = self.run.load_state(self._start_of(switch)) if self.run else None
        sizes = (latents, config.sets, config.codes, options.iterations, self.generator, report)
        if config.memory:
            shuffle, turn = options.shuffle, options.turn
            return fit_trellis(latents, config.switching, *sizes[3:], shuffle, turn, kept, keep)
        if apart:
            return fit_independent(*sizes, shared=shared, kept=kept, keep=keep)
        return fit_groups(*sizes, shared=shared, prior=options.prior, kept=kept, keep=keep)

    def _start_of(self, switch: int) -> str:
        """The name of the state in which the first books of a switch's tokens are."""
        return f"{self.name}-start-{switch}"

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
