"""The gradient stages: base (everything learns, one group) and decoder (only the decoder learns)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.codec import CodecModel
from ..runtime.sources import Source
from .data import Faces, fixed_set, loader, split
from .ema import BookAverage, WeightAverage
from .lloyd import fit_books
from .losses import ReconstructionLoss
from .recipe import StageOptions
from .run import Run


@dataclass
class Material:
    """What every stage works with."""

    faces: Faces
    validation: Source | None
    loss: ReconstructionLoss
    device: torch.device
    seed: int
    autocast: bool


class Stage:
    """A resumable optimisation of a codec; `name` is "base" or "decoder"."""

    def __init__(self, name: str, model: CodecModel, options: StageOptions, material: Material, run: Run) -> None:
        self.name, self.model, self.options, self.material, self.run = name, model, options, material, run
        model.to(material.device)
        for module in (model.encoder, model.decoder):  # not the codebooks: their four axes are no image's
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained: list[nn.Module] = [model.decoder] if name == "decoder" else [model.encoder, model.decoder]
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.named = [
            (n, p) for n, p in model.named_parameters() if any(p is q for m in trained for q in m.parameters())
        ]
        for _, parameter in self.named:
            parameter.requires_grad_(True)
        decay = [p for _, p in self.named if p.dim() > 1]
        plain = [p for _, p in self.named if p.dim() <= 1]
        groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
        self.average = WeightAverage(model, options.ema)
        self.books = BookAverage(model.codebooks, options.book_decay)
        self.step = 0

    def restore(self) -> None:
        """Go on from the run's kept state, if there is one."""
        kept = self.run.load_state(self.name)
        if kept is None:
            return
        self.step, tensors = kept
        self.model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")})
        for name in self.average.state:
            self.average.state[name].copy_(tensors[f"average.{name}"])
        self.books.counts.copy_(tensors["books.counts"])
        self.books.sums.copy_(tensors["books.sums"])
        for name, parameter in self.named:
            if f"m.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"m.{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"v.{name}"].to(parameter.device),
                }

    def keep(self) -> None:
        """Write the state to the run directory."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.state.items()}
        tensors |= {"books.counts": self.books.counts, "books.sums": self.books.sums}
        for name, parameter in self.named:
            if state := self.optimizer.state.get(parameter):
                tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
        self.run.save_state(self.name, self.step, tensors)

    def fit(self) -> CodecModel:
        """Run to the last step and return the averaged model in evaluation mode."""
        options = self.options
        batches = loader(self.material.faces, options.batch, self.step, options.steps, self.material.seed)
        with click.progressbar(batches, length=options.steps - self.step, label=f"{self.name:8}") as bar:
            for batch in bar:
                parts = self.train_step(batch)
                self.step += 1
                if self.step % 20 == 0:
                    self.run.log(stage=self.name, step=self.step, lr=self.rate(), **parts)
                if self.step % options.checkpoint == 0:
                    self.keep()
                if self.step % options.validate == 0 or self.step == options.steps:
                    self.validate()
        return self.averaged()

    def rate(self) -> float:
        """The learning rate of the present step: linear warm-up, then cosine to 2 %."""
        options = self.options
        if self.step < options.warmup:
            return options.lr * (self.step + 1) / options.warmup
        done = (self.step - options.warmup) / max(1, options.steps - options.warmup)
        return options.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def train_step(self, batch: Tensor) -> dict[str, float]:
        """One optimiser step; returns the loss terms.

        Raises:
            TrainingError: the loss is not finite; the last kept state is untouched.
        """
        images, weights = split(batch, self.material.device)
        quantize = self.name == "decoder" or self.step >= self.options.quantize_after
        if self.name == "base" and self.step == self.options.quantize_after:
            self.start_books()
        self.model.eval() if self.name == "decoder" else self.model.train()
        with torch.autocast(self.material.device.type, torch.bfloat16, enabled=self.material.autocast):
            total, parts = self.losses(images, weights, quantize)
        if not math.isfinite(parts["loss"]):
            raise TrainingError(
                f"{self.name} stage: the loss is {parts['loss']} at step {self.step}; "
                f"the last good state is kept: lower lr in the recipe and start anew, or --resume"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for _, p in self.named], 1.0)
        self.optimizer.step()
        self.average.update(self.model, self.step)
        return parts

    def losses(self, images: Tensor, weights: Tensor, quantize: bool) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch; the base stage also moves its codebooks."""
        latents = self.model.encode(images)
        if not quantize:
            return self.loss(self.model.decode(latents), images, weights)
        quantized = self.model.codebooks(latents)
        total, parts = self.loss(self.model.decode(quantized.codes), images, weights)
        error = quantized.error.mean() / latents[0].numel()
        if self.name == "base":
            total = total + self.options.commitment * error
            generator = torch.Generator().manual_seed(self.material.seed + self.step)
            self.books.update(latents, quantized.group, quantized.indices, generator)
        return total, parts | {"quantization": error.item()}

    def loss(self, decoded: Tensor, images: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The reconstruction loss in float32."""
        result: tuple[Tensor, dict[str, float]] = self.material.loss(decoded.float(), images, weights)
        return result

    @torch.no_grad()
    def start_books(self) -> None:
        """Put the base stage's books onto the latents of 64 fresh batches."""
        options, books = self.options, self.model.codebooks
        self.model.eval()
        batches = loader(self.material.faces, options.batch, 0, 64, self.material.seed + 1)
        latents = torch.cat([self.model.encode(split(b, self.material.device)[0]).float().cpu() for b in batches])
        if books.shared:
            latents = latents.reshape(-1, 1, books.dim)[:: max(1, books.tokens // 8)]
        generator = torch.Generator().manual_seed(self.material.seed)
        books.weight.data.copy_(fit_books(latents, books.codes, 8, generator)[None])
        self.books.restart()
        self.average.state["codebooks.weight"].copy_(books.weight)

    def averaged(self) -> CodecModel:
        """A copy of the model with the averaged weights."""
        model = CodecModel(self.model.config)
        model.load_state_dict({n: t.detach().cpu() for n, t in self.average.state.items()})
        return model.eval()

    @torch.no_grad()
    def validate(self) -> None:
        """Log PSNR and IDS of the averaged model on fixed pictures and save a picture grid."""
        source = self.material.validation
        if source is None:
            return
        quantize = self.name == "decoder" or self.step >= self.options.quantize_after
        figures = measure(
            self.averaged(), source, self.material, quantize, lambda rows: self.run.picture(self.name, rows)
        )
        self.run.log(stage=self.name, step=self.step, validation=figures)
        click.echo(f"\n{self.name} step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))


@torch.no_grad()
def measure(
    model: CodecModel,
    source: Source,
    material: Material,
    quantize: bool,
    show: Callable[[list[Tensor]], None],
    limit: int = 256,
) -> dict[str, float]:
    """Working figures on up to `limit` pictures: PSNR in dB, IDS (mean recogniser cosine), quantisation error."""
    pictures = fixed_set(source, material.faces.size, material.faces.options, limit)
    figures: dict[str, list[float]] = {"psnr": [], "ids": [], "quantization": []}
    model.to(material.device)
    for number, batch in enumerate(torch.split(pictures, 32)):
        images, _ = split(batch, material.device)
        latents = model.encode(images)
        quantized = model.codebooks(latents)
        decoded = model.decode(quantized.codes if quantize else latents).clamp(0, 1)
        mse = (decoded - images).square().mean((1, 2, 3))
        figures["psnr"] += (-10 * mse.log10()).tolist()
        figures["quantization"] += (quantized.error / latents[0].numel()).tolist()
        if material.loss.recognizer is not None:
            embeddings = [material.loss.recognizer(x)[0] for x in (images, decoded)]
            figures["ids"] += F.cosine_similarity(*embeddings).tolist()
        if number == 0:
            show([images[:12].cpu(), decoded[:12].cpu(), images[12:24].cpu(), decoded[12:24].cpu()])
    return {name: sum(values) / len(values) for name, values in figures.items() if values}
