"""A climb that takes a while, on all rows and on a sample of them."""

import numpy as np

from streamem import em
from streamem.acceleration import Anderson
from streamem.corrected_sample import CorrectedSample, Resident
from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.models.summary import Summarize
from streamem.protocols import Pass, Rows, Several

X = np.random.default_rng(0).standard_normal((24_000, 2)) + np.tile([[0.0, 0.0], [2.5, 1.0]], (12_000, 1))


def setting(covariance_type="full", x=X, k=2, polished=True):
    """A model, the optimum of every fifth row to start from, and passes over all rows and over those."""
    model = GaussianMixtureModel(k, covariance_type).informed_by(Summarize(0, 1)(Rows(x, None, 0)))
    params = model.init(Rows(x, None, 0), np.random.default_rng(0))

    def passes(rows):
        return lambda candidates: Pass(Several(model.e_step(p, rows) for p in candidates))

    sample_pass = passes(Rows(x[::5].copy(), None, 0))
    if polished:
        params = em.iterate(model, sample_pass, params, accelerate=Anderson(model), max_iter=500).params
    return model, params, passes(Rows(x, None, 0)), sample_pass


def corrected(model, sample_pass, tol=1e-9, budget=400, share=0.0, larger=None, **keywords):
    def solve(one_pass, params, max_iter, notify):
        return em.iterate(
            model, one_pass, params, accelerate=Anderson(model), tol=tol, max_iter=max_iter, notify=notify
        )

    return CorrectedSample(model, Resident(sample_pass, budget, share, larger), solve, **keywords)
