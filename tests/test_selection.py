"""Choosing a model: the bits of each fit alone, in shared passes, and by criteria that are right."""

import warnings

import dask
import numpy as np
import pytest
import zarr

import streamem as sem
from streamem import selection
from streamem.convergence import PassEnded, PassStarted, Status
from streamem.estimators import resident, sharing
from streamem.models.heldout import HeldOut
from tests import naive
from tests.strategies import clusters

X, _ = clusters(n=900, d=2, k=3, seed=4)
WEIGHT = np.random.default_rng(1).integers(0, 3, len(X)).astype(float)


class Passes(list):
    """A callback that keeps the passes that begin."""

    def __call__(self, event):
        if isinstance(event, PassStarted) and event.phase == "em":
            self.append(event.index)


def held_out(share, seed=0):
    """The rows that a selection with this random_state holds out."""
    rng = np.random.default_rng(seed)
    rng.integers(2**63)  # the sample's
    return HeldOut(share, int(rng.integers(2**63)))


def assert_same(row, alone):
    assert row.status is alone.result_.status
    assert row.n_passes == alone.n_iter_
    assert row.model.lower_bounds_ == alone.lower_bounds_
    np.testing.assert_array_equal(row.model.means_, alone.means_)
    np.testing.assert_array_equal(row.model.covariances_, alone.covariances_)
    assert (row.bic, row.aic, row.icl) == (alone.bic(), alone.aic(), alone.icl())


@pytest.mark.parametrize("settings", [{}, {"acceleration": "none", "n_init": 2}, {"reg_covar": 1e-3}])
def test_models__are_those_fitted_alone(settings):
    settings = {"max_iter": 12, "tol": 1e-5, "random_state": 0} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        found = sem.select(X, (1, 3, 5), ("full", "tied"), drop_hopeless=False, **settings)
        assert [(row.covariance_type, row.n_components) for row in found.table] == [
            (shape, k) for shape in ("full", "tied") for k in (1, 3, 5)
        ]
        for row in found.table:
            alone = sem.GaussianMixture(row.n_components, covariance_type=row.covariance_type, **settings)
            alone.fit(X)
            if "n_init" not in settings:
                assert_same(row, alone)
            np.testing.assert_array_equal(row.model.means_, alone.means_)
            assert row.model.get_params() == alone.get_params()


def test_models__start_on_the_samples_they_would_have_alone(monkeypatch):
    monkeypatch.setattr(resident, "SMALLEST_SAMPLE", 400)
    monkeypatch.setattr(resident, "RESERVE", 1)
    x, _ = clusters(n=16_000, d=2, k=3, seed=4)
    sizes = []
    monkeypatch.setattr(
        resident,
        "starts",
        lambda model, sample, *rest: sizes.append(len(sample.index)) or starts(model, sample, *rest),
    )
    monkeypatch.setattr("streamem.estimators.fitting.starts", resident.starts)
    found = sem.select(x, (1, 2, 3), drop_hopeless=False, random_state=0)
    assert sizes == [1000, 2200, 3400]  # 200 rows for each parameter
    for row in found.table:
        assert_same(row, sem.GaussianMixture(row.n_components, random_state=0).fit(x))
    assert "sample" in {record.accepted for record in found.table[2].model.result_.history}


starts = resident.starts


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_heldout_rows__are_left_out_and_scored(weight):
    held = held_out(0.3).mask(0, len(X))
    w = np.ones(len(X)) if weight is None else weight
    found = sem.select(
        X,
        (1, 3),
        "diag",
        "heldout",
        sample_weight=weight,
        heldout_share=0.3,
        drop_hopeless=False,
        random_state=0,
    )
    assert found.best.n_components == 3
    for row in found.table:
        alone = sem.GaussianMixture(row.n_components, covariance_type="diag", random_state=0)
        alone.fit(X, sample_weight=np.where(held, 0, w))
        assert_same(row, alone)
        model = row.model
        choleskys = naive.full_cholesky("diag", model.covariances_, row.n_components, 2)
        scores = naive.score_samples(X, model.weights_, model.means_, choleskys)
        assert row.heldout == pytest.approx(np.average(scores[held], weights=w[held]), rel=1e-10)
        assert row.log_likelihood == pytest.approx(np.average(scores[~held], weights=w[~held]), rel=1e-10)


def test_heldout_rows__are_the_same_under_every_chunking(tmp_path):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(37, 2), dtype="f8")
    z[:] = X
    whole, parts = (
        sem.select(x, (2, 3), criterion="heldout", acceleration="none", random_state=0) for x in (X, z)
    )
    for a, b in zip(whole.table, parts.table, strict=True):
        assert a.model.stats_.n_samples == b.model.stats_.n_samples
        assert a.heldout == pytest.approx(b.heldout, rel=1e-9)


def test_heldout_share__adds_the_column_to_any_criterion():
    found = sem.select(X, (3,), heldout_share=0.5, random_state=0)
    assert np.isfinite(found.best_row.heldout)
    assert found.best.result_.stats.n_samples == np.count_nonzero(~held_out(0.5).mask(0, len(X)))
    assert np.isnan(sem.select(X, (3,), random_state=0).best_row.heldout)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_criteria__are_those_of_the_formulas(weight):
    w = np.ones(len(X)) if weight is None else weight
    for row in sem.select(X, (1, 2, 3), ("full", "spherical"), sample_weight=weight, random_state=0).table:
        model, k, d = row.model, row.n_components, 2
        choleskys = naive.full_cholesky(row.covariance_type, model.covariances_, k, d)
        likelihood, entropy, *_ = naive.statistics("full", X, w, model.weights_, model.means_, choleskys)
        count = k - 1 + k * d + k * {"full": 3, "spherical": 1}[row.covariance_type]
        n = w.sum()
        assert row.n_parameters == count
        assert row.log_likelihood == pytest.approx(likelihood / n, rel=1e-9)
        assert row.bic == pytest.approx(-2 * likelihood + count * np.log(n), rel=1e-9)
        assert row.aic == pytest.approx(-2 * likelihood + 2 * count, rel=1e-9)
        assert row.icl == pytest.approx(row.bic + 2 * entropy, rel=1e-9)


def test_weights__count_as_repetition():
    repeated = np.repeat(X, WEIGHT.astype(int), axis=0)
    weighted = sem.select(X, (1, 3), sample_weight=WEIGHT, random_state=0, tol=1e-9)
    for a, b in zip(
        weighted.table, sem.select(repeated, (1, 3), random_state=0, tol=1e-9).table, strict=True
    ):
        assert (a.bic, a.icl) == pytest.approx((b.bic, b.icl), rel=1e-6)


@pytest.mark.parametrize("criterion", ["bic", "icl"])
def test_criterion__finds_the_truth_in_clear_data(criterion):
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(m, 1, (300, 2)) for m in (-12, -4, 4, 12)])
    found = sem.select(x, range(1, 8), ("full", "diag", "spherical"), criterion, random_state=0)
    assert (found.best.n_components, found.best.covariance_type) == (4, "spherical")
    assert found.criterion == criterion
    assert getattr(found.best_row, criterion) == min(getattr(row, criterion) for row in found.table)


def test_passes__are_shared():
    """Twenty sizes and two types take the readings of the slowest of them alone."""
    settings = {"random_state": 0, "max_iter": 25, "acceleration": "none", "tol": 1e-4}
    passes = Passes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        found = sem.select(
            X[:300], range(1, 21), ("full", "diag"), drop_hopeless=False, callbacks=[passes], **settings
        )
        slowest = max(found.table, key=lambda row: row.n_passes)
        alone = sem.GaussianMixture(
            slowest.n_components, covariance_type=slowest.covariance_type, **settings
        ).fit(X[:300])
    assert len(found.table) == 40
    assert found.n_passes == len(passes) <= 1.5 * alone.n_iter_
    assert sum(row.n_passes for row in found.table) > 5 * found.n_passes


def test_models__wait_where_memory_is_short(monkeypatch):
    settings = {"random_state": 0, "acceleration": "none", "tol": 1e-4, "drop_hopeless": False}
    side_by_side = sem.select(X, (1, 2, 3), **settings)
    monkeypatch.setattr(sharing, "STATISTICS_SHARE", 2**30)
    in_turn = sem.select(X, (1, 2, 3), **settings)
    assert in_turn.n_passes == sum(row.n_passes for row in in_turn.table) > side_by_side.n_passes
    assert [row.bic for row in in_turn.table] == [row.bic for row in side_by_side.table]


@pytest.mark.parametrize("seed", range(4))
def test_dropping__never_drops_the_winner(seed):
    rng = np.random.default_rng(seed)
    d, k = rng.integers(1, 4), rng.integers(1, 5)
    centers, spread = rng.normal(0, 3, (k, d)), rng.uniform(0.3, 1.5, (k, d))
    labels = rng.integers(k, size=400)
    x = centers[labels] + spread[labels] * rng.standard_t(5, size=(400, d))
    criterion = selection.CRITERIA[seed % 4]
    settings = {
        "random_state": seed,
        "acceleration": ("none", "anderson")[seed % 2],
        "n_init": 2,
        "max_iter": 60,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        every = sem.select(x, range(1, 7), ("full", "diag"), criterion, drop_hopeless=False, **settings)
        some = sem.select(x, range(1, 7), ("full", "diag"), criterion, **settings)
    assert not any(row.dropped for row in every.table)
    assert (some.best.n_components, some.best.covariance_type) == (
        every.best.n_components,
        every.best.covariance_type,
    )
    np.testing.assert_array_equal(some.best.means_, every.best.means_)


def test_dropping__saves_work_on_clear_data():
    settings = {"random_state": 0, "acceleration": "none", "tol": 1e-7, "max_iter": 150}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        some = sem.select(X, (3, 6), "full", **settings)
        every = sem.select(X, (3, 6), "full", drop_hopeless=False, **settings)
    assert [row.dropped for row in some.table] == [False, True]
    assert some.table[1].status is Status.DROPPED and some.table[1].message == Status.DROPPED.value
    assert some.table[1].n_passes < every.table[1].n_passes
    assert some.table[0].bic == every.table[0].bic


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_scheduler__changes_no_bit(tmp_path, criterion):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(37, 2), dtype="f8")
    z[:] = X

    def table(workers, scheduler):
        with dask.config.set(num_workers=workers):
            found = sem.select(z, (1, 2, 3, 4), "diag", criterion, scheduler=scheduler, random_state=0)
        return [(row.bic, row.icl, str(row.heldout), row.n_passes, row.status) for row in found.table]

    reference = table(1, "synchronous")
    assert table(1, "threads") == table(8, "threads") == reference


@pytest.mark.slow
def test_processes__change_no_bit(tmp_path):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(300, 2), dtype="f8")
    z[:] = X
    path = str(tmp_path / "x.zarr")
    with dask.config.set(num_workers=1):
        tables = [
            sem.select(path, (2, 3), criterion="heldout", scheduler=scheduler, random_state=0).table
            for scheduler in ("synchronous", "processes")
        ]
    for a, b in zip(*tables, strict=True):
        assert (a.bic, a.heldout, a.n_passes) == (b.bic, b.heldout, b.n_passes)
        assert np.isfinite(a.heldout)


def test_failure__of_one_model_is_in_the_table_and_harms_no_other():
    found = sem.select(X[:20], (1, 30, 2), random_state=0)
    one, many, two = found.table
    assert many.status is None and many.model is None and not many.dropped
    assert "30" in many.message and "rows" in many.message
    assert np.isnan(many.bic)
    assert one.bic == sem.GaussianMixture(1, random_state=0).fit(X[:20]).bic()
    assert two.status is Status.CONVERGED
    assert found.curves()["full"][0] == [1, 2]


def test_failure__of_all_is_an_error():
    with pytest.raises(sem.InputError, match="rows with positive weight"):
        sem.select(X[:3], (5, 6))


def test_equals__the_smaller_wins_then_the_first():
    def row(name, n_parameters, bic):
        return selection.SelectedModel(2, name, n_parameters, "", bic=bic)

    rows = [row("full", 9, 1.0), row("tied", 7, 1.0), row("diag", 7, 1.0), row("spherical", 5, 2.0)]
    assert selection._best(rows, "bic", []).covariance_type == "tied"
    with pytest.raises(sem.InputError, match="finite aic"):
        selection._best(rows, "aic", [])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"criterion": "gut feeling"}, "criterion"),
        ({"n_components": ()}, "nothing to choose from"),
        ({"covariance_type": ()}, "nothing to choose from"),
        ({"n_components": (1, 0)}, "n_components"),
        ({"covariance_type": ("full", "round")}, "covariance_type"),
        ({"heldout_share": 1.0}, "heldout_share"),
        ({"heldout_share": "some"}, "heldout_share"),
        ({"tol": -1}, "tol"),
        ({"acceleration": "warp"}, "acceleration"),
        ({"criterion": "heldout", "heldout_share": 1e-12}, "finite heldout"),
    ],
)
def test_settings__that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(sem.InputError, match=message):
        sem.select(X, **({"n_components": (1,)} | arguments))


def test_random_state__decides_everything():
    tables = [
        [row.bic for row in sem.select(X, (3, 5), random_state=state, max_iter=300).table]
        for state in (1, 1, np.random.default_rng(3), np.random.default_rng(3))
    ]
    assert tables[0] == tables[1] and tables[2] == tables[3]
    assert tables[0] != tables[2]


def test_single_values__are_a_grid_of_one():
    found = sem.select(X, 3, "tied", random_state=0)
    assert [(row.n_components, row.covariance_type) for row in found.table] == [(3, "tied")]
    assert found.best is found.table[0].model
    assert found.best.predict(X).shape == (len(X),)


def test_callbacks__hear_each_reading_once_and_can_end_all():
    ended = []

    def stop(event):
        if isinstance(event, PassEnded) and event.phase == "em":
            ended.append(event)
            return event.index == 2
        return False

    found = sem.select(
        X, (4, 5), ("full", "diag"), acceleration="none", tol=0.0, random_state=0, callbacks=[stop]
    )
    assert [(event.index, event.n_fits) for event in ended] == [(0, 4), (1, 4), (2, 4)]
    assert {row.status for row in found.table} == {Status.CALLBACK}
    assert found.n_passes == 3


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_interrupt__keeps_what_was_reached(criterion):
    def press(event):
        if isinstance(event, PassStarted) and event.phase == "em" and event.index == 4:
            raise KeyboardInterrupt

    with pytest.warns(sem.ConvergenceWarning, match="Interrupted"):
        found = sem.select(
            X, (4, 5), criterion=criterion, acceleration="none", tol=0.0, random_state=0, callbacks=[press]
        )
    assert {row.status for row in found.table} == {Status.INTERRUPTED}
    assert {row.n_passes for row in found.table} == {4}


def test_interrupt__before_the_first_pass_is_not_swallowed():
    def press(event):
        if isinstance(event, PassStarted) and event.phase == "em":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sem.select(X, (1, 2), random_state=0, callbacks=[press])


def test_interrupt__leaves_those_that_waited_without_values(monkeypatch):
    monkeypatch.setattr(sharing, "STATISTICS_SHARE", 2**30)

    def press(event):
        if isinstance(event, PassStarted) and event.phase == "em" and event.index == 2:
            raise KeyboardInterrupt

    with pytest.warns(sem.ConvergenceWarning, match="5 components"):
        found = sem.select(X, (4, 5), acceleration="none", random_state=0, callbacks=[press])
    waited, ran = found.table
    assert found.best is ran.model and ran.n_passes == 2
    assert waited.model is None and np.isnan(waited.bic) and waited.status is Status.INTERRUPTED
