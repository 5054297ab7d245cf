"What would bore a reader of 02d and 02e: weights, directions, orders, designs of cells, interventions, fits at the edge"
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturbnb.bootstrap import bootstrap_network
from perturbnb.designs import cell_design
from perturbnb.model import gibbs_sample
from perturbnb.network import infer_network
from perturbnb.uncertainty import network_uncertainty


def planted(n_spins=5, sizes=(40, 60, 30, 90, 50, 70, 45, 55), control=("nt",), seed=0):
    "Four guides in two batches"
    rng = np.random.default_rng(seed)
    rows = [(f"{g}|{b}", g, g in control, b) for g in ("nt", "a", "b", "c") for b in "xy"]
    samples = pd.DataFrame(rows, columns=["sample_id", "guide", "if_control", "batch"]).set_index("sample_id")
    effect, shift = rng.normal(0, 0.5, (4, n_spins)), rng.normal(0, 0.4, (2, n_spins))
    J = np.triu(rng.normal(0, 0.3, (n_spins, n_spins)), 1)
    row = rng.permutation(np.repeat(np.arange(8), sizes))
    spins = gibbs_sample(J + J.T - 0.3 * np.eye(n_spins), (np.repeat(effect, 2, 0) + np.tile(shift, (4, 1)))[row], seed=seed)
    return spins, samples.index.to_numpy()[row], samples


def fitted(spins, sample_id, samples, **options):
    return infer_network(spins, sample_id, samples=samples, method="pseudo_likelihood", **options)


@pytest.fixture(scope="module")
def screen(): return planted()


@pytest.fixture(scope="module")
def network(screen): return fitted(*screen)


@pytest.fixture(scope="module")
def uncertainty(network, screen): return network_uncertainty(network, *screen[:2])


def same(a, b, rtol=1e-4, atol=1e-5):
    for name in ("J_estimate", "J_se", "estimate", "se", "guide_covariance"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=atol, err_msg=name)


def test_order_of_cells_does_not_matter(network, screen, uncertainty):
    order = np.random.default_rng(1).permutation(len(screen[0]))
    same(network_uncertainty(network, screen[0][order], screen[1][order]), uncertainty)


@pytest.mark.parametrize("l2", [0.5, 50.])
def test_how_far_the_network_was_shrunk_does_not_matter(screen, uncertainty, l2):
    other = network_uncertainty(fitted(*screen, l2_response=l2, l2_J=l2), *screen[:2])
    assert np.nanmax(np.abs(other.estimate - uncertainty.estimate) / uncertainty.se) < 0.02
    np.testing.assert_allclose(other.se, uncertainty.se, rtol=0.05)


def test_estimate_is_that_of_an_unshrunk_fit(screen, uncertainty):
    free = fitted(*screen, l2_response=0., l1_J=0., tol=1e-7)
    guides = (free.terms["kind"] == "guide").to_numpy()
    assert np.abs(uncertainty.estimate - free.coefficients)[guides].max() < 0.02 * uncertainty.se.min()
    assert np.abs(uncertainty.J_estimate - free.J).max() < 0.02 * uncertainty.J_se.min()


def test_any_method_of_fit(screen, uncertainty):
    same(network_uncertainty(infer_network(*screen[:2], samples=screen[2], method="exact"), *screen[:2]), uncertainty, rtol=0.02, atol=2e-3)


def test_all_cells_weighing_twice_changes_nothing(screen):
    "Weights of samples are 1 / n_cells; of equally large samples they cannot matter"
    spins, sample_id, samples = planted(sizes=(50,) * 8)
    equal = network_uncertainty(fitted(spins, sample_id, samples, sample_weight="equal"), spins, sample_id)
    same(equal, network_uncertainty(fitted(spins, sample_id, samples), spins, sample_id), rtol=0.02, atol=2e-3)


def test_one_spin_has_a_closed_form():
    "Three levels, two parameters: the variances are those of log ratios of counts"
    rng = np.random.default_rng(0)
    spins = rng.choice([-1, 0, 1], (4000, 2), p=[0.2, 0.5, 0.3]).astype(np.int8)
    result = network_uncertainty(fitted(spins, np.repeat("all", 4000), None, design="free", directed=True), spins, np.repeat("all", 4000))
    down, zero, up = (spins[:, 0] == -1).mean(), (spins[:, 0] == 0).mean(), (spins[:, 0] == 1).mean()
    se_h, se_a = np.sqrt((1 / up + 1 / down) / 4 / 4000), np.sqrt((1 / up + 1 / down + 4 / zero) / 4 / 4000)
    np.testing.assert_allclose([result.se[0, 0], result.J_se[0, 0]], [se_h, se_a], rtol=0.02)
    np.testing.assert_allclose(result.estimate[0, 0], np.log(up / down) / 2, atol=0.05 * se_h + 0.02)


def test_without_controls_guides_are_relative_to_their_mean():
    spins, sample_id, samples = planted(control=())
    network = fitted(spins, sample_id, samples)
    result, guides = network_uncertainty(network, spins, sample_id), (network.terms["kind"] == "guide").to_numpy()
    np.testing.assert_allclose(result.estimate[guides].sum(0), 0, atol=1e-8)
    joint = result.covariance(list(network.terms.index[guides]))
    np.testing.assert_allclose(joint.sum((0, 2)), 0, atol=1e-6)                       # a sum that is always zero has no variance
    by_guide = pd.DataFrame(result.estimate[guides], result.guides)
    with_controls = network_uncertainty(fitted(spins, sample_id, samples.assign(if_control=samples["guide"] == "nt")), spins, sample_id)
    difference = pd.DataFrame(with_controls.estimate[with_controls.terms["kind"] == "guide"], with_controls.guides)
    np.testing.assert_allclose((by_guide - by_guide.loc["nt"]).loc[["a", "b", "c"]], difference, atol=2e-3)


def test_intervals_do_not_depend_on_what_is_the_reference():
    "Guide a relative to the controls has one standard error, read off directly or through the covariance of two guides"
    spins, sample_id, samples = planted()
    direct = network_uncertainty(fitted(spins, sample_id, samples), spins, sample_id)
    none = network_uncertainty(fitted(spins, sample_id, samples.assign(if_control=False)), spins, sample_id)
    pair = none.covariance(["guide[a]", "guide[nt]"])
    variance = np.diag(pair[0, :, 0] + pair[1, :, 1] - pair[0, :, 1] - pair[1, :, 0])
    np.testing.assert_allclose(np.sqrt(variance), direct.se[direct.terms.index.get_loc("guide[a]")], rtol=0.05)


def test_covariances_are_positive_and_symmetric(uncertainty):
    names = list(uncertainty.terms.index)
    joint = uncertainty.covariance(names).reshape(len(names) * 5, -1)
    np.testing.assert_allclose(joint, joint.T, atol=1e-8)
    assert np.linalg.eigvalsh(joint)[0] > -1e-6
    np.testing.assert_allclose(np.sqrt(np.diag(joint)), uncertainty.se.ravel(), rtol=1e-4)


def test_directed(screen):
    network = fitted(*screen, directed=True)
    result = network_uncertainty(network, *screen[:2])
    assert len(result.to_frame()) == 20 and not np.allclose(result.J_estimate, result.J_estimate.T)
    apart = network_uncertainty(network, *screen[:2], approximate=True)
    np.testing.assert_allclose(apart.J_se, result.J_se, rtol=1e-3)                    # directed rows are separate anyway
    np.testing.assert_allclose(apart.se, result.se, rtol=1e-3)
    np.testing.assert_allclose(apart.J_estimate, result.J_estimate, atol=1e-4)


def test_approximation_is_labelled_and_near(network, screen, uncertainty):
    apart = network_uncertainty(network, *screen[:2], approximate=True)
    assert apart.approximate and "each spin by itself" in repr(apart) and not uncertainty.approximate
    np.testing.assert_allclose(apart.J_se, uncertainty.J_se, rtol=0.1)
    np.testing.assert_allclose(apart.se, uncertainty.se, rtol=0.1)


def test_tables(uncertainty):
    edges = uncertainty.to_frame()
    assert list(edges) == ["regulator", "regulated", "J", "estimate", "se", "z", "p", "q"] and edges["z"].abs().is_monotonic_decreasing
    np.testing.assert_allclose(edges["p"], 2 * stats.norm.cdf(-edges["z"].abs()))
    np.testing.assert_allclose(edges["q"], stats.false_discovery_control(edges["p"]))
    assert uncertainty.to_frame("weight")["J"].abs().is_monotonic_decreasing
    table = uncertainty.coefficient_frame()
    assert len(table) == 5 * 5 and (table["q"] >= table["p"]).all()
    np.testing.assert_allclose(table.loc[(table["guide"] == "b") & (table["spin"] == "P2"), "se"].item(), uncertainty.se[uncertainty.terms.index.get_loc("guide[b]"), 1])
    with pytest.raises(ValueError, match="order must be 'evidence' or 'weight', got 'size'"): uncertainty.to_frame("size")


def test_a_spin_that_never_varies_has_no_estimate(screen):
    spins = screen[0].copy()
    spins[:, 2] = 1
    network = fitted(spins, *screen[1:])
    result, again = network_uncertainty(network, spins, screen[1]), bootstrap_network(network, spins, screen[1], n_resamples=2)
    assert np.isnan(result.se[:, 2]).all() and np.isnan(result.J_se[2]).all() and np.isnan(again.J_se[2]).all()
    assert np.isfinite(result.se[:, [0, 1, 3, 4]]).all() and np.isnan(result.to_frame()["q"]).sum() == 4 and np.isfinite(again.se[:, 0]).all()


def test_interventions(screen):
    spins, sample_id, samples = screen
    held = {"a|x": {"P1": -1}, "a|y": {"P1": -1}}
    spins = spins.copy()
    spins[np.isin(sample_id, list(held)), 0] = -1
    network = fitted(spins, sample_id, samples, interventions=held)
    with pytest.raises(ValueError, match="interventions must be given again"): network_uncertainty(network, spins, sample_id)
    result = network_uncertainty(network, spins, sample_id, interventions=held)
    a = network.terms.index.get_loc("guide[a]")
    assert np.isnan(result.se[a, 0]) and np.isnan(result.estimate[a, 0]) and np.isfinite(np.delete(result.se, a, 0)).all() and not result.unbounded[a, 0]


def test_a_design_of_cells(screen):
    "The same terms, cell by cell"
    spins, sample_id, samples = screen
    guide, batch = (samples.loc[sample_id, name].to_numpy() for name in ("guide", "batch"))
    design = cell_design(guide, control=["nt"], batch=batch)
    network = infer_network(spins, sample_id, samples=samples, design=design, method="pseudo_likelihood")
    by_sample = network_uncertainty(fitted(spins, sample_id, samples), spins, sample_id)
    result = network_uncertainty(network, spins, sample_id, design=design)
    order = [list(network.terms.index).index(name) for name in by_sample.terms.index]
    np.testing.assert_allclose(result.se[order], by_sample.se, rtol=1e-2)
    with pytest.raises(ValueError, match="design must be the one the network was fitted with"):
        network_uncertainty(network, spins, sample_id, design=cell_design(guide, control=["nt"]))


def test_overlapping_guides():
    "Two guides in one cell: one has cells of its own, the other is solved with the couplings; both come out"
    rng = np.random.default_rng(3)
    labels, effect = rng.choice(["nt", "A", "B", "A+B"], 1200), {"A": rng.normal(0, 0.6, 4), "B": rng.normal(0, 0.6, 4)}
    h = np.array([sum((effect[part] for part in label.split("+") if part != "nt"), np.zeros(4)) for label in labels])
    spins, design = gibbs_sample(np.zeros((4, 4)) - 0.2 * np.eye(4), h, seed=3), cell_design(labels, control=["nt"])
    network = infer_network(spins, labels, design=design, method="pseudo_likelihood")
    result = network_uncertainty(network, spins, labels, design=design)
    truth = np.array([effect[guide] for guide in result.guides])
    guides = (result.terms["kind"] == "guide").to_numpy()
    assert np.abs(result.estimate[guides] - truth).max() < 4 * result.se[guides].max() and result.guide_covariance.shape == (2, 4, 4)
    np.testing.assert_allclose(np.sqrt(np.diagonal(result.guide_covariance, axis1=1, axis2=2)), result.se[guides], rtol=1e-4)
    again = bootstrap_network(network, spins, labels, n_resamples=60, design=design)
    np.testing.assert_allclose(np.median(again.se[guides] / result.se[guides]), 1, atol=0.15)


def test_too_many_parameters_are_refused(monkeypatch, network, screen):
    from perturbnb import uncertainty as module
    monkeypatch.setattr(module, "_MOST_PARAMETERS", 10)
    monkeypatch.setattr(module, "_MOST_APART", 4)
    with pytest.raises(ValueError, match="at most 10 couplings and shared terms; approximate=True"): network_uncertainty(network, *screen[:2])
    with pytest.raises(ValueError, match="at most 4 spins, got 5"): network_uncertainty(network, *screen[:2], approximate=True)


def test_bootstrap_follows_its_seed(network, screen):
    few, more = (bootstrap_network(network, *screen[:2], n_resamples=n, seed=4) for n in (3, 11))
    np.testing.assert_array_equal(few.J, more.J[:3])
    np.testing.assert_array_equal(few.coefficients, more.coefficients[:3])
    assert not np.array_equal(few.J, bootstrap_network(network, *screen[:2], n_resamples=3, seed=5).J)


@pytest.mark.parametrize("sizes", [(25,) * 8, (25, 25, 30, 40, 60, 100, 200, 300)])
def test_intervals_cover(sizes):
    "Sixty experiments as the notebook's two hundred, with batches"
    rng = np.random.default_rng(0)
    J, effect, shift = np.triu(rng.normal(0, 0.3, (5, 5)), 1), rng.normal(0, 0.5, (3, 5)), rng.normal(0, 0.4, (2, 5))
    samples = planted()[2]
    h = np.repeat(np.vstack([np.zeros(5), effect]), 2, 0) + np.tile(shift, (4, 1))
    row, inside_J, inside_B = np.repeat(np.arange(8), sizes), [], []
    for seed in range(60):
        spins, sample_id = gibbs_sample(J + J.T - 0.3 * np.eye(5), h[row], seed=seed), samples.index.to_numpy()[row]
        result = network_uncertainty(fitted(spins, sample_id, samples, l2_response=5.), spins, sample_id)
        guides = (result.terms["kind"] == "guide").to_numpy()
        inside_J.append((np.abs(result.J_estimate - J - J.T) < 1.96 * result.J_se)[np.triu_indices(5, 1)])
        inside_B.append(np.abs(result.estimate[guides] - effect) < 1.96 * result.se[guides])
    assert 0.92 < np.mean(inside_J) < 0.98 and 0.92 < np.mean(inside_B) < 0.98
