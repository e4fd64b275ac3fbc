"""Vectors of rows: a numba type for what one SIMD register holds.

Loops over scalars leave it to LLVM which values stay in registers; the register-blocked products of
`streamem.kernels.products` are as fast as they are because they say so themselves. Arrays are read as
runs of vectors: `load` and `store` count in vectors, not in elements. The length in bytes suits the
machine at hand; results differ between lengths by rounding only. A *strip* is several vectors in one, two or
four as registers allow: what is done to all alike is said once, and multipliers are loaded once for all.
Scalars of the same dtype count as vectors that hold nothing else.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic, lower_builtin, type_callable

__all__ = [
    "STRIP_VECTORS",
    "VECTOR_BYTES",
    "VECTOR_REGISTERS",
    "add_sums",
    "count_bits",
    "element",
    "exp",
    "lane_sum",
    "lanes_greater",
    "load",
    "load_strip",
    "log",
    "lowest_bit",
    "maximum",
    "multiply_add",
    "prefetch",
    "rows_per_strip",
    "square_root",
    "store",
    "store_float64",
    "store_rows",
    "store_transposed",
    "where_greater",
    "where_positive",
    "zero",
    "zero_strip",
]


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


VECTOR_BYTES = _vector_bytes()
VECTOR_REGISTERS = 32 if VECTOR_BYTES == 64 or "neon" in llvm.get_host_cpu_features() else 16
STRIP_VECTORS = VECTOR_REGISTERS // 8
"""Vectors in a strip: sums of four features of one, and what they are made of, stay in registers."""


class VectorType(types.Type):
    """Floats side by side, as many as fit that many times VECTOR_BYTES."""

    def __init__(self, dtype: Any, registers: int = 1) -> None:
        self.dtype = dtype
        self.lanes = registers * VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


@register_default(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: VectorType) -> None:
        element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _data(builder: Any, context: Any, array_type: Any, array: Any) -> Any:
    """Return the address of the first element."""
    model = context.data_model_manager[array_type]
    return builder.extract_value(array, model.get_field_position("data"))


def _pointer(builder: Any, context: Any, array_type: Any, kind: Any, array: Any, position: Any) -> Any:
    """Return the address of the vector at `position`, counted in vectors from the start of the array."""
    data = _data(builder, context, array_type, array)
    first = builder.mul(position, ir.Constant(position.type, kind.count))
    return builder.bitcast(builder.gep(data, [first], inbounds=True), kind.as_pointer())


@intrinsic
def load(typingctx: Any, array: Any, position: Any) -> Any:
    """Return the vector at `position` of a contiguous array."""
    return _load(array, VectorType(array.dtype))


@intrinsic
def load_strip(typingctx: Any, array: Any, position: Any) -> Any:
    """Return the strip at `position`, counted in strips, of a contiguous array."""
    return _load(array, VectorType(array.dtype, STRIP_VECTORS))


def _load(array: Any, vector: VectorType) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, context, array, context.get_value_type(vector), *args)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), codegen


@intrinsic
def element(typingctx: Any, array: Any, position: Any) -> Any:
    """Return the element at `position`, counted in elements, of a contiguous array of any shape.

    Indices of numba's own may be negative: that takes a test of each.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(_data(builder, context, array, args[0]), [args[1]], inbounds=True))

    return array.dtype(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, position: Any, value: Any) -> Any:
    """Write a vector, or a strip, to `position`, counted in such, of a contiguous array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, context, array, args[2].type, args[0], args[1])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def rows_per_strip(typingctx: Any, array: Any) -> Any:
    """Return the lanes of a strip of the array's dtype: a constant, so that no division by it is left."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, VectorType(array.dtype, STRIP_VECTORS).lanes)

    return types.intp(array), codegen


@intrinsic
def prefetch(typingctx: Any, array: Any, position: Any) -> Any:
    """Ask for the cache line of the element at `position`, even beyond the end, of a contiguous array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = _data(builder, context, array, args[0])
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, flag(0), flag(2), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def store_transposed(
    typingctx: Any,
    rows: Any,
    start: Any,
    n_columns: Any,
    origin: Any,
    unit: Any,
    first: Any,
    out: Any,
    position: Any,
) -> Any:
    """Write columns of ``(row - origin) * unit``, for as many rows and columns as a vector has lanes.

    Taken are rows from `start` and columns from `first` on, as far as there are columns; each becomes a
    vector of `out`, the first of them that at `position`, the others one strip apart. Worked out in float64.
    """
    vector = VectorType(out.dtype)
    lanes = vector.lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, start, n_columns, origin_array, unit_array, first, out_array, position = args
        integer = ir.VectorType(ir.IntType(64), lanes)
        double = ir.VectorType(ir.DoubleType(), lanes)
        kind = context.get_value_type(vector)
        held = builder.sub(n_columns, first)
        columns = ir.Constant(integer, list(range(lanes)))
        mask = builder.icmp_signed("<", columns, _spread(builder, integer, held))

        def part(array_type: Any, array: Any, at: Any) -> Any:
            data = _data(builder, context, array_type, array)
            source = ir.VectorType(context.get_value_type(array_type.dtype), lanes)
            pointer = builder.bitcast(builder.gep(data, [at], inbounds=True), source.as_pointer())
            align = ir.Constant(ir.IntType(32), array_type.dtype.bitwidth // 8)
            name = f"llvm.masked.load.v{lanes}f{array_type.dtype.bitwidth}.p0"
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(source, [pointer.type, align.type, mask.type, source]), name
            )
            value = builder.call(function, [pointer, align, mask, ir.Constant(source, None)])
            return value if source == double else builder.fpext(value, double)

        center, scale = (
            part(signature.args[3], origin_array, first),
            part(signature.args[4], unit_array, first),
        )
        lines = []
        for lane in range(lanes):
            row = builder.add(start, ir.Constant(start.type, lane))
            value = part(signature.args[0], array, builder.add(builder.mul(row, n_columns), first))
            value = builder.fmul(builder.fsub(value, center), scale)
            lines.append(value if kind == double else builder.fptrunc(value, kind))
        for i, line in enumerate(_transposed(builder, lines)):
            with builder.if_then(builder.icmp_signed(">", held, ir.Constant(held.type, i)), likely=True):
                at = builder.add(position, ir.Constant(position.type, STRIP_VECTORS * i))
                pointer = _pointer(builder, context, signature.args[6], kind, out_array, at)
                builder.store(line, pointer, align=out.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, origin, unit, types.intp, out, types.intp), codegen


@intrinsic
def store_float64(typingctx: Any, array: Any, position: Any, value: Any) -> Any:
    """Write a vector as float64 to `position`, counted in as many elements as it has lanes, of an array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, wide = args[2].type, ir.VectorType(ir.DoubleType(), args[2].type.count)
        pointer = _pointer(builder, context, array, wide, args[0], args[1])
        builder.store(args[2] if kind == wide else builder.fpext(args[2], wide), pointer, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def store_rows(
    typingctx: Any, array: Any, first: Any, stride: Any, held: Any, out: Any, position: Any, n_vectors: Any
) -> Any:
    """Write rows of a transposed array to `out`: as many as its vectors have lanes, and as many features.

    Feature i has its rows side by side from element `first + i * stride` on. Each row becomes a vector of
    out, the first that at `position`, the others n_vectors apart; past `held` features it holds anything.
    """
    vector = VectorType(out.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array_value, first, stride, held, out_array, position, n_vectors = args
        kind = context.get_value_type(vector)
        data = _data(builder, context, array, array_value)
        last = builder.sub(held, ir.Constant(held.type, 1))
        lines = []
        for lane in range(vector.lanes):
            i = ir.Constant(last.type, lane)
            i = builder.select(builder.icmp_signed("<", i, last), i, last)
            at = builder.gep(data, [builder.add(first, builder.mul(i, stride))], inbounds=True)
            align = array.dtype.bitwidth // 8
            lines.append(builder.load(builder.bitcast(at, kind.as_pointer()), align=align))
        for i, line in enumerate(_transposed(builder, lines)):
            at = builder.add(position, builder.mul(n_vectors, ir.Constant(n_vectors.type, i)))
            pointer = _pointer(builder, context, out, kind, out_array, at)
            builder.store(line, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    integer = types.intp
    if array.dtype != out.dtype:
        return None
    return types.void(array, integer, integer, integer, out, integer, integer), codegen


def _transposed(builder: Any, lines: list[Any]) -> list[Any]:
    """Return the columns of the square matrix of these lines."""
    lanes = len(lines)
    half = lanes // 2
    low = [i // 2 + (i % 2) * lanes for i in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        pairs = [(lines[i], lines[i + half]) for i in range(half)]
        lines = [
            _shuffle(builder, a, b, [lane + offset for lane in low]) for a, b in pairs for offset in (0, half)
        ]
    return lines


@intrinsic
def zero(typingctx: Any, array: Any) -> Any:
    """Return a vector of zeros of the array's dtype."""
    return _zero(array, VectorType(array.dtype))


@intrinsic
def zero_strip(typingctx: Any, array: Any) -> Any:
    """Return a strip of zeros of the array's dtype."""
    return _zero(array, VectorType(array.dtype, STRIP_VECTORS))


def _zero(array: Any, vector: VectorType) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once where the machine can."""
    vector = _common(a, b, c)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        fused = _vector_function(builder, "fmuladd", vector, ir.FunctionType(kind, [kind] * 3))
        return builder.call(fused, [_spread(builder, kind, value) for value in args])

    return vector and (vector(a, b, c), codegen)


@intrinsic
def square_root(typingctx: Any, a: Any) -> Any:
    """Return the square roots of the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(a)
        return builder.call(_vector_function(builder, "sqrt", a, ir.FunctionType(kind, [kind])), args)

    return a(a), codegen


_LN2 = {64: (0.693147180369123816, 1.90821492927058770e-10), 32: (0.693359375, -2.12194440e-4)}
"""log 2 in two parts, the first of so few bits that an exponent times it is exact."""


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Return exp(x), x <= 0, as ``2ⁿ Σ rᵐ / m!`` with ``x = n log 2 + r``, ``|r| <= log 2 / 2``: no branch.

    0 where products of the result with small numbers could be subnormal, which take a hundred times as long,
    and for NaN.
    """
    double = x.dtype == types.float64
    lowest, degree, mantissa_bits = (-650.0, 13, 52) if double else (-60.0, 7, 23)
    rounder = 1.5 * 2.0**mantissa_bits  # a sum with this has no room for fractions: its last bits are n

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(x)
        wide = ir.VectorType(ir.IntType(x.dtype.bitwidth), x.lanes)
        fused = _vector_function(builder, "fmuladd", x, ir.FunctionType(kind, [kind] * 3))

        def constant(value: float) -> Any:
            return ir.Constant(kind, [value] * x.lanes)

        shifted = builder.call(fused, [args[0], constant(1 / math.log(2)), constant(rounder)])
        n = builder.fsub(shifted, constant(rounder))
        high, low = _LN2[x.dtype.bitwidth]
        r = builder.call(fused, [n, constant(-high), args[0]])
        r = builder.call(fused, [n, constant(-low), r])
        series = _polynomial(builder, x, r, [1 / math.factorial(m) for m in range(degree + 1)])
        exponent = builder.shl(builder.bitcast(shifted, wide), ir.Constant(wide, [mantissa_bits] * x.lanes))
        power = builder.bitcast(builder.add(builder.bitcast(series, wide), exponent), kind)
        above = builder.fcmp_ordered(">", args[0], constant(lowest))
        return builder.select(above, power, ir.Constant(kind, None))

    return x(x), codegen


@intrinsic
def log(typingctx: Any, x: Any) -> Any:
    """Return log(x), x a normal number, as ``n log 2 + 2 artanh f``: ``x = 2ⁿ m``, ``f = (m - 1) / (m + 1)``.

    With m between ``√½`` and ``√2`` the series in f² is short. No branch.
    """
    double = x.dtype == types.float64
    terms, mantissa_bits, root_half = (11, 52, 0x3FE6A09E667F3BCD) if double else (6, 23, 0x3F3504F3)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(x)
        integer, wide = (ir.VectorType(ir.IntType(bits), x.lanes) for bits in (32, x.dtype.bitwidth))
        fused = _vector_function(builder, "fmuladd", x, ir.FunctionType(kind, [kind] * 3))

        def constant(value: float) -> Any:
            return ir.Constant(kind, [value] * x.lanes)

        def whole(value: int) -> Any:
            return ir.Constant(wide, [value] * x.lanes)

        bits = builder.bitcast(args[0], wide)
        n = builder.ashr(builder.sub(bits, whole(root_half)), whole(mantissa_bits))
        m = builder.bitcast(builder.sub(bits, builder.shl(n, whole(mantissa_bits))), kind)
        n = builder.sitofp(builder.trunc(n, integer) if double else n, kind)
        f = builder.fdiv(builder.fsub(m, constant(1.0)), builder.fadd(m, constant(1.0)))
        square = builder.fmul(f, f)
        series = _polynomial(builder, x, square, [2 / (2 * j + 1) for j in range(terms)])
        high, low = _LN2[x.dtype.bitwidth]
        series = builder.call(fused, [series, f, builder.fmul(n, constant(low))])
        return builder.call(fused, [n, constant(high), series])

    return x(x), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b; b where a is NaN."""
    vector = _common(a, b)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, other = (_spread(builder, context.get_value_type(vector), value) for value in args)
        return builder.select(builder.fcmp_ordered(">", one, other), one, other)

    return vector and (vector(a, b), codegen)


@intrinsic
def where_greater(typingctx: Any, a: Any, b: Any, value: Any, other: Any) -> Any:
    """Return `value` in lanes where a exceeds b; `other` elsewhere, also where one of them is NaN."""
    vector = _common(a, b, value, other)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, value, other = (_spread(builder, context.get_value_type(vector), arg) for arg in args)
        return builder.select(builder.fcmp_ordered(">", a, b), value, other)

    return vector and (vector(a, b, value, other), codegen)


@intrinsic
def where_positive(typingctx: Any, condition: Any, value: Any) -> Any:
    """Return `value` in lanes where `condition` is positive; 0 elsewhere, even of infinities and NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_ordered(">", args[0], nothing), args[1], nothing)

    return value(condition, value), codegen


@intrinsic
def lanes_greater(typingctx: Any, a: Any, b: Any) -> Any:
    """Return an integer with a bit for each of up to 64 lanes, the lowest for the first: set where a > b."""
    vector = _common(a, b)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, other = (_spread(builder, context.get_value_type(vector), value) for value in args)
        greater = builder.fcmp_ordered(">", one, other)
        bits = builder.bitcast(greater, ir.IntType(vector.lanes))
        return bits if vector.lanes == 64 else builder.zext(bits, ir.IntType(64))

    return vector and (types.uint64(a, b), codegen)


@intrinsic
def count_bits(typingctx: Any, bits: Any) -> Any:
    """Return how many bits of an unsigned integer are set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.intp(types.uint64), codegen


@intrinsic
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """Return the place of the lowest bit that is set; there has to be one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), codegen


@intrinsic
def lane_sum(typingctx: Any, a: Any) -> Any:
    """Return the sum of the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = ir.Constant(ir.IntType(32), 0)
        return builder.extract_element(_lane_sums(builder, [args[0]]), first)

    return a.dtype(a), codegen


@intrinsic
def add_sums(typingctx: Any, out: Any, position: Any, vectors: Any) -> Any:
    """Add the lane sums of a tuple of vectors, a power of two of them, to as many float64 of out.

    `position` counts in such tuples. Together they take a fraction of the shuffles that single sums would.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums = _lane_sums(builder, cgutils.unpack_tuple(builder, args[2]))
        kind = ir.VectorType(ir.DoubleType(), len(vectors))
        if sums.type != kind:
            sums = builder.fpext(sums, kind)
        pointer = _pointer(builder, context, out, kind, args[0], args[1])
        total = builder.fadd(builder.load(pointer, align=8), sums)
        builder.store(total, pointer, align=8)
        return context.get_dummy_value()

    return types.void(out, types.intp, vectors), codegen


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """Sum neighbouring lanes, packing two vectors into one while there are two, until each has one lane."""
    per_source = vectors[0].type.count
    while per_source > 1:
        if len(vectors) > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
        else:
            pairs = [(vectors[0], ir.Constant(vectors[0].type, ir.Undefined))]
        lanes = vectors[0].type.count * min(2, len(vectors))
        vectors = [
            builder.fadd(
                _shuffle(builder, *pair, range(0, lanes, 2)), _shuffle(builder, *pair, range(1, lanes, 2))
            )
            for pair in pairs
        ]
        per_source //= 2
    while len(vectors) > 1:
        lanes = 2 * vectors[0].type.count
        vectors = [
            _shuffle(builder, a, b, range(lanes)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _common(*kinds: Any) -> Any:
    """Return the type of the vectors among these; None, so that numba refuses them, if they do not agree."""
    vectors = [kind for kind in kinds if isinstance(kind, VectorType)]
    agree = vectors and all(kind in (vectors[0], vectors[0].dtype) for kind in kinds)
    return vectors[0] if agree else None


def _spread(builder: Any, kind: Any, value: Any) -> Any:
    """Return a vector whose lanes all hold the value, unless that is a vector already."""
    if value.type == kind:
        return value
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, undefined, [0] * kind.count)


def _polynomial(builder: Any, vector: VectorType, x: Any, coefficients: Sequence[float]) -> Any:
    """Return ``Σ c_m xᵐ``, neighbouring terms first: few steps wait for another (Estrin 1960)."""
    fused = _vector_function(builder, "fmuladd", vector, ir.FunctionType(x.type, [x.type] * 3))
    terms = [ir.Constant(x.type, [c] * vector.lanes) for c in coefficients]
    while len(terms) > 1:
        paired = [builder.call(fused, [b, x, a]) for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = paired + terms[2 * len(paired) :]
        x = builder.fmul(x, x)
    return terms[0]


def _vector_function(builder: Any, name: str, vector: VectorType, signature: Any) -> Any:
    full_name = f"llvm.{name}.v{vector.lanes}f{vector.dtype.bitwidth}"
    return cgutils.get_or_insert_function(builder.module, signature, full_name)


def _shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _register(symbol: Any, instruction: str) -> None:
    @type_callable(symbol)
    def of_vectors(context: Any) -> Any:
        return lambda a, b: _common(a, b)

    def operation(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        a, b = (_spread(builder, kind, value) for value in args)
        return getattr(builder, instruction)(a, b, flags=("contract", "nsz"))

    for kinds in ((VectorType, VectorType), (VectorType, types.Float), (types.Float, VectorType)):
        lower_builtin(symbol, *kinds)(operation)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register(_symbol, _instruction)
