"""Split-and-merge moves of a Gaussian mixture: two components become one, and a third becomes two.

EM does not move a component past others, so a start with two components on one cluster and one on two stays
so (Ueda, Nakano, Ghahramani & Hinton 2000, SMEM). Their criteria rank pairs by the overlap of
responsibilities, and components by how far rows are from them. Here both are nats: let p_g be the part of the
mixture density that some components g make up, and r_g their responsibility. With others in their place, by
Jensen's inequality,

    ℓ' − ℓ  ≥  Σ w r_g log(p_g' / p_g),

which is what refitting g to the rows weighted by w r_g gains: one component in place of two (closed form) or
two in place of one (a short EM). Gains and losses of several g add up. What fits do with moves is in
`streamem.moves`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import DegenerateComponentError
from streamem.kernels.moments import moments
from streamem.models.covariance import Array
from streamem.models.gaussian_statistics import GaussianMixtureParams, GaussianMixtureStats
from streamem.models.missing import filled_with_means
from streamem.models.normal_wishart import ConjugatePrior
from streamem.protocols import Rows

if TYPE_CHECKING:
    from streamem.models.gaussian_mixture import GaussianMixtureModel

__all__ = ["moves"]

SHARED = 0.02  # responsibility up to which a row has no part in a component: half the rows, 1 % of the weight
AXES = 2  # across which a component is cut
FIRST_STEPS = 3  # of EM on the halves: what will pay is faster by then,
STEPS = 8  # and takes so many more,
PROMISING = 4  # as so many components do, or one in so many
PAIRS = 8  # that overlap most
MISSED_LEAST = 4  # components that the rows need least
SLICES = 8  # of the rows that threads share
MOST_LOST = 0.02  # nats per row that EM may have to make good
OWN_FACTORS = ("cholesky", "whitening")


@dataclass(frozen=True, slots=True, eq=False)
class _Merge:
    """Two components, and what is to be in their place."""

    old: tuple[int, int]
    """Which components."""
    new: GaussianMixtureParams
    """The one."""
    gain: float
    """What the log-likelihood gains at least, nats."""


@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    """A component, and the two that are to be in its place, after some steps of EM."""

    k: int
    """Which component."""
    stats: GaussianMixtureStats
    """Statistics of its rows under the two, whose weights sum to 1."""
    before: float
    """The log-likelihood of its rows under the one, nats."""
    pace: float = 0.0
    """What the last step gained, nats."""

    @property
    def gain(self) -> float:
        """What the log-likelihood gains at least, nats."""
        return self.stats.log_likelihood - self.before

    @property
    def promise(self) -> float:
        """What it would gain by steps like the last, nats."""
        return self.gain + STEPS * self.pace


def moves(
    model: GaussianMixtureModel,
    params: GaussianMixtureParams,
    rows: Rows,
    units: Array,
    each: Callable[..., Iterable[Any]] = map,
) -> Iterator[tuple[GaussianMixtureParams, str]]:
    """Yield parameters with two components merged and a third split, and what was done, the best first.

    The order is that of what the rows gain at least. Components are cut across their longest axes, columns
    being in ``units`` (d,). ``each`` may be a `map` that makes use of several threads.
    """
    if not _movable(model, params) or rows.label is not None:
        return
    slices = np.array_split(np.arange(len(rows.x)), min(SLICES, len(rows.x)))
    resp = np.concatenate(list(each(lambda s: model.responsibilities(params, rows.some(s)), slices)))
    fixed = ("covariances",) if params.shape.shared else ()
    part = replace(model, fixed=fixed, on_degenerate="freeze", noise=None)
    weighted = resp if rows.weight is None else resp * rows.weight[:, None]
    # What becomes of components with less than a row is for `streamem.degeneracy` to say.
    held = np.flatnonzero(weighted.sum(axis=0) * len(resp) >= rows.total_weight)
    pairs = _mergeable(resp, weighted, held)
    halving = [partial(_halved, part, params, int(k), rows, resp, units) for k in held]
    merging = [partial(_merge, part, params, pair, rows, resp) for pair in pairs]
    done: list[Any] = list(each(lambda task: task(), [*halving, *merging]))
    halved, merges = done[: len(held)], done[len(held) :]
    lost = MOST_LOST * rows.total_weight
    begun = sorted((split for split in halved if split is not None), key=lambda split: -split.promise)
    n = max(PROMISING, len(held) // PROMISING)
    splits = [*each(lambda split: _refined(part, split, rows, resp), begun[:n]), *begun[n:]]
    both = [(m.gain + s.gain, m, s) for m, s in itertools.product(merges, splits) if s.k not in m.old]
    for gain, merge, split in sorted(both, key=lambda move: -move[0]):
        if gain < -lost:
            return
        (i, j), k = merge.old, split.k
        yield _moved(params, merge, split), f"Components {i} and {j} became one, and component {k} two"


def _movable(model: GaussianMixtureModel, params: GaussianMixtureParams) -> bool:
    """Return whether components can change places: nothing must hold one of them in particular."""
    own_prior = isinstance(model.prior, ConjugatePrior) and model.prior.mean.ndim == 2
    return len(params.weights) > 2 and not model.fixed and not own_prior


def _mergeable(resp: Array, weighted: Array, held: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return pairs of components that may be one: those most alike, and those that rows miss least.

    Responsibilities are alike by their cosine (Ueda et al. 2000, eq. 3.1). Without component j the likelihood
    is lower by -Σ w log(1 - r_j): that takes in components of a few rows, which are like no other.
    """
    theirs, shares = weighted[:, held], resp[:, held]
    products = np.einsum("ni,nj->ij", theirs, shares)
    lengths = np.sqrt(np.diagonal(products))
    i, j = np.triu_indices(len(held), 1)
    alike = np.argsort(-products[i, j] / (lengths[i] * lengths[j]), kind="stable")[:PAIRS]
    rest = np.maximum(1 - shares, np.finfo(np.float64).eps)
    weight = 1.0 if resp is weighted else weighted.sum(axis=1)[:, None]
    missed = np.argsort(-np.sum(weight * np.log(rest), axis=0), kind="stable")[:MISSED_LEAST]
    np.fill_diagonal(products, -1.0)
    pairs = [(i[pair], j[pair]) for pair in alike]
    pairs += [tuple(sorted((one, int(np.argmax(products[one]))))) for one in missed]
    return [(int(held[one]), int(held[other])) for one, other in dict.fromkeys(pairs)]


def _merge(
    model: GaussianMixtureModel,
    params: GaussianMixtureParams,
    pair: tuple[int, int],
    rows: Rows,
    resp: Array,
) -> _Merge:
    """Return one component in place of two."""
    theirs = _weighted(rows, resp[:, pair].sum(axis=1))
    before = model.e_step(_some(params, pair), theirs).log_likelihood
    one = _some(params, pair[:1])
    one = model.m_step(one, model.e_step(one, theirs))
    return _Merge(pair, one, model.e_step(one, theirs).log_likelihood - before)


def _halved(
    model: GaussianMixtureModel,
    params: GaussianMixtureParams,
    k: int,
    rows: Rows,
    resp: Array,
    units: Array,
) -> _Split | None:
    """Return two components in place of one, of the most promising cut; None where its rows are too few."""
    theirs = _weighted(rows, resp[:, k])
    two, best = _some(params, (k, k)), None
    if not theirs.total_weight**2 > 2 * (two.means.shape[1] + 1) * theirs.total_squared_weight:
        return None
    before = model.e_step(_some(params, (k,)), theirs).log_likelihood
    for halves in _cuts(theirs, units):
        try:
            split = _climbed(model, _Split(k, model.given(two, theirs, halves), before), theirs, FIRST_STEPS)
        except DegenerateComponentError:
            continue
        if best is None or split.promise > best.promise:
            best = split
    return best


def _refined(model: GaussianMixtureModel, split: _Split, rows: Rows, resp: Array) -> _Split:
    """Return a split after more steps of EM; as it was, where those lead to what cannot be."""
    try:
        return _climbed(model, split, _weighted(rows, resp[:, split.k]), STEPS)
    except DegenerateComponentError:
        return split


def _climbed(model: GaussianMixtureModel, split: _Split, rows: Rows, steps: int) -> _Split:
    for _ in range(steps):
        stats = model.e_step(model.m_step(split.stats.reference, split.stats), rows)
        split = _Split(split.k, stats, split.before, stats.log_likelihood - split.stats.log_likelihood)
    return split


def _cuts(rows: Rows, units: Array) -> Iterator[Array]:
    """Yield responsibilities (n, 2) of both sides of the mean, for each of the longest axes of the rows."""
    filled = filled_with_means(rows)
    first = filled.x[0].astype(np.float64)
    total = moments(filled.x, filled.weight, first)
    mean = total.sum_wd / total.weight
    covariance = total.sum_wdd / total.weight - np.outer(mean, mean)
    _, vectors = np.linalg.eigh(covariance / np.outer(units, units))
    for axis in vectors.T[::-1][:AXES]:
        side = np.einsum("nd,d->n", filled.x - first - mean, axis / units) > 0
        yield np.stack([side, ~side], axis=1).astype(np.float64)


def _weighted(rows: Rows, resp: Array) -> Rows:
    """Return the rows that have a part in some components, weighted by it."""
    chosen = np.flatnonzero(resp > SHARED)
    weight = resp[chosen] if rows.weight is None else resp[chosen] * rows.weight[chosen]
    return Rows(rows.x[chosen], weight, 0, rows.complete)


def _some(params: GaussianMixtureParams, which: Sequence[int]) -> GaussianMixtureParams:
    """Return some of the components as a mixture of their own, without noise."""
    chosen = list(which)
    weights = params.weights[chosen] / params.weights[chosen].sum()
    names = () if params.shape.shared else OWN_FACTORS
    factors = {name: getattr(params, name)[chosen] for name in names}
    noiseless: dict[str, Any] = {"noise_weight": 0.0, "noise_box": np.empty((2, 0))}
    return replace(params, weights=weights, means=params.means[chosen], **factors, **noiseless)


def _moved(params: GaussianMixtureParams, merge: _Merge, split: _Split) -> GaussianMixtureParams:
    """Return the parameters with one component in place of two, and two in place of one."""
    (i, j), k, two = merge.old, split.k, split.stats.reference
    places = [i, j, k]
    weights, means = params.weights.copy(), params.means.copy()
    weights[places] = params.weights[[i, j]].sum(), *(params.weights[k] * two.weights)
    means[places] = np.concatenate([merge.new.means, two.means])
    factors = {}
    for name in () if params.shape.shared else OWN_FACTORS:
        factors[name] = getattr(params, name).copy()
        factors[name][places] = np.concatenate([getattr(merge.new, name), getattr(two, name)])
    return replace(params, weights=weights, means=means, **factors)
