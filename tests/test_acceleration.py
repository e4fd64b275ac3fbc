"""Accelerated fits have the fixed points of plain EM, never fall, and take fewer passes."""

import dataclasses
import warnings

import numpy as np
import pytest

import streamem as sem
from streamem import em
from streamem.acceleration import Anderson, Mixing, PlainEM, Reached, _damped_least_squares
from streamem.convergence import Status
from streamem.models.covariance import COVARIANCES
from streamem.protocols import Pass
from tests.climbs import X, corrected, setting
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("method", ["anderson", "sample"])
def test_accelerated_fit__ends_where_plain_em_does_and_never_falls(covariance_type, method):
    model, params, one_pass, sample_pass = setting(covariance_type)
    plain = em.iterate(model, one_pass, params, tol=1e-12, max_iter=5000)
    accelerate = Anderson(model) if method == "anderson" else corrected(model, sample_pass)
    fast = em.iterate(model, one_pass, params, accelerate=accelerate, tol=1e-10, max_iter=500)
    assert fast.status is Status.CONVERGED
    assert fast.history[-1].objective == pytest.approx(plain.history[-1].objective, abs=1e-8)
    np.testing.assert_allclose(fast.params.means, plain.params.means, atol=2e-3)
    assert np.all(np.diff([record.objective for record in fast.history]) >= 0)
    assert any(record.accepted == method for record in fast.history)
    assert len(fast.history) < len(plain.history)


def test_mixing__finds_the_fixed_point_of_a_linear_map():
    rng = np.random.default_rng(0)
    matrix, constant = np.diag([0.9, 0.5, -0.3]), rng.normal(size=3)
    past = Mixing()
    point = np.zeros(3)
    for _ in range(5):
        past.add(point, matrix @ point + constant)
        mixed = past.mixed(1.0)
        point = matrix @ point + constant if mixed is None else mixed
    np.testing.assert_allclose(point, constant / (1 - np.diag(matrix)), rtol=1e-3)


@dataclasses.dataclass
class Curve:
    """Statistics of `Saddle`."""

    log_likelihood: float
    n_samples: int = 1
    weight: float = 1.0


class Saddle:
    """Short steps up θ²/2 − θ⁴/4, which is lowest at 0 and highest at 1."""

    def m_step(self, theta, stats):
        return theta + 0.1 * theta * (1 - theta**2)

    def to_vector(self, theta):
        return np.array([theta])

    def from_vector(self, vector, like):
        return float(vector[0])


def test_stretched_steps__leave_a_saddle_sooner_than_em():
    """Near a saddle steps grow, and mixing, which seeks where they vanish, would only go back."""
    histories = [
        em.iterate(
            Saddle(),
            lambda every: Pass([Curve(theta**2 / 2 - theta**4 / 4) for theta in every]),
            1e-4,
            accelerate=method,
            tol=1e-9,
            max_iter=400,
        ).history
        for method in (PlainEM(Saddle()), Anderson(Saddle()))
    ]
    assert len(histories[1]) < len(histories[0]) / 2
    assert "stretched" in [record.accepted for record in histories[1]]
    for history in histories:
        assert history[-1].objective == pytest.approx(0.25, abs=1e-8)
        assert np.all(np.diff([record.objective for record in history]) >= 0)


@pytest.mark.parametrize(("gain", "kind"), [(0.02, "em"), (0.002, "anderson")])
def test_anderson__leaves_em_alone_while_it_gains_much(gain, kind):
    model, params, one_pass, _ = setting(polished=False)
    method, kinds = Anderson(model), []
    for i in range(3):
        stats = one_pass([params]).stats[0]
        proposal = method(Reached(params, stats, i * gain, "em"), False)
        kinds.append(proposal.candidates[0].by)
        params = proposal.step
    assert kinds == ["em", kind, kind]


def test_anderson__leaves_em_alone_where_it_contracts_fast():
    model, params, one_pass, _ = setting(x=X + [[0.0, 0.0], [40.0, 0.0]] * 12_000, polished=False)
    result = em.iterate(model, one_pass, params, accelerate=Anderson(model), tol=1e-9)
    assert {record.accepted for record in result.history} <= {"start", "em", "none"}


@pytest.mark.parametrize("covariance_type", TYPES)
def test_vector__holds_all_of_the_parameters(covariance_type):
    model, params, _, _ = setting(covariance_type, clusters(k=3)[0], k=3, polished=False)
    vector = model.to_vector(params)
    assert len(vector) == model.n_parameters(3) + 1
    back = model.from_vector(vector, params)
    for name in ("weights", "means", "cholesky", "whitening"):
        np.testing.assert_allclose(getattr(back, name), getattr(params, name), rtol=1e-12, atol=1e-12)
    assert model.from_vector(vector + 1e6, params) is None


def test_vector__of_a_component_without_weight_falls_back_to_em():
    model, params, one_pass, _ = setting()
    empty = dataclasses.replace(params, weights=np.array([1.0, 0.0]))
    stats = one_pass([empty]).stats[0]
    method = Anderson(model)
    for _ in range(3):
        proposal = method(Reached(empty, stats, 0.0, "em"), False)
        assert [candidate.by for candidate in proposal.candidates] == ["em"]


def test_damping__keeps_the_promised_share():
    rng = np.random.default_rng(0)
    changes, residual = rng.normal(size=(20, 4)), rng.normal(size=20)
    free = np.linalg.lstsq(changes, residual)[0]
    for share in (0.01, 0.5, 0.99):
        damped = _damped_least_squares(changes, residual, share)
        assert np.sum(damped**2) == pytest.approx(share * np.sum(free**2), rel=1e-3)
    np.testing.assert_array_equal(_damped_least_squares(0 * changes, residual, 0.5), 0)


def test_plain_em__is_the_m_step():
    model, params, one_pass, _ = setting()
    stats = one_pass([params]).stats[0]
    proposal = PlainEM(model)(Reached(params, stats, 0.0, "start"), False)
    np.testing.assert_array_equal(proposal.step.means, model.m_step(params, stats).means)
    assert proposal.remaining is None


@dataclasses.dataclass(frozen=True)
class Sums:
    """Statistics of `Exponential`."""

    n_samples: int
    weight: float
    log_likelihood: float
    total: float

    def merge(self, other):
        return Sums(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


class Exponential:
    """A user's model with the three verbs and the two of Anderson acceleration, and nothing else."""

    def init(self, sample, rng):
        return 1.0

    def e_step(self, rate, rows):
        n, total = len(rows.x), float(rows.x.sum())
        return Sums(n, float(n), n * np.log(rate) - rate * total, total)

    def m_step(self, rate, stats):
        return rate**0.9 * (stats.weight / stats.total) ** 0.1  # slowly, so that there is something to gain

    def to_vector(self, rate):
        return np.array([np.log(rate)])

    def from_vector(self, vector, like):
        return float(np.exp(vector[0]))


@pytest.mark.parametrize("n", [500, 60_000])
def test_model_of_ones_own__is_accelerated_by_two_methods_more(n):
    x = np.random.default_rng(0).exponential(4.0, (n, 1))
    passes = {}
    for acceleration in ("none", "anderson", "auto"):
        result = sem.fit(Exponential(), x, acceleration=acceleration, max_iter=500, random_state=0)
        assert result.params == pytest.approx(1 / x.mean(), rel=1e-2)
        passes[acceleration] = len(result.history)
    assert max(passes["anderson"], passes["auto"]) < passes["none"]


@pytest.mark.parametrize("k, flat", [(2, False), (5, True)])
def test_fit__says_that_progress_is_slow_where_the_likelihood_is_flat(k, flat, caplog):
    """One component is all there is in these rows."""
    x = X if not flat else np.random.default_rng(0).standard_normal((3000, 2))
    gm = sem.GaussianMixture(k, acceleration="none", random_state=0, max_iter=100, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm.fit(x)
    events = [event for event in gm.result_.history[-1].events if event.kind == "flat"]
    assert len(events) == flat
    assert sum("Reduce n_components=5" in message for message in caplog.messages) == flat
