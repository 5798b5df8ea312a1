"""The gradient stages: base (everything learns, one group) and decoder (only the decoder learns)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.codec import CodecModel
from ..runtime.sources import Source
from .base_books import BaseBooks
from .data import Faces, fixed_set, loader, split
from .ema import WeightAverage
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
        self.books = BaseBooks(model, options) if name == "base" else None
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
        if self.books is not None:
            self.books.restore(tensors)
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
        tensors |= self.books.state() if self.books is not None else {}
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
        if self.books is not None and self.step == self.options.quantize_after:
            self.start_books(self.books)
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
        if self.books is not None:
            codes, errors = self.books(latents, self.material.seed + self.step)
        else:
            quantized = self.model.codebooks(latents)
            codes, errors = quantized.codes, quantized.error
        total, parts = self.loss(self.model.decode(codes), images, weights)
        error = errors.mean() / latents[0].numel()
        return total + self.options.commitment * error, parts | {"quantization": error.item()}

    def loss(self, decoded: Tensor, images: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The reconstruction loss in float32."""
        seed = self.material.seed + self.step
        result: tuple[Tensor, dict[str, float]] = self.material.loss(decoded.float(), images, weights, seed)
        return result

    @torch.no_grad()
    def start_books(self, starting: BaseBooks) -> None:
        """Put the base stage's books onto the latents of 64 fresh batches."""
        self.model.eval()
        batches = loader(self.material.faces, self.options.batch, 0, 64, self.material.seed + 1)
        latents = torch.cat([self.model.encode(split(b, self.material.device)[0]).float().cpu() for b in batches])
        starting.start(latents, self.material.seed)
        self.average.state["codebooks.weight"].copy_(self.model.codebooks.weight)

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
        views = self.books.views() if self.books is not None and quantize else {}
        figures = measure(
            self.averaged(), source, self.material, quantize, lambda rows: self.run.picture(self.name, rows), views
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
    views: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    limit: int = 256,
) -> dict[str, float]:
    """Working figures on up to `limit` pictures: PSNR in dB, IDS (mean recogniser cosine), quantisation error.

    `views` are further ways from latents to codes; their figures carry the view's name as a suffix.
    """
    pictures = fixed_set(source, material.faces.size, material.faces.options, limit)
    figures: dict[str, list[float]] = defaultdict(list)
    model.to(material.device)
    for number, batch in enumerate(torch.split(pictures, 32)):
        images, _ = split(batch, material.device)
        latents = model.encode(images)
        quantized = model.codebooks(latents)
        figures["quantization"] += (quantized.error / latents[0].numel()).tolist()
        codes = {"": quantized.codes if quantize else latents}
        codes |= {name: view(latents) for name, view in (views or {}).items()}
        rows = []
        for name, kind in codes.items():
            decoded = model.decode(kind).clamp(0, 1)
            figures[f"psnr{name}"] += (-10 * (decoded - images).square().mean((1, 2, 3)).log10()).tolist()
            if material.loss.recognizer is not None:
                embeddings = [material.loss.recognizer(x)[0] for x in (images, decoded)]
                figures[f"ids{name}"] += F.cosine_similarity(*embeddings).tolist()
            rows.append(decoded[:12].cpu())
        if number == 0:
            show([images[:12].cpu(), *rows])
    return {name: sum(values) / len(values) for name, values in figures.items()}
