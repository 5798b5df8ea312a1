"""The loops of `group_compiled`, in numba.

Memory, not arithmetic, sets the pace: places lie apart, and the hardware's prefetchers start anew at each of them, so
the next place's lines are asked for while the present one's are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FIRST = 3  # nearest places of a token that are read before the others are ruled out
F = np.float32
LINE = 32  # 16-bit numbers in a cache line
compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})


def _prefetch(typing: Any, array: Any, place: Any) -> Any:
    """Ask for the cache line of array[place], which may lie anywhere: LLVM's prefetch for reading, into all caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, place), generate


prefetch: Any = intrinsic(_prefetch)


@compiled
def search(z, roundings, survey, kept, loosely, out):  # type: ignore[no-untyped-def]
    """See `Compiled.nearest`; returns how many codewords were read."""
    anchors, largest, radii, usual = survey
    cells, step, blur = kept
    rows, loose, reaches = loosely
    best, slack, away = out
    tokens, codes = radii.shape
    first, width = min(FIRST, codes), reaches.shape[1]
    power, free = np.empty(tokens, F), np.empty((tokens, codes), F)
    begin, places = np.empty(tokens * first, np.int32), np.empty(tokens * codes, np.int32)
    wide, picked = np.empty(tokens * codes, np.int32), np.empty(tokens * codes * width, np.int32)
    for t in range(tokens):
        power[t] = F(0)
        for j in range(z.shape[1]):
            power[t] += z[t, j] * z[t, j]
        slack[t] = roundings * (power[t] + largest[t])
        far_from(z[t], anchors[t], slack[t], away[t])
        free[t] = away[t]
        for i in range(first):
            k = lowest(free[t])
            begin[t * first + i] = t * codes + k
            free[t, k] = np.inf
    best[:] = np.inf
    read_cells(z, anchors, cells, step, begin, codes, best)
    near, few, count = 0, 0, 0
    for t in range(tokens):  # what every group has bounds what must be read
        reach = np.sqrt(max(highest(best[t]) + power[t] + slack[t], F(0))) * F(1 + 2**-20) + blur[t]
        slack[t] += F(2) * reach * blur[t] + F(4) * blur[t] * blur[t]
        for k in range(codes):
            free[t, k] -= reach
            if free[t, k] <= radii[t, k]:
                if free[t, k] <= usual[t, k]:
                    places[near] = t * codes + k
                    near += 1
                elif width:
                    wide[few] = t * codes + k
                    few += 1
    read_cells(z, anchors, cells, step, places[:near], codes, best)
    for i in range(few):
        for x in range(width):
            if reaches[wide[i], x] < free[wide[i] // codes, wide[i] % codes]:
                break
            picked[count] = wide[i] * width + x
            count += 1
    read_rows(z, rows, loose, picked[:count], codes, best)
    return (tokens * first + near) * best.shape[1] + count


@compiled
def far_from(z, anchors, slack, away):  # type: ignore[no-untyped-def]
    """At least how far anchors (d, K) are from z (d,): into away (K,)."""
    away[:] = -slack
    for j in range(len(z)):
        for k in range(len(away)):
            away[k] += (anchors[j, k] - z[j]) * (anchors[j, k] - z[j])
    for k in range(len(away)):
        away[k] = np.sqrt(max(away[k], F(0)))


@compiled
def lowest(row):  # type: ignore[no-untyped-def]
    """The place of the least number; two passes, of which vector units take both."""
    least = row[0]
    for k in range(len(row)):
        least = min(least, row[k])
    for k in range(len(row)):
        if row[k] == least:
            return k
    return 0


@compiled
def highest(row):  # type: ignore[no-untyped-def]
    """The greatest number."""
    most = row[0]
    for k in range(len(row)):
        most = max(most, row[k])
    return most


@compiled
def read_cells(z, anchors, cells, step, places, codes, best):  # type: ignore[no-untyped-def]
    """Lower best (T, M) to the distances of all codewords at places (N,)."""
    dim, groups, size = z.shape[1], cells.shape[2], cells.shape[1] * cells.shape[2]
    distances, query, flat = np.empty(groups, F), np.empty(dim, F), cells.reshape(-1)
    for i in range(len(places)):
        place, following = places[i], places[min(i + 1, len(places) - 1)] * size
        t, k, base = place // codes, place % codes, F(0)
        cell, row = cells[place], best[t]
        for j in range(dim):  # |z - a - s r|^2 - |z|^2 = a (a - 2 z) - 2 s (z - a) r + |s r|^2
            query[j] = F(-2) * step[place] * (z[t, j] - anchors[t, j, k])
            base += anchors[t, j, k] * (anchors[t, j, k] - F(2) * z[t, j])
        norms = cell[:2].reshape(-1).view(F)
        for m in range(0, 2 * groups, LINE):
            prefetch(flat, following + m)
        for m in range(groups):
            distances[m] = base + norms[m]
        for j in range(dim):  # one row after the other, as they lie: several at a time read at half the speed
            for m in range((j + 2) * groups, (j + 3) * groups, LINE):
                prefetch(flat, following + m)
            for m in range(groups):
                distances[m] += query[j] * F(cell[j + 2, m])
        for m in range(groups):
            row[m] = min(row[m], distances[m])


@compiled
def read_rows(z, rows, loose, picked, codes, best):  # type: ignore[no-untyped-def]
    """Lower best (T, M) to the distances of the loose codewords picked (N,)."""
    width, dim = loose.shape[1], z.shape[1]
    for i in range(len(picked)):
        place, x = picked[i] // width, picked[i] % width
        t, m, distance = place // codes, loose[place, x], rows[picked[i], dim]
        for j in range(dim):
            distance -= F(2) * z[t, j] * rows[picked[i], j]
        best[t, m] = min(best[t, m], distance)


@compiled
def within(z, books, bound, away, radii, places):  # type: ignore[no-untyped-def]
    """See `Compiled.within`: fills places with t * K + k, returns how many."""
    tokens, codes, dim = books.shape
    some, count = 0, 0
    for t in range(tokens):
        reach = np.sqrt(max(bound[t], F(0))) * F(1 + 2**-20)
        for k in range(codes):
            if away[t, k] <= reach + radii[t, k]:
                places[some] = t * codes + k
                some += 1
    for i in range(some):
        t, k, square = places[i] // codes, places[i] % codes, F(0)
        for j in range(dim):
            square += (z[t, j] - books[t, k, j]) * (z[t, j] - books[t, k, j])
        if square <= bound[t]:
            places[count] = places[i]
            count += 1
    return count
