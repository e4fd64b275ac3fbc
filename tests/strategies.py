"""What hypothesis draws from: arrays with clusters, and partitions of their rows into blocks."""

import numpy as np
from hypothesis import strategies as st

from streamem.protocols import Rows


@st.composite
def partitions(draw, n):
    """Cuts of ``range(n)`` into runs, empty and one-row runs included."""
    cuts = draw(st.lists(st.integers(0, n), max_size=8))
    return list(zip([0, *sorted(cuts)], [*sorted(cuts), n], strict=True))


def clusters(n=120, d=3, k=3, seed=0, dtype=np.float64):
    """Rows (n, d) around k centres, and the centres."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 5, (k, d))
    mixing = rng.normal(size=(k, d, d)) * 0.4 + np.eye(d)
    labels = rng.integers(k, size=n)
    x = centers[labels] + np.einsum("nij,nj->ni", mixing[labels], rng.normal(size=(n, d)))
    return x.astype(dtype), centers


def split(x, weight, runs, complete=True):
    """Rows of each run."""
    return [Rows(x[a:b], None if weight is None else weight[a:b], a, complete) for a, b in runs]
