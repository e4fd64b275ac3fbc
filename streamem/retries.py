"""Trying again what failed for a reason that may pass: a store that is briefly unreachable or overloaded."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from streamem.errors import SourceError

__all__ = ["FIRST_WAIT_SECONDS", "may_pass", "persistently"]

T = TypeVar("T")

log = logging.getLogger("streamem")

FIRST_WAIT_SECONDS = 0.1
"""Doubled before each further attempt."""
FOR_GOOD = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def persistently(action: Callable[[], T], what: str, attempts: int) -> T:
    """Return what ``action`` returns, tried up to so many times; it must do the same at every call.

    Raises
    ------
    SourceError
        The last failure, with the number of attempts.

    Examples
    --------
    >>> persistently(lambda: 7, "Block 0", attempts=4)
    7
    """
    for attempt in range(1, attempts):
        try:
            return action()
        except OSError as error:
            if not may_pass(error):
                raise
            log.warning("%s: failed (%s); trying again, %d of %d", what, error, attempt, attempts - 1)
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    try:
        return action()
    except OSError as error:
        if not may_pass(error):
            raise
        told = str(error) if isinstance(error, SourceError) else f"{what}: {type(error).__name__}: {error}."
        raise SourceError(f"{told} (Tried {attempts} times.)") from error


def may_pass(error: OSError) -> bool:
    """Return whether a failure may pass: an error of the store that is none of a wrong path, name or right.

    Examples
    --------
    >>> may_pass(ConnectionResetError()), may_pass(FileNotFoundError())
    (True, False)
    """
    reason = error.__cause__ if isinstance(error, SourceError) else error
    return isinstance(reason, OSError) and not isinstance(reason, FOR_GOOD) and reason.errno not in FULL
