"""Every exception and warning that streamem raises on purpose.

A message has four parts, in this order: where, what is wrong, the value, what to do. Each class also
derives from the built-in exception a caller would have caught without knowing this library.
"""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "ConvergenceWarning",
    "DegenerateComponentError",
    "InputError",
    "MemoryLimitError",
    "ModelFileError",
    "NonFiniteError",
    "NotFittedError",
    "SourceError",
    "StreamEMError",
]


class StreamEMError(Exception):
    """The root of all errors raised by this library."""


class InputError(StreamEMError, ValueError):
    """A shape, dtype or setting that cannot be used."""


class NonFiniteError(InputError):
    """NaN or Inf in the data: the message names store, block, row and column."""


class SourceError(StreamEMError, OSError):
    """A block could not be read, or a result could not be written."""


class ClusterError(StreamEMError, RuntimeError):
    """A cluster that cannot do the work: no scheduler, no workers, other versions, workers that die."""


class ModelFileError(StreamEMError, ValueError):
    """A file that is not a model of ours, is newer than this library, or is damaged."""


class DegenerateComponentError(StreamEMError, ArithmeticError):
    """A component lost its support or its covariance collapsed."""


class MemoryLimitError(StreamEMError, MemoryError):
    """The memory limit cannot be met: raised before the first read, with the numbers."""


class NotFittedError(StreamEMError, ValueError, AttributeError):
    """A method that needs estimates was called before ``fit``."""


class ConvergenceWarning(UserWarning):
    """The fit stopped before it converged."""
