import logging
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from streamem.kernels import sampling
from streamem.kernels.compile import cache_directory, kernel

ROOT = Path(__file__).parents[2]
SCRIPT = "from streamem.kernels.sampling import hashes; print(hashes(0, 1, 0)[0])"


E_STEPS = """
import hashlib, numpy as np
from streamem.kernels import mixture
from streamem.kernels.gaussian import FullGaussian, TiedGaussian
k, d, rng = 5, 19, np.random.default_rng(0)
means, whitening = rng.normal(size=(k, d)), np.eye(d) + 0.05 * np.tril(rng.normal(size=(k, d, d)))
digest = hashlib.md5()
for family in FullGaussian, TiedGaussian:
    own = whitening if family is FullGaussian else whitening[0]
    sums = mixture.statistics(rng.normal(size=(500, d)), None, family(np.zeros(d), means, own, np.zeros(k)))
    for part in sums:
        digest.update(np.asarray(part).tobytes())
print(int(digest.hexdigest(), 16))
"""


FIT = """
import numpy as np
import streamem as sem
from streamem.kernels import mixture
rng = np.random.default_rng(0)
rows = (rng.normal(size=(30_000, 4)) + 4 * rng.integers(3, size=30_000)[:, None]).astype(np.float32)
sem.GaussianMixture(3, random_state=0).fit(rows)
print(len(mixture._statistics.signatures))
"""


def run(script=SCRIPT, **environment):
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_machine_code__is_kept_where_numba_is_told(tmp_path):
    assert run(NUMBA_CACHE_DIR=str(tmp_path)) == int(sampling.hashes(0, 1, 0)[0])
    assert list(tmp_path.rglob("*_hashes*.nbc"))


def test_machine_code__is_kept_in_the_users_cache_by_default(tmp_path):
    run(XDG_CACHE_HOME=str(tmp_path))
    assert list((tmp_path / "streamem").rglob("*_hashes*.nbc"))


@pytest.mark.slow
def test_machine_code__rounds_alike_in_the_process_that_compiled_and_in_others(tmp_path):
    assert run(E_STEPS, NUMBA_CACHE_DIR=str(tmp_path)) == run(E_STEPS, NUMBA_CACHE_DIR=str(tmp_path))


def test_fits__compile_the_e_step_once():
    places = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    assert run(FIT, **{place: os.environ[place] for place in places if place in os.environ}) == 1


def test_kernels__run_where_nothing_can_be_written(tmp_path):
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert run(NUMBA_CACHE_DIR=str(nowhere / "x")) == int(sampling.hashes(0, 1, 0)[0])


def test_cache_directory__does_not_move_the_caches_of_others():
    assert cache_directory() is None or str(cache_directory()) != numba.config.CACHE_DIR


def test_compilation__is_logged_once(caplog):
    source = {}
    exec("def one_more(x): return x + 1", source)  # of no file, so of no cache either
    one_more = kernel(source["one_more"])
    with caplog.at_level(logging.INFO, logger="streamem"):
        assert one_more(np.float32(1)) == 2
        assert one_more(np.float32(2)) == 3
    assert sum("one_more" in message for message in caplog.messages) == 1
