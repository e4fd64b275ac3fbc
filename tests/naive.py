"""The formulas, written as they read: the only oracle of all tests. Slow and float64 throughout."""

from __future__ import annotations

import numpy as np
import scipy.stats
from scipy.special import digamma, gammaln, multigammaln


def full_cholesky(covariance_type, covariances, n_components, n_features):
    """(k, d, d) Cholesky factors of any covariance type's covariances."""
    d = n_features
    if covariance_type == "full":
        matrices = covariances
    elif covariance_type == "tied":
        matrices = [covariances] * n_components
    elif covariance_type == "diag":
        matrices = [np.diag(c) for c in covariances]
    elif covariance_type == "spherical":
        matrices = [c * np.eye(d) for c in covariances]
    elif covariance_type == "tied_diag":
        matrices = [np.diag(covariances)] * n_components
    elif covariance_type == "tied_spherical":
        matrices = [covariances * np.eye(d)] * n_components
    else:
        raise ValueError(covariance_type)
    return np.array([np.linalg.cholesky(m) for m in matrices]).reshape(n_components, d, d)


def whitened(x, means, choleskys):
    """(n, k, d) y = L⁻¹(x - μ)."""
    x = np.asarray(x, dtype=np.float64)
    n, d = x.shape
    y = np.empty((n, len(means), d))
    for k, (mean, cholesky) in enumerate(zip(means, choleskys, strict=True)):
        y[:, k] = np.linalg.solve(cholesky, (x - mean).T).T
    return y


def log_joint(x, weights, means, choleskys):
    """(n, k) log π_k N(x; μ_k, L_k L_kᵀ)."""
    d = x.shape[1]
    y = whitened(x, means, choleskys)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    log_det = np.array([2 * np.log(np.diag(c)).sum() for c in choleskys])
    return log_weights - 0.5 * (d * np.log(2 * np.pi) + log_det + (y**2).sum(axis=2))


def log_sum_exp(log_terms):
    """(n,) log Σ_k exp(log_terms)."""
    out = np.full(len(log_terms), -np.inf)
    for i, row in enumerate(log_terms):
        top = max(row, default=-np.inf)
        if top > -np.inf:
            out[i] = top + np.log(np.exp(row - top).sum())
    return out


def score_samples(x, weights, means, choleskys):
    """(n,) log Σ_k π_k N(x; μ_k, Σ_k)."""
    return log_sum_exp(log_joint(x, weights, means, choleskys))


def responsibilities(x, weights, means, choleskys):
    """(n, k) p(z = k | x)."""
    return posterior(log_joint(x, weights, means, choleskys))


def posterior(joint):
    """(n, k) exp(joint) / Σ_k exp(joint); zeros in a row that is impossible."""
    total = log_sum_exp(joint)
    resp = np.zeros_like(joint)
    possible = total > -np.inf
    resp[possible] = np.exp(joint[possible] - total[possible, None])
    return resp


def with_labels(joint, y):
    """Log-joints of rows observed together with their component: every other one is impossible."""
    joint = joint.copy()
    for i, label in enumerate(y):
        for k in range(joint.shape[1]):
            if label >= 0 and k != label:
                joint[i, k] = -np.inf
    return joint


def with_noise(joint, log_noise):
    """(n, k + 1) log-joints of components and, last, of the noise: (n,) or one number for all rows."""
    return np.column_stack([joint, np.broadcast_to(log_noise, len(joint))])


def x_log_x(r):
    """R log r, with 0 log 0 = 0."""
    return np.where(r > 0, r * np.log(np.where(r > 0, r, 1.0)), 0.0)


def statistics(
    covariance_type, x, sample_weight, weights, means, choleskys, resp=None, labels=None, log_noise=None
):
    """(log_likelihood, entropy, Σ w r, Σ w r y, Σ w r y yᵀ in the form of the covariance type).

    With noise, Σ w r of it comes last.
    """
    w = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    keep = w > 0
    x, w = np.asarray(x, dtype=np.float64)[keep], w[keep]
    joint = log_joint(x, weights, means, choleskys)
    joint = joint if log_noise is None else with_noise(joint, log_noise)
    joint = joint if labels is None else with_labels(joint, labels[keep])
    if resp is None:
        r = posterior(joint)
        log_likelihood = (w * log_sum_exp(joint)).sum()
    else:
        r = resp[keep]
        log_likelihood = (
            w[:, None] * (np.where(r > 0, r * np.where(r > 0, joint, 0.0), 0.0) - x_log_x(r))
        ).sum()
    entropy = -(w[:, None] * x_log_x(r)).sum()
    y = whitened(x, means, choleskys)
    n, k, d = y.shape
    sum_w, sum_wy, sum_wyy = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for i in range(n):
        for c in range(k):
            if r[i, c] > 0:
                sum_w[c] += w[i] * r[i, c]
                sum_wy[c] += w[i] * r[i, c] * y[i, c]
                sum_wyy[c] += w[i] * r[i, c] * np.outer(y[i, c], y[i, c])
    noise = () if log_noise is None else ((w * r[:, k]).sum(),)
    return log_likelihood, entropy, sum_w, sum_wy, in_form_of(covariance_type, sum_wyy), *noise


def in_form_of(covariance_type, matrices):
    """What a covariance type keeps of (k, d, d) second moments."""
    if covariance_type == "full":
        return matrices
    if covariance_type == "tied":
        return matrices.sum(axis=0)
    diagonals = np.array([np.diag(m) for m in matrices]).reshape(matrices.shape[:2])
    return {
        "diag": diagonals,
        "spherical": diagonals.sum(axis=1),
        "tied_diag": diagonals.sum(axis=0),
        "tied_spherical": diagonals.sum(),
    }[covariance_type]


def moments(x, weight, shift):
    """(Σ w, min, max, Σ w (x - shift), Σ w (x - shift)(x - shift)ᵀ) over rows with a weight."""
    w = np.ones(len(x)) if weight is None else np.asarray(weight)
    x, w = np.asarray(x, dtype=np.float64)[w > 0], w[w > 0]
    diff = x - shift
    minimum = x.min(axis=0, initial=np.inf)
    maximum = x.max(axis=0, initial=-np.inf)
    return w.sum(), minimum, maximum, (w[:, None] * diff).sum(axis=0), np.einsum("n,ni,nj->ij", w, diff, diff)


def squared_distances(x, centers, scale):
    """(n, k) squared distances in scaled columns."""
    x = np.asarray(x, dtype=np.float64)
    return np.array([[(((row - c) * scale) ** 2).sum() for c in centers] for row in x]).reshape(
        len(x), len(centers)
    )


def split_mix_64(index, seed):
    """The hash of one row, in Python's unbounded integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = mix((seed + golden) & mask)
    return mix(mix((index * golden + key) & mask) ^ key)


def bayesian_elbo(x, resp, prior, q, missing=None):
    """E_q[log p(x, z, π, μ, Λ) − log q(z, π, μ, Λ)], term by term, Λ_k Wishart with scales W_k (k, d, d).

    ``prior`` has process, concentration, precision, mean, degrees, scale (W₀⁻¹, (d, d)); ``q`` has
    concentration, precision, means, degrees, scales (W_k). Values that are NaN are latent too: of a row and a
    component, ``missing(i, c)`` are the mean (d,) and the covariance (d, d), 0 where observed, of the normal
    q(x_i | z_i = c).
    """
    n, d = x.shape
    k = len(q["means"])
    log_pi, of_weights = _weight_terms(prior, q)
    total = (resp * log_pi).sum() - x_log_x(resp).sum() + of_weights
    for c in range(k):
        wishart = scipy.stats.wishart(q["degrees"][c], q["scales"][c])
        log_det = digamma((q["degrees"][c] - np.arange(d)) / 2).sum() + d * np.log(2)
        log_det += np.linalg.slogdet(q["scales"][c])[1]
        mean = q["degrees"][c] * q["scales"][c]
        for i in range(n):
            row, spread, m = x[i], np.zeros((d, d)), np.isnan(x[i])
            if m.any():
                row, spread = missing(i, c)
                total += resp[i, c] * np.linalg.slogdet(2 * np.pi * np.e * spread[np.ix_(m, m)])[1] / 2
            away = row - q["means"][c]
            squares = away @ mean @ away + np.trace(mean @ spread)
            expected = log_det - d * np.log(2 * np.pi) - d / q["precision"][c] - squares
            total += resp[i, c] * expected / 2
        away = q["means"][c] - prior["mean"]
        total += 0.5 * (d * np.log(prior["precision"] / (2 * np.pi)) + log_det)
        total -= 0.5 * prior["precision"] * (d / q["precision"][c] + away @ mean @ away)
        total -= 0.5 * (d * np.log(q["precision"][c] / (2 * np.pi)) + log_det - d)
        total += 0.5 * (prior["degrees"] - d - 1) * log_det - 0.5 * np.trace(prior["scale"] @ mean)
        total += 0.5 * prior["degrees"] * np.linalg.slogdet(prior["scale"])[1]
        total -= 0.5 * prior["degrees"] * d * np.log(2) + multigammaln(prior["degrees"] / 2, d)
        total += wishart.entropy()
    return total


def _weight_terms(prior, q):
    """(E log π (k,), E log p(π) − E log q(π))."""
    a, posterior = prior["concentration"], q["concentration"]
    if not prior["process"]:
        log_pi = digamma(posterior) - digamma(posterior.sum())
        cross = gammaln(len(posterior) * a) - len(posterior) * gammaln(a) + ((a - 1) * log_pi).sum()
        return log_pi, cross + scipy.stats.dirichlet(posterior).entropy()
    log_v = digamma(posterior[0]) - digamma(posterior.sum(axis=0))
    log_rest = digamma(posterior[1]) - digamma(posterior.sum(axis=0))
    log_pi = np.array([log_v[c] + log_rest[:c].sum() for c in range(len(log_v))])
    cross = (np.log(a) + (a - 1) * log_rest).sum()
    return log_pi, cross + sum(scipy.stats.beta(*pair).entropy() for pair in posterior.T)


def conditional(row, mean, cholesky):
    """(log p(x_o), E[x | x_o], Cov[x | x_o]) of one Gaussian, for a row with NaN where it is missing."""
    o = ~np.isnan(row)
    m = ~o
    covariance = cholesky @ cholesky.T
    expected, spread = np.where(o, row, mean), np.zeros_like(covariance)
    spread[np.ix_(m, m)] = covariance[np.ix_(m, m)]
    if not o.any():
        return 0.0, expected, spread
    inverse = np.linalg.inv(covariance[np.ix_(o, o)])
    apart = row[o] - mean[o]
    _, log_det = np.linalg.slogdet(covariance[np.ix_(o, o)])
    slope = covariance[np.ix_(m, o)] @ inverse
    expected[m] = mean[m] + slope @ apart
    spread[np.ix_(m, m)] -= slope @ covariance[np.ix_(o, m)]
    return -0.5 * (o.sum() * np.log(2 * np.pi) + log_det + apart @ inverse @ apart), expected, spread


def incomplete_log_joint(x, weights, means, choleskys):
    """(n, k) log π_k N(x_o; μ_o, Σ_oo)."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    components = list(zip(log_weights, means, choleskys, strict=True))
    return np.array([[lw + conditional(row, m, c)[0] for lw, m, c in components] for row in x])


def incomplete_statistics(
    covariance_type, x, sample_weight, weights, means, choleskys, labels=None, noise=None
):
    """What `statistics` returns, in expectation of missing values too; rows with nothing observed aside.

    Noise is (its weight, lengths of the sides of its box (d,)): of a row, only the observed ones count.
    """
    w = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    keep = (w > 0) & ~np.isnan(x).all(axis=1)
    x, w = np.asarray(x, dtype=np.float64)[keep], w[keep]
    joint = incomplete_log_joint(x, weights, means, choleskys)
    if noise is not None:
        joint = with_noise(joint, np.log(noise[0]) - (~np.isnan(x) * np.log(noise[1])).sum(axis=1))
    joint = joint if labels is None else with_labels(joint, labels[keep])
    total = log_sum_exp(joint)
    r = np.exp(joint - total[:, None])
    k, d = means.shape
    sum_w, sum_wy, sum_wyy = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for i, row in enumerate(x):
        for c in range(k):
            _, expected, spread = conditional(row, means[c], choleskys[c])
            whitening = np.linalg.inv(choleskys[c])
            y = whitening @ (expected - means[c])
            sum_w[c] += w[i] * r[i, c]
            sum_wy[c] += w[i] * r[i, c] * y
            sum_wyy[c] += w[i] * r[i, c] * (np.outer(y, y) + whitening @ spread @ whitening.T)
    entropy = -(w[:, None] * x_log_x(r)).sum()
    last = () if noise is None else ((w * r[:, k]).sum(),)
    return (w * total).sum(), entropy, sum_w, sum_wy, in_form_of(covariance_type, sum_wyy), *last


def imputed(x, weights, means, choleskys):
    """Rows with missing values replaced by Σ_k r_k E[x_m | x_o, k]."""
    joint = incomplete_log_joint(x, weights, means, choleskys)
    r = np.exp(joint - log_sum_exp(joint)[:, None])
    components = list(enumerate(zip(means, choleskys, strict=True)))
    return np.array(
        [sum(r[i, k] * conditional(row, *its)[1] for k, its in components) for i, row in enumerate(x)]
    )


def tree(names):
    """How statistics are merged, as brackets: neighbours level by level, an odd one moves up."""
    while len(names) > 1:
        names = [
            f"({names[i]}{names[i + 1]})" if i + 1 < len(names) else names[i] for i in range(0, len(names), 2)
        ]
    return names[0]
