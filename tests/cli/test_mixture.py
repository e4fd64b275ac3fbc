import numpy as np
import pytest

from streamem.cli.demo import mixture
from streamem.convergence import PassEnded, PassProgress, PassStarted


@pytest.fixture
def truth():
    return mixture.draw_truth(4, 3, np.random.default_rng(0))


def read(path):
    zarr = pytest.importorskip("zarr")
    return zarr.open_array(path, mode="r")


@pytest.mark.parametrize("k, d", [(16, 32), (16, 2), (5, 1), (1, 4)])
def test_draw_truth__is_a_mixture_without_tiny_or_touching_components(k, d):
    truth = mixture.draw_truth(k, d, np.random.default_rng(1))
    assert truth.weights.sum() == pytest.approx(1)
    assert truth.weights.min() >= 0.25 / k
    assert np.linalg.cond(truth.factors @ truth.factors.swapaxes(1, 2)).max() <= 10.001
    distances = np.linalg.norm(truth.means[:, None] - truth.means, axis=2)
    assert distances[~np.eye(k, dtype=bool)].min(initial=np.inf) >= 5


def test_draw_rows__follow_the_truth():
    truth = mixture.draw_truth(1, 3, np.random.default_rng(2))
    rows = mixture.draw_rows(truth, 200_000, np.random.default_rng(3))
    covariance = truth.factors[0] @ truth.factors[0].T
    assert rows.dtype == np.float32
    assert np.abs(rows.mean(axis=0) - truth.means[0]).max() < 0.02
    assert np.abs(np.cov(rows.T) - covariance).max() < 0.05
    assert truth.deviations[0] == pytest.approx(np.sqrt(np.diag(covariance)))


def test_draw_rows__come_in_random_order(truth):
    rows = mixture.draw_rows(truth, 4000, np.random.default_rng(3))
    halves = rows[:2000].mean(axis=0) - rows[2000:].mean(axis=0)
    assert np.abs(halves).max() < 6 * rows.std(axis=0).max() / np.sqrt(1000)


def test_write__same_seed_same_bits_whatever_the_threads_and_the_number_of_rows(truth, tmp_path, monkeypatch):
    mixture.write(truth, tmp_path / "a.zarr", 1000, 300, 7, lambda event: None)
    monkeypatch.setattr(mixture, "_MAX_THREADS", 1)
    mixture.write(truth, tmp_path / "b.zarr", 1900, 300, 7, lambda event: None)
    mixture.write(truth, tmp_path / "c.zarr", 1000, 300, 8, lambda event: None)
    a, b, c = (read(tmp_path / f"{name}.zarr") for name in "abc")
    assert a.chunks == (300, 3) and a.dtype == np.float32 and not a.compressors
    assert np.array_equal(a[:900], b[:900])
    assert not np.array_equal(a[:], c[:])
    assert np.isfinite(a[:]).all() and not np.array_equal(a[:300], a[300:600])


def test_write__reports_its_progress(truth, tmp_path):
    events = []
    mixture.write(truth, tmp_path / "a.zarr", 1000, 300, 7, events.append)
    assert events[0] == PassStarted("write", 0, 1000, 12_000)
    assert isinstance(events[-1], PassEnded)
    assert all(isinstance(event, PassProgress) for event in events[1:-1])
    assert [event.n_samples for event in events[1:-1]] == sorted(event.n_samples for event in events[1:-1])
    assert events[-2].n_samples == 1000


def test_compare__does_not_care_how_components_are_numbered(truth):
    order = [2, 0, 3, 1]
    found = mixture.compare(truth, truth.weights[order], truth.means[order], 1000)
    assert found.worst == 0
    assert np.array_equal(found.true_weights, np.sort(truth.weights)[::-1])
    assert np.array_equal(found.weights, found.true_weights)


def test_compare__measures_in_standard_errors(truth):
    n, j, column = 10_000, 1, 2
    means, weights = truth.means.copy(), truth.weights.copy()
    means[j, column] += 3 * truth.deviations[j, column] / np.sqrt(n * truth.weights[j])
    weights[j] += 2 * np.sqrt(weights[j] * (1 - weights[j]) / n)
    found = mixture.compare(truth, weights, means, n)
    at = int(np.flatnonzero(found.true_weights == truth.weights[j])[0])
    assert found.mean_errors[at] == pytest.approx(3)
    assert found.weight_errors[at] == pytest.approx(2)
    assert found.worst == pytest.approx(3)
    assert found.mean_errors.sum() == pytest.approx(3)


def test_compare__a_single_component_has_a_certain_weight():
    truth = mixture.draw_truth(1, 2, np.random.default_rng(0))
    assert mixture.compare(truth, np.ones(1), truth.means, 100).worst == 0
