"""Levels: what would bore a reader of 01a_levels."""
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans

from perturbnb.levels import discretize, fit_levels


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
