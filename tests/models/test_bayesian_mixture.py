"""Variational Bayes against the whole ELBO, term by term, and against scikit-learn."""

import numpy as np
import pytest
import sklearn.mixture

from streamem.errors import InputError
from streamem.models import missing
from streamem.models.bayesian_mixture import WEIGHT_PRIORS, BayesianGaussianMixtureModel
from streamem.models.covariance import COVARIANCES
from streamem.models.summary import Summarize
from streamem.protocols import Rows
from tests import naive
from tests.conformance import ModelTests
from tests.models.test_missing import assert_statistics, gaps, incomplete
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
OF_SCIKIT_LEARN = ("full", "tied", "diag", "spherical")
PROCESSES = tuple(WEIGHT_PRIORS)


@pytest.fixture(params=["by row", "by group"])
def path(request, monkeypatch):
    """Rows one after the other, or every pattern's rows together, however few."""
    monkeypatch.setattr(missing, "LARGE_GROUP", 0 if request.param == "by group" else 2**60)


class BayesianLaws(ModelTests):
    covariance_type = "full"
    process = "dirichlet_process"

    def make(self):
        model = BayesianGaussianMixtureModel(3, self.covariance_type, self.process)
        return informed(model, self.data())

    def numbers(self, stats):
        scalars = np.array([stats.weight, stats.log_likelihood, stats.entropy])
        return scalars, stats.sum_w, stats.sum_wy, stats.sum_wyy


class TestFull(BayesianLaws):
    pass


class TestTied(BayesianLaws):
    covariance_type = "tied"


class TestDiag(BayesianLaws):
    covariance_type = "diag"
    process = "dirichlet_distribution"


class TestSpherical(BayesianLaws):
    covariance_type = "spherical"


class IncompleteLaws(BayesianLaws):
    """Those of every model, for rows with missing values."""

    complete = False

    def make(self):
        model = BayesianGaussianMixtureModel(3, self.covariance_type, self.process)
        return informed(model, clusters()[0])

    def data(self):
        return gaps(clusters()[0], 0.2)


class TestIncompleteFull(IncompleteLaws):
    pass


class TestIncompleteTied(IncompleteLaws):
    covariance_type = "tied"
    process = "dirichlet_distribution"


class TestIncompleteDiag(IncompleteLaws):
    covariance_type = "diag"


class TestIncompleteSpherical(IncompleteLaws):
    covariance_type = "spherical"
    process = "dirichlet_distribution"


class TestIncompleteTiedDiag(IncompleteLaws):
    covariance_type = "tied_diag"


class TestTiedSpherical(BayesianLaws):
    covariance_type = "tied_spherical"


class TestConstantColumn(BayesianLaws):
    """Its floor enters the E-step as it enters the M-step, so that the bound never falls."""

    def data(self):
        return np.column_stack([super().data(), np.full(120, 5.0)])


class TestConstantColumnWithGaps(TestConstantColumn):
    """Missing values have the variance of the floor there, in the bound as in the statistics."""

    complete = False

    def data(self):
        return gaps(super().data(), 0.2)


def informed(model, x, weight=None):
    """The model with its prior from these rows."""
    return model.informed_by(Summarize(0, 1)(Rows(x, weight, 0, not np.isnan(x).any())))


def start(covariance_type, process, k=3, n=60, **settings):
    """A model, responsibilities that fit nothing, and rows."""
    x, _ = clusters(k=3, n=n)
    model = informed(BayesianGaussianMixtureModel(k, covariance_type, process, **settings), x)
    return model, np.random.default_rng(5).dirichlet(np.ones(k), size=n), x


def dense(params):
    """Σ (k, d, d) and ν (k,) of any type."""
    k, d = params.means.shape
    factors = naive.full_cholesky(params.covariance_type, params.covariances, k, d)
    return np.array([f @ f.T for f in factors]), np.broadcast_to(params.degrees_of_freedom, (k,))


def naive_elbo(model, params, x, resp, missing=None):
    """The ELBO of a model's q(θ), any q(z) and any q(x_m | z), by the formulas."""
    d = x.shape[1]
    covariances, degrees = dense(params)
    scale = model.prior.scale
    prior = {
        "process": model.weight_concentration_prior_type == "dirichlet_process",
        "concentration": model.concentration,
        "precision": model.prior.precision,
        "mean": model.prior.mean,
        "degrees": model.prior.degrees,
        "scale": scale @ scale.T if scale.ndim == 2 else scale**2 * np.eye(d),
    }
    q = {
        "concentration": params.weight_concentration,
        "precision": params.mean_precision,
        "means": params.means,
        "degrees": degrees,
        "scales": np.linalg.inv(covariances) / degrees[:, None, None],
    }
    return naive.bayesian_elbo(x, resp, prior, q, missing)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_objective__is_the_whole_elbo_at_the_best_responsibilities(covariance_type, process):
    model, resp, x = start(covariance_type, process, weight_concentration_prior=0.7, mean_precision_prior=0.3)
    params = model.from_responsibilities(Rows(x, None, 0), resp)
    stats = model.e_step(params, Rows(x, None, 0))
    best = model.responsibilities(params, Rows(x, None, 0))
    objective = stats.log_likelihood + model.log_prior(params, stats)
    assert objective == pytest.approx(naive_elbo(model, params, x, best), rel=1e-10)
    assert naive_elbo(model, params, x, resp) < objective
    assert model.score_samples(params, Rows(x, None, 0)).sum() == pytest.approx(stats.log_likelihood)


def conditionals(params, x):
    """A row's mean and covariance given what is observed, under a component with the covariance E[Λ]⁻¹."""
    factors = np.linalg.cholesky(dense(params)[0])
    return lambda i, c: naive.conditional(x[i], params.means[c], factors[c])[1:]


@pytest.mark.parametrize("share, process", [(0.05, PROCESSES[0]), (0.2, PROCESSES[1]), (0.5, PROCESSES[0])])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_objective__of_rows_with_gaps_is_the_whole_elbo(covariance_type, process, share, path):
    """A bound of what is observed, at the best q(z) and q(x_m | z): each of them moved, it is lower."""
    model, resp, x = start(covariance_type, process, weight_concentration_prior=0.7, mean_precision_prior=0.3)
    x = gaps(x, share)
    params = model.from_responsibilities(incomplete(x), resp)
    stats, best = model.e_step(params, incomplete(x)), model.responsibilities(params, incomplete(x))
    some = ~np.isnan(x).all(axis=1)  # rows with nothing observed are left out
    x, best, resp = x[some], best[some], resp[some]
    given = conditionals(params, x)
    objective = stats.log_likelihood + model.log_prior(params, stats)
    assert objective == pytest.approx(naive_elbo(model, params, x, best, given), rel=1e-10)
    scores = model.score_samples(params, incomplete(x))
    assert scores.sum() == pytest.approx(stats.log_likelihood, rel=1e-10)
    assert naive_elbo(model, params, x, resp, given) < objective
    for shift, factor in ((0.01, 1.0), (0.0, 1.01), (0.0, 0.99)):

        def moved(i, c, shift=shift, factor=factor):
            mean, spread = given(i, c)
            return mean + shift * np.isnan(x[i]), factor * spread

        assert naive_elbo(model, params, x, best, moved) < objective


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics__of_rows_with_gaps_are_those_of_the_mixture_of_means(covariance_type, path):
    """E[Λ]⁻¹ in place of covariances; log-weights are what densities do not hold."""
    model, resp, x = start(covariance_type, "dirichlet_process")
    x = gaps(x, 0.3)
    weight = np.random.default_rng(1).uniform(0, 2, len(x))
    params = model.from_responsibilities(incomplete(x), resp)
    total = np.exp(params.log_weights).sum()
    factors = np.linalg.cholesky(dense(params)[0])
    log_likelihood, *sums = naive.incomplete_statistics(
        covariance_type, x, weight, np.exp(params.log_weights) / total, params.means, factors
    )
    stats = model.e_step(params, incomplete(x, weight))
    sums[-1] = sums[-1] / (3 if covariance_type.endswith("spherical") else 1)
    assert_statistics(stats, (log_likelihood + stats.weight * np.log(total), *sums))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_m_step__from_rows_with_gaps_maximises_the_elbo(covariance_type, process):
    model, resp, x = start(covariance_type, process)
    x = gaps(x, 0.3)
    x = x[~np.isnan(x).all(axis=1)]
    first = model.from_responsibilities(incomplete(x), resp[: len(x)])
    resp, given = model.responsibilities(first, incomplete(x)), conditionals(first, x)
    best = model.m_step(first, model.e_step(first, incomplete(x)))
    top = naive_elbo(model, best, x, resp, given)
    rng = np.random.default_rng(1)
    for name in ("weight_concentration", "mean_precision", "means", "degrees_of_freedom", "cholesky"):
        value = getattr(best, name)
        for _ in range(3):
            moved = value * (1 + 1e-3 * rng.standard_normal(value.shape))
            values = {field: getattr(best, field) for field in best.__dataclass_fields__} | {name: moved}
            assert naive_elbo(model, type(best)(**values), x, resp, given) < top, name


@pytest.mark.parametrize("covariance_type", TYPES)
def test_e_step__of_complete_rows_is_the_same_to_the_bit(covariance_type):
    model, resp, x = start(covariance_type, "dirichlet_process")
    params = model.from_responsibilities(Rows(x, None, 0), resp)
    whole, flagged = model.e_step(params, Rows(x, None, 0)), model.e_step(params, incomplete(x))
    assert flagged.log_likelihood == whole.log_likelihood
    for name in ("sum_w", "sum_wy", "sum_wyy"):
        np.testing.assert_array_equal(getattr(flagged, name), getattr(whole, name))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_row_results__of_rows_with_gaps_do_not_depend_on_other_rows(covariance_type):
    model, resp, x = start(covariance_type, "dirichlet_process")
    x = gaps(x, 0.3)
    params = model.from_responsibilities(incomplete(x), resp)
    r = model.responsibilities(params, incomplete(x))
    given = conditionals(params, x)
    filled = [sum(r[i, c] * given(i, c)[0] for c in range(3)) for i in range(len(x))]
    np.testing.assert_allclose(model.impute(params, None, incomplete(x)), filled, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(model.labels(params, incomplete(x)), r.argmax(axis=1))
    for method in (model.labels, model.responsibilities, model.score_samples):
        parts = [method(params, incomplete(part)) for part in (x[:1], x[1:40], x[40:])]
        np.testing.assert_array_equal(np.concatenate(parts), method(params, incomplete(x)))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_m_step__maximises_the_elbo(covariance_type, process):
    """Moving any part of q(θ) within its family lowers the bound."""
    model, resp, x = start(covariance_type, process)
    rows = Rows(x, None, 0)
    first = model.from_responsibilities(rows, resp)
    resp = model.responsibilities(first, rows)
    best = model.m_step(first, model.e_step(first, rows))
    top = naive_elbo(model, best, x, resp)
    rng = np.random.default_rng(1)
    for name in ("weight_concentration", "mean_precision", "means", "degrees_of_freedom", "cholesky"):
        value = getattr(best, name)
        for _ in range(5):
            moved = value * (1 + 1e-3 * rng.standard_normal(value.shape))
            values = {field: getattr(best, field) for field in best.__dataclass_fields__} | {name: moved}
            assert naive_elbo(model, type(best)(**values), x, resp) < top, name


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", OF_SCIKIT_LEARN)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-2])
def test_steps__are_scikit_learns_from_the_same_start(covariance_type, process, reg_covar):
    k, steps = 4, 15
    model, resp, x = start(covariance_type, process, k=k, n=500, reg_covar=reg_covar)
    theirs = sklearn.mixture.BayesianGaussianMixture(
        n_components=k,
        covariance_type=covariance_type,
        weight_concentration_prior_type=process,
        reg_covar=reg_covar,
    )
    theirs._check_parameters(x)
    theirs._initialize(x, resp)
    rows = Rows(x, None, 0)
    params = model.from_responsibilities(rows, resp)
    for _ in range(steps):
        _, log_resp = theirs._e_step(x)
        theirs._m_step(x, log_resp)
        params = model.m_step(params, model.e_step(params, rows))
    theirs._set_parameters(theirs._get_parameters())
    for name in ("weights", "mean_precision", "degrees_of_freedom", "means", "covariances"):
        np.testing.assert_allclose(
            getattr(params, name), getattr(theirs, name + "_"), rtol=1e-6, atol=1e-9, err_msg=name
        )
    np.testing.assert_allclose(params.weight_concentration, np.array(theirs.weight_concentration_), rtol=1e-6)
    np.testing.assert_allclose(model.score_samples(params, rows), theirs.score_samples(x), rtol=1e-7)


def test_prior__defaults_to_the_rows():
    x, _ = clusters(n=50)
    weight = np.random.default_rng(0).integers(0, 3, 50).astype(float)
    repeated = np.repeat(x, weight.astype(int), axis=0)
    for covariance_type in TYPES:
        model = informed(BayesianGaussianMixtureModel(2, covariance_type), x, weight)
        covariance = np.cov(repeated.T)
        variances = np.trace(covariance) / 3 if covariance_type.endswith("spherical") else np.diag(covariance)
        np.testing.assert_allclose(model.prior.mean, repeated.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            model.shape.gram(model.prior.scale),
            covariance if covariance_type in ("full", "tied") else variances,
            rtol=1e-10,
        )
        assert (model.prior.precision, model.prior.degrees, model.concentration) == (1, 3, 0.5)
        assert not model.uninformed


def test_prior__has_a_covariance_where_columns_are_constant_or_dependent():
    x = np.column_stack([clusters(n=50)[0], np.full(50, 3.0), np.zeros(50)])
    x = np.column_stack([x, x[:, 0] - x[:, 1]])
    model = informed(BayesianGaussianMixtureModel(2), x)
    params = model.init(Rows(x, None, 0), np.random.default_rng(0))
    assert np.all(np.isfinite(params.covariances))
    assert np.all(np.linalg.eigvalsh(params.covariances) > 0)
    assert np.isfinite(model.log_prior(params, None))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_vector__is_the_parameters(covariance_type, process):
    model, resp, x = start(covariance_type, process)
    params = model.from_responsibilities(Rows(x, None, 0), resp)
    again = model.from_vector(model.to_vector(params), params)
    for name in params.__dataclass_fields__:
        if name != "covariance_type":
            np.testing.assert_allclose(getattr(again, name), getattr(params, name), rtol=1e-9, err_msg=name)
    assert model.from_vector(np.full(len(model.to_vector(params)), 1e4), params) is None


@pytest.mark.parametrize("covariance_type", TYPES)
def test_expected_log_joint__is_linear_in_statistics_and_tight(covariance_type):
    """Q + entropy of q(z) is the rows' part of the ELBO: what the corrected sample rests on."""
    model, resp, x = start(covariance_type, "dirichlet_process")
    rows = Rows(x, None, 0)
    params = model.from_responsibilities(rows, resp)
    stats = model.e_step(params, rows)
    q = model.expected_log_joint(params, stats)
    assert q + stats.entropy == pytest.approx(stats.log_likelihood, rel=1e-11)
    assert model.expected_log_joint(params, stats.scaled(-0.25)) == pytest.approx(-0.25 * q, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean_prior": np.zeros(2)}, r"mean_prior: expected \(3,\)"),
        ({"mean_prior": np.array([0, np.nan, 0])}, "mean_prior"),
        ({"covariance_prior": np.eye(2)}, r"covariance_prior: expected shape \(3, 3\)"),
        ({"covariance_prior": -np.eye(3)}, "positive definite"),
        ({"degrees_of_freedom_prior": 1.5}, "degrees_of_freedom_prior: expected a number > 2"),
    ],
)
def test_prior__for_other_columns_or_of_no_distribution_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        informed(BayesianGaussianMixtureModel(2, **settings), clusters()[0])
