"""Published fits: the BIC of mclust (Scrucca et al. 2016), of the models that we share, for two data sets.

Iris is Fisher's; `faithful`, eruptions of Old Faithful and the waiting times between them, is R's
(Härdle 1991; Azzalini & Bowman 1990 have the record that it is from). Starts are hierarchical, as mclust's
are: some of these likelihoods have another maximum beside. Our full, tied, diag, spherical, tied_diag and
tied_spherical are mclust's VVV, EEE, VVI, VII, EEI and EII.
"""

import pathlib
import warnings

import numpy as np
import pytest
import sklearn.cluster
import sklearn.datasets

import streamem as sem

IRIS = {  # 2ℓ − p log n for 1, 2 and 3 components: what mclust maximises
    "full": (-829.9782, -574.0178, -580.8396),
    "tied": (-829.9782, -688.0972, -632.9647),
    "diag": (-1522.1202, -857.5515, -744.6382),
    "spherical": (-1804.0854, -1012.2352, -853.8144),
    "tied_diag": (-1522.1202, -1042.9679, -813.0504),
    "tied_spherical": (-1804.0854, -1123.4117, -878.7650),
}
FAITHFUL = {  # the table that mclustBIC(faithful) prints; EEE, 3 is the best of it
    "full": (-2607.623, -2322.192),
    "tied": (-2607.623, -2325.220, -2314.316),
    "diag": (-3055.835, -2346.065),
    "spherical": (-4024.721, -3458.305, -3336.598, -3242.826),
    "tied_diag": (-3055.835, -2354.601, -2323.014, -2323.673),
    "tied_spherical": (-4024.721, -3452.998, None, -3230.264),
}
LINKAGE = {("tied_diag", 4): "average"}  # where Ward's clusters lead to a lower maximum, 0.4 apart
STOPPED_EARLY = {
    "full": {3: -2349.696, 4: -2351.493},
    "diag": {3: -2342.366, 4: -2343.486},
    "tied_spherical": {3: -3377.701},
}


def hierarchical(x, k, covariance_type):
    """A fit from Ward's clusters, or such others, to the maximum of the likelihood alone."""
    start = np.zeros(len(x), int)
    if k > 1:
        linkage = LINKAGE.get((covariance_type, k), "ward")
        start = sklearn.cluster.AgglomerativeClustering(k, linkage=linkage).fit_predict(x)
    gm = sem.GaussianMixture(k, covariance_type=covariance_type, reg_covar=0, init_params=start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        return gm.set_params(acceleration="none", tol=1e-10, max_iter=3000).fit(x)


def cases(published):
    return [(t, k, bic) for t, every in published.items() for k, bic in enumerate(every, 1) if bic]


@pytest.mark.parametrize("covariance_type, k, bic", cases(IRIS))
def test_iris__has_the_published_bic(covariance_type, k, bic):
    x, _ = sklearn.datasets.load_iris(return_X_y=True)
    assert -hierarchical(x, k, covariance_type).bic() == pytest.approx(bic, abs=0.1)


def faithful():
    """Old Faithful, (272, 2): minutes of each eruption, and until the next."""
    path = pathlib.Path(__file__).parent / "data" / "faithful.csv"
    return np.loadtxt(path, delimiter=",", skiprows=1)


@pytest.mark.parametrize("covariance_type, k, bic", cases(FAITHFUL))
def test_faithful__has_the_published_bic(covariance_type, k, bic):
    assert -hierarchical(faithful(), k, covariance_type).bic() == pytest.approx(bic, abs=0.1)


@pytest.mark.parametrize("covariance_type", STOPPED_EARLY)
def test_faithful__has_better_maxima_than_some_published_ones(covariance_type):
    """mclust stops at relative steps of 1e-5, and starts elsewhere: these maxima are higher."""
    for k, bic in STOPPED_EARLY[covariance_type].items():
        assert -hierarchical(faithful(), k, covariance_type).bic() > bic + 0.1


def test_faithful__has_the_published_likelihood_of_its_best_model():
    gm = hierarchical(faithful(), 3, "tied")
    assert 272 * gm.lower_bound_ == pytest.approx(-1126.326, abs=0.05)
    assert gm.model_.n_parameters(2) == 11
    assert sorted(np.bincount(gm.predict(faithful()))) == pytest.approx([40, 97, 135], abs=3)
