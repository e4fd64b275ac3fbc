"""The laws every model obeys, written once; a model's test class inherits them."""

import copy
import functools
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamem import em
from streamem.convergence import Status, rounding
from streamem.protocols import Pass, Rows

from .strategies import clusters, partitions, split


def merged(parts):
    return functools.reduce(lambda a, b: a.merge(b), parts)


class ModelTests:
    """Subclass with ``make()`` returning a model, ``numbers(stats)`` its arrays, ``data()`` rows (n, d).

    Where ``complete`` is False, the rows hold NaN.
    """

    complete = True

    def rows(self, x, weight=None):
        return Rows(x, weight, 0, self.complete)

    def make(self):
        raise TypeError

    def numbers(self, stats):
        raise TypeError

    def data(self):
        return clusters()[0]

    def start(self):
        """A model and parameters to take statistics at."""
        model, x = self.make(), self.data()
        return model, model.init(self.rows(x), np.random.default_rng(0)), x

    def assert_same(self, a, b, rtol=1e-12):
        assert a.n_samples == b.n_samples
        for left, right in zip(self.numbers(a), self.numbers(b), strict=True):
            np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol * max(1.0, np.abs(right).max()))

    @settings(max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_e_step__of_blocks_merges_to_e_step_of_the_whole(self, data):
        model, params, x = self.start()
        weight = np.random.default_rng(1).uniform(0, 2, len(x)) if data.draw(st.booleans()) else None
        runs = data.draw(partitions(len(x)))
        parts = [model.e_step(params, rows) for rows in split(x, weight, runs, self.complete)]
        self.assert_same(merged(parts), model.e_step(params, self.rows(x, weight)))

    def test_e_step__of_no_rows_is_neutral(self):
        model, params, x = self.start()
        stats = model.e_step(params, self.rows(x))
        empty = model.e_step(params, self.rows(x[:0]))
        self.assert_same(stats.merge(empty), stats, rtol=0)
        self.assert_same(empty.merge(stats), stats, rtol=0)

    def three(self):
        model, params, x = self.start()
        return [model.e_step(params, self.rows(part)) for part in (x[:50], x[50:51], x[51:])]

    def test_merge__commutes(self):
        a, b, _ = self.three()
        self.assert_same(a.merge(b), b.merge(a))

    def test_merge__is_associative(self):
        a, b, c = self.three()
        self.assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))

    def test_merge__leaves_its_inputs_unchanged(self):
        a, b, _ = self.three()
        before = copy.deepcopy((self.numbers(a), self.numbers(b)))
        a.merge(b)
        for old, new in zip((*before[0], *before[1]), (*self.numbers(a), *self.numbers(b)), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_weight_zero__is_an_absent_row(self):
        model, params, x = self.start()
        weight = np.arange(len(x)) % 3 > 0
        self.assert_same(
            model.e_step(params, self.rows(x, weight.astype(float))),
            model.e_step(params, self.rows(x[weight])),
        )

    def test_integer_weight__is_a_repeated_row(self):
        model, params, x = self.start()
        times = np.arange(len(x)) % 3 + 1
        weighted = model.e_step(params, self.rows(x, times.astype(float)))
        repeated = model.e_step(params, self.rows(np.repeat(x, times, axis=0)))
        for left, right in zip(self.numbers(weighted), self.numbers(repeated), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-11)

    def test_objective__never_falls(self):
        model, params, x = self.start()
        rows = self.rows(x)
        result = em.iterate(
            model, lambda ps: Pass([model.e_step(p, rows) for p in ps]), params, tol=0.0, max_iter=60
        )
        rises = np.diff([record.objective for record in result.history])
        assert len(rises) >= 2
        assert np.all(rises >= -rounding(result.history[-1].objective))
        assert result.status in (Status.CONVERGED, Status.MAX_ITER)

    def test_fixed_point__is_stationary(self):
        model, params, x = self.start()
        rows = self.rows(x)
        result = em.iterate(
            model, lambda ps: Pass([model.e_step(p, rows) for p in ps]), params, tol=0.0, max_iter=3000
        )
        assert result.status is Status.CONVERGED
        objectives = []
        for params in (result.params, model.m_step(result.params, model.e_step(result.params, rows))):
            stats = model.e_step(params, rows)
            objectives.append(stats.log_likelihood + em._log_prior(model, params, stats))
        assert objectives[1] == pytest.approx(objectives[0], rel=1e-11)

    def test_params_and_stats__pickle_to_the_same(self):
        model, params, x = self.start()
        stats = model.e_step(params, self.rows(x))
        self.assert_same(pickle.loads(pickle.dumps(stats)), stats, rtol=0)
        self.assert_same(model.e_step(pickle.loads(pickle.dumps(params)), self.rows(x)), stats, rtol=0)

    def test_params__are_frozen(self):
        _, params, _ = self.start()
        with pytest.raises(AttributeError):
            params.weights = None
