"""Vectors of rows: a numba type for what one SIMD register holds.

Loops over scalars leave it to LLVM which values stay in registers; the register-blocked products of
`streamem.kernels.products` are as fast as they are because they say so themselves. Arrays are read as
runs of vectors: `load` and `store` count in vectors, not in elements. The length in bytes suits the
machine at hand; results differ between lengths by rounding only.
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
from numba.extending import intrinsic, overload

__all__ = [
    "VECTOR_BYTES",
    "add_sums",
    "exp",
    "load",
    "maximum",
    "multiply_add",
    "splat",
    "square_root",
    "store",
    "where_positive",
    "zero",
]


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


VECTOR_BYTES = _vector_bytes()


class VectorType(types.Type):
    """Floats side by side, as many as fit VECTOR_BYTES."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


@register_default(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: VectorType) -> None:
        element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _pointer(builder: Any, context: Any, array_type: Any, kind: Any, array: Any, position: Any) -> Any:
    """Return the address of the vector at `position`, counted in vectors from the start of the array."""
    data = context.make_array(array_type)(context, builder, array).data
    first = builder.mul(position, ir.Constant(position.type, kind.count))
    return builder.bitcast(builder.gep(data, [first], inbounds=True), kind.as_pointer())


@intrinsic
def load(typingctx: Any, array: Any, position: Any) -> Any:
    """Return the vector at `position` of a contiguous array."""
    vector = VectorType(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, context, array, context.get_value_type(vector), *args)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, position: Any, value: Any) -> Any:
    """Write a vector to `position` of a contiguous array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, context, array, args[2].type, args[0], args[1])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def splat(typingctx: Any, scalar: Any) -> Any:
    """Return a vector whose lanes all hold `scalar`."""
    vector = VectorType(scalar)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.Constant(ir.IntType(32), 0))
        return _shuffle(builder, first, undefined, [0] * vector.lanes)

    return vector(scalar), codegen


@intrinsic
def zero(typingctx: Any, array: Any) -> Any:
    """Return a vector of zeros of the array's dtype."""
    vector = VectorType(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once where the machine can."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(a)
        return builder.call(_vector_function(builder, "fmuladd", a, ir.FunctionType(kind, [kind] * 3)), args)

    return a(a, b, c), codegen


@intrinsic
def square_root(typingctx: Any, a: Any) -> Any:
    """Return the square roots of the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(a)
        return builder.call(_vector_function(builder, "sqrt", a, ir.FunctionType(kind, [kind])), args)

    return a(a), codegen


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Return exp(x), x <= 0, as ``2ⁿ Σ rᵐ / m!`` with ``x = n log 2 + r``, ``|r| <= log 2 / 2``: no branch.

    0 where the result would be below the smallest normal number, and for NaN.
    """
    double = x.dtype == types.float64
    lowest, degree, bias, mantissa_bits = (-709.0, 13, 1023, 52) if double else (-88.0, 7, 127, 23)
    # log 2 in two parts, the first of so few bits that n times it is exact
    ln2_high, ln2_low = (
        (0.693147180369123816, 1.90821492927058770e-10) if double else (0.693359375, -2.12194440e-4)
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(x)
        integer, wide = (ir.VectorType(ir.IntType(bits), x.lanes) for bits in (32, x.dtype.bitwidth))

        def constant(value: float) -> Any:
            return ir.Constant(kind, [value] * x.lanes)

        def intrinsic_call(name: str, *operands: Any) -> Any:
            signature = ir.FunctionType(kind, [kind] * len(operands))
            return builder.call(_vector_function(builder, name, x, signature), operands)

        above = builder.fcmp_ordered(">", args[0], constant(lowest))
        bounded = builder.select(above, args[0], constant(lowest))
        n = intrinsic_call(
            "floor", intrinsic_call("fmuladd", bounded, constant(1 / math.log(2)), constant(0.5))
        )
        r = intrinsic_call("fmuladd", n, constant(-ln2_high), bounded)
        r = intrinsic_call("fmuladd", n, constant(-ln2_low), r)
        series = constant(1 / math.factorial(degree))
        for m in range(degree - 1, -1, -1):
            series = intrinsic_call("fmuladd", series, r, constant(1 / math.factorial(m)))
        exponent = builder.fptosi(n, integer)
        if double:
            exponent = builder.sext(exponent, wide)
        exponent = builder.add(exponent, ir.Constant(wide, [bias] * x.lanes))
        power = builder.bitcast(builder.shl(exponent, ir.Constant(wide, [mantissa_bits] * x.lanes)), kind)
        return builder.fmul(series, power)

    return x(x), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b; b where a is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), codegen


@intrinsic
def where_positive(typingctx: Any, condition: Any, value: Any) -> Any:
    """Return `value` in lanes where `condition` is positive; 0 elsewhere, even of infinities and NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_ordered(">", args[0], nothing), args[1], nothing)

    return value(condition, value), codegen


@intrinsic
def add_sums(
    typingctx: Any, out: Any, position: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any
) -> Any:
    """Add the lane sums of eight vectors to the eight float64 of ``out[8 * position:]``.

    Together they take a third of the shuffles that eight single sums would.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums = _lane_sums(builder, list(args[2:]))
        kind = ir.VectorType(ir.DoubleType(), 8)
        if sums.type != kind:
            sums = builder.fpext(sums, kind)
        pointer = _pointer(builder, context, out, kind, args[0], args[1])
        total = builder.fadd(builder.load(pointer, align=8), sums)
        builder.store(total, pointer, align=8)
        return context.get_dummy_value()

    return types.void(out, types.intp, a, b, c, d, e, f, g, h), codegen


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


def _vector_function(builder: Any, name: str, vector: VectorType, signature: Any) -> Any:
    full_name = f"llvm.{name}.v{vector.lanes}f{vector.dtype.bitwidth}"
    return cgutils.get_or_insert_function(builder.module, signature, full_name)


def _shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def _register(symbol: Any, instruction: str) -> None:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=("contract", "nsz"))

        return a(a, b), codegen

    @overload(symbol)
    def implementation(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, VectorType) and a == b:
            return lambda a, b: operation(a, b)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register(_symbol, _instruction)
