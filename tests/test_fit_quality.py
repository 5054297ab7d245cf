"What would bore a reader of 02a_fit_quality: large networks, odd samples, seeds, processes, and figures at their edges"
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbnb import fit_plots
from perturbnb.designs import cell_design
from perturbnb.goodness import (
    Comparison,
    _folds,
    _sample_moments,
    _shuffled,
    _subset,
    _third_cumulants,
    compare_with_model,
    fit_quality,
    held_out_fit,
    log_pseudo_likelihood,
    null_edges,
    replicate_agreement,
)
from perturbnb.model import conditional_probabilities, gibbs_sample
from perturbnb.network import infer_network


def planted(n=6, per_sample=50, coupling=0.5, seed=0):
    "Three targets with two guides, two control guides, two batches"
    rng = np.random.default_rng(seed)
    guides = ["nt_1", "nt_2", *(f"{target}_{k}" for target in "abc" for k in (1, 2))]
    samples = pd.DataFrame([(f"{g}|{b}", g, g[:-2], b, g.startswith("nt")) for g in guides for b in "xy"],
                           columns=["sample_id", "guide", "target_gene", "batch", "if_control"]).set_index("sample_id")
    effect = {target: rng.normal(0, 0.7, n) * (target != "nt") for target in ("nt", *"abc")}
    h = np.array([effect[row.target_gene] + (row.batch == "y") * 0.3 for row in samples.itertuples()])
    J = np.triu(rng.normal(0, coupling, (n, n)), 1)
    J = J + J.T - 0.2 * np.eye(n)
    at = rng.permutation(np.repeat(np.arange(len(samples)), per_sample))
    return gibbs_sample(J, h[at], seed=seed), samples.index.to_numpy()[at], samples


@pytest.fixture(scope="module")
def screen(): return planted()


@pytest.fixture(scope="module")
def network(screen):
    spins, sample_id, samples = screen
    return infer_network(spins, sample_id, samples=samples)


def test_exact_and_drawn_moments_agree(screen, network):
    "An asymmetric J, however little, takes the sampler instead of the sum over states"
    spins, sample_id, _ = screen
    J = network.J.copy()
    J[0, 1] += 1e-3
    exact = compare_with_model(network, spins, sample_id)
    drawn = compare_with_model(replace(network, J=J), spins, sample_id, n_drawn=4000)
    for name, bound in (("means", 0.06), ("pairs", 0.06), ("triples", 0.01)):
        np.testing.assert_allclose(getattr(drawn, name).model, getattr(exact, name).model, atol=bound)
        np.testing.assert_array_equal(getattr(drawn, name).data, getattr(exact, name).data)


def test_shares_of_variance():
    data, weights = np.array([1., 2., 3., 4.]), np.array([1., 1., 1., 3.])
    perfect = Comparison("things", data, data, data, weights)
    assert perfect.variance_explained == 1 and perfect.r == pytest.approx(1) and perfect.rms == 0
    mean = np.average(data, weights=weights)
    assert Comparison("things", data, np.full(4, mean), data, weights).variance_explained == pytest.approx(0)
    assert np.isnan(Comparison("things", data, np.full(4, mean), data, weights).r) and np.isnan(Comparison("things", np.ones(4), data, data, weights).variance_explained)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 60), st.integers(0, 9))
def test_subsets_are_different_combinations(n, order, most, seed):
    chosen = _subset(n, order, most, seed)
    assert len(chosen) <= most and chosen.shape[1] == order and len(np.unique(chosen, axis=0)) == len(chosen)
    if len(chosen): assert chosen.min() >= 0 and chosen.max() < n and (np.diff(chosen, axis=1) > 0).all()


def test_a_large_network_is_looked_at_in_part():
    rng = np.random.default_rng(0)
    spins, at = rng.integers(-1, 2, (200, 150)), np.arange(200) % 3
    fitted = replace(infer_network(spins[:, :2], at), J=np.zeros((150, 150)), coefficients=np.zeros((4, 150)), names=[f"P{i}" for i in range(150)])
    check = compare_with_model(fitted, spins, at, n_drawn=50, n_sweeps=2, max_values=200)
    assert (len(check.means.data), len(check.pairs.data), len(check.triples.data)) == (450, 600, 200)


def test_samples_of_one_and_two_cells(screen, network):
    "They have no covariances, or no third cumulants, and spoil nothing"
    spins, sample_id, samples = screen
    names = samples.index
    keep = np.r_[np.flatnonzero(sample_id == names[0])[:1], np.flatnonzero(sample_id == names[1])[:2], np.flatnonzero(sample_id == names[2])]
    check = compare_with_model(network, spins[keep], sample_id[keep])
    assert len(check.means.data) == 18 and len(check.pairs.data) == 2 * 15 and np.isfinite(check.to_frame()).all(axis=None)
    alone = fit_quality(network, spins[keep[:1]], sample_id[keep[:1]])
    assert np.isnan(alone["deviance_explained"]), "all spins as often as they can be"
    assert np.isfinite(alone["rms_means"]) and np.isnan(alone["variance_explained_covariances"]) and np.isnan(alone["variance_explained_triples"])


def test_moments_by_hand(screen):
    spins, sample_id, samples = screen
    row, pairs, triples = samples.index.get_indexer(sample_id), _subset(6, 2, 99, 0), _subset(6, 3, 99, 0)
    means, covariances = _sample_moments(spins, row, len(samples), pairs)
    own, total = spins[row == 5], 0
    np.testing.assert_allclose(means[5], own.mean(0))
    np.testing.assert_allclose(covariances[5], np.cov(own.T)[pairs[:, 0], pairs[:, 1]])
    for c in range(len(samples)):
        d = spins[row == c] - spins[row == c].mean(0)
        total = total + 50 * (d[:, triples[:, 0]] * d[:, triples[:, 1]] * d[:, triples[:, 2]]).sum(0) * 50 / (49 * 48)
    np.testing.assert_allclose(_third_cumulants(spins, row, np.full(len(samples), 50.), triples), total / 50 / len(samples))


def test_third_cumulants_are_unbiased():
    "Small samples of one skewed world have, on average, its third cumulant"
    rng = np.random.default_rng(0)
    s = np.where(rng.random(120_000) < 0.15, 1, -1)
    spins = np.column_stack([s, s, s])
    small = _third_cumulants(spins, np.repeat(np.arange(30_000), 4), np.full(30_000, 4.), np.array([[0, 1, 2]]))[0]
    m = 2 * 0.15 - 1
    assert small == pytest.approx(0.15 * (1 - m) ** 3 + 0.85 * (-1 - m) ** 3, rel=0.03)


def test_scores_of_cells(screen, network):
    spins, sample_id, samples = screen
    scores = log_pseudo_likelihood(network, spins, sample_id)
    given_rest = conditional_probabilities(spins, network.J, network.h[samples.index.get_indexer(sample_id)])
    seen = np.take_along_axis(given_rest, (spins + 1)[..., None].astype(int), axis=2)[..., 0]
    np.testing.assert_allclose(scores, np.log(seen).sum(1))
    order = np.random.default_rng(0).permutation(len(spins))
    np.testing.assert_allclose(log_pseudo_likelihood(network, spins[order], sample_id[order]), scores[order])


def test_strong_fields_do_not_overflow(network, screen):
    spins, sample_id, _ = screen
    strong = replace(network, coefficients=network.coefficients * 1e4)
    assert np.isfinite(fit_quality(strong, spins, sample_id)["deviance_explained"])


def test_cells_that_are_refused(network, screen):
    spins, sample_id, samples = screen
    for function in (fit_quality, compare_with_model, log_pseudo_likelihood):
        with pytest.raises(ValueError, match="got 'q'"): function(network, spins, np.full(len(spins), "q"))
        with pytest.raises(ValueError, match="6 columns"): function(network, spins[:, :5], sample_id)
        with pytest.raises(ValueError, match="one entry per cell"): function(network, spins, sample_id[1:])
        with pytest.raises(ValueError, match="spins must be -1, 0 or 1"): function(network, spins * 2, sample_id)
    with pytest.raises(ValueError, match="n_drawn"): compare_with_model(network, spins, sample_id, n_drawn=1)


def test_sample_ids_of_any_type():
    spins = np.random.default_rng(0).integers(-1, 2, (60, 3))
    at = np.arange(60) % 4
    quality = fit_quality(infer_network(spins, at), spins, pd.Series(at, dtype="category"))
    pd.testing.assert_series_equal(quality, fit_quality(infer_network(spins, at), spins, at.astype(str)))
    pd.testing.assert_series_equal(quality, fit_quality(infer_network(spins, at), spins, at, seed=0))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(2, 6), st.integers(0, 99))
def test_folds(sizes, n_folds, seed):
    "Even within samples; every sample that has a held-out cell has cells left"
    row = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    fold = _folds(row, n_folds, seed)
    for c, size in enumerate(sizes):
        counts = np.bincount(fold[(row == c) & (fold >= 0)], minlength=n_folds)
        assert (size == 1) == (counts.sum() == 0) and np.ptp(counts) <= 1 and (size == 1 or counts.max() < size)
    np.testing.assert_array_equal(fold, _folds(row, n_folds, seed))


@pytest.mark.slow
def test_processes_do_not_matter(screen):
    spins, sample_id, samples = screen
    one, two = (held_out_fit(spins, sample_id, samples=samples, n_folds=2, n_jobs=jobs).cells for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)
    one, two = (null_edges(spins, sample_id, samples=samples, n_shuffles=2, n_jobs=jobs).values for jobs in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_held_out_cells(screen):
    spins, sample_id, samples = screen
    held_out = held_out_fit(spins, sample_id, samples=samples, n_folds=3)
    assert len(held_out.cells) == len(spins) and held_out.cells.notna().all(axis=None) and set(held_out.cells["fold"]) == {0, 1, 2}
    table, by_sample = held_out.to_frame(), held_out.by_sample()
    assert (table["gain_of_network"].iloc[1:] > 2 * table["se"].iloc[1:]).all() and table["gain_of_network"].iloc[0] == 0
    assert np.average(by_sample["over one field"], weights=by_sample["n_cells"]) == pytest.approx(table.loc["one field", "gain_of_network"])
    other = held_out_fit(spins, sample_id, samples=samples, n_folds=3, seed=1)
    assert (other.cells["fold"] != held_out.cells["fold"]).any()
    assert other.to_frame()["gain_of_network"].iloc[1] == pytest.approx(table["gain_of_network"].iloc[1], abs=4 * table["se"].iloc[1])


def test_independent_spins_have_no_couplings(screen):
    "The rival of held_out_fit is what fits of one spin at a time give"
    spins, sample_id, samples = screen
    held_out = held_out_fit(spins, sample_id, samples=samples, n_folds=2, l2_response=3.)
    train, test = ((held_out.cells["fold"] != 0).to_numpy(), (held_out.cells["fold"] == 0).to_numpy())
    single = [infer_network(spins[train][:, [i]], sample_id[train], samples=samples, l2_response=3.) for i in range(6)]
    expected = sum(log_pseudo_likelihood(network, spins[test][:, [i]], sample_id[test]) for i, network in enumerate(single))
    np.testing.assert_allclose(held_out.cells.loc[test, "independent spins"], expected, atol=2e-3)


def test_held_out_cells_that_are_refused(screen):
    spins, sample_id, samples = screen
    with pytest.raises(ValueError, match="n_folds"): held_out_fit(spins, sample_id, n_folds=1)
    with pytest.raises(ValueError, match="design must be one of samples"): held_out_fit(spins, sample_id, design=pd.DataFrame({"one": np.ones(len(spins))}))
    with pytest.raises(ValueError, match="design must be one of samples"): held_out_fit(spins, sample_id, design=cell_design(sample_id))
    with pytest.raises(TypeError): held_out_fit(spins, sample_id, samples=samples, no_such_option=1)


def test_replicates(screen):
    spins, sample_id, samples = screen
    found = replicate_agreement(spins, sample_id, samples, rows="target_gene")
    assert list(found.networks) == ["x", "y"] and list(found.responses["x"].index) == list("abc")
    a, b = found.networks["x"], infer_network(spins[np.char.endswith(sample_id.astype(str), "x")], sample_id[np.char.endswith(sample_id.astype(str), "x")], samples=samples)
    np.testing.assert_allclose(a.J, b.J)
    table = found.to_frame()
    off = np.tril_indices(6, -1)
    assert table.loc["x and y", "r_J"] == pytest.approx(np.corrcoef(found.networks["x"].J[off], found.networks["y"].J[off])[0, 1])
    assert table.loc["x and y", "r_response"] == pytest.approx(np.corrcoef(found.responses["x"].to_numpy().ravel(), found.responses["y"].to_numpy().ravel())[0, 1])


def test_responses_are_relative_to_the_controls_of_the_replicate(screen):
    spins, sample_id, samples = screen
    found = replicate_agreement(spins, sample_id, samples, design="free")
    network = found.networks["y"]
    n, control = network.samples["n_cells"].to_numpy(), network.samples["if_control"].to_numpy(bool)
    expected = network.h[network.samples.index.get_loc("a_1|y")] - np.average(network.h[control], axis=0, weights=n[control])
    np.testing.assert_allclose(found.responses["y"].loc["a_1"], expected)
    some = samples.index[samples["guide"] != "c_2"].union(samples.index[samples["batch"] == "x"])
    part = np.isin(sample_id, some)
    assert len(replicate_agreement(spins[part], sample_id[part], samples).shared_responses("x", "y")[0]) == 5 * 6


def test_replicates_that_are_refused(screen):
    spins, sample_id, samples = screen
    with pytest.raises(ValueError, match="rows must be a column of samples"): replicate_agreement(spins, sample_id, samples, rows="target")
    with pytest.raises(ValueError, match="at least two replicates"): replicate_agreement(spins, sample_id, samples.assign(batch="x"))
    with pytest.raises(ValueError, match="index of samples, got"): replicate_agreement(spins, sample_id, samples.iloc[1:])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 99))
def test_shuffles_stay_in_samples(n_cells, n_samples, seed):
    rng = np.random.default_rng(seed)
    spins, row = rng.integers(-1, 2, (n_cells, 3)).astype(np.int8), rng.integers(0, n_samples, n_cells)
    shuffled = _shuffled(spins, row, seed)
    for c in range(n_samples): np.testing.assert_array_equal(np.sort(shuffled[row == c], axis=0), np.sort(spins[row == c], axis=0))


def test_null_couplings_cover_false_edges():
    "In networks without couplings an edge is called in about one of twenty"
    called = []
    for seed in range(6):
        spins, sample_id, samples = planted(coupling=0., seed=seed)
        null = null_edges(spins, sample_id, samples=samples, n_shuffles=10, level=0.2)
        called.append(null.called(infer_network(spins, sample_id, samples=samples))["above"].any())
    assert sum(called) <= 3


def test_p_values_of_edges(screen, network):
    spins, sample_id, samples = screen
    null = null_edges(spins, sample_id, samples=samples, n_shuffles=5)
    table = null.called(network)
    assert (table["above"] == (table["J"].abs() > null.threshold)).all() and table["p"].between(1 / 76, 1).all() and table["p"].is_monotonic_increasing
    assert table["above"].sum() >= 5
    with pytest.raises(ValueError, match="n_shuffles"): null_edges(spins, sample_id, n_shuffles=0)


def test_figures_take_axes_and_leave_settings_alone(screen, network):
    spins, sample_id, samples = screen
    before, figures = dict(plt.rcParams), plt.get_fignums()
    axes = plt.subplots(2, 4)[1].ravel()
    fit_plots.plot_model_check(compare_with_model(network, spins, sample_id), axes=axes[:3])
    assert fit_plots.plot_held_out(held_out_fit(spins, sample_id, samples=samples, n_folds=2), ax=axes[3]) is axes[3]
    fit_plots.plot_replicates(replicate_agreement(spins, sample_id, samples), pair=("y", "x"), axes=axes[4:6])
    fit_plots.plot_null_edges(null_edges(spins, sample_id, n_shuffles=2), network, ax=axes[6])
    fit_plots.plot_precision_recall({"a": np.arange(9.)}, np.arange(9) > 5, ax=axes[7], colors={"a": "red"})
    assert dict(plt.rcParams) == before and len(plt.get_fignums()) == len(figures) + 1 and axes[4].get_xlabel() == "replicate y"
    plt.close("all")


def test_precision_and_recall_by_hand():
    recall, precision, area = fit_plots.precision_recall([4, 3, 3, 1], [True, True, False, False])
    np.testing.assert_allclose(recall, [0, 0.5, 1, 1])
    np.testing.assert_allclose(precision, [1, 1, 2 / 3, 0.5])
    assert area == pytest.approx(0.5 + 0.5 * (1 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="score must be finite"): fit_plots.precision_recall([np.nan, 1], [True, False])


def test_missing_samples_and_networks_are_refused(screen, network):
    spins, sample_id, samples = screen
    gap = sample_id.astype(object)
    gap[3] = np.nan
    calls = (lambda ids: fit_quality(network, spins, ids), lambda ids: held_out_fit(spins, ids), lambda ids: null_edges(spins, ids), lambda ids: replicate_agreement(spins, ids, samples))
    for call in calls:
        for missing in (gap, list(gap)):
            with pytest.raises(ValueError, match="must not be missing, got 1 NaN"): call(missing)
    with pytest.raises(ValueError, match="network must be a SpinNetwork, .* got ndarray"): fit_quality(network.J, spins, sample_id)


@pytest.mark.parametrize("n_jobs", [0, -2, 1.5, True])
def test_processes_that_are_refused(screen, n_jobs):
    for function in (held_out_fit, null_edges):
        with pytest.raises(ValueError, match="n_jobs must be at least 1, or -1 for all processors, got"): function(*screen[:2], n_jobs=n_jobs)


@pytest.mark.parametrize("n", [1, 2])
def test_few_spins(screen, n, caplog):
    "No pairs, no triples: said, drawn, and no warning of numpy"
    spins, sample_id, samples = screen[0][:, :n], *screen[1:]
    network = infer_network(spins, sample_id, samples=samples)
    with np.errstate(all="raise"): quality = fit_quality(network, spins, sample_id)
    assert np.isfinite(quality["variance_explained_means"]) and np.isnan(quality["r_triples"]) and "no third cumulants to compare" in caplog.text
    axes = fit_plots.plot_model_check(compare_with_model(network, spins, sample_id))
    assert "none to compare" in axes[2].get_title() and axes[0].collections
    plt.close("all")
    agreement = replicate_agreement(spins, sample_id, samples).to_frame()
    assert np.isnan(agreement["r_J"]).all() and (agreement["r_response"] > 0.5).all()
    if n == 1:
        with pytest.raises(ValueError, match="at least 2 columns to have edges, got 1"): null_edges(spins, sample_id, samples=samples)


def test_replicates_need_perturbations_in_common(screen):
    spins, sample_id, samples = screen
    with pytest.raises(ValueError, match="must name replicates that share perturbations, got 'guide'"): replicate_agreement(spins, sample_id, samples, by="guide")
    with pytest.raises(ValueError, match="must be known for every sample that has cells, 'nt_1|x' has none"):
        replicate_agreement(spins, sample_id, samples.assign(batch=samples["batch"].where(samples.index != "nt_1|x")))
    with pytest.raises(ValueError, match="must stand in the index of samples, got 'z'"): replicate_agreement(spins, np.full(len(spins), "z"), samples)
    with pytest.raises(ValueError, match="must have a unique index, got 'nt_1|x' twice"): replicate_agreement(spins, sample_id, pd.concat([samples, samples.iloc[:1]]))
    apart = samples.assign(batch=np.where(samples["target_gene"] == "a", "only a", samples["batch"]))
    agreement = replicate_agreement(spins, sample_id, apart, design="free").to_frame()
    assert np.isfinite(agreement.loc["x and y"]).all() and np.isnan(agreement.loc["only a and x", "rms_response"]) and np.isfinite(agreement["r_J"]).all()


def test_at_least_one_value_is_looked_at(screen, network):
    with pytest.raises(ValueError, match="max_values must be a whole number of at least 1, got 0"): compare_with_model(network, *screen[:2], max_values=0)
