"""The loops of `group_compiled`, in numba.

Memory, not arithmetic, sets the pace: places lie apart, and the hardware's prefetchers start anew at each of them, so
the next place's lines are asked for while the present one's are used.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .group_vector import WIDE, lower, prefetch

FIRST = 3  # nearest places of a token that are read before the others are ruled out
AHEAD = 32  # blocks of codewords that are asked for before one is used
FAR = 16  # and so many single cache lines
F, I4 = np.float32, np.int32
LINE = 32  # 16-bit numbers in a cache line
ROUND = F(1 + 2**-20)  # more than float32 loses in a root and a sum
compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})


@compiled
def search(z, groups, roundings, survey, cells, widest, blur):  # type: ignore[no-untyped-def]
    """See `Compiled.nearest`."""
    anchors, radii, widest_of = survey
    (tokens, codes), blocks = radii.shape, widest.shape[1]
    first = min(FIRST, codes)
    start, away = tokens * first, np.empty((tokens, codes), F)
    best = np.full((tokens, groups + 1), F(np.inf))  # the last is of no group, and fills up blocks
    slack, reach, limits = np.empty(tokens, F), np.empty(tokens, F), np.full(tokens, F(np.inf))
    room = start + tokens * codes + 1  # where numbers overflow, some places are there twice
    places, owners, counts = np.empty(room, I4), np.empty(room, I4), np.full(room, I4(blocks))
    for t in range(tokens):
        far_from(z[t], anchors[t], F(1) - roundings, away[t])
        nearest(away[t], t * codes, places[t * first : (t + 1) * first])
        owners[t * first : (t + 1) * first] = t
    read_cells(z, cells, blocks, places[:start], owners, counts, limits, best)
    for t in range(tokens):  # what every group has bounds what must be read
        limits[t] = highest(best[t, :groups])
        slack[t] = roundings * (limits[t] + widest_of[t] * widest_of[t]) + F(1e-30)
        reach[t] = np.sqrt(limits[t] + slack[t]) * ROUND + blur[t]
        slack[t] += F(2) * reach[t] * blur[t] + F(4) * blur[t] * blur[t]
    end = bounded(away, radii, reach, first, places, owners)
    count_blocks(away, reach, widest, places[start:end], owners[start:end], counts[start:end])
    read_cells(z, cells, blocks, places[start:end], owners[start:end], counts[start:end], limits, best)
    return undecided(best[:, :groups], slack), best, slack, away, places[:end], owners[:end], counts[:end]


@compiled
def bounded(away, radii, reach, first, places, owners):  # type: ignore[no-untyped-def]
    """Append the places whose anchors are not farther away (T, K) than reach and radii, but for the first of a token.

    Returns how many there are then. Those of the first count as near ever after.
    """
    (tokens, codes), end = away.shape, len(away) * first
    for t in range(tokens):
        for place in places[t * first : (t + 1) * first]:
            away[t, place - t * codes] = np.inf
        begin = end
        for k in range(codes):  # written first and kept if near, which no branch predictor can know
            places[end] = t * codes + k
            end += int(away[t, k] <= reach[t] + radii[t, k])
        owners[begin:end] = t
        for place in places[t * first : (t + 1) * first]:
            away[t, place - t * codes] = F(0)
    return end


@compiled
def count_blocks(away, reach, widest, places, owners, counts):  # type: ignore[no-untyped-def]
    """How many blocks of each place (N,) have codewords that may be as near as reach: into counts (N,)."""
    flat, blocks, codes = widest.reshape(-1), widest.shape[1], away.shape[1]
    for i in range(len(places)):
        prefetch(flat, np.int64(places[min(i + FAR, len(places) - 1)]) * blocks)
        t, count = owners[i], I4(0)
        nearer = away[t, places[i] - t * codes] - reach[t]
        for width in widest[places[i]]:
            count += I4(width >= nearer)
        counts[i] = count


@compiled
def far_from(z, anchors, less, away):  # type: ignore[no-untyped-def]
    """At least how far anchors (d, K) are from z (d,): into away (K,)."""
    away[:] = F(0)
    for j in range(len(z)):
        for k in range(len(away)):
            away[k] += (anchors[j, k] - z[j]) * (anchors[j, k] - z[j])
    for k in range(len(away)):
        away[k] = np.sqrt(away[k]) * less


@compiled
def nearest(away, start, places):  # type: ignore[no-untyped-def]
    """Fill places (n,) with start + k for n of the least numbers of away (K,), about.

    Bits of float32 from 0 up are in the numbers' order, and integers' minimum takes vector units; the lowest bits say
    which number it was.
    """
    keys, mask, most = away.view(I4).copy(), I4(1), I4(2**31 - 1)
    while mask < len(away):
        mask = I4(2 * mask)
    for k in range(len(keys)):
        keys[k] = I4(I4(keys[k] & I4(-mask)) | I4(k))
    for i in range(len(places)):
        least = most
        for k in range(len(keys)):
            least = min(least, keys[k])
        places[i] = start + (least & (mask - 1))
        keys[least & (mask - 1)] = most


@compiled
def highest(row):  # type: ignore[no-untyped-def]
    """The greatest number of (M,), none below 0: as integers, like `nearest`."""
    most = I4(0)
    for bits in row.view(I4):
        most = max(most, bits)
    return np.array([most], I4).view(F)[0]


@compiled
def read_cells(z, cells, blocks, places, owners, counts, limits, best):  # type: ignore[no-untyped-def]
    """Lower best (T, M + 1) to the distances of codewords at places (N,) of tokens (N,), counts (N,) blocks of each.

    Blocks are left out whose codewords are all at or over a token's limit.
    """
    dim, size, stride, groups = z.shape[1], cells.shape[1], (z.shape[1] + 1) * WIDE, best.shape[1]
    head, query, shorts, lowest = size - blocks * stride, np.empty(dim, F), cells.reshape(-1), best.reshape(-1)
    floats = shorts.view(F)  # flat arrays and places in them: numba counts references to every row it cuts
    follower, following, left = -1, np.int64(0), 0
    for i in range(-1, len(places)):
        here, count, row, step, limit = np.int64(0), AHEAD, np.int64(0), F(0), F(0)
        if i >= 0:
            t, start = owners[i], np.int64(places[i]) * size
            here, count, row, limit = start + head, counts[i], np.int64(t) * groups, limits[t]
            start = start >> 1  # in `floats`
            step = floats[start + dim]
            for j in range(dim):
                query[j] = z[t, j] - floats[start + j]
        for _ in range(count):
            if left == 0 and follower + 1 < len(places):  # the place after the last that was asked for
                follower += 1
                left, following = counts[follower], np.int64(places[follower]) * size + head
                for x in range(0, head, LINE):
                    prefetch(shorts, following - head + x)
            if left:
                for x in range(0, stride, LINE):
                    prefetch(shorts, following + x)
                left, following = left - 1, following + stride
            if i >= 0:
                lower(shorts, here, query, step, limit, lowest, row)
                here += stride


@compiled
def undecided(best, slack):  # type: ignore[no-untyped-def]
    """The groups (N,) that may be best, by the sums of best (T, M), which may be off by slack (T,)."""
    errors, open_by = np.zeros(best.shape[1]), 0.0
    for t in range(len(best)):
        open_by += 2 * slack[t]
        for m in range(best.shape[1]):
            errors[m] += best[t, m]
    return np.flatnonzero(errors <= errors.min() + open_by)


@compiled
def within(z, books, m, best, slack, away, radii, own, places, owners):  # type: ignore[no-untyped-def]
    """See `Compiled.within`: tokens (N,) and indices (N,) among places t * K + k, in order."""
    _, codes, dim = books.shape
    kept, some, count, flat, share = np.empty(len(places) + 1, I4), 0, 0, books.reshape(-1), ROUND / F(255)
    bound = best[:, m] + F(2) * slack
    reach = np.sqrt(bound) * ROUND
    for i in range(len(places)):
        place, t = places[i], owners[i]
        k = place - t * codes
        kept[some] = i
        some += int(away[t, k] <= reach[t] + radii[t, k] * (F(own[m, place]) * share))
    for i in kept[:some]:
        prefetch(flat, np.int64(places[i]) * dim)
        prefetch(flat, np.int64(places[i]) * dim + dim - 1)
    for i in kept[:some]:
        t, square = owners[i], F(0)
        k = places[i] - t * codes
        for j in range(dim):
            square += (z[t, j] - books[t, k, j]) * (z[t, j] - books[t, k, j])
        if square <= bound[t]:
            kept[count] = places[i]
            count += 1
    found = np.sort(kept[:count])
    return found // codes, found % codes
