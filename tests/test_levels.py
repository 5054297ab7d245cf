"""Levels: what would bore a reader of 01a_levels."""
import numpy as np
import pandas as pd
import pytest
from numba import get_num_threads, set_num_threads
from sklearn.cluster import KMeans

from perturbnb.levels import Levels, _cuts, _inverse, _scratch, discretize, fit_levels


def least_loss(values):
    "Of every pair of cuts, all at once"
    n, p1, p2 = len(values), np.r_[0, np.cumsum(values - values.mean())], np.r_[0, np.cumsum((values - values.mean()) ** 2)]
    a, b = np.arange(n + 1)[:, None], np.arange(n + 1)
    cost = np.where(b > a, p2[b] - p2[a] - (p1[b] - p1[a]) ** 2 / np.maximum(b - a, 1), np.inf)
    return min((cost[0, :j] + cost[:j, j]).min() + cost[j, n] for j in range(2, n))


def drawn(kind, n, rng):
    if kind == "uniform": return rng.random(n)
    if kind == "one crowd": return rng.normal(size=n)
    if kind == "mostly zero": return rng.gamma(0.5, 1, n) * (rng.random(n) < 0.1)
    if kind == "few values": return rng.integers(0, 5, n).astype(float)
    if kind == "ends pile up": return rng.normal(size=n).clip(-0.5, 0.7)
    return np.exp(rng.normal(0, 3, n))


@pytest.mark.parametrize("kind", ["uniform", "one crowd", "mostly zero", "few values", "ends pile up", "far tail"])
def test_cuts_are_those_of_every_pair(kind):
    rng = np.random.default_rng(len(kind))
    for n in (5, 17, 64, 129, 400):
        values = np.sort(drawn(kind, n, rng))
        if len(np.unique(values)) < 3: continue
        i, j, loss = _cuts(values, _inverse(n), _scratch(n))
        assert 0 < i < j < n
        assert loss == pytest.approx(least_loss(values), rel=1e-9, abs=1e-9 * values.var() * n)
        assert loss == pytest.approx(sum(len(part) * part.var() for part in np.split(values, [i, j])), rel=1e-9, abs=1e-9 * values.var() * n)


def test_threads_order_and_memory_do_not_matter():
    usage = np.random.default_rng(0).gamma(0.4, 1, (3000, 7)).astype(np.float32)
    before, threads = usage.copy(), get_num_threads()
    levels, spins = fit_levels(usage), discretize(usage)
    try:
        set_num_threads(1)
        np.testing.assert_array_equal(fit_levels(usage).thresholds, levels.thresholds)
    finally: set_num_threads(threads)
    for same in (np.asfortranarray(usage), np.repeat(usage, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(fit_levels(same).thresholds, levels.thresholds)
        np.testing.assert_array_equal(discretize(same), spins)
        np.testing.assert_array_equal(same, before)
    np.testing.assert_allclose(fit_levels(usage.astype(np.float64)).thresholds, levels.thresholds, rtol=1e-5)
    np.testing.assert_array_equal(discretize((1000 * usage).astype(int)), discretize((1000 * usage).astype(int).astype(float)))


def test_thresholds_turned_by_hand():
    levels = fit_levels(np.random.default_rng(0).gamma(0.3, 1, (500, 2)))
    by_hand = Levels(np.array([[0.5, 1.5], [-np.inf, np.inf]]), levels.clip, levels.names)
    assert by_hand.apply(np.array([[0.2, 9.0], [0.5, 0.0], [99.0, -9.0]])).tolist() == [[-1, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("seed", range(8))
def test_levels_are_never_worse_than_lloyd(seed):
    rng = np.random.default_rng(seed)
    usage = rng.normal(size=(300, 1)) + rng.choice([0, 3, 5], (300, 1))
    usage = usage.round(int(rng.integers(0, 4)))
    spins = discretize(usage)
    error = sum(((usage[spins == s] - usage[spins == s].mean()) ** 2).sum() for s in np.unique(spins))
    assert error <= KMeans(3, n_init=10, random_state=seed).fit(usage).inertia_ * (1 + 1e-9)
    assert (np.diff(spins[np.argsort(usage[:, 0], kind="stable"), 0]) >= 0).all()


def test_levels_rules():
    cells = np.arange(400)
    usage = np.c_[np.full(400, 2.0), cells % 2 * 3.0, np.where(cells < 390, 0, cells), np.random.default_rng(0).gamma(0.3, 1, 400)]
    levels = fit_levels(pd.DataFrame(usage, columns=list("abcd")))
    spins = levels.apply(usage)
    assert levels.names == list("abcd") and np.isfinite(levels.clip).sum() == 3
    assert set(spins[:, 0]) == {0} and set(spins[:, 1]) == {-1, 1}
    assert (spins[:390, 2] == -1).all() and set(spins[390:, 2]) == {0, 1}
    assert spins.dtype == np.int8 and levels.to_frame().shape == (4, 4)
    np.testing.assert_array_equal(levels.apply(usage[5:9]), spins[5:9])
    np.testing.assert_array_equal(fit_levels(usage[::-1]).thresholds, levels.thresholds)
    for bad, message in ((np.full((4, 2), np.nan), "usage must be finite, got 8"), (np.ones(3), "cells × programs"), (np.ones((0, 2)), "at least one cell")):
        with pytest.raises(ValueError, match=message): fit_levels(bad)
    with pytest.raises(ValueError, match="names must have one entry per program"): fit_levels(usage, names=["a"])
