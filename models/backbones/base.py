"""What every published tokenizer shares: the surface that `stcq import` and the codec use."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from ...errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
Options = TypeVar("Options")


class Pretrained(nn.Module):
    """A tokenizer that exists already, with weights of its own and one codebook shared by all tokens.

    The module tree is that of the official implementation, so that `load_state_dict(weights, strict=True)` takes
    official weights as they are. A subclass is built as `cls(image_size, tokens, dim, **options)`, keeps its complete
    options in `options`, and has the codebook as `quantize.embedding.weight`, or overrides `codebook`.

    Attributes:
        FIELDS: fields of `CodecConfig` that hold for the released weights: image_size, tokens, codes, dim.
        CONTAINERS: names under which a .ckpt or .pth keeps the weights; the first one found is taken.
        IGNORED: beginnings of the names of tensors that training needed and a codec does not.
    """

    FIELDS: ClassVar[dict[str, Any]] = {}
    CONTAINERS: ClassVar[tuple[str, ...]] = ("state_dict", "params_ema", "params", "model")
    IGNORED: ClassVar[tuple[str, ...]] = ()
    options: dict[str, Any]

    @abstractmethod
    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Encoder: images (B, 3, S, S) in [0, 1] -> latents (B, T, d). Decoder: codes (B, T, d) -> images.

        The two share their parameters with this module, so call it after the weights are loaded. Latents and codes
        are compared by plain squared distance; whatever else the tokenizer does around its codebook belongs here.
        """

    def codebook(self) -> Tensor:
        """The official codebook (K, d), as the codec compares it with latents."""
        return self.get_parameter("quantize.embedding.weight").detach()

    @classmethod
    def sizes(cls, shapes: Shapes, image_size: int) -> dict[str, Any]:
        """What the shapes of the weights tell: fields of `CodecConfig`, options as "backbone_options".

        Convolutions do not show the image size they were trained for, so it is given. A KeyError, IndexError or
        ValueError means that these are no such weights; `FIELDS` and the defaults are then used, and the differences
        reported by name.
        """
        return {}


def parse(kind: type[Options], name: str, options: Mapping[str, Any]) -> Options:
    """Options as a dataclass, lists from JSON as tuples.

    Raises:
        CheckpointError: an unknown name.
    """
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        raise CheckpointError(f"{name} backbone: {error}; its options are {known}") from error


def fits(name: str, ok: bool, why: str) -> None:
    """Refuse sizes that cannot be.

    Raises:
        CheckpointError: not ok.
    """
    if not ok:
        raise CheckpointError(f"{name} backbone: {why}")


def count(shapes: Shapes, before: str) -> int:
    """How many modules a ModuleList has: the numbers that follow `before` in the names."""
    numbers = {name[len(before) :].partition(".")[0] for name in shapes if name.startswith(before)}
    return 1 + max(int(number) for number in numbers)
