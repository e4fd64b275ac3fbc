"""Compile the kernels that fits use into the image's cache; another kind of processor compiles its own."""

import itertools
import warnings

import numpy as np

import streamem

rng = np.random.default_rng(0)
warnings.simplefilter("ignore", streamem.ConvergenceWarning)
for dtype, kind, weighted in itertools.product(
    ("float32", "float64"), ("full", "tied", "diag", "spherical"), (False, True)
):
    x = np.concatenate([rng.normal(-3, 1, (2000, 4)), rng.normal(3, 1, (2000, 4))]).astype(dtype)
    gm = streamem.GaussianMixture(2, covariance_type=kind, random_state=0, max_iter=3)
    gm.fit(x, sample_weight=np.ones(len(x)) if weighted else None, scheduler="synchronous")
    gm.predict(x), gm.predict_proba(x), gm.score_samples(x)
