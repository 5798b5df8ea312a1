"""What numba lacks and `group_kernel` needs, written as LLVM: prefetching, and sixteen numbers in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDE = 16  # numbers of a block; LLVM splits them into what vectors the CPU has
INT = ir.IntType(32)
FLOATS, INTS = ir.VectorType(ir.FloatType(), WIDE), ir.VectorType(INT, WIDE)
SHORTS = ir.VectorType(ir.IntType(16), WIDE)
CONTRACT = ("contract",)  # products and sums may be one instruction


def _prefetch(typing: Any, array: Any, place: Any) -> Any:
    """Ask for the cache line of array[place], which may lie anywhere: LLVM's prefetch for reading, into all caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT, INT, INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [pointer, INT(0), INT(3), INT(1)])
        return context.get_dummy_value()

    return types.void(array, place), generate


def _lower(typing: Any, cells: Any, at: Any, query: Any, step: Any, limit: Any, best: Any, row: Any) -> Any:
    """Lower best[row + m], flat, to the squared distances of a block, unless none of them is below the limit.

    From cells[at] on lie 16 groups' numbers and `len(query)` rows of 16 differences, all int16; the distances are
    sum_j (query[j] - step * row_j)^2. Written as numpy, the sums would go through memory.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, start, _, size, most, _, first = arguments
        data, queries, out = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5))
        length = cgutils.unpack_tuple(builder, queries.shape)[0]  # type: ignore[no-untyped-call]
        total = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [0.0] * WIDE))  # type: ignore[no-untyped-call]
        back, block = _all(builder, builder.fneg(size)), builder.gep(data.data, [start])
        with cgutils.for_range(builder, length) as loop:
            place = builder.mul(builder.add(loop.index, start.type(1)), start.type(WIDE))
            row = builder.load(builder.bitcast(builder.gep(block, [place]), SHORTS.as_pointer()), align=2)
            whole = builder.sitofp(builder.sext(row, INTS), FLOATS)
            number = _all(builder, builder.load(builder.gep(queries.data, [loop.index])))
            apart = builder.fadd(number, builder.fmul(whole, back, CONTRACT), CONTRACT)
            square = builder.fmul(apart, apart, CONTRACT)
            builder.store(builder.fadd(builder.load(total), square, CONTRACT), total)
        sums = builder.load(total)
        below = builder.bitcast(builder.fcmp_ordered("<", sums, _all(builder, most)), ir.IntType(WIDE))
        with builder.if_then(builder.icmp_unsigned("!=", below, ir.IntType(WIDE)(0))):
            for lane in range(WIDE):
                group = builder.zext(builder.load(builder.gep(block, [start.type(lane)])), start.type)
                where = builder.gep(out.data, [builder.add(first, group)])
                old, new = builder.load(where), builder.extract_element(sums, INT(lane))
                builder.store(builder.select(builder.fcmp_ordered("<", new, old), new, old), where)
        return context.get_dummy_value()

    return types.void(cells, at, query, step, limit, best, row), generate


def _all(builder: Any, number: Any) -> Any:
    """A float32 sixteen times."""
    empty = ir.Constant(FLOATS, ir.Undefined)
    one = builder.insert_element(empty, number, INT(0))
    return builder.shuffle_vector(one, empty, ir.Constant(INTS, [0] * WIDE))


prefetch: Any = intrinsic(_prefetch)
lower: Any = intrinsic(_lower)
