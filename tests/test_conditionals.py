"What would bore a reader of 02_cells and 02_conditionals: blocks, threads, orders, shapes, penalties of every kind against an independent optimiser"
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

from perturbnb import cells as cells_module
from perturbnb import conditionals
from perturbnb.conditionals import FLOOR, Cells, Penalty, _metric, _moments, _Objective, conditional_gradient, conditional_variance, fit_conditionals
from perturbnb.model import conditional_probabilities, gibbs_sample


def planted(n_spins=6, n_units=5, n_cells=900, seed=0):
    "Cells of a planted network in no order, weights that differ, and its J and h"
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(0, 0.5, (n_spins, n_spins)), 1)
    J = J + J.T + np.diag(rng.normal(0, 0.3, n_spins))
    h, unit = rng.normal(0, 0.4, (n_units, n_spins)), rng.integers(0, n_units, n_cells)
    return Cells(gibbs_sample(J, h[unit], n_sweeps=20, seed=seed), unit, rng.uniform(0.5, 2, n_cells), n_units), J, h


def by_formula(cells, J, h):
    "Loss, derivatives in J and h, and conditional variances, without blocks or kernels"
    s, w = cells.spins.astype(float), cells.weights[:, None] * (1 if cells.left_out is None else ~cells.left_out[cells.unit])
    p = conditional_probabilities(cells.spins, J, h[cells.unit])
    mean, square = p @ [-1, 0, 1], p @ [1, 0, 1]
    seen = np.take_along_axis(p, (cells.spins + 1)[..., None].astype(int), axis=2)[..., 0]
    g_J = -(w * (s - mean)).T @ s
    np.fill_diagonal(g_J, -(w * (s**2 - square)).sum(0))
    per_unit = np.eye(cells.n_units)[cells.unit].T
    return -(w * np.log(seen)).sum(), g_J, -per_unit @ (w * (s - mean)), per_unit @ (w * (square - mean**2))


@pytest.mark.parametrize("real, exact", [(np.float64, 1e-10), (np.float32, 2e-6)])
@pytest.mark.parametrize("n_spins, n_units, n_cells, block", [(1, 1, 3, None), (6, 5, 900, 7), (6, 1, 900, None), (20, 3, 2000, 300), (20, 900, 900, 50), (33, 4, 1500, None)])
def test_pass_equals_formula(n_spins, n_units, n_cells, block, real, exact):
    cells, J, h = planted(n_spins, n_units, n_cells)
    left_out = np.random.default_rng(1).random(h.shape) < 0.2
    for kind in (replace(cells, block=block), replace(cells, block=block, left_out=left_out)):
        for found, expected in zip(conditional_gradient(kind, J, h, real=real), by_formula(kind, J, h)):
            np.testing.assert_allclose(found, expected, atol=exact * n_cells)
    np.testing.assert_allclose(conditional_variance(cells, J, h), by_formula(cells, J, h)[3], atol=1e-10 * n_cells)


def test_units_without_cells_and_input_untouched():
    cells, J, h = planted()
    cells = replace(cells, unit=np.where(cells.unit == 2, 3, cells.unit))
    before = cells.spins.copy(), cells.unit.copy(), cells.weights.copy()
    for found, expected in zip(conditional_gradient(cells, J, h), by_formula(cells, J, h)): np.testing.assert_allclose(found, expected, atol=1e-8)
    for a, b in zip(before, (cells.spins, cells.unit, cells.weights)): np.testing.assert_array_equal(a, b)


def test_threads_do_not_matter(monkeypatch):
    cells, J, h = planted(20, 8, 4000)
    cells, results = replace(cells, block=200), []
    for threads in (1, 3):
        monkeypatch.setattr(cells_module, "get_num_threads", lambda threads=threads: threads)
        results.append((conditional_gradient(cells, J, h, real=np.float32), fit_conditionals(cells, np.eye(8), Penalty(J_l2=1., B_l2=1.))))
    for a, b in zip(results[0][0], results[1][0]): np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(results[0][1].J, results[1][1].J)


def test_merging_keeps_the_weight():
    cells, _, _ = planted(4)
    merged = cells.arranged()
    assert len(merged.spins) < len(cells.spins) and (np.diff(merged.unit) >= 0).all() and merged.arranged() is merged
    np.testing.assert_allclose(np.bincount(merged.unit, merged.weights), np.bincount(cells.unit, cells.weights))


@pytest.mark.parametrize("n_spins", [6, 18])
def test_order_of_cells_does_not_matter(n_spins):
    cells, _, _ = planted(n_spins)
    at = np.random.default_rng(0).permutation(len(cells.spins))
    other = replace(cells, spins=cells.spins[at], unit=cells.unit[at], weights=cells.weights[at])
    a, b = (fit_conditionals(c, np.eye(5), Penalty(J_l2=0.1, B_l2=1.), tol=1e-7) for c in (cells, other))
    np.testing.assert_allclose(a.J, b.J, atol=2e-5)


def every_penalty(n, n_terms, l1=True):
    "Strengths and centres that differ from entry to entry, and are not symmetric"
    rng = np.random.default_rng(3)
    return Penalty(J_l2=rng.uniform(0.01, 30, (n, n)), J_centre=rng.normal(size=(n, n)), J_l1=rng.uniform(0, 50, (n, n)) * l1, B_l2=rng.uniform(0.01, 5, (n_terms, n)),
                   B_centre=rng.normal(size=(n_terms, n)), B_l1=8. * l1, h_l2=0.3)


def free_directions(n, n_terms, directed):
    "Columns: what may be changed by itself in (J, B)"
    pairs = [(i, j) for i in range(n) for j in range(n) if directed or i >= j]
    M = np.zeros((n * n + n_terms * n, len(pairs) + n_terms * n))
    for k, (i, j) in enumerate(pairs): M[i * n + j, k] = M[(i * n + j) if directed else (j * n + i), k] = 1
    M[n * n:, len(pairs):] = np.eye(n_terms * n)
    return M


@pytest.mark.parametrize("directed", [False, True])
def test_gradient_of_the_objective(directed):
    cells, J, h = planted()
    design = np.c_[np.ones(5), np.eye(5)]
    objective = _Objective(cells.arranged(), design, every_penalty(6, 6), directed)
    rng = np.random.default_rng(4)
    M = free_directions(6, 6, directed)
    x, step = M @ rng.normal(0, 0.5, M.shape[1]), M @ rng.normal(size=M.shape[1]) * 1e-5
    numeric = objective(x + step, np.float64)[0] - objective(x - step, np.float64)[0]
    np.testing.assert_allclose(numeric / 2, objective(x, np.float64)[1] @ step, rtol=1e-6)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("l1", [False, True])
def test_optimum_equals_that_of_a_bounded_optimiser(directed, l1):
    "J = J+ - J-, both at least zero: absolute values become linear"
    cells, _, _ = planted()
    design, penalty = np.c_[np.ones(5), np.eye(5)], every_penalty(6, 6, l1)
    fit = fit_conditionals(cells, design, penalty, directed=directed, tol=1e-8)
    objective, M = _Objective(cells.arranged(), design, penalty, directed), free_directions(6, 6, directed)
    price = np.abs(M.T) @ np.concatenate([part.ravel() for part in penalty.thresholds(6, 6, directed)])
    half = M.shape[1]

    def split(z):
        value, gradient = objective(M @ (z[:half] - z[half:]), np.float64)
        return value + price @ (z[:half] + z[half:]), np.r_[M.T @ gradient + price, price - M.T @ gradient]

    z = minimize(split, np.zeros(2 * half), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2 * half, options=dict(maxiter=9999, maxfun=9999, ftol=1e-16, gtol=1e-9)).x
    x = M @ (z[:half] - z[half:])
    assert fit.converged
    np.testing.assert_allclose(np.r_[fit.J.ravel(), fit.B.ravel()], x, atol=2e-5)
    if l1: np.testing.assert_array_equal(fit.J.ravel() == 0, np.abs(x[:36]) < 1e-7)
    if not directed: np.testing.assert_array_equal(fit.J, fit.J.T)


def test_conditions_at_a_sparse_optimum():
    "Where a coupling is zero its slope is within its price, elsewhere equal to it"
    cells, J, _ = planted(18, 4, 1500)
    penalty = Penalty(J_l2=FLOOR, J_l1=60., B_l2=1.)
    fit = fit_conditionals(cells, np.eye(4), penalty, tol=1e-7)
    _, g, _, _ = conditional_gradient(cells, fit.J, fit.B)
    g, off = g + g.T + FLOOR * fit.J, np.tril_indices(18, -1)
    slope, found = g[off], fit.J[off]
    assert fit.converged and 0.2 < np.mean(found == 0) < 0.98
    assert (np.abs(slope[found == 0]) <= 60 + 1e-6).all()
    np.testing.assert_allclose(slope[found != 0], -60 * np.sign(found[found != 0]), atol=0.02)
    assert (np.diag(fit.J) != 0).all()


def test_a_price_too_high_leaves_independent_spins():
    cells, _, _ = planted()
    fit = fit_conditionals(cells, np.eye(5), Penalty(J_l2=FLOOR, J_l1=1e5, B_l2=FLOOR), tol=1e-7)
    assert fit.converged and not fit.J[~np.eye(6, dtype=bool)].any()
    _, _, g_h, _ = conditional_gradient(cells, fit.J, fit.B)
    np.testing.assert_allclose(g_h + FLOOR * fit.B, 0, atol=1e-3)


def test_rows_of_a_directed_network_are_independent():
    "Each row alone, by an optimiser that knows only the formula"
    cells, _, _ = planted(4, 2, 400)
    fit = fit_conditionals(cells, np.eye(2), Penalty(J_l2=0.5, B_l2=0.5), directed=True, tol=1e-8)
    for i in range(4):
        def row(x, i=i):
            J = np.zeros((4, 4))
            J[i] = x[:4]
            h = np.zeros((2, 4))
            h[:, i] = x[4:]
            only = replace(cells, left_out=np.tile(np.arange(4) != i, (2, 1)))
            value, g_J, g_h, _ = by_formula(only, J, h)
            return value + 0.25 * x @ x, np.r_[g_J[i], g_h[:, i]] + 0.5 * x
        x = minimize(row, np.zeros(6), jac=True, method="BFGS", options=dict(gtol=1e-6)).x
        np.testing.assert_allclose(np.r_[fit.J[i], fit.B[:, i]], x, atol=1e-5)


@pytest.mark.parametrize("directed", [False, True])
def test_metric_is_symmetric_and_positive(directed):
    cells, _, _ = planted()
    cells, penalty, design = cells.arranged(), every_penalty(6, 3), np.c_[np.ones(5), np.eye(5)[:, :2]]
    metric = _metric(cells, design, penalty, _moments(cells), directed)
    objective = _Objective(cells, design, penalty, directed)
    M, rng = free_directions(6, 3, directed), np.random.default_rng(0)
    a, b = (M @ rng.normal(size=M.shape[1]) for _ in range(2))
    for apply in (metric.inverse, metric.forward):
        of_a, of_b = (np.concatenate([part.ravel() for part in apply(*objective.parts(v))]) for v in (a, b))
        np.testing.assert_allclose(a @ of_b, b @ of_a, rtol=1e-9)
        assert a @ of_a > 0


def test_a_start_saves_steps_and_changes_nothing():
    cells, J, h = planted(18)
    penalty = Penalty(J_l2=1., B_l2=1.)
    cold = fit_conditionals(cells, np.eye(5), penalty, tol=1e-7)
    assert len(fit_conditionals(cells, np.eye(5), penalty, tol=1e-6, start=(cold.J, cold.B)).history) <= 2
    warm = fit_conditionals(cells, np.eye(5), penalty, tol=1e-7, start=(J, h))
    np.testing.assert_allclose(warm.J, cold.J, atol=1e-5)


def test_beginning_on_a_subset_changes_nothing(monkeypatch):
    cells, _, _ = planted(17, 2, 24000)
    begun = fit_conditionals(cells, np.eye(2), Penalty(J_l2=1., B_l2=1.), tol=1e-7)
    monkeypatch.setattr(conditionals, "_ENOUGH", 10**9)
    whole = fit_conditionals(cells, np.eye(2), Penalty(J_l2=1., B_l2=1.), tol=1e-7)
    assert begun.converged and whole.converged
    np.testing.assert_allclose(begun.J, whole.J, atol=1e-4)


def test_one_unit_per_cell_and_sparse_designs():
    "However cells are put into units, the same rows of the design give the same fit"
    cells, _, _ = planted(18)
    design = np.c_[np.ones(5), np.eye(5)[:, 1:], [0, 1, 0, 1, 1.]]
    penalty = Penalty(J_l2=1., B_l2=1.)
    samples = fit_conditionals(cells, design, penalty, tol=1e-7)
    apart = replace(cells, unit=np.arange(len(cells.spins)), n_units=len(cells.spins))
    for other in (fit_conditionals(apart, design[cells.unit], penalty, tol=1e-7), fit_conditionals(cells, sparse.csr_array(design), penalty, tol=1e-7)):
        np.testing.assert_allclose(other.J, samples.J, atol=1e-5)
        np.testing.assert_allclose(other.B, samples.B, atol=1e-4)


def test_masks_of_very_different_strength_converge():
    cells, _, _ = planted(18, 4, 1500)
    mask = np.random.default_rng(0).random((18, 18)) < 0.3
    fit = fit_conditionals(cells, np.eye(4), Penalty(J_l2=np.where(mask | mask.T, FLOOR, 1e4), B_l2=1.))
    assert fit.converged and len(fit.history) < 60
    assert np.abs(fit.J[~(mask | mask.T) & ~np.eye(18, dtype=bool)]).max() < 0.1


def test_left_out_in_one_unit_equals_a_unit_without_that_spins_conditional():
    "Left out everywhere, a directed row is held at zero and the others do not notice"
    cells, _, _ = planted()
    penalty = Penalty(J_l2=FLOOR, B_l2=FLOOR)
    whole, without = (fit_conditionals(replace(cells, left_out=left), np.eye(5), penalty, directed=True, tol=1e-7) for left in (None, np.tile(np.arange(6) == 2, (5, 1))))
    assert without.converged and np.abs(without.J[2]).max() < 1e-6
    np.testing.assert_allclose(np.delete(without.J, 2, axis=0), np.delete(whole.J, 2, axis=0), atol=1e-4)


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_a_spin_that_never_moves_in_a_unit(value):
    cells, _, _ = planted()
    spins = cells.spins.copy()
    spins[cells.unit == 1, 2] = value
    fit = fit_conditionals(replace(cells, spins=spins), np.eye(5), Penalty(J_l2=FLOOR, B_l2=FLOOR))
    assert fit.converged and np.abs(fit.B).max() < 20 and np.sign(np.round(fit.B[1, 2])) == value


def test_history_and_what_stops_a_fit():
    cells, _, _ = planted(18)
    fit = fit_conditionals(cells, np.eye(5), Penalty(B_l2=1.), max_iter=2)
    assert not fit.converged and len(fit.history) == 3 and list(fit.history) == ["objective", "residual", "seconds"]
    assert fit.history["residual"].iloc[0] == 1 and (np.diff(fit.history["seconds"]) >= 0).all()
    for tol in (1e-4, 1e-9):
        fit = fit_conditionals(cells, np.eye(5), Penalty(J_l2=FLOOR, B_l2=1.), tol=tol)
        assert fit.converged and fit.history["residual"].iloc[-1] <= tol < fit.history["residual"].iloc[-2]


def test_shapes_that_do_not_fit():
    cells, _, _ = planted()
    with pytest.raises(ValueError, match="a row for each of the 5 units, got 4"): fit_conditionals(cells, np.eye(5)[:4], Penalty())
    with pytest.raises(ValueError, match=r"B_centre must be a number or have shape \(5, 6\)"): fit_conditionals(cells, np.eye(5), Penalty(B_centre=np.zeros((4, 6))))
    with pytest.raises(ValueError, match="J_l1 must be finite and at least 0"): fit_conditionals(cells, np.eye(5), Penalty(J_l1=np.nan))
