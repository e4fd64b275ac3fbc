"""Published fits: the BIC of mclust (Scrucca et al. 2016) for Fisher's iris, of the models that we share.

Starts are hierarchical, as mclust's are: one of these likelihoods has another maximum beside.
"""

import warnings

import numpy as np
import pytest
import sklearn.cluster
import sklearn.datasets

import streamem as sem

PUBLISHED = {  # mclust's name, and 2ℓ − p log n for 1, 2 and 3 components: what it maximises
    "full": ("VVV", (-829.9782, -574.0178, -580.8396)),
    "tied": ("EEE", (-829.9782, -688.0972, -632.9647)),
    "diag": ("VVI", (-1522.1202, -857.5515, -744.6382)),
    "spherical": ("VII", (-1804.0854, -1012.2352, -853.8144)),
}


@pytest.mark.parametrize("covariance_type", PUBLISHED)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_iris__has_the_published_bic(covariance_type, k):
    x, _ = sklearn.datasets.load_iris(return_X_y=True)
    start = np.zeros(len(x), int) if k == 1 else sklearn.cluster.AgglomerativeClustering(k).fit_predict(x)
    gm = sem.GaussianMixture(k, covariance_type=covariance_type, reg_covar=0, init_params=start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm.set_params(acceleration="none", tol=1e-10, max_iter=2000).fit(x)
    _, published = PUBLISHED[covariance_type]
    assert -gm.bic() == pytest.approx(published[k - 1], abs=0.1)
