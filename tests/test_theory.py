"""Every statement of EM's theory, on a mixture small enough to compute both sides.

Notation: x rows, z components, θ parameters, q responsibilities that need not be the posterior.
"""

import numpy as np
import pytest

from streamem import em
from streamem.convergence import Status
from streamem.models.gaussian_mixture import GaussianMixtureModel, GaussianMixtureParams
from streamem.protocols import Pass, Rows

from . import naive
from .strategies import clusters

X, _ = clusters(n=80)
ROWS = Rows(X, None, 0)
MODEL = GaussianMixtureModel(3, "full", 0.0)
RNG = np.random.default_rng(11)


def random_params(seed):
    resp = np.random.default_rng(seed).dirichlet(np.ones(3) * 0.7, size=len(X))
    return MODEL.from_responsibilities(ROWS, resp)


def factors(params):
    return naive.full_cholesky("full", params.covariances, *params.means.shape)


def log_joint(params):
    """log p(x, z=k; θ), (n, k)."""
    return naive.log_joint(X, params.weights, params.means, factors(params))


def posterior(params):
    return naive.responsibilities(X, params.weights, params.means, factors(params))


def log_likelihood(params):
    return naive.score_samples(X, params.weights, params.means, factors(params)).sum()


def q_function(new, old):
    """Q(θ, θ') = E_{p(z|x; θ')} log p(x, z; θ)."""
    return (posterior(old) * log_joint(new)).sum()


def elbo(q, params):
    """L(q, θ) = E_q log p(x, z; θ) − E_q log q."""
    return (q * log_joint(params)).sum() - naive.x_log_x(q).sum()


def kl(q, p):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(q > 0, q * (np.log(q) - np.log(p)), 0.0).sum()


@pytest.mark.parametrize("seed", range(5))
def test_kl_divergence__is_non_negative_and_zero_only_for_equals(seed):
    p, q = posterior(random_params(seed)), np.random.default_rng(seed).dirichlet(np.ones(3), size=len(X))
    assert kl(q, p) > 0
    assert kl(p, p) == 0


@pytest.mark.parametrize("seed", range(5))
def test_log_likelihood__is_elbo_plus_kl_for_any_q(seed):
    params = random_params(seed)
    q = np.random.default_rng(seed).dirichlet(np.ones(3), size=len(X))
    assert log_likelihood(params) == pytest.approx(elbo(q, params) + kl(q, posterior(params)), rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_kernel__returns_the_elbo_of_any_q(seed):
    params = random_params(seed)
    q = np.random.default_rng(seed).dirichlet(np.ones(3), size=len(X))
    stats = MODEL._statistics(params, ROWS, q)
    assert stats.log_likelihood == pytest.approx(elbo(q, params), rel=1e-11)
    assert stats.log_likelihood <= log_likelihood(params)


def test_e_step__makes_the_bound_tight():
    params = random_params(0)
    stats = MODEL.e_step(params, ROWS)
    assert stats.log_likelihood == pytest.approx(log_likelihood(params), rel=1e-12)
    assert elbo(posterior(params), params) == pytest.approx(log_likelihood(params), rel=1e-12)
    assert stats.entropy == pytest.approx(-naive.x_log_x(posterior(params)).sum(), rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_q_function__bounds_the_log_likelihood_up_to_a_constant(seed):
    """Q(θ, θ') <= log p(x; θ) + C with C = E log p(z|x; θ'), and equality at θ = θ'."""
    old, new = random_params(seed), random_params(seed + 100)
    constant = naive.x_log_x(posterior(old)).sum()
    assert q_function(new, old) <= log_likelihood(new) + constant
    assert q_function(old, old) == pytest.approx(log_likelihood(old) + constant, rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_m_step__maximises_q(seed):
    old = random_params(seed)
    new = MODEL.m_step(old, MODEL.e_step(old, ROWS))
    top = q_function(new, old)
    assert top >= q_function(old, old)
    for _ in range(20):
        factor = new.cholesky * (1 + 1e-3 * RNG.standard_normal(new.cholesky.shape))
        weights = new.weights * (1 + 1e-3 * RNG.standard_normal(3))
        near = GaussianMixtureParams(
            "full",
            weights / weights.sum(),
            new.means + 1e-3 * RNG.standard_normal(new.means.shape),
            factor,
            new.shape.invert(factor),
        )
        assert q_function(near, old) < top


@pytest.mark.parametrize("seed", range(5))
def test_rise__is_gain_in_q_plus_kl_between_posteriors(seed):
    """log p(x; θ') − log p(x; θ) = [Q(θ', θ) − Q(θ, θ)] + KL(p(z|x; θ) ‖ p(z|x; θ')) >= 0."""
    old = random_params(seed)
    new = MODEL.m_step(old, MODEL.e_step(old, ROWS))
    rise = log_likelihood(new) - log_likelihood(old)
    gain = q_function(new, old) - q_function(old, old)
    assert rise == pytest.approx(gain + kl(posterior(old), posterior(new)), rel=1e-9, abs=1e-9)
    assert rise >= 0
    assert gain >= 0


def test_limit__is_a_stationary_point():
    """The gradient of the log-likelihood vanishes there: dℓ/dμ_k = Σ_k⁻¹ Σ_i r_ik (x_i − μ_k)."""
    result = em.iterate(
        MODEL, lambda ps: Pass([MODEL.e_step(p, ROWS) for p in ps]), random_params(1), tol=0.0, max_iter=5000
    )
    assert result.status is Status.CONVERGED
    resp, params = posterior(result.params), result.params
    for k in range(3):
        gradient = np.linalg.solve(params.covariances[k], resp[:, k] @ (X - params.means[k]))
        assert np.abs(gradient).max() < 1e-4
    np.testing.assert_allclose(resp.sum(axis=0) / len(X), params.weights, atol=1e-6)


class _Cycle:
    """A model whose likelihood is flat: its M-step alternates between two points for ever."""

    def init(self, sample, rng):
        return 0

    def e_step(self, params, rows):
        return _Flat(params)

    def m_step(self, params, stats):
        return 1 - params


class _Flat:
    n_samples, weight, log_likelihood = 1, 1.0, -1.0

    def __init__(self, params):
        self.params = params


def test_limit_cycle__of_equal_likelihood_is_noticed():
    result = em.iterate(_Cycle(), lambda ps: Pass([_Flat(p) for p in ps]), 0, max_iter=100)
    assert result.status is Status.CONVERGED
    assert len(result.history) == 3
