"""A uniform component for outliers, against loops in which it is one more column of log-joints."""

from dataclasses import replace

import numpy as np
import pytest

from streamem.errors import InputError
from streamem.kernels import mixture
from streamem.models import missing
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import NOISE_START, PARAMETERS, GaussianMixtureModel
from streamem.models.normal_wishart import NormalInverseWishart
from streamem.models.summary import Summarize
from streamem.protocols import Rows
from tests import naive
from tests.kernels.problems import COVARIANCE_TYPES, problem
from tests.models.test_gaussian_mixture import GaussianMixtureLaws, dense, informed, naive_m_step
from tests.models.test_missing import IncompleteLaws, assert_statistics, gaps, path  # noqa: F401
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
N = 150
WEIGHT = np.random.default_rng(9).uniform(0, 2, N) * (np.arange(N) % 7 > 0)


def data():
    """Clusters, and a fifth of the rows anywhere."""
    x, _ = clusters(n=N)
    x[::5] = np.random.default_rng(4).uniform(x.min(axis=0) - 5, x.max(axis=0) + 5, x[::5].shape)
    return x


def noisy(covariance_type, **settings):
    return informed(GaussianMixtureModel(3, covariance_type, noise="uniform", **settings), data())


def start(covariance_type, **settings):
    """A model, parameters, and rows."""
    model, x = noisy(covariance_type, **settings), data()
    return model, model.init(Rows(x, None, 0), np.random.default_rng(0)), x


def numbers(stats):
    scalars = np.array([stats.weight, stats.log_likelihood, stats.entropy, stats.sum_noise])
    return scalars, stats.sum_w, stats.sum_wy, stats.sum_wyy


class NoiseLaws(GaussianMixtureLaws):
    def make(self):
        return noisy(self.covariance_type)

    def data(self):
        return data()

    def numbers(self, stats):
        return numbers(stats)


class TestFull(NoiseLaws):
    pass


class TestTied(NoiseLaws):
    covariance_type = "tied"


class TestDiag(NoiseLaws):
    covariance_type = "diag"


class TestSpherical(NoiseLaws):
    covariance_type = "spherical"


class TestIncomplete(IncompleteLaws):
    def make(self):
        return noisy(self.covariance_type)

    def data(self):
        return gaps(data(), 0.2)

    def numbers(self, stats):
        return numbers(stats)


class TestIncompleteDiag(TestIncomplete):
    covariance_type = "diag"


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("shape", [(700, 3, 4), (400, 20, 5), (30, 2, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels__take_noise_for_one_more_component(covariance_type, shape, dtype):
    """Separated components, of which those too far away are left out; noise above and below them."""
    p = problem(covariance_type, *shape, separation=3.0)
    joint = naive.log_joint(p.x, *p.oracle)
    log_noise = float(np.median(joint.max(axis=1)))
    weight = np.random.default_rng(0).uniform(0, 2, len(p.x)) * (np.arange(len(p.x)) % 4 != 1)
    got = mixture.statistics(p.x, weight, p.family, precision=dtype, log_noise=log_noise)
    expected = naive.statistics(covariance_type, p.x, weight, *p.oracle, log_noise=log_noise)
    tolerance = {"rtol": 1e-10, "atol": 1e-8} if dtype == np.float64 else {"rtol": 1e-4, "atol": 2e-2}
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
    every = naive.with_noise(joint, log_noise)
    resp = naive.posterior(every)
    arguments = (p.x, p.family, dtype, log_noise)
    np.testing.assert_allclose(mixture.score_samples(*arguments), naive.log_sum_exp(every), **tolerance)
    np.testing.assert_allclose(mixture.responsibilities(*arguments), resp[:, :-1], **tolerance)
    likeliest = np.where(resp.argmax(axis=1) == shape[2], -1, resp.argmax(axis=1))
    assert np.mean(mixture.labels(*arguments) == likeliest) > (0.99 if dtype == np.float32 else 1 - 1e-12)
    assert {-1, 0} <= set(likeliest)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_statistics__of_what_is_observed_know_the_density_of_the_box_there(covariance_type, weight, path):  # noqa: F811
    model, params, x = start(covariance_type)
    x = gaps(x, 0.2)
    stats = model.e_step(params, Rows(x, weight, 0, False))
    noise = params.noise_weight, data().max(axis=0) - data().min(axis=0)
    *sums, second, sum_noise = naive.incomplete_statistics(
        covariance_type, x, weight, params.weights, params.means, dense(params), noise=noise
    )
    assert_statistics(stats, (*sums, second / (3 if covariance_type.endswith("spherical") else 1)))
    assert stats.sum_noise == pytest.approx(sum_noise, rel=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("labels", [None, np.where(np.arange(N) % 3 == 1, np.arange(N) // 50, -1)])
def test_em__is_that_of_the_formulas(covariance_type, labels):
    """Twenty steps, one after the other; a row with a label is no noise."""
    model, params, x = start(covariance_type, reg_covar=0.0)
    box = np.log(x.max(axis=0) - x.min(axis=0)).sum()
    weights, means, covariances, noise = (
        params.weights,
        params.means,
        params.covariances,
        params.noise_weight,
    )
    for _ in range(20):
        stats = model.e_step(params, Rows(x, None, 0, label=labels))
        params = model.m_step(params, stats)
        factors = naive.full_cholesky(covariance_type, covariances, 3, 3)
        joint = naive.with_noise(naive.log_joint(x, weights, means, factors), np.log(noise) - box)
        joint = joint if labels is None else naive.with_labels(joint, labels)
        resp = naive.posterior(joint)
        assert stats.log_likelihood == pytest.approx(naive.log_sum_exp(joint).sum(), rel=1e-11)
        weights, means, covariances = naive_m_step(covariance_type, x, resp[:, :3])
        if covariance_type.startswith("tied"):  # of the rows of components alone
            covariances = covariances * N / resp[:, :3].sum()
        noise = resp[:, 3].mean()
    np.testing.assert_allclose(params.weights, weights, rtol=1e-10)
    np.testing.assert_allclose(params.means, means, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(params.covariances, covariances, rtol=1e-9, atol=1e-10)
    assert params.noise_weight == pytest.approx(noise, rel=1e-10)
    assert 0.01 < noise < 0.3


def test_statistics__have_their_digits_far_from_zero():
    model, params, x = start("full")
    x = np.round(x, 3)
    far = replace(params, means=params.means + 2.0**30, noise_box=params.noise_box + 2.0**30)
    moved = model.e_step(far, Rows(x + 2.0**30, None, 0))
    for got, wanted in zip(numbers(moved), numbers(model.e_step(params, Rows(x, None, 0))), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_vector__has_the_weight_of_the_noise(covariance_type):
    model, params, _ = start(covariance_type)
    vector = model.to_vector(params)
    back = model.from_vector(vector, replace(params, noise_weight=0.5))
    assert back.noise_weight == pytest.approx(params.noise_weight, rel=1e-12)
    np.testing.assert_allclose(back.weights, params.weights, rtol=1e-12)
    np.testing.assert_allclose(back.means, params.means, rtol=1e-12)
    np.testing.assert_array_equal(back.noise_box, params.noise_box)
    vector[3] += 1.0
    more = model.from_vector(vector, params)
    assert more.noise_weight > params.noise_weight
    assert more.proportions.sum() == pytest.approx(1)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_expected_log_joint__counts_the_noise(covariance_type):
    model, params, x = start(covariance_type)
    stats = model.e_step(params, Rows(x, None, 0))
    resp = naive.posterior(
        naive.with_noise(naive.log_joint(x, params.weights, params.means, dense(params)), params.log_noise)
    )
    other = model.m_step(params, stats)
    joint = naive.with_noise(naive.log_joint(x, other.weights, other.means, dense(other)), other.log_noise)
    assert model.expected_log_joint(other, stats) == pytest.approx((resp * joint).sum(), rel=1e-10)


@pytest.mark.parametrize("fixed", [(), ("means",), ("weights",), ("weights", "covariances")], ids="+".join)
@pytest.mark.parametrize("adapting", [False, True])
def test_m_step__maximises_over_the_weight_of_the_noise_too(fixed, adapting):
    prior = None if adapting else NormalInverseWishart(weight_concentration=3.0)
    model, params, x = start("full", fixed=fixed, conjugate=prior)
    if adapting:
        model = model.adapting(params, 16.0, tuple(name for name in PARAMETERS if name not in fixed))
    stats = model.e_step(params, Rows(x, None, 0))
    best = model.m_step(params, stats)
    assert best.proportions.sum() == pytest.approx(1)
    if "weights" in fixed:
        np.testing.assert_array_equal(best.proportions, params.proportions)
        return

    def objective(candidate):
        return model.expected_log_joint(candidate, stats) + model.log_prior(candidate, stats)

    for seed in range(20):
        nudged = best.proportions * (1 + 1e-3 * np.random.default_rng(seed).standard_normal(4))
        nudged /= nudged.sum()
        assert objective(replace(best, weights=nudged[:3], noise_weight=nudged[3])) < objective(best)


def test_volume__is_that_of_a_box_about_the_same_middle():
    x = data()
    summary = Summarize(0, 1)(Rows(x, None, 0))
    around = GaussianMixtureModel(3, noise="uniform").informed_by(summary).box
    np.testing.assert_array_equal(around, [x.min(axis=0), x.max(axis=0)])
    other = GaussianMixtureModel(3, noise=1e6).informed_by(summary).box
    np.testing.assert_allclose(other.mean(axis=0), around.mean(axis=0))
    assert np.prod(other[1] - other[0]) == pytest.approx(1e6)
    ratio = (other[1] - other[0]) / (around[1] - around[0])
    np.testing.assert_allclose(ratio, ratio[0])
    params = (
        GaussianMixtureModel(3, noise=1e6)
        .informed_by(summary)
        .init(Rows(x, None, 0), np.random.default_rng(0))
    )
    assert params.log_noise == pytest.approx(np.log(NOISE_START) - np.log(1e6))


def test_constant_column__leaves_no_box():
    x = data()
    x[:, 1] = 4.0
    with pytest.raises(InputError, match=r"noise: column 1 is 4 in every row, .* Leave the column out"):
        informed(GaussianMixtureModel(3, noise="uniform"), x)


def test_n_parameters__counts_the_weight_of_the_noise():
    plain, noise = GaussianMixtureModel(4), GaussianMixtureModel(4, noise="uniform")
    assert noise.n_parameters(3) == plain.n_parameters(3) + 1
    assert replace(noise, fixed=("weights",)).n_parameters(3) == plain.n_parameters(3) - 3


def test_imputation__takes_noise_for_the_middle_of_its_box(path):  # noqa: F811
    _, params, x = start("full")
    x = gaps(x, 0.3)
    sides = params.noise_box[1] - params.noise_box[0]
    joint = naive.incomplete_log_joint(x, params.weights, params.means, dense(params))
    log_noise = np.log(params.noise_weight) - (~np.isnan(x) * np.log(sides)).sum(axis=1)
    resp = naive.posterior(naive.with_noise(joint, log_noise))
    expected = resp[:, 3:] * params.noise_box.mean(axis=0)
    for k in range(3):
        given = [naive.conditional(row, params.means[k], dense(params)[k])[1] for row in x]
        expected = expected + resp[:, [k]] * np.array(given)
    got = missing.impute(params, Rows(x, None, 0, False))
    np.testing.assert_allclose(got, np.where(np.isnan(x), expected, x), rtol=1e-9, atol=1e-9)


def test_draws__of_noise_are_anywhere_in_its_box():
    _, params, _ = start("full")
    params = replace(params, weights=0 * params.weights, noise_weight=1.0)
    x = np.full((20_000, 3), np.nan)
    x[:, 0] = params.noise_box[:, 0].mean()
    drawn = missing.impute(params, Rows(x, None, 0, False), np.arange(4, dtype=np.uint64))
    low, high = params.noise_box[:, 1:]
    place = (drawn[:, 1:] - low) / (high - low)
    assert np.all((place > 0) & (place < 1))
    np.testing.assert_allclose(
        np.quantile(place, [0.1, 0.5, 0.9], axis=0).T, [[0.1, 0.5, 0.9]] * 2, atol=0.02
    )
