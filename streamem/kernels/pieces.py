"""How inlined functions get into the kernels that call them: as code to link, never as machine code.

numba compiles every function on its own. It would optimise an inlined one, and make machine code of it that
nobody calls, at each level of nesting: together more work than the kernel itself.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["PieceCompiler"]


class _Piece(JITCodeLibrary):  # type: ignore[misc]
    """The code of one inlined function, and of what it calls."""

    def finalize(self) -> None:
        """Take in the code of what is called, and leave the rest to the kernel."""
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return that there is no such machine code."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> _Piece:
        """What is told about the function's environment: nothing, as there is no machine code to use it."""
        return self

    def set_env(self, name: str, env: object) -> None:
        """Do nothing. Only Python objects need environments, and kernels have none."""


class PieceCompiler(Compiler):  # type: ignore[misc]
    """numba's own compiler, but for where the code goes."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *args: Any) -> None:
        super().__init__(typingctx, targetctx, _Piece(targetctx.codegen(), "piece"), *args)
