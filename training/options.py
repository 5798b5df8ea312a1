"""What a recipe says of data, losses and stages."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import TrainingError
from ..models.recognizer_input import IMAGENET
from .ranges import DECAY, FRACTION, RATE, SHARE, SOME, WEIGHT, Range, check_numbers, check_values

DATA = {"crop": FRACTION, "rotate": Range(0, 180), "weights": RATE, "workers": WEIGHT}
DATA |= dict.fromkeys(("shift", "zoom", "light", "warp", "blend"), SHARE)
LOSS = dict.fromkeys(("l1", "mse", "identity", "features", "probe", "metric", "balance", "noise"), WEIGHT)
LOSS |= {"share": SHARE, "cutoff": SHARE, "jitter": Range(0, 0.9), "mean": Range(-math.inf), "std": RATE}
STAGE = dict.fromkeys(("batch", "accumulate", "coarse_codes", "checkpoint", "validate"), SOME)
STAGE |= dict.fromkeys(("steps", "warmup", "weight_decay", "quantize_after", "commitment", "gan", "gan_start"), WEIGHT)
STAGE |= {"lr": RATE, "gan_lr": RATE, "ema": DECAY, "book_decay": DECAY}
STAGE |= dict.fromkeys(("initial", "nested", "coarse"), SHARE)
BOOKS = dict.fromkeys(("passes", "limit", "batch", "checkpoint"), SOME)
BOOKS |= dict.fromkeys(("iterations", "prior", "steps", "revive"), WEIGHT)
BOOKS |= {f"router_{name}": WEIGHT for name in ("quality", "entropy", "decisive", "nearest")}
BOOKS |= {"lr": RATE, "router_lr": RATE, "book_decay": DECAY}
STARTS, UPDATES = ("lloyd", "independent", "copy"), ("none", "gradient", "ema")
EVERY = frozenset({"crop", "metric", "balance"})  # of all stages together: see eigenfaces.py, rebalance.py


@dataclass(frozen=True)
class DataOptions:
    """Reading and augmenting pictures.

    Attributes:
        crop: side of the face crop as a fraction of the picture's shorter side (1 = the whole picture).
        shift, zoom, rotate: largest random shift (fraction of the crop), zoom (fraction) and rotation (degrees).
        light: largest random change of brightness, contrast and saturation (fraction).
        warp: the points of a coarse mesh over the face are moved by up to this fraction of the crop: other proportions.
        blend: fraction of pictures that are mixed with another one of the same source.
        weights: how often each data source is drawn, in the order given; empty = by its number of pictures.
        workers: processes that read pictures.
    """

    crop: float = 1.0
    shift: float = 0.03
    zoom: float = 0.06
    rotate: float = 4.0
    light: float = 0.15
    warp: float = 0.0
    blend: float = 0.0
    weights: tuple[float, ...] = ()
    workers: int = 1

    def __post_init__(self) -> None:
        check_values(self, DATA)


@dataclass(frozen=True)
class LossOptions:
    """Weights of the loss terms and the recogniser's input convention.

    Attributes:
        l1, mse: pixel losses on images in [0, 1].
        identity: 1 - cosine of recogniser embeddings.
        features: distance of the recogniser's inner activations (a perceptual loss made of face features).
        share: fraction of each batch that the recogniser looks at (it costs as much as the codec on a CPU).
        probe: base stage: 1 - cosine of the embedding that a small network reads from the codes alone, which is
            thrown away afterwards; teaches the encoder what identity is before the decoder can show it.
        metric: weight of the recogniser in the metric whose components start an `eigen` backbone (eigenfaces.py).
        balance: base stage of an `eigen` backbone from a checkpoint of as many numbers (T * d) or more: above 0, tokens
            are the leading components in a metric of the checkpoint's decoder in which the embedding has this weight
            beside `mse` (rebalance.py).
        jitter: largest random shrinking of what the recogniser sees, the same for both pictures (fraction), so that
            a similarity that only holds at exact pixels earns nothing.
        noise: largest standard deviation of noise on decoded pictures before the recogniser sees them, images in
            [0, 1], drawn anew for every step: a similarity that a little noise destroys earns nothing.
        cutoff: of a low-pass filter on decoded pictures before the recogniser sees them, as a fraction of the Nyquist
            frequency, rolled off from 0.8 of it; 0 = no filter. Finer patterns earn nothing then.
        mean, std: per-channel normalisation of the recogniser's input, images in [0, 1], where neither its graph nor
            its name says which (models/recognizer_input.py).
    """

    l1: float = 2.0
    mse: float = 15.0
    identity: float = 1.0
    features: float = 0.5
    share: float = 1.0
    probe: float = 0.0
    metric: float = 0.0
    balance: float = 0.0
    jitter: float = 0.0
    noise: float = 0.0
    cutoff: float = 0.0
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    def __post_init__(self) -> None:
        check_values(self, LOSS)
        if not len(self.mean) == len(self.std) == 3:
            raise TrainingError(f"mean is {self.mean}, std {self.std}; give three numbers each: red, green and blue")


@dataclass(frozen=True)
class StageOptions:
    """One gradient stage.

    Attributes:
        steps, batch: optimiser steps and pictures in each.
        lr, warmup, weight_decay: AdamW, linear warm-up over `warmup` steps, then cosine to 2 % of lr.
        ema: decay of the averaged weights that are kept.
        initial: decoder stage: share of the decoder it began with in the one it leaves, weight by weight
            (WiSE-FT; Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"), 0 to 1.
        quantize_after: base stage: first step with quantisation; the books start from recent latents there.
        commitment: weight of the distance between latents and codewords.
        book_decay: decay of the codebooks' moving averages (van den Oord et al. 2017, appendix A.1).
        nested: base stage: fraction of a batch that keeps only the first token of each cell.
        accumulate: parts that a batch is cut into for memory; their gradients are added.
        gan, gan_start, gan_lr: decoder stage: weight of the adversarial term, its first step, Adam's rate; 0 = none.
        coarse, coarse_codes: base stage: fraction of a batch (of the nested part) quantised with so few codewords.
        checkpoint, validate: steps between checkpoints and between validations.
        loss: weights that differ from those of [loss] in this stage, by their names: [decoder.loss] in a recipe.
        data: augmentation that differs from that of [data] in this stage: [decoder.data].
    """

    steps: int = 4000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    ema: float = 0.998
    initial: float = 0.0
    quantize_after: int = 800
    commitment: float = 0.02
    book_decay: float = 0.99
    nested: float = 0.0
    coarse: float = 0.0
    coarse_codes: int = 16
    accumulate: int = 1
    gan: float = 0.0
    gan_start: int = 0
    gan_lr: float = 2e-4
    checkpoint: int = 100
    validate: int = 400
    loss: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers("loss", self.loss, LossOptions, EVERY)
        check_numbers("data", self.data, DataOptions, EVERY)
        check_values(self, STAGE)

    def weights(self, loss: LossOptions) -> LossOptions:
        """The loss of this stage, from that of all stages."""
        return dataclasses.replace(loss, **self.loss)


@dataclass(frozen=True)
class BooksOptions:
    """Switchable codebooks and router, learnt on latents of augmented pictures.

    Attributes:
        passes: augmented passes over the data.
        limit: most latents to keep (memory: 4 T d bytes each).
        start: "lloyd", fitted from nothing, pictures and groups finding each other; "independent", each group fitted to
            all latents from its own start; or "copy", every (group, token) book a copy of the shared book of its group
            from the stage before (the paper's).
        iterations: Lloyd iterations with M groups; "independent": of each group.
        shuffle: with a memory, latents of an iteration, each token from another one (training/trellis.py); 0 = all.
        turn: radians by which a shuffled token turns towards another one at most, for more faces than there are.
        prior: latents' worth of pull of a group's books towards the books of all groups together.
        update: how books move after that: "none", "gradient" (AdamW, the paper's) or "ema".
        steps, batch: optimiser steps of books and router, and latents in each.
        lr, router_lr: AdamW rates of books and router, falling linearly.
        book_decay: "ema": decay of the moving averages.
        revive: steps after which codewords that no latent chose are put onto latents; 0 = never.
        checkpoint: steps between checkpoints.
        router_quality, router_entropy, router_decisive: weights of the paper's L_qua, L_ent and L_dec.
        router_nearest: weight of the cross-entropy to the exact group, which the paper does not have.
        data: augmentation that differs from that of [data] in this stage: [specific.data].
    """

    passes: int = 2
    limit: int = 60_000
    start: Literal["lloyd", "independent", "copy"] = "lloyd"
    iterations: int = 12
    shuffle: int = 0
    turn: float = 0.0
    prior: float = 0.0
    update: Literal["none", "gradient", "ema"] = "none"
    steps: int = 1500
    batch: int = 256
    lr: float = 1e-3
    router_lr: float = 1e-3
    book_decay: float = 0.99
    revive: int = 200
    checkpoint: int = 200
    router_quality: float = 1.0
    router_entropy: float = 0.1
    router_decisive: float = 0.01
    router_nearest: float = 1.0
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers("data", self.data, DataOptions, EVERY)
        check_values(self, BOOKS)
        if self.shuffle < 0 or not 0 <= self.turn < math.inf:
            raise TrainingError(f"books: shuffle {self.shuffle}, turn {self.turn}; use 0 for none, or more")
        if self.start not in STARTS or self.update not in UPDATES:
            raise TrainingError(
                f"books: start {self.start!r}, update {self.update!r}; "
                "use start lloyd, independent or copy, and update none, gradient or ema"
            )
