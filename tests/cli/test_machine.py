import sys

import numpy as np
import pytest

from streamem.cli import machine

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_peak_memory__covers_what_was_allocated():
    before = machine.peak_memory()
    if before is None:
        pytest.skip("this system does not say")
    np.ones((before + 64_000_000) // 8)
    assert machine.peak_memory() >= before + 32_000_000


@linux_only
def test_available_memory__is_less_than_the_machine_has():
    assert 0 < machine.available_memory() < machine._kilobytes(machine.Path("/proc/meminfo"), "MemTotal")


def test_available_memory__respects_a_container(tmp_path, monkeypatch):
    for name, text in (
        ("max", "1000000\n"),
        ("current", "700000\n"),
        ("memory.stat", "anon 5\ninactive_file 200000\n"),
    ):
        (tmp_path / name).write_text(text)
    group = (str(tmp_path / "max"), str(tmp_path / "current"), "inactive_file")
    monkeypatch.setattr(machine, "_CGROUPS", (group,))
    assert machine.available_memory() == 500_000
    (tmp_path / "max").write_text("max\n")
    assert machine.available_memory() != 500_000


def test_in_memory__goes_by_the_nearest_mount(tmp_path):
    mounts = tmp_path / "mounts"
    inner = tmp_path.resolve() / "in a"
    inner.mkdir()
    place = str(tmp_path.resolve())
    mounts.write_text(
        f"/dev/vda / ext4 rw 0 0\nnone {place} tmpfs rw 0 0\n/dev/vdb {place}/in\\040a ext4 rw 0 0\n"
    )
    assert machine.in_memory(tmp_path, mounts)
    assert machine.in_memory(tmp_path / "below", mounts)
    assert not machine.in_memory(inner, mounts)
    assert not machine.in_memory(machine.Path("/"), mounts)
    assert not machine.in_memory(tmp_path, tmp_path / "no such file")
