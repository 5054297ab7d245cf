"The twelve steps of the tutorial, each on one simulated screen, each checked by something that could fail"
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Arc, Rectangle
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from perturbnb import clustering, embedding, network_plots, plots
from perturbnb.network import infer_network
from perturbnb.pipeline import compare_with_truth, example_analysis
from perturbnb.preprocess import G2M_GENES, S_GENES, prepare_screen
from perturbnb.response import Response, relative_response
from perturbnb.simulate import simulate_screen


@pytest.fixture(scope="module")
def analysis(): return example_analysis()


@pytest.fixture(scope="module")
def truth(analysis): return analysis.screen.uns["truth"]


@pytest.fixture(scope="module")
def planted(analysis, truth):
    "Name of the planted program that each found one matches, '' for the leftover"
    own = truth["genes"]["program"].reindex(analysis.programs.genes)
    shared = pd.crosstab(analysis.programs.spectra.argmax(0), own.to_numpy()).drop(columns="", errors="ignore")
    at, column = linear_sum_assignment(-shared.to_numpy())
    matched = dict(zip(shared.index[at], shared.columns[column]))
    return [matched.get(k, "") for k in range(len(analysis.programs.names))]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def saved(ax, **options):
    out = io.BytesIO()
    with plots.style(): ax.figure.savefig(out, **options)
    return out.getvalue()


def edges_between(labels): return np.flatnonzero(np.diff(labels)) + 0.5


def lines_of(ax):
    collections = [c for c in ax.collections if isinstance(c, LineCollection)]
    return [np.concatenate([getattr(c, get)() for c in collections]) for get in ("get_segments", "get_linewidths", "get_colors")]


# 1: counts to a prepared screen

def test_1_controls_and_targets_by_label_pattern_or_name():
    raw = simulate_screen(600, 300, n_programs=3, n_targets=4, seed=2)
    keys = dict(guide_key="guide", batch_key="batch")
    by_label = prepare_screen(raw, target_key="gene", control="control", **keys).obs
    for options in (dict(target_key="gene", control="control_*"), dict(control="control_g*")):
        other = prepare_screen(raw, **options, **keys).obs
        assert other["target_gene"].astype(str).equals(by_label["target_gene"].astype(str)) and other["if_control"].equals(by_label["if_control"])


def test_1_cells_batches_and_quality(analysis, truth):
    screen, obs = analysis.screen, analysis.screen.obs
    assert (obs["if_control"] == obs["guide"].astype(str).str.startswith("control_")).all()
    onehot = obs[[f"batch{b}" for b in obs["batch"].cat.categories]]
    assert (onehot.sum(axis=1) == 1).all() and (onehot.idxmax(axis=1).str.removeprefix("batch") == obs["batch"].astype(str)).all()
    counts, mito = screen.layers["counts"], screen.var_names.str.startswith("MT-")
    np.testing.assert_allclose(obs["pct_counts_mt"], 100 * np.asarray(counts[:, mito].sum(1) / counts.sum(1)).ravel(), rtol=1e-5)
    low_quality, removed = truth["cells"]["low_quality"], screen.uns["perturbnb"]["removed"].query("unit == 'cells'")
    assert low_quality[screen.obs_names].sum() < 0.3 * low_quality.sum() and obs["pct_counts_mt"].max() <= 20
    assert len(low_quality) - removed["removed"].sum() == screen.n_obs and removed.set_index("step")["removed"]["max_mito_percent"] > 0.6 * low_quality.sum()
    samples = screen.uns["perturbnb"]["samples"]
    assert samples["n_cells"].sum() == screen.n_obs and (obs["sample_id"].value_counts()[samples.index] == samples["n_cells"]).all()


def test_1_normalised_panel_without_the_highly_variable_step(analysis):
    screen = analysis.screen
    np.testing.assert_allclose(np.expm1(screen.X.astype(np.float64).toarray()).sum(1), 1e4, rtol=1e-4)
    removed = screen.uns["perturbnb"]["removed"].set_index("step")
    assert removed.loc["highly_variable", "reason"].startswith("skipped") and removed.loc["min_cell_fraction", "unit"] == "genes"
    assert (screen.layers["counts"].getnnz(axis=0) >= 0.001 * screen.n_obs).all()


def test_1_cell_cycle_follows_the_planted_cycle_programs(analysis, truth):
    assert (len(S_GENES), len(G2M_GENES)) == (43, 54)
    spins = truth["spins"].loc[analysis.screen.obs_names]
    for score, own, other in (("S_score", "A", "B"), ("G2M_score", "B", "A")):
        r = {program: np.corrcoef(analysis.screen.obs[score], spins[program])[0, 1] for program in (own, other)}
        assert r[own] > 0.4 and r[own] > r[other] + 0.1


def test_1_cutoffs_are_drawn(analysis):
    axes = plots.plot_qc(analysis.screen)
    assert [line.get_xdata()[0] for line in axes[2].lines] == [20] and axes[2].get_title() == "0.0% outside"


# 2: programs

def test_2_programs_are_orthogonal_and_the_planted_ones(analysis):
    programs = analysis.programs
    np.testing.assert_allclose(programs.spectra @ programs.spectra.T, np.eye(11), atol=1e-6)
    assert programs.spectra.min() >= 0 and ((programs.spectra > 0).sum(0) <= 1).all() and (np.diff(programs.explained) <= 0).all()
    score = compare_with_truth(analysis)
    assert score["programs_adjusted_rand"] > 0.9


def test_2_perturbed_genes_are_left_out_of_usage_only(analysis, truth):
    programs, targets = analysis.programs, set(truth["targets"].index)
    assert set(programs.left_out) == targets & set(programs.genes) and programs.left_out
    at = np.isin(programs.genes, programs.left_out)
    assert programs.spectra[:, at].any()
    X = analysis.screen[:50, programs.genes].X.toarray() / programs.scale
    np.testing.assert_allclose(programs.usage[:50], np.maximum(np.where(at, 0, X) @ programs.spectra.T, 0), rtol=1e-3, atol=1e-3)


def test_2_top_genes_agree_in_table_and_plot(analysis, truth, planted):
    table = analysis.programs.top_genes(5)
    axes = plots.plot_top_genes(analysis.programs, n=5)
    for ax, name, program in zip(axes, analysis.programs.names, planted):
        assert [label.get_text() for label in ax.get_yticklabels()] == list(table[name]) and ax.get_title() == name
        if program: assert (truth["genes"]["program"][list(table[name])] == program).mean() >= 0.6


# 3: positions

def test_3_positions_are_minimised_from_the_top_cells(analysis):
    umap, usage, positions = analysis.umap, analysis.programs.usage, analysis.positions
    n_top = round(0.005 * len(umap))
    centroids = np.array([np.average(umap[top], axis=0, weights=usage[top, k]) for k in range(11) for top in [np.argsort(-usage[:, k], kind="stable")[:n_top]]])

    def energy(p):
        apart = np.linalg.norm(p[:, None] - p, axis=2)[np.triu_indices(11, 1)]
        return ((p - centroids) ** 2).sum() + 4 * (1 / apart).sum()

    rng, lowest = np.random.default_rng(0), energy(positions)
    assert lowest < energy(centroids) and all(energy(positions + rng.normal(0, size, positions.shape)) > lowest for size in (0.01, 0.1, 0.5) for _ in range(50))
    np.testing.assert_allclose(embedding.program_positions(umap, usage, repulsion=0), centroids, rtol=1e-4)


def test_3_a_given_map_is_used_and_programs_are_labelled_there(analysis):
    screen = analysis.screen.copy()
    screen.obsm["X_umap"] = analysis.umap[:, ::-1]
    np.testing.assert_array_equal(embedding.embed_cells(screen, seed=5), analysis.umap[:, ::-1])
    axes = plots.plot_usage_on_umap(analysis.umap, analysis.programs, positions=analysis.positions)
    assert [ax.get_title() for ax in axes] == analysis.programs.names
    drawn = axes[3].collections[0]
    np.testing.assert_array_equal(np.sort(analysis.programs.usage[:, 3]), drawn.get_array())
    ax = plots.plot_programs_on_umap(analysis.umap, analysis.programs, positions=analysis.positions)
    assert [text.get_text() for text in ax.texts if text.get_text()] == analysis.programs.names


# 4: levels

def test_4_levels_cut_usage_and_follow_the_planted_states(analysis, truth, planted):
    spins, usage, levels = analysis.spins, analysis.programs.usage, analysis.levels
    assert spins.dtype == np.int8 and set(np.unique(spins)) == {-1, 0, 1}
    for k, program in enumerate(planted):
        for below, above in ((-1, 0), (0, 1)): assert usage[spins[:, k] == below, k].max() <= usage[spins[:, k] == above, k].min()
        if program: assert np.corrcoef(spins[:, k], truth["spins"].loc[analysis.screen.obs_names, program])[0, 1] > 0.4
    axes = plots.plot_levels(analysis.programs, levels)
    for ax, cuts in zip(axes, levels.thresholds): np.testing.assert_allclose([line.get_ydata()[0] for line in ax.lines], cuts)


# 5: network

def test_5_network_is_converged_and_near_the_planted_one(analysis):
    network = analysis.network
    assert network.converged and network.history["residual"].iloc[-1] <= 1e-5 and (network.J == network.J.T).all()
    assert compare_with_truth(analysis)["r_J"] > 0.7
    for what in ("means", "covariances"): assert analysis.quality[f"variance_explained_{what}"] > analysis.quality[f"attainable_{what}"] - 0.1


def test_5_heatmap_with_and_without_its_diagonal(analysis):
    J = analysis.network.J
    bare, full = plots.plot_network(analysis.network), plots.plot_network(analysis.network, diagonal=True)
    for ax, shown in ((bare, J - np.diag(np.diag(J))), (full, J)):
        image, = ax.images
        np.testing.assert_array_equal(image.get_array(), shown)
        assert image.get_clim() == (-1, 1) and [label.get_text() for label in ax.get_xticklabels()] == analysis.network.names
    assert to_hex(bare.images[0].cmap(1.)) == plots.POSITIVE.lower() and to_hex(bare.images[0].cmap(0.)) == plots.NEGATIVE.lower()
    assert np.diag(analysis.network.J).any(), "drawing must not clear the diagonal"


# 6: responses

def test_6_guides_relative_to_controls(analysis, truth):
    guides = analysis.guides
    assert not any(guide.startswith("control") for guide in guides.rows) and set(guides.table["reference"]) == {"own batch"}
    terms = analysis.network.terms.reset_index()
    at = terms.index[terms["kind"] == "guide"]
    np.testing.assert_allclose(guides.values, analysis.network.coefficients[at])
    efficiency = truth["guides"]["efficiency"][guides.rows].to_numpy()
    acting = truth["response"].loc[guides.table["target_gene"]].abs().max(axis=1).to_numpy() > 0
    size = np.sqrt((guides.values**2).mean(1))
    assert size[(efficiency > 0) & acting].mean() > 1.3 * size[(efficiency == 0) | ~acting].mean()


def test_6_targets_are_plain_means_and_follow_the_truth(analysis):
    for target in analysis.targets.rows[:4]:
        mine = (analysis.guides.table["target_gene"] == target).to_numpy()
        np.testing.assert_allclose(analysis.targets.values[analysis.targets.rows.index(target)], analysis.guides.values[mine].mean(0))
    assert compare_with_truth(analysis)["r_response"] > 0.6


def test_6_one_batch_for_all_is_an_option(analysis):
    free = infer_network(analysis.spins, analysis.screen.obs["sample_id"], samples=analysis.screen.uns["perturbnb"]["samples"], design="free", sample_weight="equal", l2_h=0.005)
    samples, control = free.samples, free.samples["if_control"].to_numpy()
    together, per_batch = relative_response(free, reference="all controls"), relative_response(free)
    zero = np.average(free.h[control], axis=0, weights=samples["n_cells"][control])
    mine = (samples["guide"] == together.rows[0]).to_numpy()
    np.testing.assert_allclose(together.values[0], np.average(free.h[mine] - zero, axis=0, weights=samples["n_cells"][mine]))
    assert np.abs(together.values - per_batch.values).max() > 1e-3
    assert np.corrcoef(per_batch.values.ravel(), analysis.guides.values.ravel())[0, 1] > 0.6


# 7: order and heatmap

def test_7_order_by_three_levels_of_clusters(analysis):
    for response in (analysis.guides, analysis.targets):
        order = clustering.response_order(response)
        assert order.n_groups == (30, 7, 3) and [len(set(labels)) for labels in order.row_labels] == [min(n, len(response.rows)) for n in order.n_groups]
        assert sorted(order.row_order) == list(range(len(response.rows))) and len(set(order.program_labels)) == 4
        fine, middle, coarse = order.row_labels[:, order.row_order].tolist()
        assert list(zip(coarse, middle, fine)) == sorted(zip(coarse, middle, fine))


def test_7_small_responses_are_blank(analysis):
    targets, order = analysis.targets, analysis.order
    ax = plots.plot_response(targets, order=order)
    image, = ax.images
    expected = targets.values[np.ix_(order.row_order, order.program_order)].T
    assert (np.abs(expected) <= 0.1).any() and (np.abs(expected) > 0.1).any()
    np.testing.assert_array_equal(image.get_array(), np.where(np.abs(expected) > 0.1, expected, 0))
    white = image.to_rgba(image.get_array())[np.abs(expected) <= 0.1]
    assert (white == 1).all() and image.get_clim() == (-1.5, 1.5) and ax.figure.get_figwidth() == 16
    assert [label.get_text() for label in ax.get_xticklabels()] == list(np.array(targets.rows)[order.row_order])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(np.array(targets.names)[order.program_order])


# 8: modules

def test_8_planted_modules_are_found_in_the_planted_network(truth):
    found = clustering.network_modules(truth["J"].to_numpy(), names=list(truth["J"].index), resolution=1.)
    assert adjusted_rand_score(truth["programs"]["module"], found.labels) > 0.6
    assert found.quality > 0.9 * clustering.signed_modularity(truth["J"].to_numpy(), truth["programs"]["module"].to_numpy(), resolution=1.)


def test_8_modules_are_a_local_optimum_and_framed(analysis):
    J, modules = analysis.network.J, analysis.modules
    options = dict(resolution=modules.resolution, negative_resolution=modules.negative_resolution)
    assert modules.quality == pytest.approx(clustering.signed_modularity(J, modules.labels, **options))
    for program in range(len(J)):
        for module in range(modules.n_modules + 1):
            moved = modules.labels.copy()
            moved[program] = module
            assert clustering.signed_modularity(J, moved, **options) <= modules.quality + 1e-9
    labels = np.arange(11) % 3
    ax = plots.plot_network(J, names=analysis.network.names, modules=labels)
    frames = sorted((patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) for patch in ax.patches if isinstance(patch, Rectangle))
    assert frames == [(-0.5, -0.5, 4, 4), (3.5, 3.5, 4, 4), (7.5, 7.5, 3, 3)]
    assert [label.get_text() for label in ax.get_yticklabels()] == [analysis.network.names[i] for m in range(3) for i in range(m, 11, 3)]
    shown, order = np.asarray(ax.images[0].get_array()), np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(shown + np.diag(np.diag(J)[order]), J[np.ix_(order, order)])


# 9: diagram

def test_9_edges_widths_opacity_and_colours(analysis):
    network = analysis.network
    strengths = np.sort(network.to_frame()["J"].abs())[::-1]
    threshold = float(strengths[12])
    ax = network_plots.network_diagram(network, threshold=threshold)
    segments, widths, colours = lines_of(ax)
    assert len(segments) == 13
    np.testing.assert_allclose(np.sort(widths)[::-1], 6 * strengths[:13])
    np.testing.assert_allclose(np.sort(colours[:, 3]), np.sort(1 / (1 + np.exp(-5 * (strengths[:13] - strengths[0] / 4)))))
    positions = network_plots.network_positions(network)
    for segment, colour in zip(segments, colours):
        i, j = (int(np.linalg.norm(positions - end, axis=1).argmin()) for end in segment)
        np.testing.assert_allclose(colour[:3], to_rgb(plots.POSITIVE if network.J[i, j] > 0 else plots.NEGATIVE))
        assert abs(network.J[i, j]) >= threshold
    nodes = next(c for c in ax.collections if not isinstance(c, LineCollection))
    assert to_hex(nodes.get_facecolor()[0]) == "#f0dab1" and len(nodes.get_offsets()) == 11
    assert sorted(text.get_text() for text in ax.texts) == sorted(network.names) and all(-90 <= (text.get_rotation() + 180) % 360 - 180 <= 90 for text in ax.texts)


def test_9_network_over_the_map(analysis):
    screen = analysis.screen.copy()
    screen.obsm["X_umap"] = analysis.umap
    ax = network_plots.network_on_umap(screen, analysis.network, analysis.programs, positions=analysis.positions)
    J = analysis.network.J
    assert len(lines_of(ax)[0]) == (np.abs(J[np.tril_indices(11, -1)]) >= 0.25).sum()
    cells, nodes = [c for c in ax.collections if not isinstance(c, LineCollection)]
    assert len(cells.get_offsets()) == screen.n_obs and cells.get_sizes()[0] == 15 and cells.get_alpha() == 0.5
    np.testing.assert_array_equal(nodes.get_offsets(), analysis.positions)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {*analysis.targets.rows, "control"}


# 10: groups

def test_10_planted_groups_are_found_from_planted_responses(truth):
    response, J = truth["response"], truth["J"].to_numpy()
    table = pd.DataFrame({"n_guides": 1, "n_cells": 1, "reference": "own batch"}, index=response.index)
    modules = clustering.network_modules(J, names=list(response), resolution=1.)
    groups = clustering.response_groups(J, Response(response.to_numpy(), table, list(response), "target"), modules, resolution=1.)
    assert adjusted_rand_score(truth["targets"]["group"], groups.labels) > 0.5


def test_10_groups_with_modules_fixed(analysis):
    groups = analysis.groups
    assert groups.modules is analysis.modules and sorted(groups.targets) == sorted(analysis.targets.rows)
    size = np.abs(analysis.targets.values).mean(1)
    np.testing.assert_allclose(groups.strength, [size[groups.labels == g].mean() for g in range(groups.n_groups)])
    assert (np.diff(groups.strength) >= -1e-12).all() and sorted(set(groups.labels)) == list(range(groups.n_groups))


def test_10_heatmap_with_borders_and_nothing_blanked(analysis):
    groups, modules = np.arange(16) % 4, np.arange(11) % 2
    ax = plots.plot_response(analysis.targets, threshold=0., modules=modules, groups=groups)
    rows, columns = np.argsort(modules, kind="stable"), np.argsort(groups, kind="stable")
    np.testing.assert_array_equal(ax.images[0].get_array(), analysis.targets.values[np.ix_(columns, rows)].T)
    across = sorted(line.get_ydata()[0] for line in ax.lines if line.get_ydata()[0] == line.get_ydata()[1] and tuple(line.get_xdata()) == (0, 1))
    down = sorted(line.get_xdata()[0] for line in ax.lines if tuple(line.get_ydata()) == (0, 1))
    assert across == list(edges_between(modules[rows])) and down == list(edges_between(groups[columns]))
    assert ax.images[0].get_clim() == (-1.5, 1.5)


# 11: the fan

def test_11_arc_gaps_and_labels(analysis):
    groups = clustering.Groups(np.arange(16) % 3, analysis.targets.rows, analysis.modules, np.argsort(np.arange(16) % 3, kind="stable"), np.ones(3), 0., 2., 2.)
    ax = network_plots.perturbation_fan(analysis.umap, analysis.positions, analysis.targets, groups)
    labels = {text.get_text(): text for text in ax.texts if text.get_text() in analysis.targets.rows}
    order = list(np.array(analysis.targets.rows)[groups.order])
    assert set(labels) == set(order) and ax.get_aspect() == 1
    assert all(-90 <= (text.get_rotation() + 180) % 360 - 180 <= 90 for text in labels.values())
    places, angles, centre, radius = network_plots.fan_layout(analysis.umap, analysis.positions, groups.labels[groups.order])
    assert angles[0] == pytest.approx(0.05 * np.pi) and angles[-1] == pytest.approx(0.95 * np.pi)
    steps = np.diff(angles)
    np.testing.assert_allclose(steps[np.diff(groups.labels[groups.order]) != 0], 3 * steps.min())
    for name, angle in zip(order, angles):
        text, outward = labels[name], np.rad2deg(angle)
        x, y = np.subtract(text.get_position(), centre)
        assert np.rad2deg(np.arctan2(y, x)) == pytest.approx(outward, abs=0.5) and np.hypot(x, y) > radius
        assert text.get_ha() == ("left" if outward <= 90 else "right")
        assert abs(np.sin(np.deg2rad(text.get_rotation() - outward))) < 1e-6
    arcs = [patch for patch in ax.patches if isinstance(patch, Arc)]
    assert len(arcs) == 3


def test_11_lines_are_clipped_and_halved(analysis):
    values = np.zeros((16, 11))
    values[0, :4] = 0.39, 0.41, -1., 7.
    response = Response(values, analysis.targets.table, analysis.targets.names, "target")
    ax = network_plots.perturbation_fan(analysis.umap, analysis.positions, response, np.zeros(16, int))
    segments, widths, colours = lines_of(ax)
    np.testing.assert_allclose(np.sort(widths), 6 * np.array([0.205, 0.5, 1.0]))
    towards = {int(np.linalg.norm(analysis.positions - end, axis=1).argmin()): colour for (_, end), colour in zip(segments, colours)}
    assert set(towards) == {1, 2, 3}
    for program, colour in ((1, plots.POSITIVE), (2, plots.NEGATIVE), (3, plots.POSITIVE)): np.testing.assert_allclose(towards[program][:3], to_rgb(colour))
    assert all(np.isclose(np.linalg.norm(start - segments[0][0]), 0) for start, _ in segments), "all from the one target that acts"


# 12: panels and files

def test_12_the_threshold_has_a_panel(analysis):
    panels = pytest.importorskip("perturbnb.panels")
    panel = panels.network_panel(analysis.network, threshold=0.2)
    lower = np.abs(analysis.network.J[np.tril_indices(11, -1)])
    assert panel.result.n_edges == (lower >= 0.2).sum()
    panel.sliders["threshold"].value = float(np.round(np.median(lower), 2))
    assert panel.result.n_edges == (lower >= panel.value["threshold"]).sum() > 0


def test_12_figures_keep_their_text_and_leave_settings_alone(analysis):
    before = dict(plt.rcParams)
    pdf = saved(plots.plot_network(analysis.network, modules=analysis.modules), format="pdf")
    assert b"/Type3" not in pdf and b"/CIDFontType2" in pdf
    assert b"/FontType 42" in saved(plots.plot_response(analysis.targets), format="ps")
    ax = plots.plot_network(analysis.network)
    png = plt.imread(io.BytesIO(saved(ax, format="png")))
    np.testing.assert_allclose(png.shape[1::-1], 200 * ax.figure.get_size_inches(), atol=1)
    assert dict(plt.rcParams) == before
