"""Peak memory follows ``memory_limit``, not the number of rows: measured on processes of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc"),
]

MIB = 2**20
LIMIT = 64 * MIB
COLUMNS = 32
CHUNK_ROWS = 2**15  # 4 MiB

# VmHWM, not ru_maxrss: the latter starts at the peak of the process that started this one.
CHILD = """
import re, sys, warnings
import dask
import streamem as sem

def peak():
    return re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]

path, out, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
warnings.simplefilter("ignore", sem.ConvergenceWarning)
with dask.config.set(num_workers=2):
    gm = sem.GaussianMixture(4, tol=0, max_iter=2, random_state=0, memory_limit=limit).fit(path)
    print(peak())
    if out:
        labels = gm.predict(path, out=out)
        assert labels.shape == (gm.stats_.n_samples,)
print(peak())
"""


def peak_bytes(path, out="", limit=LIMIT):
    """Return the most memory that a process held which fitted these rows, and when it had predicted them."""
    command = [sys.executable, "-c", CHILD, str(path), str(out), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    fitted, predicted = map(int, done.stdout.split())
    return 1024 * fitted, 1024 * predicted


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Paths of the same rows again and again: 1 MB, 100 MB and 400 MB of float32, by megabytes."""
    folder = tmp_path_factory.mktemp("stores")
    chunk = np.random.default_rng(0).normal(size=(CHUNK_ROWS, COLUMNS)).astype(np.float32)
    paths = {}
    for megabytes in (1, 100, 400):
        rows = megabytes * 10**6 // (4 * COLUMNS)
        array = zarr.create_array(
            folder / f"{megabytes}.zarr",
            shape=(rows, COLUMNS),
            chunks=(min(rows, CHUNK_ROWS), COLUMNS),
            dtype="f4",
        )
        for start in range(0, rows, CHUNK_ROWS):
            array[start : start + CHUNK_ROWS] = chunk[: rows - start]
        paths[megabytes] = folder / f"{megabytes}.zarr"
    yield paths
    shutil.rmtree(folder)


def test_peak_memory__does_not_grow_with_rows(stores):
    """Four times the rows; labels alone would take 19 MB more if they were kept, rows 300 MB."""

    def peak(megabytes):
        return peak_bytes(stores[megabytes], stores[megabytes].with_suffix(".labels.zarr"))

    peak_bytes(stores[1])  # compiles the kernels, which takes memory too
    for baseline, small, large in zip(peak(1), peak(100), peak(400), strict=True):  # of the fit, of both
        assert large < small + 0.15 * LIMIT
        assert large < baseline + 1.5 * LIMIT
