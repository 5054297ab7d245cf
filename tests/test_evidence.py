"What would bore a reader of 02_evidence: overlapping terms, odd samples, equal weights, and where the path begins"
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from perturbnb.conditionals import FLOOR, Cells, conditional_gradient
from perturbnb.designs import screen_design
from perturbnb.evidence import Problem, cell_losses, coefficient_variance, empirical_bayes, held_out_strength, pulled, sparse_threshold, split, strongest_pull
from perturbnb.model import gibbs_sample


def problem_of(spins, sample, **changes):
    n, n_samples = spins.shape[1], sample.max() + 1
    design = screen_design(pd.DataFrame({"guide": [str(c) for c in range(n_samples)], "if_control": np.arange(n_samples) < 2}))
    none, nothing = np.zeros((n, n)), np.zeros((len(design.terms), n))
    cells = Cells(spins, sample, np.ones(len(spins)), n_samples)
    return replace(Problem(cells, sample, design.matrix, design.terms, np.full((n, n), FLOOR), none, none, nothing, nothing, 0., 0., FLOOR, False), **changes)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    J = np.zeros((8, 8))
    for i, j, value in ((0, 1, 0.6), (2, 3, -0.6), (4, 5, 0.5)): J[i, j] = J[j, i] = value
    sample = np.repeat(np.arange(20), 60)
    return gibbs_sample(J, rng.normal(0, 0.4, (20, 8))[sample], seed=0), sample, J


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_two_pulls_are_one(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 5, (2, 3, 4)) * (rng.random((2, 3, 4)) < 0.7)
    prior, x = rng.normal(size=(2, 3, 4))
    total, centre = pulled(a, b, prior)
    np.testing.assert_allclose(total * (x - centre), a * x + b * (x - prior), atol=1e-12)
    assert not centre[b == 0].any()


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_variance_of_coefficients(overlap, form):
    rng = np.random.default_rng(1)
    own = (rng.random((40, 6)) < 0.4) * 1. if overlap else np.eye(6)[rng.integers(0, 6, 40)]
    design, shrunk = np.c_[np.ones(40), rng.integers(0, 2, 40), own], np.arange(8) >= 2
    v, penalty = rng.uniform(1, 9, (40, 3)), rng.uniform(0.5, 4, (8, 3))
    by_hand = np.column_stack([np.diag(np.linalg.inv((design.T * v[:, i]) @ design + np.diag(penalty[:, i]))) for i in range(3)])
    np.testing.assert_allclose(coefficient_variance(form(design), v, penalty, shrunk), by_hand, rtol=1e-9)
    np.testing.assert_allclose(coefficient_variance(form(design), v, penalty, np.zeros(8, bool)), by_hand, rtol=1e-9)


def test_overlaps_of_many_terms_are_ignored(monkeypatch):
    monkeypatch.setattr("perturbnb.evidence._MOST_DENSE", 3)
    rng = np.random.default_rng(1)
    design, v, penalty = (rng.random((40, 6)) < 0.4) * 1., rng.uniform(1, 9, (40, 2)), np.full((6, 2), 2.)
    np.testing.assert_allclose(coefficient_variance(design, v, penalty, np.ones(6, bool)), 1 / (design.T**2 @ v + 2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.1, 0.2, 0.5]))
def test_held_out_cells(seed, share):
    sample = np.random.default_rng(seed).integers(0, 7, 90)
    held = split(sample, share, seed)
    size = np.bincount(sample)
    np.testing.assert_array_equal(np.bincount(sample[held], minlength=len(size)), np.floor(share * size))
    np.testing.assert_array_equal(held, split(sample, share, seed))


def test_losses_of_cells(world):
    spins, sample, J = world
    rng = np.random.default_rng(2)
    left_out = rng.random((20, 8)) < 0.2
    cells, h = Cells(spins, sample, rng.uniform(0.5, 2, len(spins)), 20, left_out), rng.normal(size=(20, 8))
    losses = cell_losses(cells, J, h, block=100)
    assert losses.shape == (1200,) and losses.sum() == pytest.approx(conditional_gradient(cells, J, h)[0], rel=1e-9)
    assert cell_losses(cells, J, h + 800)[0] == pytest.approx(cell_losses(cells, J, h + 800, block=1)[0]) and np.isfinite(cell_losses(cells, J, h + 800)).all()


def test_strength_follows_the_spread():
    rng = np.random.default_rng(3)
    sample, found = np.repeat(np.arange(40), 200), []
    for spread in (0.15, 0.3, 0.6):
        fields = rng.normal(0, spread, (40, 8)) * (np.arange(40) >= 2)[:, None]
        strength, fits = empirical_bayes(problem_of(gibbs_sample(np.zeros((8, 8)), fields[sample], seed=1), sample))
        found.append(strength["guide"] * spread**2)
        assert 2 <= len(fits) <= 15
    assert 0.7 < min(found) and max(found) < 1.5


def test_nothing_to_shrink(world):
    problem = problem_of(*world[:2])
    free = replace(problem, terms=problem.terms.assign(shrunk=False))
    assert free.kinds == [] and empirical_bayes(free) == ({}, [])


def test_held_out_strength_does_not_depend_on_the_order_of_the_grid(world):
    problem = problem_of(*world[:2])
    best, fits, losses = held_out_strength(problem, grid=(100., 10., 1.))
    other, _, turned = held_out_strength(problem, grid=(1., 10., 100.))
    assert best == other and len(fits) == 3
    np.testing.assert_allclose(losses.sort_index(), turned.sort_index(), rtol=1e-4)


@pytest.mark.parametrize("directed", [False, True])
def test_the_path_begins_where_no_coupling_is_left(world, directed):
    problem, strength = problem_of(*world[:2], directed=directed), {"guide": 6.}
    top, fit = strongest_pull(problem, strength, tol=1e-6, max_iter=500)
    assert not (fit.J - np.diag(np.diag(fit.J))).any()
    above, below = (problem.fit(strength, factor * top, tol=1e-6, max_iter=500).J for factor in (1.001, 0.999))
    assert not (above - np.diag(np.diag(above))).any() and (below - np.diag(np.diag(below))).any()


@pytest.mark.parametrize("directed", [False, True])
def test_the_couplings_that_there_are(world, directed):
    spins, sample, J = world
    problem, strength = problem_of(spins, sample, directed=directed), {"guide": 6.}
    threshold, path = sparse_threshold(problem, strength)
    found = problem.fit(strength, threshold, tol=1e-5, max_iter=500).J
    np.testing.assert_array_equal(found - np.diag(np.diag(found)) != 0, J != 0)
    assert path["l1_J"].is_monotonic_decreasing and path["n_couplings"].iloc[0] == 0 and path["loss"].diff().max() < 0.05


def test_weights_of_samples_do_not_change_the_unit_of_the_criterion(world):
    "All weights halved: half the threshold, the same couplings"
    problem = problem_of(*world[:2])
    half = replace(problem, cells=replace(problem.cells, weights=problem.cells.weights / 2), floor=FLOOR / 2, J_l2=problem.J_l2 / 2)
    one, path = sparse_threshold(problem, {"guide": 6.})
    two, other = sparse_threshold(half, {"guide": 3.})
    assert two == pytest.approx(one / 2, rel=1e-2)
    np.testing.assert_array_equal(path["n_couplings"], other["n_couplings"])


def test_strength_counts_cells_however_they_are_weighed(world):
    spins, sample, _ = world
    one = problem_of(spins, sample)
    light = replace(one, cells=replace(one.cells, weights=one.cells.weights / 60), J_l2=one.J_l2 / 60, floor=one.floor / 60)
    strength, other = empirical_bayes(one)[0], empirical_bayes(light)[0]
    for kind in strength: np.testing.assert_allclose(other[kind] * 60, strength[kind], rtol=0.02)
