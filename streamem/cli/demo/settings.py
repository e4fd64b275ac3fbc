"""What a demo is asked for, and whether this machine has room for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamem.cli import machine
from streamem.errors import InputError, MemoryLimitError, SourceError
from streamem.sizes import format_bytes

__all__ = ["DemoSettings", "refuse_shortage"]

_CHUNK_BYTES = 8 << 20
_DISK_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What ``streamem demo`` was asked for."""

    rows: int
    columns: int
    components: int
    directory: Path
    """Where the data go while the demo runs."""
    model: Path
    """Where the fitted model goes; it stays."""
    memory_limit: int
    """Bytes."""
    tol: float
    """Nats per row."""
    max_iter: int
    seed: int
    scheduler: str | None
    """Where to fit."""
    keep: bool
    """Whether the data stay."""
    quiet: bool

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows."""
        return 4 * self.rows * self.columns

    @property
    def chunk_rows(self) -> int:
        """Rows in a chunk."""
        return min(self.rows, max(1, _CHUNK_BYTES // (4 * self.columns)))

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk: the last chunk is stored whole."""
        return -(-self.rows // self.chunk_rows) * self.chunk_rows * 4 * self.columns


def refuse_shortage(settings: DemoSettings) -> None:
    """Refuse, before anything is written, what the machine cannot hold or what cannot be fitted."""
    least = settings.components * (settings.columns + 1)
    if settings.rows < least:
        raise InputError(
            f"demo: {settings.rows:,} rows are too few for {settings.components} components in "
            f"{settings.columns} columns. Ask for {least:,} at least."
        )
    _refuse_full_disk(settings)
    _refuse_little_memory(settings)


def _refuse_full_disk(settings: DemoSettings) -> None:
    needed, free = int(_DISK_MARGIN * settings.stored_bytes), machine.free_disk(settings.directory)
    if free < needed:
        raise SourceError(
            f"{settings.directory}: too little disk is free: {format_bytes(free)}, and the demo needs "
            f"{format_bytes(needed)}. Ask for less with --size, or name another place with --dir."
        )


def _refuse_little_memory(settings: DemoSettings) -> None:
    available, on_disk = machine.available_memory(), not machine.in_memory(settings.directory)
    needed = settings.memory_limit + (0 if on_disk else settings.stored_bytes)
    if available is not None and available < needed:
        place = (
            ""
            if on_disk
            else f" ({settings.directory} is in memory, so the data count; --dir names another place)"
        )
        raise MemoryLimitError(
            f"demo: too little memory is available: {format_bytes(available)}, and the demo may need "
            f"{format_bytes(needed)}{place}. Lower --memory-limit or --size."
        )
