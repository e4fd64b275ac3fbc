"""What the machine has: memory used at most, memory and disk left. Standard library only."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

__all__ = ["available_memory", "free_disk", "in_memory", "peak_memory"]

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def peak_memory() -> int | None:
    """Return the most bytes this process has had resident; None where the system does not say."""
    high_water = _kilobytes(Path("/proc/self/status"), "VmHWM")
    if high_water is not None:  # ru_maxrss would count what the parent had resident before exec
        return high_water
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory() -> int | None:
    """Return bytes that can still be allocated, by the system and by the container; None if unknown."""
    known = [_kilobytes(Path("/proc/meminfo"), "MemAvailable"), _container_memory()]
    return min((n_bytes for n_bytes in known if n_bytes is not None), default=None)


def free_disk(directory: Path) -> int:
    """Return bytes that can still be written below a directory."""
    return shutil.disk_usage(directory).free


def in_memory(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Return whether files in a directory live in memory (tmpfs), as ``/tmp`` does on some systems."""
    kinds = {}
    for line in _lines(mounts):
        _, place, kind, *_ = line.split(" ")
        kinds[place.replace("\\040", " ")] = kind
    resolved = directory.resolve()
    nearest = next((str(p) for p in (resolved, *resolved.parents) if str(p) in kinds), "")
    return kinds.get(nearest) in ("tmpfs", "ramfs")


def _container_memory() -> int | None:
    for limit_file, usage_file, cache_key in _CGROUPS:
        limit, usage = _number(Path(limit_file)), _number(Path(usage_file))
        if limit is not None and usage is not None:
            cache = _statistic(Path(usage_file).with_name("memory.stat"), cache_key)
            return max(0, limit - usage + cache)
    return None


def _kilobytes(path: Path, key: str) -> int | None:
    for line in _lines(path):
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _statistic(path: Path, key: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[0] == key), 0)


def _number(path: Path) -> int | None:
    """Return the integer in a file; None without the file, or where it says "max"."""
    return next((int(line) for line in _lines(path) if line.isdecimal()), None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
