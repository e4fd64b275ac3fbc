"""Which dtypes and shapes can be streamed, and the check of every value in the pass that reads it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError, NonFiniteError
from streamem.protocols import FloatArray
from streamem.sources.handles import ArrayHandle

__all__ = [
    "all_finite",
    "check_label",
    "check_labels",
    "check_rows",
    "check_shape",
    "check_weight",
    "check_weights",
    "row_dtype",
]

LARGEST_LABEL = 2.0**31
"""There is no mixture of so many components."""


def row_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return float32 or float64: what rows stored as ``dtype`` become without losing digits.

    Integers of more than 16 bits become float64 (exact up to 2**53).

    Examples
    --------
    >>> row_dtype("x", np.dtype("int16")), row_dtype("x", np.dtype(">f8"))
    (dtype('float32'), dtype('float64'))
    """
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)
    if dtype.kind in "biu":
        return np.dtype(np.float64 if dtype.itemsize > 2 else np.float32)
    raise InputError(f"{name}: rows of dtype {dtype} are not real numbers of up to 64 bits. {_advice(dtype)}")


def _advice(dtype: np.dtype[Any]) -> str:
    """Say how values of a dtype that is refused could become float columns."""
    if dtype.names is not None:
        fields = ", ".join(dtype.names)
        return f"Make an (n, d) array of the fields ({fields}), e.g. with structured_to_unstructured."
    if dtype.kind == "c":
        return "Give real and imaginary parts as columns, e.g. np.hstack([x.real, x.imag])."
    if dtype.kind in "mM":
        return 'Convert them to numbers of a unit you choose, e.g. x / np.timedelta64(1, "s").'
    if dtype.kind == "f":
        return 'Convert them with x.astype("float64").'
    return "Convert numbers with x.astype(float), and encode categories as columns."


def check_shape(array: ArrayHandle) -> None:
    """Refuse what is not an (n, d) table with n, d >= 1."""
    shape = array.shape
    if len(shape) == 1:
        raise InputError(
            f"{array.name}: rows must form a table (n, d); the shape is {shape}. For one column "
            "give x.reshape(-1, 1), for one row x.reshape(1, -1)."
        )
    if len(shape) != 2:
        raise InputError(
            f"{array.name}: rows must form a table (n, d); the shape is {shape}. "
            "Flatten all axes but the first, e.g. x.reshape(len(x), -1)."
        )
    if 0 in shape:
        what = "rows" if shape[0] == 0 else "columns"
        raise InputError(f"{array.name}: there are no {what}; the shape is {shape}. Give at least one.")


def check_weights(weight: ArrayHandle, n_samples: int) -> None:
    """Refuse weights that are not one real number for each row."""
    _check_length(weight, n_samples, "sample_weight")
    row_dtype(weight.name, weight.dtype)


def check_labels(label: ArrayHandle, n_samples: int) -> None:
    """Refuse labels that are not one number for each row; whether they are whole is seen as they are read."""
    _check_length(label, n_samples, "y")
    if label.dtype.kind not in "biuf" or label.dtype.itemsize > 8:
        raise InputError(
            f"{label.name}: labels of dtype {label.dtype} are no whole numbers. Number the classes from 0, "
            "e.g. with np.unique(y, return_inverse=True)[1], and give −1 where none is known."
        )


def _check_length(array: ArrayHandle, n_samples: int, what: str) -> None:
    """Refuse what is not one number for each row."""
    if len(array.shape) != 1:
        raise InputError(
            f"{array.name}: {what} must be one number per row, (n,); the shape is {array.shape}. "
            "Give a 1-D array, e.g. w.reshape(-1)."
        )
    if array.shape[0] != n_samples:
        raise InputError(
            f"{array.name}: {what} has {array.shape[0]:,} values for {n_samples:,} rows. "
            "Give one for each row."
        )


def all_finite(values: FloatArray) -> bool:
    """Return whether an array holds neither NaN nor Inf; allocates next to nothing.

    A sum is finite only if all values are. Large ones may overflow it: then the extremes tell, NaN if any is.
    """
    return math.isfinite(values.sum()) or (math.isfinite(values.min()) and math.isfinite(values.max()))


def check_rows(where: str, x: FloatArray, start: int, missing: str = "raise") -> bool:
    """Return whether no value of a block (n, d) is missing; raise `NonFiniteError` if some may not be there.

    NaN is a missing value where ``missing`` is "keep", and an error otherwise; Inf is one always. Rows of
    weight zero must be finite too: kernels multiply by the weight, and 0 * NaN is NaN.
    """
    with np.errstate(all="ignore"):
        if all_finite(x):
            return True
    bad = np.isinf(x) if missing == "keep" else ~np.isfinite(x)
    if not bad.any():
        return False
    row, column = np.unravel_index(int(np.argmax(bad)), x.shape)
    count = int(np.count_nonzero(bad))
    raise NonFiniteError(
        f"{where}: {count:,} non-finite value{'s' * (count > 1)}, first in row {start + int(row):,}, "
        f"column {int(column)}. {_cure(x[bad], missing)}"
    )


def _cure(values: FloatArray, missing: str) -> str:
    """Say what can be done about values that are not finite."""
    if missing == "keep":
        return "Inf is no missing value: drop those rows, or replace it by NaN."
    if np.isnan(values).any():
        return 'Drop those rows, impute them, or pass missing="marginal" or "drop", for NaN alone.'
    return "Drop those rows, or impute them before fitting."


def check_weight(where: str, weight: NDArray[np.float64], start: int) -> None:
    """Raise unless all weights of a block (n,) are finite and >= 0."""
    if np.min(weight) >= 0 and np.max(weight) < np.inf:  # false for NaN
        return
    bad = ~((weight >= 0) & (weight < np.inf))
    row = int(np.argmax(bad))
    kind = InputError if np.isfinite(weight).all() else NonFiniteError
    raise kind(
        f"{where}: {int(np.count_nonzero(bad)):,} sample weights are negative or not finite, first in row "
        f"{start + row:,} ({weight[row]}). Give numbers >= 0, and 0 to rows that should not count."
    )


def check_label(where: str, label: NDArray[np.float64], start: int) -> None:
    """Raise unless all labels of a block (n,) are whole numbers >= −1."""
    bad = ~((label >= -1) & (label == np.floor(label)) & (label < LARGEST_LABEL))  # true for NaN
    if not bad.any():
        return
    row = int(np.argmax(bad))
    raise InputError(
        f"{where}: {int(np.count_nonzero(bad)):,} labels (y) are no components, first in row {start + row:,} "
        f"({label[row]:.15g}). Give whole numbers from 0, and −1 where the component is unknown."
    )
