"""Moving averages: of the model's weights, and of the latents that fall on each codeword."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..models.codebooks import SwitchableCodebooks


class WeightAverage:
    """An exponential moving average of a model's floating-point state; other buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; faster in the first steps, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        present = model.state_dict()
        moving = [name for name, value in present.items() if value.is_floating_point()]
        # all tensors at once: a GPU would wait for hundreds of small calls
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([self.state[name] for name in moving], [present[name] for name in moving], step)
        for name in present.keys() - set(moving):
            self.state[name].copy_(present[name])


class BookAverage:
    """Codebooks as moving averages of the latents assigned to them (van den Oord et al. 2017, appendix A.1)."""

    def __init__(self, books: SwitchableCodebooks, decay: float) -> None:
        self.books, self.decay = books, decay
        weight = books.weight.detach()
        self.counts = torch.ones(weight.shape[:-1], device=weight.device)  # (V, T or 1, K)
        self.sums = weight.clone()  # (V, T or 1, K, d)

    def restart(self) -> None:
        """Take the books' present codewords as the average, weight one each."""
        self.counts.fill_(1)
        self.sums.copy_(self.books.weight)

    @torch.no_grad()
    def update(self, latents: Tensor, group: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Move the books towards latents (B, T, d) quantised to group (B,) and indices (B, T).

        Books that no latent fell on stay as they are: decaying, they would end as 0 / 0.
        """
        books, latents = self.books, latents.detach().float()
        rows = torch.arange(books.tokens, device=indices.device).expand_as(indices)  # (B, T)
        rows = torch.zeros_like(rows) if books.shared else rows
        sets = books.expand(group, indices)
        book = (sets * self.counts.shape[1] + rows).flatten()  # (B*T,)
        places = book * books.codes + indices.flatten()  # (B*T,)
        decay = torch.ones_like(self.counts[..., :1])  # (V, T or 1, 1)
        decay.view(-1).index_fill_(0, book, self.decay)
        self.counts.mul_(decay).view(-1).index_add_(
            0, places, torch.full_like(places, 1 - self.decay, dtype=torch.float)
        )
        added = latents.flatten(0, 1) * (1 - self.decay)  # (B*T, d)
        self.sums.mul_(decay[..., None]).view(-1, books.dim).index_add_(0, places, added)
        self._revive(latents, generator)
        books.weight.data.copy_(self.sums / self.counts[..., None])

    def _revive(self, latents: Tensor, generator: torch.Generator) -> None:
        """Put codewords that hardly any latent chose onto random latents of the same token."""
        used = self.counts.sum(-1, keepdim=True) / self.books.codes  # (V, T or 1, 1)
        dead = self.counts < 0.03 * used  # (V, T or 1, K); all codewords draw: to count them, a GPU would be waited for
        batch, token = (
            torch.randint(bound, dead.shape, generator=generator, device=latents.device)
            for bound in (len(latents), self.books.tokens)
        )
        if not self.books.shared:
            token = torch.arange(self.books.tokens, device=latents.device)[None, :, None].expand_as(batch)
        fresh = 0.3 * used
        self.counts.copy_(torch.where(dead, fresh, self.counts))
        self.sums.copy_(torch.where(dead[..., None], latents[batch, token] * fresh[..., None], self.sums))
