"""The shortest path through a trellis of books (runtime/trellis.py) in torch, written to be traced into a graph.

Loops over tokens are unrolled there. Indices are made by float arithmetic where TensorRT 8 wants that.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.trellis import Register


class Trellis(nn.Module):
    """Sets of books, walked with a shift register of the last tokens' classes."""

    set_of: Tensor

    def __init__(self, register: Register) -> None:
        super().__init__()
        self.register, self.classes, self.rest = register, register.classes, register.rest
        self.register_buffer("set_of", torch.from_numpy(register.set_of_states()), persistent=False)

    def costs(self, least: Tensor) -> list[Tensor]:
        """What is left to pay before every token.

        Args:
            least: (T, B, sets, V) float32, the least distance of a token to a codeword of a set and class.

        Returns:
            T + 1 tensors (B, M), the last one zero.
        """
        classes, left = self.classes, [least.new_zeros(least.shape[1], self.register.states)]
        for step in reversed(least.unbind()):
            steps = step[:, self.set_of].reshape(-1, classes, self.rest, classes)  # oldest digit, others, class
            left.append((steps + left[-1].reshape(-1, 1, self.rest, classes)).amin(3).flatten(1))
        return left[::-1]

    def walk(self, least: Tensor, left: list[Tensor], group: Tensor) -> tuple[Tensor, Tensor]:
        """The cheapest path from states `group` (B,), by what `costs` gives: sets and classes (B, T) int64."""
        rows, state, path, classes = torch.arange(len(group), device=group.device), group, [], []
        for step, ahead in zip(least, left[1:], strict=True):
            chosen, others = self.set_of[state], state % self.rest
            total = step[rows, chosen] + ahead.reshape(-1, self.rest, self.classes)[rows, others]  # (B, V)
            path.append(chosen)
            classes.append(total.argmin(1))
            state = others * self.classes + classes[-1]
        return torch.stack(path, 1), torch.stack(classes, 1)

    def search(self, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`costs` and `walk` from the best group, for a traced graph.

        An operator costs a microsecond however little it does, so each step takes two tokens at once where that fits.
        A state is then its last choices, which find the next one: `totals` have an axis for each.

        Args:
            least: as of `costs`.

        Returns:
            group (B,), sets and classes (B, T), all int64.
        """
        classes, ways, states, places = self.classes, self.classes, self.register.states, self.register.memory
        picks = F.one_hot(self.set_of, self.register.sets).to(least.dtype)  # (M, sets): a gather is ten times slower
        pairs = len(least) % 2 == 0 and places % 2 == 0 and ways <= 4  # more ways cost more than a call
        if pairs:
            ways, places = classes**2, places // 2
            every = torch.eye(classes).repeat_interleave(classes, 1)  # (V, V^2): a class with each one after it
            first = torch.matmul(picks, torch.matmul(least[0::2], every))
            first = first.reshape(len(least) // 2, -1, classes, self.rest, ways)
            steps = first + self.each(picks, least[1::2]).reshape(len(least) // 2, -1, 1, self.rest, ways)
        else:
            steps = self.each(picks, least)  # (T, B, M V)
        left = least[:1, :, :1, :1, None].expand(-1, -1, -1, states // ways, ways) * 0  # (1, B, 1, M / ways, ways)
        totals: list[Tensor] = []
        for step in reversed(torch.split(steps.reshape(len(steps), -1, ways, states // ways, ways), 1)):
            totals.append(step + left)  # (1, B, ways, M / ways, ways): the oldest choice, others, the next one
            left = totals[-1].amin(4).reshape(1, -1, 1, states // ways, ways)
        group = left.flatten(2).argmin(2, keepdim=True)  # (1, B, 1)
        powers = [ways**place for place in reversed(range(places))]
        path = [torch.div(group, power, rounding_mode="trunc") % ways for power in powers]
        for total in reversed(totals):
            rows = total if places == 2 else total.reshape(1, -1, *[ways] * (places + 1))
            path.append(rows_at(rows, torch.cat(path[-places:], 2)).argmin(2, keepdim=True))
        group, taken = group[0, :, 0], torch.cat(path[places:], 2)[0]  # (B,), (B, T or T / 2)
        if pairs:
            earlier = torch.div(taken, classes, rounding_mode="trunc")
            taken = torch.stack([earlier, taken % classes], 2).flatten(1)
        return group, sets_by_classes(group, taken, self.register), taken

    def each(self, picks: Tensor, least: Tensor) -> Tensor:
        """What every state's set costs for every class: (T, B, sets, V) -> (T, B, M V), as one product of matrices."""
        spread = torch.einsum("ms,vw->svmw", picks, torch.eye(self.classes)).reshape(least[0, 0].numel(), -1)
        return torch.matmul(least.flatten(2), spread)


def rows_at(data: Tensor, places: Tensor) -> Tensor:
    """Data (A, B, n1, ..., nk, N) at places (A, B, k) int64: (A, B, N)."""
    return cast(Tensor, Rows.apply(data, places))  # type: ignore[no-untyped-call]


class Rows(torch.autograd.Function):
    """`rows_at` as one operator in a graph."""

    @staticmethod
    def forward(ctx: Any, data: Tensor, places: Tensor) -> Tensor:
        outer, inner = (torch.arange(size, device=data.device) for size in data.shape[:2])
        return data[(outer[:, None], inner, *places.unbind(2))]

    @staticmethod
    def symbolic(g: Any, data: Any, places: Any) -> Any:
        return g.op("GatherND", data, places, batch_dims_i=2)


def sets_of(group: Tensor, indices: Tensor, register: Register, codes: int) -> Tensor:
    """The set of books of every token: group (B,) int64, indices (B, T) int64 of K -> (B, T) int64."""
    return sets_by_classes(group, torch.div(indices, codes // register.classes, rounding_mode="trunc"), register)


def sets_by_classes(group: Tensor, classes: Tensor, register: Register) -> Tensor:
    """`sets_of` from the classes of codes, (B, T): the weighted sum of the D before each token, modulo the sets."""
    powers = [register.classes**digit for digit in reversed(range(register.memory))]
    start = [torch.div(group[:, None], power, rounding_mode="trunc") % register.classes for power in powers]
    digits, tokens = torch.cat([*start, classes], 1), classes.shape[1]  # (B, D + T), the oldest first
    terms = [digits[:, place : place + tokens] for place in range(register.memory)]
    terms = [term if w == 1 else term * w for w, term in zip(register.weights, reversed(terms), strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total % register.sets
