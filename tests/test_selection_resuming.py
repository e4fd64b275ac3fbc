"""A sweep that was stopped goes on, all of its fits at once, to the table of one that was not."""

import dataclasses

import numpy as np
import pytest

import streamem as sem
from streamem.convergence import PassStarted
from tests.estimators.test_resuming import StoppedError, Watch
from tests.strategies import clusters

X, _ = clusters(n=900, k=3, d=2)
pytestmark = pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")


def sweep(**more):
    given = {"random_state": 0, "acceleration": "anderson", "max_iter": 12, "tol": 1e-5}
    return sem.select(X, **{"n_components": range(1, 6), **given, **more})


def table(found):
    """The table, and the estimates, for comparison."""
    rows = [
        [repr(getattr(row, part.name)) for part in dataclasses.fields(row) if part.name != "model"]
        for row in found.table
    ]
    models = [row.model and (row.model.means_.tobytes(), row.model.lower_bounds_) for row in found.table]
    return rows, models, found.best_row.n_components, found.n_passes


def stopped(place, after, **more):
    with pytest.raises(StoppedError):
        sweep(checkpoint=place, callbacks=[Watch(after - 1)], **more)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"criterion": "heldout"},
        {"acceleration": "none", "n_init": 2, "covariance_type": "diag"},
        {"n_components": [2, 2000, 3]},  # more than there are rows: a model that cannot be fitted
    ],
)
def test_sweep__goes_on_to_the_same_table(more, tmp_path):
    whole = table(sweep(**more))
    assert whole[-1] > 4
    for after in (1, 3):
        place, watch = tmp_path / str(after), Watch()
        stopped(place, after, **more)
        assert table(sweep(checkpoint=place, resume=True, callbacks=[watch], **more)) == whole
        assert (watch[0], watch.sampled) == (after, 0)


def test_sweep__without_a_seed_keeps_the_one_it_has(tmp_path):
    more = {"random_state": None, "criterion": "heldout"}
    stopped(tmp_path, 3, **more)
    found = sweep(checkpoint=tmp_path, resume="auto", **more)
    seed = found.best.random_state
    assert table(sweep(random_state=seed, criterion="heldout")) == table(found)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"n_components": range(1, 5)}, "n_components was '1, 2, 3, 4, 5', now '1, 2, 3, 4'"),
        ({"criterion": "aic"}, "drop_hopeless was 'bic', now 'aic'"),
        ({"drop_hopeless": False}, "drop_hopeless was 'bic', now False"),
        ({"heldout_share": 0.1}, "heldout_share was None, now 0.1"),
        ({"random_state": 1}, "random_state was 'seed 0', now 'seed 1'"),
    ],
)
def test_other_sweep__is_refused_by_name(tmp_path, change, words):
    stopped(tmp_path, 1)
    with pytest.raises(sem.InputError, match="other settings") as caught:
        sweep(checkpoint=tmp_path, resume=True, **change)
    assert words in str(caught.value)


def test_fit__is_no_sweep(tmp_path):
    stopped(tmp_path, 1)
    with pytest.raises(sem.InputError, match="other settings"):
        sem.GaussianMixture(5, random_state=0).fit(X, checkpoint=tmp_path, resume=True)


def test_events__are_numbered_on(tmp_path):
    stopped(tmp_path, 2)
    begun = []
    sweep(
        checkpoint=tmp_path,
        resume=True,
        callbacks=[lambda event: begun.append(event.index) if isinstance(event, PassStarted) else None],
    )
    np.testing.assert_array_equal(begun, np.arange(2, 2 + len(begun)))
