"""The gradient stages: base (everything learns, one group) and decoder (only the decoder learns)."""

from __future__ import annotations

import math

import click
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.codec import CodecModel
from .adversary import Adversary
from .base_books import BaseBooks
from .data import split
from .ema import WeightAverage
from .material import Material
from .objective import Objective
from .options import StageOptions
from .parameters import choose_trained, learning_rates, parameter_groups
from .run import GO_ON, Run
from .validate import measure


class Stage:
    """A resumable optimisation of a codec; `name` is "base" or "decoder".

    Raises:
        TrainingError: the batch cannot be divided among the devices and the parts of `accumulate`.
    """

    def __init__(self, name: str, model: CodecModel, options: StageOptions, material: Material, run: Run) -> None:
        self.name, self.model, self.options, self.material, self.run = name, model, options, material, run
        self.fabric, self.step = material.fabric, 0
        if options.batch % (self.fabric.world_size * options.accumulate):
            raise TrainingError(
                f"[{name}] batch {options.batch} does not divide into {self.fabric.world_size} devices "
                f"x {options.accumulate} parts; choose a multiple"
            )
        model.to(material.device)
        for module in (model.encoder, model.decoder):  # not the codebooks: their four axes are no image's
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.books = BaseBooks(model, options, self.fabric) if name == "base" else None
        if material.compiled:
            material.loss.compile_recognizer()
        objective = Objective(model, material.loss, options, self.books, material.compiled)
        trained: list[nn.Module] = [model.decoder] if name == "decoder" else [model.encoder, model.decoder]
        self.named = choose_trained(model, trained)
        self.probe = objective.probe
        if self.probe is not None:
            self.named += [(f"probe.{n}", p) for n, p in self.probe.named_parameters()]
        groups = parameter_groups(self.named, learning_rates(model), options.weight_decay)
        self.fused = material.device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=self.fused)
        self.objective, self.optimizer = self.fabric.setup(objective, optimizer)
        self.average = WeightAverage(model, options.ema)
        share = options.initial if name == "decoder" else 0.0
        self.initial = {n: p.detach().cpu().clone() for n, p in self.named} if share else {}
        self.adversary = Adversary(self.fabric, options) if options.gan and name == "decoder" else None

    def restore(self) -> None:
        """Go on from the run's kept state, if there is one."""
        kept = self.run.load_state(self.name)
        if kept is None:
            return
        self.step, tensors = kept
        self.model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")})
        if self.probe is not None:
            self.probe.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("probe.")})
        for name in self.average.state:
            self.average.state[name].copy_(tensors[f"average.{name}"])
        for part in (self.books, self.adversary):
            if part is not None:
                part.restore(tensors)
        for name, parameter in self.named:
            if f"m.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step), device=parameter.device if self.fused else "cpu"),
                    "exp_avg": tensors[f"m.{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"v.{name}"].to(parameter.device),
                }

    def keep(self) -> None:
        """Write the state to the run directory."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.state.items()}
        if self.probe is not None:
            tensors |= {f"probe.{n}": t for n, t in self.probe.state_dict().items()}
        for part in (self.books, self.adversary):
            tensors |= part.state() if part is not None else {}
        for name, parameter in self.named:
            if state := self.optimizer.state.get(parameter):
                tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
        self.run.save_state(self.name, self.step, tensors)

    def fit(self) -> CodecModel:
        """Run to the last step and return the averaged model in evaluation mode.

        Books of a base stage that ended before `quantize_after` start at the end.

        Raises:
            TrainingError: the loss or the state is not finite; the last kept state is untouched.
        """
        options, fabric = self.options, self.fabric
        place = (fabric.global_rank, fabric.world_size)
        batches = self.material.batches(options.batch, self.step, options.steps, self.material.seed, place)
        left = options.steps - self.step
        with click.progressbar(batches, left, f"{self.name:8}", hidden=not fabric.is_global_zero) as bar:
            for batch in bar:
                parts = self.train_step(self.run.readable(batch))
                self.step += 1
                if self.step % 20 == 0:
                    self.run.log(stage=self.name, step=self.step, lr=self.rate(), **parts)
                if self.step % options.checkpoint == 0:
                    self.keep()
                if self.step % options.validate == 0 or self.step == options.steps:
                    self.validate()
        if self.books is not None and options.steps <= options.quantize_after:
            self.model.load_state_dict(self.average.state)
            self.start_books(self.books)
        return self.averaged()

    def rate(self) -> float:
        """The learning rate of the present step: linear warm-up, then cosine to 2 %."""
        options = self.options
        if self.step < options.warmup:
            return options.lr * (self.step + 1) / options.warmup
        done = (self.step - options.warmup) / max(1, options.steps - options.warmup)
        return options.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def train_step(self, batch: Tensor) -> dict[str, float]:
        """One optimiser step on this device's part of a batch; returns the mean loss terms.

        Raises:
            TrainingError: the loss is not finite; the last kept state is untouched.
        """
        quantize = self.name == "decoder" or self.step >= self.options.quantize_after
        if self.books is not None and self.step == self.options.quantize_after:
            self.start_books(self.books)
        self.model.eval() if self.name == "decoder" else self.model.train()
        collected: list[dict[str, Tensor]] = []
        chunks = batch.chunk(self.options.accumulate)
        for number, chunk in enumerate(chunks):
            images, weights = split(chunk, self.material.device)
            with self.fabric.no_backward_sync(self.objective, enabled=number < len(chunks) - 1):
                total, decoded, parts = self.objective(images, weights, quantize, self.material.seed + self.step)
                if self.adversary is not None and self.step >= self.options.gan_start:
                    adversarial = self.adversary.generator_loss(decoded)
                    total, parts = total + adversarial, parts | {"gan": adversarial.detach()}
                self.fabric.backward(total / len(chunks))
            if self.adversary is not None:
                parts["discriminator"] = self.adversary.learn(decoded, images, 1 / len(chunks))
            collected.append(parts)
        parts = {name: torch.stack([p[name].float() for p in collected]).mean() for name in collected[0]}
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["factor"]
        nn.utils.clip_grad_norm_([p for _, p in self.named], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.adversary is not None:
            self.adversary.step()
        self.average.update(self.model, self.step)
        means = dict(zip(parts, torch.stack(list(parts.values())).tolist(), strict=True))  # one wait for the device
        if not math.isfinite(means["loss"]):
            raise TrainingError(f"{self.name} stage: the loss is {means['loss']} at step {self.step}; {GO_ON}")
        return means

    @torch.no_grad()
    def start_books(self, starting: BaseBooks) -> None:
        """Put the base stage's books onto the latents of fresh batches, at least 64 and 16 pictures a codeword."""
        self.model.eval()
        count = max(64, 16 * self.model.config.codes // self.options.batch)
        batches = self.material.batches(self.options.batch, 0, count, self.material.seed + 1)
        found = [self.model.encode(split(batch.pictures, self.material.device)[0]).float().cpu() for batch in batches]
        starting.start(torch.cat(found), self.material.seed)
        self.average.state["codebooks.weight"].copy_(self.model.codebooks.weight)

    def averaged(self) -> CodecModel:
        """A copy of the model with the averaged weights, and the share of the first ones that was asked for."""
        model = CodecModel(self.model.config)
        state = {n: t.detach().cpu() for n, t in self.average.state.items()}
        state |= {n: torch.lerp(state[n], first, self.options.initial) for n, first in self.initial.items()}
        model.load_state_dict(state)
        return model.eval()

    @torch.no_grad()
    def validate(self) -> None:
        """Log PSNR and IDS of the averaged model on fixed pictures, save a picture grid and the curves."""
        if not self.fabric.is_global_zero:
            return
        quantize = self.name == "decoder" or self.step >= self.options.quantize_after
        views = self.books.views() if self.books is not None and quantize else {}
        figures = measure(
            self.averaged(), self.material, quantize, lambda rows: self.run.picture(self.name, rows), views
        )
        if figures:
            self.run.log(stage=self.name, step=self.step, validation=figures)
            click.echo(f"\n{self.name} step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        self.run.curves()
