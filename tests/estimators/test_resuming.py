"""A fit that was stopped goes on to the bits of one that was not, or says why it cannot."""

import dataclasses
import logging
import shutil
import uuid
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import zarr

import streamem as sem
from streamem.convergence import PassEnded, PassStarted, Status
from streamem.estimators import resident
from streamem.persistence import Checkpoints, checkpoints
from tests.strategies import clusters

X, _ = clusters(n=1200, k=4, d=3)
pytestmark = pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")


class StoppedError(Exception):
    """A crash."""


class Watch(list):
    """Keeps the passes that began; after pass ``last`` it raises, or asks for the end."""

    def __init__(self, last=None, error=StoppedError):
        self.last, self.error, self.sampled = last, error, 0

    def __call__(self, event):
        if isinstance(event, PassStarted):
            self.sampled += event.phase == "sample"
            if event.phase == "em":
                self.append(event.index)
        if isinstance(event, PassEnded) and event.phase == "em" and event.index == self.last:
            if self.error is None:
                return True
            raise self.error
        return None


def gaussian(acceleration="none", **settings):
    """A mixture that takes many passes."""
    given = {"covariance_type": "full", "tol": 0, "max_iter": 9, "sample_size": 500, "random_state": 0}
    return sem.GaussianMixture(5, acceleration=acceleration, **given | settings)


def history(result):
    """The history but for its times."""
    times = {"seconds", "read_seconds", "decode_seconds", "compute_seconds"}
    return [
        [
            [dataclasses.astuple(event) for event in value] if name == "events" else value
            for name in sorted(set(record.__slots__) - times)
            for value in [getattr(record, name)]
        ]
        for record in result.history
    ]


def assert_same(a, b):
    """Fits have the same bits."""
    assert a.result_.status is b.result_.status
    assert history(a.result_) == history(b.result_)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.bic() == b.bic()


def interrupted(gm, place, after, x=X, error=StoppedError, **where):
    """A fit that stops after some passes."""
    watch = Watch(after - 1, error)
    if error is None:
        return gm.fit(x, checkpoint=place, callbacks=[watch], **where)
    with pytest.raises(error):
        gm.fit(x, checkpoint=place, callbacks=[watch], **where)
    return None


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("acceleration", ["none", "anderson", "auto"])
def test_fit__goes_on_to_the_same_bits_from_every_pass(acceleration, covariance, tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "FEWEST_ROWS_PER_PARAMETER", 1)  # correct even this small a sample
    make = lambda: gaussian(acceleration, covariance_type=covariance)  # noqa: E731
    whole = make().fit(X)
    passes = whole.n_iter_
    assert passes >= 3
    for after in range(1, passes):
        place, watch = tmp_path / str(after), Watch()
        interrupted(make(), place, after, error=None if after % 2 else StoppedError)
        again = make().fit(X, checkpoint=place, resume=True, callbacks=[watch])
        assert_same(again, whole)
        assert watch == list(
            range(after, passes)
        )  # no pass is made twice, and none is called by another's name
        assert watch.sampled == 0


def test_fit__that_stops_at_every_pass_gets_to_the_same_end(tmp_path):
    whole = gaussian("anderson").fit(X)
    for after in range(1, whole.n_iter_):
        interrupted(gaussian("anderson"), tmp_path, after, resume="auto")
    assert_same(gaussian("anderson").fit(X, checkpoint=tmp_path, resume="auto"), whole)


def test_checkpoints__change_no_bit(tmp_path):
    assert_same(gaussian("auto").fit(X, checkpoint=tmp_path), gaussian("auto").fit(X))


def test_fit__that_is_done_is_returned_without_a_pass(tmp_path):
    first = gaussian("auto", tol=1e-3, max_iter=100).fit(X, checkpoint=tmp_path)
    assert first.converged_
    watch = Watch()
    again = gaussian("auto", tol=1e-3, max_iter=100).fit(
        X, checkpoint=tmp_path, resume=True, callbacks=[watch]
    )
    assert_same(again, first)
    assert watch == []


def test_settings__that_are_equal_numbers_are_the_same(tmp_path):
    gaussian(tol=0.0, max_iter=3).fit(X, checkpoint=tmp_path)
    assert gaussian(tol=0, max_iter=4).fit(X, checkpoint=tmp_path, resume=True).n_iter_ == 4


def test_max_iter__can_be_raised_but_not_below_what_is_done(tmp_path):
    gaussian(max_iter=4).fit(X, checkpoint=tmp_path)
    assert_same(gaussian().fit(X, checkpoint=tmp_path, resume=True), gaussian().fit(X))
    with pytest.raises(sem.InputError, match="9 passes are done already, more than max_iter=5"):
        gaussian(max_iter=5).fit(X, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_scheduler__may_be_another(tmp_path, scheduler):
    store = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(100, 3), dtype="f8")
    store[:] = X
    path, other = str(tmp_path / "x.zarr"), {"synchronous": "threads", "threads": "synchronous"}[scheduler]
    settings = {"memory_limit": "64KiB", "sample_size": 100}
    whole = gaussian("anderson", **settings).fit(path)
    interrupted(gaussian("anderson", **settings), tmp_path / "run", 3, path, scheduler=scheduler)
    run = {"checkpoint": tmp_path / "run", "resume": True, "scheduler": other}
    again = gaussian("anderson", **settings).fit(path, **run)
    assert_same(again, whole)


def test_url__does_as_a_folder(caplog):
    place = sem.Checkpoint(f"memory://{uuid.uuid4().hex}/run", keep=2)
    whole = gaussian("auto").fit(X)
    for after in (2, 4):
        interrupted(gaussian("auto"), place, after, resume="auto")
    assert len(Checkpoints(place).names("pass")) == 2
    assert_same(gaussian("auto").fit(X, checkpoint=place, resume=True), whole)


def test_weights_and_float32__are_part_of_it(tmp_path):
    x, weight = X.astype(np.float32), np.random.default_rng(0).uniform(0, 2, len(X))
    whole = gaussian().fit(x, sample_weight=weight)
    interrupted(gaussian(), tmp_path, 3, x, sample_weight=weight)
    with pytest.raises(sem.InputError, match="weighted"):
        gaussian().fit(x, checkpoint=tmp_path, resume=True)
    assert_same(gaussian().fit(x, sample_weight=weight, checkpoint=tmp_path, resume=True), whole)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_rows_with_missing_values__go_on(tmp_path, missing):
    x = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    make = lambda: gaussian("anderson", missing=missing, max_iter=5)  # noqa: E731
    whole = make().fit(x)
    interrupted(make(), tmp_path, 3, x)
    assert_same(make().fit(x, checkpoint=tmp_path, resume=True), whole)
    with pytest.raises(sem.InputError, match=f"missing was '{missing}'"):
        make().set_params(missing={"drop": "marginal", "marginal": "drop"}[missing]).fit(
            x, checkpoint=tmp_path, resume=True
        )


def test_variational_mixture__goes_on(tmp_path):
    make = lambda: sem.BayesianGaussianMixture(4, tol=0, max_iter=6, random_state=0)  # noqa: E731
    whole = make().fit(X)
    interrupted(make(), tmp_path, 3)
    again = make().fit(X, checkpoint=tmp_path, resume=True)
    assert history(again.result_) == history(whole.result_)
    np.testing.assert_array_equal(again.covariances_, whole.covariances_)


@pytest.mark.parametrize("acceleration", ["none", "anderson"])
def test_starts__go_on_together(acceleration, tmp_path):
    whole = gaussian(acceleration, n_init=4).fit(X)
    for after in (2, 5):
        interrupted(gaussian(acceleration, n_init=4), tmp_path, after, resume="auto")
    assert_same(gaussian(acceleration, n_init=4).fit(X, checkpoint=tmp_path, resume=True), whole)


def test_start__that_failed_stays_out(tmp_path, monkeypatch):
    from streamem import em

    take = em.Ascent.take

    def failing(self, rows, seconds=0.0):
        if self.accelerate.model.start == "random" and len(self.history) == 1 and failing.once:
            failing.once = False
            raise sem.DegenerateComponentError("collapsed")
        take(self, rows, seconds)

    failing.once = True
    monkeypatch.setattr(em.Ascent, "take", failing)
    settings = {"n_init": 3, "init_params": "random"}
    whole = gaussian(**settings).fit(X)
    failing.once = True
    interrupted(gaussian(**settings), tmp_path, 4)
    assert_same(gaussian(**settings).fit(X, checkpoint=tmp_path, resume=True), whole)


def test_random_state__that_is_not_fixed_is_kept(tmp_path):
    interrupted(gaussian(random_state=None), tmp_path / "a", 2)
    stored = next(Checkpoints(sem.Checkpoint(tmp_path / "a")).archives())
    again = gaussian(random_state=None).fit(X, checkpoint=tmp_path / "a", resume=True)
    assert again.n_iter_ == 9
    assert again.lower_bounds_[:2] != gaussian(random_state=None).fit(X).lower_bounds_[:2]
    assert (
        next(Checkpoints(sem.Checkpoint(tmp_path / "a")).archives()).header["seed"] == stored.header["seed"]
    )
    generator = gaussian(random_state=np.random.default_rng(3))
    interrupted(generator, tmp_path / "b", 2)
    generator.set_params(random_state=np.random.default_rng(3))
    assert generator.fit(X, checkpoint=tmp_path / "b", resume=True).n_iter_ == 9


def test_given_start__is_part_of_it(tmp_path):
    model = gaussian()._model(fitted=False)
    start = sem.fit(model, X, max_iter=1, random_state=0).params
    run = {"max_iter": 6, "tol": 0, "random_state": 0, "acceleration": "anderson"}
    whole = sem.fit(model, X, start, **run)
    with pytest.raises(StoppedError):
        sem.fit(model, X, start, checkpoint=tmp_path, callbacks=[Watch(2)], **run)
    again = sem.fit(model, X, start, checkpoint=tmp_path, resume=True, **run)
    assert history(again) == history(whole)
    np.testing.assert_array_equal(again.params.cholesky, whole.params.cholesky)
    other = dataclasses.replace(start, means=start.means + 1)
    with pytest.raises(sem.InputError, match="params was 'GaussianMixtureParams"):
        sem.fit(model, X, other, checkpoint=tmp_path, resume=True, **run)


# --- refusals


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tol": 1e-3}, "tol was 0, now 0.001"),
        ({"random_state": 1}, "random_state was 'seed"),
        ({"covariance_type": "diag"}, "covariance_type was 'full', now 'diag'"),
        ({"acceleration": "anderson"}, "acceleration was 'none', now 'anderson'"),
        ({"sample_size": 600}, "sample_size was 500, now 600"),
        ({"n_init": 2}, "n_init was 1, now 2"),
        ({"means_init": np.zeros((5, 3))}, "means_init was None, now 'ndarray"),
        ({"reg_covar": 0.5}, "reg_covar was 'auto', now 0.5"),
        ({"n_components": 4}, "n_components was 5, now 4"),
    ],
)
def test_other_settings__are_refused_by_name(tmp_path, change, words):
    interrupted(gaussian(), tmp_path, 1)
    with pytest.raises(sem.InputError, match="other settings") as caught:
        gaussian().set_params(**change).fit(X, checkpoint=tmp_path, resume="auto")
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def changed(row):
    x = X.copy()
    x[row, 1] += 1e-9
    return x


@pytest.mark.parametrize(
    "x, words",
    [
        (X[:-1], "n_samples was 1200, now 1199"),
        (X[:, :2], "n_features was 3, now 2"),
        (X.astype(np.float32), "dtype was 'float64', now 'float32'"),
        (changed(0), "rows 0-1,200"),
        (changed(-1), "rows 0-1,200"),
    ],
)
def test_other_data__are_refused_by_what_is_different(tmp_path, x, words):
    interrupted(gaussian(), tmp_path, 1)
    with pytest.raises(sem.InputError, match="other data") as caught:
        gaussian().fit(x, checkpoint=tmp_path, resume=True)
    assert words in str(caught.value)


def test_other_blocks__are_refused(tmp_path):
    for name, rows in (("a", 100), ("b", 150)):
        store = zarr.create_array(tmp_path / name, shape=X.shape, chunks=(rows, 3), dtype="f8")
        store[:] = X
    settings = {"memory_limit": "64KiB", "sample_size": 100}
    interrupted(gaussian(**settings), tmp_path / "run", 1, str(tmp_path / "a"))
    with pytest.raises(sem.InputError, match="blocks was"):
        gaussian(**settings).fit(str(tmp_path / "b"), checkpoint=tmp_path / "run", resume=True)


def test_rows__may_move_and_that_is_logged(tmp_path, caplog):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", X)
    interrupted(gaussian(), tmp_path / "run", 2, tmp_path / "a.npy")
    with caplog.at_level(logging.WARNING, "streamem"):
        again = gaussian().fit(tmp_path / "b.npy", checkpoint=tmp_path / "run", resume=True)
    assert "a.npy" in caplog.text and "b.npy" in caplog.text
    assert_same(again, gaussian().fit(X))


def test_place__with_a_fit_is_not_written_over(tmp_path):
    interrupted(gaussian(), tmp_path, 1)
    with pytest.raises(sem.InputError, match="holds a fit already"):
        gaussian().fit(X, checkpoint=tmp_path)


def test_resume__needs_something_to_go_on_from(tmp_path):
    with pytest.raises(sem.InputError, match="no checkpoint that can be read"):
        gaussian().fit(X, checkpoint=tmp_path / "none", resume=True)
    with pytest.raises(sem.InputError, match="Pass checkpoint as well"):
        gaussian().fit(X, resume="auto")
    with pytest.raises(sem.InputError, match="resume"):
        gaussian().fit(X, checkpoint=tmp_path, resume="maybe")


def test_model_file__says_that_it_is_a_checkpoint(tmp_path):
    interrupted(gaussian(), tmp_path, 1)
    with pytest.raises(sem.ModelFileError, match="is a checkpoint of a fit"):
        sem.load(next(tmp_path.glob("pass-*.npz")))


def test_other_version__is_told(tmp_path, monkeypatch, caplog):
    interrupted(gaussian(), tmp_path, 1)
    monkeypatch.setattr(sem, "__version__", "99.0")
    gaussian().fit(X, checkpoint=tmp_path, resume=True)
    assert "99.0" in caplog.text


# --- damage and failures


def test_damaged_newest__costs_a_pass_and_no_bit(tmp_path, caplog):
    whole = gaussian("anderson").fit(X)
    interrupted(gaussian("anderson"), tmp_path, 5)
    newest = max(tmp_path.glob("pass-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-100])
    watch = Watch()
    again = gaussian("anderson").fit(X, checkpoint=tmp_path, resume=True, callbacks=[watch])
    assert newest.name in caplog.text
    assert watch[0] == 4
    assert_same(again, whole)


@pytest.mark.parametrize("spoil", ["damage", "remove"])
def test_sample__that_cannot_be_read_is_drawn_again(tmp_path, monkeypatch, caplog, spoil):
    monkeypatch.setattr(resident, "FEWEST_ROWS_PER_PARAMETER", 1)
    make = lambda: gaussian("auto", random_state=None)  # noqa: E731
    interrupted(make(), tmp_path / "a", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    sample = next((tmp_path / "b").glob("sample-*.npz"))
    sample.write_bytes(b"PK") if spoil == "damage" else sample.unlink()
    watch = Watch()
    again = make().fit(X, checkpoint=tmp_path / "b", resume=True, callbacks=[watch])
    assert watch.sampled == 1 and "Sampling the rows again" in caplog.text
    assert_same(again, make().fit(X, checkpoint=tmp_path / "a", resume=True))


def test_write_that_fails__is_told_and_made_up_for(tmp_path, monkeypatch, caplog):
    write, calls = Checkpoints.write, []

    def failing(self, kind, index, archive):
        calls.append(index)
        if index in (2, 3):
            raise sem.SourceError("disk full")
        return write(self, kind, index, archive)

    monkeypatch.setattr(Checkpoints, "write", failing)
    assert_same(gaussian().fit(X, checkpoint=tmp_path), gaussian().fit(X))
    assert "Pass 2 has no checkpoint. disk full" in caplog.text
    assert calls[-1] == 9 and next(Checkpoints(sem.Checkpoint(tmp_path)).archives()).header["n_passes"] == 9


def test_first_write_that_fails__is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(sem.SourceError):
        gaussian().fit(X, checkpoint=tmp_path / "file")


# --- Ctrl-C


def interrupting_passes(monkeypatch, pass_number):
    """Interrupt the reading of a pass."""
    from streamem.estimators import rows

    one_pass, seen = rows.RowData.one_pass, []

    def interrupting(self, e_step, phase, index, row_work=None):
        if phase == "em" and self.callbacks:
            seen.append(index)
            if len(seen) == pass_number:
                raise KeyboardInterrupt
        return one_pass(self, e_step, phase, index, row_work)

    monkeypatch.setattr(rows.RowData, "one_pass", interrupting)


def test_interrupt__in_a_pass_returns_what_there_is_and_goes_on_later(tmp_path, monkeypatch):
    whole = gaussian("anderson").fit(X)
    with monkeypatch.context() as patch:
        interrupting_passes(patch, 4)
        half = gaussian("anderson").fit(X, checkpoint=tmp_path)
    assert (half.result_.status, half.n_iter_) == (Status.INTERRUPTED, 3)
    assert_same(gaussian("anderson").fit(X, checkpoint=tmp_path, resume=True), whole)


def test_interrupt__in_a_write_lets_it_end_first(tmp_path, monkeypatch):
    whole, pack, calls = gaussian().fit(X), checkpoints.pack, []

    def interrupting(archive, file):
        calls.append(1)
        if len(calls) == 5:  # sample, start, and three passes
            raise KeyboardInterrupt
        pack(archive, file)

    monkeypatch.setattr(checkpoints, "pack", interrupting)
    half = gaussian().fit(X, checkpoint=tmp_path)
    assert (half.result_.status, half.n_iter_) == (Status.INTERRUPTED, 3)
    assert next(Checkpoints(sem.Checkpoint(tmp_path)).archives()).header["n_passes"] == 3
    assert_same(gaussian().fit(X, checkpoint=tmp_path, resume=True), whole)


def test_interrupt__between_two_passes_is_no_state_to_keep(tmp_path, monkeypatch):
    from streamem.acceleration import Anderson

    whole, call, calls = gaussian("anderson").fit(X), Anderson.__call__, []

    def interrupting(self, best, rejected):
        proposal = call(self, best, rejected)  # its state has changed already
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return proposal

    with monkeypatch.context() as patch:
        patch.setattr(Anderson, "__call__", interrupting)
        assert gaussian("anderson").fit(X, checkpoint=tmp_path).result_.status is Status.INTERRUPTED
    assert_same(gaussian("anderson").fit(X, checkpoint=tmp_path, resume=True), whole)


# --- models of one's own


@dataclass(frozen=True)
class Rate:
    rate: np.ndarray


@dataclass
class Sums:
    n_samples: int
    weight: float
    log_likelihood: float
    total: np.ndarray

    def merge(self, other):
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class Exponential:
    """Independent columns, and an M-step that goes half the way, so that it takes passes."""

    def __init__(self, share=0.5):
        self.share = share
        self._calls = 0

    def init(self, sample, rng):
        return Rate(np.full(sample.x.shape[1], rng.uniform(1, 2)))

    def e_step(self, params, rows):
        self._calls += 1
        n, total = len(rows.x), rows.x.sum(axis=0)
        return Sums(n, float(n), float(n * np.log(params.rate).sum() - params.rate @ total), total)

    def m_step(self, params, stats):
        return Rate((1 - self.share) * params.rate + self.share * stats.weight / stats.total)

    def to_vector(self, params):
        return np.log(params.rate)

    def from_vector(self, vector, like):
        return Rate(np.exp(vector))


POSITIVE = np.random.default_rng(0).exponential(size=(500, 3))
OWN = {"tol": 0, "max_iter": 8, "random_state": 0}


@pytest.mark.parametrize("acceleration", ["auto", "none"])
@pytest.mark.parametrize("given", [False, True])
def test_own_model__goes_on_to_the_same_bits(tmp_path, acceleration, given):
    start = Rate(np.array([0.5, 1.0, 1.5])) if given else None
    run = {**OWN, "acceleration": acceleration}
    whole = sem.fit(Exponential(), POSITIVE, start, **run)
    with pytest.raises(StoppedError):
        sem.fit(Exponential(), POSITIVE, start, checkpoint=tmp_path, callbacks=[Watch(1)], **run)
    again = sem.fit(Exponential(), POSITIVE, start, checkpoint=tmp_path, resume=True, **run)
    assert type(again.params) is Rate and type(again.stats) is Sums
    assert history(again) == history(whole)
    np.testing.assert_array_equal(again.params.rate, whole.params.rate)


def test_own_model__has_its_public_attributes_for_settings(tmp_path):
    sem.fit(Exponential(), POSITIVE, checkpoint=tmp_path, **OWN)
    with pytest.raises(sem.InputError, match=r"model\.share was 0\.5, now 0\.25"):
        sem.fit(Exponential(0.25), POSITIVE, checkpoint=tmp_path, resume=True, **OWN)


class Opaque:
    """Statistics that no file can hold."""

    def __init__(self, sums):
        self.n_samples, self.weight, self.log_likelihood = sums.n_samples, sums.weight, sums.log_likelihood


@pytest.mark.parametrize("what", ["params", "stats"])
def test_own_model__that_cannot_be_written_is_refused_before_its_first_pass(tmp_path, what):
    class Awkward(Exponential):
        def init(self, sample, rng):
            params = super().init(sample, rng)
            return {"rate": params.rate, "of": {1}} if what == "params" else params

        def e_step(self, params, rows):
            return Opaque(super().e_step(params, rows))

    watch = Watch()
    with pytest.raises(sem.InputError, match=f"{what}.* cannot be written to a checkpoint"):
        sem.fit(Awkward(), POSITIVE, checkpoint=tmp_path, callbacks=[watch], **OWN)
    assert watch == []
    assert Checkpoints(sem.Checkpoint(tmp_path)).names("pass") == []


def test_sweep_of_warnings__none_is_swallowed(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gaussian().fit(X, checkpoint=tmp_path)
    assert [w.category for w in caught] == [sem.ConvergenceWarning]
