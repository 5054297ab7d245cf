"What would bore a reader of 02_likelihood: odd sizes, weights, designs, penalties, extremes, threads"
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import logsumexp

from perturbnb.conditionals import FLOOR, Cells, Penalty, fit_conditionals
from perturbnb.likelihood import _annealed, exact_expectations, fit_exact, fit_sampled, log_likelihood, log_partition, sufficient_statistics
from perturbnb.model import all_states, energy, exact_moments, gibbs_sample

FLOORS = Penalty(J_l2=FLOOR, B_l2=FLOOR)


def network(n, n_units, seed=0, strength=0.4):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(0, strength, (n, n)))
    return J + np.triu(J, 1).T, rng.normal(0, strength, (n_units, n))


def planted(n=5, n_units=4, n_each=300, seed=0):
    J, h = network(n, n_units, seed)
    unit = np.random.default_rng(seed).permutation(np.repeat(np.arange(n_units), n_each))
    return Cells(gibbs_sample(J, h[unit], seed=seed), unit, np.ones(len(unit)), n_units), J, h


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 999), st.floats(0, 3))
def test_halves_give_the_sum_over_all_states(n, n_units, seed, strength):
    J, h = network(n, n_units, seed, strength)
    weight = np.random.default_rng(seed).uniform(0, 2, n_units)
    log_z, mean, second = exact_expectations(J, h, weight)
    one_by_one = [exact_moments(J, row) for row in h]
    np.testing.assert_allclose(log_z, [logsumexp(-energy(all_states(n), J, row)) for row in h], rtol=1e-10)
    np.testing.assert_allclose(mean, [one.mean for one in one_by_one], atol=1e-10)
    np.testing.assert_allclose(second, sum(w * one.second for w, one in zip(weight, one_by_one)), atol=1e-10)


def test_blocks_of_rows_do_not_matter():
    J, h = network(6, 50)
    h[7] *= 1000                                        # one that needs care
    for whole, parts in zip(exact_expectations(J, h, np.arange(50.)), exact_expectations(J, h, np.arange(50.), block=7)):
        np.testing.assert_allclose(whole, parts, rtol=1e-10)


@pytest.mark.parametrize("scale", [800, 1e5])
def test_no_overflow(scale):
    J, h = network(5, 3)
    for strong_J, strong_h in ((J, scale * h), (scale * J, h), (scale * J, scale * h)):
        log_z, mean, second = exact_expectations(strong_J, strong_h, np.ones(3))
        assert np.isfinite(log_z).all() and (np.abs(mean) <= 1 + 1e-12).all() and (np.abs(second) <= 3 + 1e-9).all()
        np.testing.assert_allclose(mean, [exact_moments(strong_J, row).mean for row in strong_h], atol=1e-9)
        assert np.isfinite(_annealed(strong_J, strong_h, 8, 10, 0)[0]).all()


def test_weights_count_cells():
    cells, _, _ = planted()
    weights = np.random.default_rng(0).integers(1, 4, len(cells.spins))
    repeated = np.repeat(np.arange(len(weights)), weights)
    more = sufficient_statistics(Cells(cells.spins[repeated], cells.unit[repeated], np.ones(len(repeated)), 4))
    weighted = sufficient_statistics(Cells(cells.spins, cells.unit, weights.astype(float), 4), block=97)
    for name in ("weight", "mean", "second"): np.testing.assert_allclose(getattr(more, name), getattr(weighted, name), atol=1e-9)


@pytest.mark.parametrize("kind", ["free", "shared", "overlapping", "sparse", "empty unit"])
def test_exact_fit_has_the_moments_of_the_data(kind):
    cells, _, _ = planted()
    design = {"free": np.eye(4), "shared": np.ones((4, 1)), "overlapping": np.c_[np.ones(4), np.arange(4) % 2, [0, 0, 1, 1.]], "sparse": sparse.csr_array(np.eye(4)), "empty unit": np.eye(5)}[kind]
    if kind == "empty unit": cells = Cells(cells.spins, cells.unit, cells.weights, 5)
    fit = fit_exact(cells, design, FLOORS, tol=1e-7)
    statistics = sufficient_statistics(cells)
    _, mean, second = exact_expectations(fit.J, design @ fit.B, statistics.weight)
    assert fit.converged and (fit.J == fit.J.T).all() and list(fit.history) == ["objective", "residual", "seconds"]
    np.testing.assert_allclose(second, statistics.second, atol=0.01)
    np.testing.assert_allclose(design.T @ (statistics.weight[:, None] * (mean - statistics.mean)), 0, atol=0.02)


def test_start_and_order_do_not_matter():
    cells, J, h = planted()
    one, other = fit_exact(cells, np.eye(4), FLOORS, tol=1e-8), fit_exact(cells, np.eye(4), FLOORS, tol=1e-8, start=(3 * J, -h))
    np.testing.assert_allclose(one.J, other.J, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(cells.spins))
    again = fit_exact(Cells(cells.spins[order][:, ::-1], cells.unit[order], cells.weights[order], 4), np.eye(4), FLOORS, tol=1e-8)
    np.testing.assert_allclose(again.J[::-1, ::-1], one.J, atol=1e-6)


def test_a_priors_centre_wins_where_it_is_strong():
    cells, J, _ = planted()
    centre = np.where(np.eye(5, dtype=bool), 0, 0.7)
    strong = fit_exact(cells, np.eye(4), Penalty(J_l2=1e6, J_centre=centre, B_l2=FLOOR))
    np.testing.assert_allclose(strong.J, centre, atol=2e-3)


@pytest.mark.parametrize("where", ["J", "B", "both"])
def test_l1_meets_its_conditions(where):
    cells, _, _ = planted(n_each=100)
    price = dict(J_l1=15. if where != "B" else 0., B_l1=np.full((4, 5), 8.) if where != "J" else 0.)
    fit = fit_exact(cells, np.eye(4), Penalty(J_l2=FLOOR, B_l2=FLOOR, **price), tol=1e-7, max_iter=2000)
    statistics = sufficient_statistics(cells)
    _, mean, second = exact_expectations(fit.J, fit.B, statistics.weight)
    assert fit.converged
    pairs = np.tril_indices(5, -1)
    slopes = {"J": (second - statistics.second)[pairs], "B": (statistics.weight[:, None] * (mean - statistics.mean)).ravel()}
    for name, found in {"J": fit.J[pairs], "B": fit.B.ravel()}.items():
        if where not in (name, "both"): continue
        cost = 15. if name == "J" else 8.
        assert 0 < (found == 0).sum() < found.size
        assert (np.abs(slopes[name][found == 0]) <= cost + 0.01).all()
        np.testing.assert_allclose(slopes[name][found != 0], -cost * np.sign(found[found != 0]), atol=0.05)


def test_a_spin_constant_in_a_unit_has_a_finite_field():
    cells, _, _ = planted()
    spins = cells.spins.copy()
    spins[cells.unit == 0, 0] = -1
    for fit in (fit_exact, fit_sampled):
        found = fit(Cells(spins, cells.unit, cells.weights, 4), np.eye(4), FLOORS)
        assert np.isfinite(found.B).all() and -20 < found.B[0, 0] < -2


@pytest.mark.parametrize("n_spins,n_cells,n_units", [(1, 30, 1), (2, 1, 1), (3, 200, 200)])
def test_tiny_and_one_cell_per_unit(n_spins, n_cells, n_units):
    rng = np.random.default_rng(0)
    cells = Cells(rng.integers(-1, 2, (n_cells, n_spins)).astype(np.int8), np.arange(n_cells) % n_units, np.ones(n_cells), n_units)
    design = np.c_[np.ones(n_units), rng.normal(size=n_units)][:, :min(n_units, 2)]
    penalty = Penalty(J_l2=1., B_l2=1.)
    exact, sampled = fit_exact(cells, design, penalty), fit_sampled(cells, design, penalty)
    assert exact.converged and sampled.converged
    np.testing.assert_allclose(exact.J, sampled.J, atol=0.1)
    np.testing.assert_allclose(exact.B, sampled.B, atol=0.1)


def test_sampled_steps_know_a_strong_prior():
    cells, _, _ = planted()
    strong = np.full((5, 5), FLOOR)
    strong[0, 1] = strong[1, 0] = 1e4
    exact, sampled = (fit(cells, np.eye(4), Penalty(J_l2=strong, J_centre=0.5 * (strong > 1), B_l2=FLOOR)) for fit in (fit_exact, fit_sampled))
    assert abs(exact.J[0, 1] - 0.5) < 0.05 and np.isfinite(sampled.J).all() and abs(sampled.J[0, 1] - exact.J[0, 1]) < 0.02


def test_interventions_are_refused():
    cells, _, _ = planted()
    lost = Cells(cells.spins, cells.unit, cells.weights, 4, left_out=np.eye(4, 5, dtype=bool))
    for fit in (fit_exact, fit_sampled):
        with pytest.raises(ValueError, match="pseudo_likelihood"): fit(lost, np.eye(4), FLOORS)


@pytest.mark.parametrize("call,message", [
    (lambda cells: fit_exact(cells, np.eye(3), FLOORS), "design must have a row per unit"),
    (lambda cells: fit_exact(Cells(np.zeros((2, 13), np.int8), np.zeros(2, int), np.ones(2), 1), np.eye(1), FLOORS), "at most 12 spins, got 13: use method='pseudo_likelihood' or 'mcmc'"),
    (lambda cells: fit_sampled(cells, np.eye(4), Penalty(B_l1=1.)), "must be 0 with method='mcmc'"),
    (lambda cells: fit_sampled(cells, np.eye(4), FLOORS, sampling_size=0), "sampling_size"),
    (lambda cells: fit_sampled(cells, np.eye(4), FLOORS, n_jobs=0), "n_jobs must be a whole number of at least 1"),
    (lambda cells: fit_sampled(cells, np.eye(4), FLOORS, mixing=-1), "mixing"),
    (lambda cells: fit_sampled(cells, np.eye(4), FLOORS, max_iter=0), "max_iter"),
    (lambda cells: fit_sampled(cells, np.eye(4), FLOORS, seed=-1), "seed"),
    (lambda cells: fit_sampled(cells, np.eye(4), FLOORS, step_size=0.), "step_size"),
    (lambda cells: log_partition(np.zeros((2, 2)), np.zeros(2)), "h must have a column per spin"),
    (lambda cells: log_partition(np.full((2, 2), np.nan), np.zeros((1, 2))), "J must be finite"),
    (lambda cells: log_likelihood(np.zeros((2, 2)), np.zeros((1, 2)), [[3, 0]], [0]), "spins must be -1, 0 or 1")])
def test_refused(call, message):
    with pytest.raises(ValueError, match=message): call(planted()[0])


def test_sampled_fit_says_when_it_did_not_converge():
    cells, _, _ = planted()
    assert not fit_sampled(cells, np.eye(4), FLOORS, max_iter=1, start=(np.ones((5, 5)), np.zeros((4, 5)))).converged


def test_sampled_fit_comes_from_afar():
    "Without the pseudo-likelihood's start, and with the tutorial's way of saying how much to sample"
    cells, _, _ = planted()
    exact, conditional = fit_exact(cells, np.eye(4), FLOORS), fit_conditionals(cells, np.eye(4), FLOORS)
    far = fit_sampled(cells, np.eye(4), FLOORS, start=(np.zeros((5, 5)), np.zeros((4, 5))), sampling_size=3000, mixing=2000, step_size=1., seed=3)
    assert far.converged and np.abs(far.J - exact.J).max() < 0.03
    assert {"noise", "curvature", "effective_sample_size", "mean_residuals", "pair_residuals"} <= set(far.extra) and far.extra["noise"] <= 0.01
    assert np.abs(far.extra["pair_residuals"]).max() < 0.02 and far.extra["effective_sample_size"].shape == (4, 5)
    assert np.abs(conditional.J - exact.J).max() < 0.1


def test_threads_do_not_matter():
    code = ("import numpy as np, zlib, numba; from perturbnb.likelihood import fit_sampled, log_partition; from perturbnb.conditionals import Cells, Penalty; r = np.random.default_rng(0); "
            "cells = Cells(r.integers(-1, 2, (800, 10)).astype('i1'), np.arange(800) % 8, np.ones(800), 8); "
            "fit = fit_sampled(cells, np.eye(8), Penalty(J_l2=1., B_l2=1.), max_iter=20, seed=5, start=(np.zeros((10, 10)), np.zeros((8, 10)))); "
            "print(zlib.crc32(fit.J.tobytes() + log_partition(np.eye(14), r.normal(size=(20, 14)))[0].tobytes()), numba.get_num_threads())")
    (one, n_one), (two, n_two) = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_NUM_THREADS": n}).stdout.split() for n in "12")
    assert one == two and (n_one, n_two) == ("1", "2")


def test_seed_decides():
    cells, _, _ = planted()
    one, same, other = (fit_sampled(cells, np.eye(4), FLOORS, seed=seed, max_iter=100) for seed in (1, 1, 2))
    assert (one.J == same.J).all() and (one.J != other.J).any()


def test_annealing_is_right_within_its_error():
    J, h = network(9, 30, strength=0.5)
    (exact, none), (found, error) = log_partition(J, h), _annealed(J, h, 64, 100, 0)
    z = (found - exact) / error
    assert not none.any() and np.abs(z).max() < 5 and 0.4 < z.std() < 2
    thirteen, error = log_partition(np.diag(np.ones(13)), np.zeros((1, 13)))
    np.testing.assert_allclose(thirteen, 13 * np.log(1 + 2 * np.e), rtol=1e-6)
    assert error[0] < 1e-6


def test_log_likelihood_is_a_log_probability():
    J, h = network(4, 2)
    for unit in (0, 1): np.testing.assert_allclose(np.exp(log_likelihood(J, h, all_states(4), np.full(81, unit))).sum(), 1)
    with pytest.raises(ValueError, match="directed"): log_likelihood(J + np.triu(np.ones((4, 4)), 1), h, all_states(4), np.zeros(81, int))
