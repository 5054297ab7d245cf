"Figures at sizes a reader of the notebooks does not see: labels that do not collide, settings left alone, arrows that point the right way."
import io
from types import SimpleNamespace

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from perturbnb import evidence_plots, figures, fit_plots, network_plots, plots, program_plots
from perturbnb.embedding import _position_energy, embed_cells, program_positions
from perturbnb.response import Response
from perturbnb.targets import Targets, combine_guides

GENES = "STAT1 JAK2 IFNGR1 IFNGR2 IRF1 SMAD4 SPI1 MYC BRD4 CUL3 CMTM6 ATF2 CAV1 CD86 ETV7 MARCH8 NFKBIA PDCD1LG2 POU2F2 STAT2 STAT3 STAT5A TNFRSF14 UBE2L6 IRF7".split()
SIZES = [(5, 5, 300), (24, 25, 2000), (60, 300, 3000)]
sizes = pytest.mark.parametrize("n_programs,n_targets,n_cells", SIZES, ids=["small", "tutorial", "large"])


def screen(n_programs, n_targets, n_cells, seed=0):
    "Planted arrays in the shape of results"
    rng = np.random.default_rng(seed)
    names, targets = [f"P{i + 1}" for i in range(n_programs)], (GENES + [f"ZNF{i + 100}" for i in range(n_targets)])[:n_targets]
    module = np.sort(np.arange(n_programs) % max(2, n_programs // 6))
    J = rng.normal(0, .4, (n_programs, n_programs)) * (rng.random((n_programs, n_programs)) < min(1, 4 / n_programs))
    J = np.triu(J, 1) + np.triu(J, 1).T - .5 * np.eye(n_programs)
    home = rng.integers(n_programs, size=n_cells)
    umap = rng.uniform(-6, 9, (n_programs, 2))[home] + rng.normal(0, 1, (n_cells, 2))
    usage = rng.gamma(1, .15, (n_cells, n_programs)) + np.eye(n_programs)[home] * rng.normal(1.5, .3, (n_cells, 1)).clip(0)
    group = np.sort(np.arange(n_targets) % max(2, n_targets // 8))
    values = rng.normal(0, .8, (group.max() + 1, n_programs))[group] + rng.normal(0, .1, (n_targets, n_programs))
    obs = pd.DataFrame({"target_gene": rng.choice([*targets, "control"], n_cells)}, index=[f"c{i}" for i in range(n_cells)])
    return SimpleNamespace(names=names, targets=targets, J=J, umap=umap, usage=usage, module=module, group=group, values=values,
                           network=SimpleNamespace(J=J, names=names), programs=SimpleNamespace(usage=usage, names=names),
                           response=SimpleNamespace(values=values, names=names, spread=np.full(values.shape, .3), table=pd.DataFrame(index=targets), level="target"),
                           adata=ad.AnnData(obs=obs, obsm={"X_umap": umap}))


def targets_of(s, missing=0.03):
    "Combined guides, two of each target, in the shape of the screen; some NaN"
    rng = np.random.default_rng(1)
    (n_targets, n_programs), unknown = s.values.shape, rng.random((2 * len(s.values), len(s.names))) < missing
    estimate = np.repeat(s.values, 2, axis=0) + rng.normal(0, .2, (2 * n_targets, n_programs))
    estimate[unknown] = np.nan
    estimate[:2, -1] = np.nan                                            # one response of which nothing is known
    covariance = np.broadcast_to(.04 * np.eye(n_programs), (2 * n_targets, n_programs, n_programs))
    return combine_guides(estimate, covariance, np.zeros((n_programs,) * 2), np.repeat(s.targets, 2), names=s.names)


def uncertainty_of(s, directed=False):
    "What figures read of an Uncertainty: couplings above 0.3 in size stand out"
    def to_frame(order="evidence"):
        i, j = np.nonzero(~np.eye(len(s.J), dtype=bool)) if directed else np.tril_indices(len(s.J), -1)
        names, J = np.array(s.names), s.J[i, j]
        table = pd.DataFrame({"regulator": names[j], "regulated": names[i], "J": J, "estimate": 1.1 * J, "se": .1, "q": np.where(np.abs(J) > .3, .01, .5)})
        return table.sort_values("J", key=np.abs, ascending=False, ignore_index=True, kind="stable")
    return SimpleNamespace(J=s.J, J_se=np.full(s.J.shape, .1), names=s.names, directed=directed, to_frame=to_frame)


def guides_of(s):
    "Three guides of each target"
    n = len(s.targets)
    values = np.repeat(s.values, 3, axis=0) + np.random.default_rng(2).normal(0, .5, (3 * n, len(s.names)))
    table = pd.DataFrame({"target_gene": np.repeat(s.targets, 3), "n_cells": 50, "reference": "own batch"}, index=[f"{target}_{i}" for target in s.targets for i in range(3)])
    return Response(values, table, s.names, "guide")


def fits_of(n_programs, n_genes=1500):
    "Four fits to the same genes that differ in a twentieth of them, and the one to judge"
    rng = np.random.default_rng(3)
    owner, genes = rng.integers(n_programs, size=n_genes), [f"G{g}" for g in range(n_genes)]

    def fit(moved):
        mine = np.where(rng.random(n_genes) < moved, rng.integers(n_programs, size=n_genes), owner)
        return SimpleNamespace(spectra=np.eye(n_programs)[mine].T * rng.uniform(.1, 1, n_genes), genes=genes, names=[f"P{k + 1}" for k in range(n_programs)])
    return [fit(.05) for _ in range(4)], fit(0)


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch):
    "No plot shows, saves or changes settings"
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("a plot called plt.show"))
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before
    plt.close("all")


def corners(text, renderer):
    "Corners of a label's box, turned with it (of its letters, leaving out the line spacing)"
    rotation = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent(renderer)
    text.set_rotation(rotation)
    anchor = text.get_transform().transform(text.get_position())
    margin = 0.12 * box.height
    points = np.array([[box.x0, box.y0 + margin], [box.x1, box.y0 + margin], [box.x1, box.y1 - margin], [box.x0, box.y1 - margin]]) - anchor
    turn = np.deg2rad(rotation)
    return points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + anchor


def overlap(a, b):
    "Whether two rectangles share area (separating axes)"
    for shape in (a, b):
        for edge in np.diff(np.r_[shape, shape[:1]], axis=0)[:2]:
            axis = np.array([-edge[1], edge[0]])
            if (a @ axis).max() <= (b @ axis).min() + 1e-6 or (b @ axis).max() <= (a @ axis).min() + 1e-6: return False
    return True


def colliding(ax, texts):
    ax.figure.draw_without_rendering()
    renderer = ax.figure.canvas.get_renderer()
    boxes = [(text.get_text(), corners(text, renderer)) for text in texts if text.get_text()]
    return [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[:i] if overlap(x, y)]


@sizes
def test_labels_of_the_fan_do_not_collide_and_stay_inside(n_programs, n_targets, n_cells):
    s = screen(n_programs, n_targets, n_cells)
    ax = network_plots.perturbation_fan(s.umap, program_positions(s.umap, s.usage), s.response, s.group)
    labels = [text for text in ax.texts if text.get_text() in s.targets]
    assert len(labels) == n_targets
    assert not colliding(ax, labels)
    assert all(-90 <= (text.get_rotation() + 180) % 360 - 180 <= 90 for text in labels)
    assert not colliding(ax, [text for text in ax.texts if text.get_text() in s.names])
    renderer, frame = ax.figure.canvas.get_renderer(), ax.figure.bbox
    for text in labels:
        box = text.get_window_extent(renderer)
        assert box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    assert ax.get_aspect() == 1


@sizes
def test_fan_clears_the_cells(n_programs, n_targets, n_cells):
    s = screen(n_programs, n_targets, n_cells)
    places, angles, centre, radius = network_plots.fan_layout(s.umap, program_positions(s.umap, s.usage), s.group)
    assert np.all(np.diff(angles) > 0) and angles[0] >= .05 * np.pi - 1e-9 and angles[-1] <= .95 * np.pi + 1e-9
    above = s.umap[s.umap[:, 1] >= centre[1]]
    assert (np.linalg.norm(above - centre, axis=1) < radius).mean() > 0.98


@sizes
def test_labels_on_the_map_do_not_collide(n_programs, n_targets, n_cells):
    s = screen(n_programs, n_targets, n_cells)
    for ax in (network_plots.network_on_umap(s.adata, s.network, s.programs), plots.plot_programs_on_umap(s.umap, s.programs)):
        assert not colliding(ax, [text for text in ax.texts if text.get_text() in s.names])


@sizes
@pytest.mark.parametrize("layout", ["spring", "circle"])
def test_labels_of_the_diagram_do_not_collide(n_programs, n_targets, n_cells, layout):
    s = screen(n_programs, n_targets, n_cells)
    ax = network_plots.network_diagram(s.network, positions=network_plots.network_positions(s.network, layout=layout, modules=s.module), modules=s.module)
    assert len(ax.texts) == n_programs and not colliding(ax, ax.texts)


@sizes
def test_ticks_of_heatmaps_do_not_collide(n_programs, n_targets, n_cells):
    s = screen(n_programs, n_targets, n_cells)
    for ax in (plots.plot_response(s.response, modules=s.module, groups=s.group), plots.plot_response_dots(s.response), plots.plot_network(s.network, modules=s.module)):
        for axis in (ax.xaxis, ax.yaxis):
            labels = axis.get_ticklabels()
            assert len(labels) in (n_programs, n_targets) and not colliding(ax, labels)


def texts_of(figure):
    "Everything written in a figure that can be seen"
    return [text for text in figure.findobj(plt.Text) if text.get_visible() and text.get_text().strip()]


FIGURES = {
    "network": lambda s: plots.plot_network(s.network, modules=s.module),
    "network with evidence": lambda s: plots.plot_network(uncertainty_of(s), modules=s.module, palette="colorblind"),
    "response": lambda s: plots.plot_response(s.response, modules=s.module, groups=s.group),
    "response with gaps": lambda s: plots.plot_response(targets_of(s)),
    "dots": lambda s: plots.plot_response_dots(s.response, groups=s.group),
    "dots with evidence": lambda s: plots.plot_response_dots(targets_of(s), groups=s.group),
    "clusters": lambda s: program_plots.plot_program_clusters(s.programs, np.arange(len(s.usage)) % max(3, len(s.names) // 2)),
    "consensus": lambda s: program_plots.plot_consensus(*fits_of(len(s.names))),
    "edges": lambda s: evidence_plots.plot_edges(uncertainty_of(s)),
    "target": lambda s: evidence_plots.plot_target(targets_of(s), s.targets[0]),
}


@sizes
@pytest.mark.parametrize("name", FIGURES)
def test_text_stays_within_the_figure_and_ticks_do_not_collide(n_programs, n_targets, n_cells, name):
    ax = FIGURES[name](screen(n_programs, n_targets, n_cells))
    ax.figure.draw_without_rendering()
    drawn, (width, height) = ax.figure.get_tightbbox(), ax.figure.get_size_inches()       # of all that is drawn, in inches
    assert drawn.x0 >= -.02 and drawn.y0 >= -.02 and drawn.x1 <= width + .02 and drawn.y1 <= height + .02
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        labels = [label for label, at in zip(axis.get_ticklabels(), axis.get_ticklocs()) if label.get_text() and low <= at <= high]
        assert labels and not colliding(ax, labels) and min(label.get_fontsize() for label in labels) >= 5
    for image in ax.images:
        low, high = image.get_clim()
        assert low == -high or (low == 0 and high > 0)


def test_names_thin_out_where_they_would_be_too_small():
    s = screen(60, 300, 50)
    ax = plots.plot_response(s.response, ax=plt.figure(figsize=(6, 4), layout="constrained").add_subplot())
    written = [label.get_text() for label in ax.get_xticklabels()]
    step = s.targets.index(written[1])
    assert step > 1 and written == s.targets[::step] and all(5 <= label.get_fontsize() < 9 for label in ax.get_xticklabels())
    assert not colliding(ax, ax.get_xticklabels()) and not colliding(ax, ax.get_yticklabels())


@pytest.mark.parametrize("draw", [plots.plot_response, plots.plot_response_dots])
def test_what_is_unknown_is_not_white(draw):
    s = screen(6, 8, 50)
    s.values[2, 3] = np.nan
    ax = draw(s.response, threshold=0)
    assert np.argwhere(np.ma.getmaskarray(ax.images[0].get_array())).tolist() == [[3, 2]]
    hatched, = [patch for patch in ax.patches if patch.get_hatch()]
    assert hatched.get_zorder() < ax.images[0].get_zorder() and ax.images[0].cmap.get_bad()[3] == 0
    assert "unknown" in [text.get_text() for text in texts_of(ax.figure)]
    out = io.BytesIO()
    ax.figure.savefig(out, format="raw", dpi=100)
    assert not [patch for patch in draw(screen(6, 8, 50).response).patches if patch.get_hatch()]


def test_nothing_known_at_all():
    s = screen(5, 5, 60)
    for draw in (plots.plot_response, plots.plot_response_dots): draw(np.full((5, 5), np.nan), names=s.names).figure.draw_without_rendering()
    fan = network_plots.perturbation_fan(s.umap, program_positions(s.umap, s.usage), np.full((5, 5), np.nan), s.group)
    assert not any(len(c.get_segments()) for c in fan.collections if isinstance(c, LineCollection))


@pytest.mark.parametrize("n_programs,n_targets", [(1, 1), (1, 5), (5, 1)])
def test_one_program_or_one_target(n_programs, n_targets):
    s = screen(n_programs, n_targets, 60)
    s.group[:] = 0
    tables = pd.DataFrame({"n_guides": 1, "q": .5}, index=s.targets), pd.DataFrame({"target_gene": s.targets}, index=s.targets)
    targets = Targets(*[s.values] * 8, *tables, s.values, abs(s.values), abs(s.values), np.ones(n_programs), 1., s.names, "mean")
    for ax in (plots.plot_network(s.network), plots.plot_response(s.response, groups=s.group), plots.plot_response_dots(targets), evidence_plots.plot_target(targets, s.targets[0]),
               program_plots.plot_program_clusters(s.programs, np.zeros(60)), network_plots.network_diagram(s.network), plots.plot_programs_on_umap(s.umap, s.programs)):
        ax.figure.draw_without_rendering()


def test_dots_show_evidence_by_area_and_ring():
    s = screen(6, 8, 50)
    targets = targets_of(s, missing=0)
    ax = plots.plot_response_dots(targets, threshold=0)
    dots, at = ax.collections[0], np.asarray(ax.collections[0].get_offsets()).astype(int)
    q, estimate = targets.q[at[:, 0], at[:, 1]], targets.estimate[at[:, 0], at[:, 1]]
    np.testing.assert_allclose(dots.get_array(), estimate)
    order = np.argsort(q)
    assert (np.diff(dots.get_sizes()[order]) <= 1e-9).all() and dots.get_sizes().max() > 5 * dots.get_sizes().min()
    np.testing.assert_array_equal(np.array(dots.get_linewidths()) > .5, q < .05)
    assert len(at) == np.isfinite(targets.estimate).sum() and "q < 0.05" in [text.get_text() for text in texts_of(ax.figure)]
    crossed = SimpleNamespace(estimate=targets.estimate, q=np.where(np.arange(8)[:, None] == 3, np.nan, targets.q), names=s.names, table=targets.table)
    crosses = plots.plot_response_dots(crossed).collections[1].get_offsets()
    assert set(np.asarray(crosses)[:, 0]) == {3}


def test_dots_on_sure_couplings_alone():
    s = screen(9, 5, 50)
    at = np.asarray(plots.plot_network(uncertainty_of(s)).collections[0].get_offsets()).astype(int)
    assert {tuple(place) for place in at} == {(j, i) for i, j in zip(*np.nonzero((np.abs(s.J) > .3) & ~np.eye(9, dtype=bool)))}
    s.J[:, 0] = 0
    at = np.asarray(plots.plot_network(uncertainty_of(s, directed=True)).collections[0].get_offsets()).astype(int)
    assert {tuple(place) for place in at} == {(j, i) for i, j in zip(*np.nonzero((np.abs(s.J) > .3) & ~np.eye(9, dtype=bool)))} and 0 not in at[:, 0]


def test_exact_zeros_are_no_edges_even_at_threshold_zero():
    J = np.diag([.9, -.9, .9])
    J[0, 1] = J[1, 0] = .4
    ax = network_plots.network_diagram(J, threshold=0)
    assert sum(len(c.get_segments()) for c in ax.collections if isinstance(c, LineCollection)) == 1
    shown = np.asarray(plots.plot_network(J).images[0].get_array())
    assert (shown != 0).sum() == 2 and np.diag(J).all()


def test_palette_by_argument_and_by_style():
    s = screen(6, 8, 100)
    orange, blue = figures.PALETTES["colorblind"][:2]
    one = plots.plot_response(s.response, palette="colorblind").images[0].cmap
    with figures.style(palette="colorblind"): two, inner = plots.plot_response(s.response).images[0].cmap, plots.plot_response(s.response, palette="tutorial").images[0].cmap
    assert to_hex(one(1.)) == to_hex(two(1.)) == orange.lower() and to_hex(one(0.)) == blue.lower() and to_hex(inner(1.)) == plots.POSITIVE.lower()
    assert to_hex(one(128)) == "#ffffff"
    lines = network_plots.network_diagram(s.network, palette="colorblind").collections[0].get_colors()
    assert {to_hex(colour[:3]) for colour in lines} <= {orange.lower(), blue.lower()}
    with pytest.raises(ValueError, match="palette must be"): plots.plot_network(s.network, palette="jet")


@sizes
def test_concordance_draws_every_target_with_a_pair_of_guides(n_programs, n_targets, n_cells):
    s = screen(n_programs, n_targets, n_cells)
    guides = guides_of(s)
    single = Response(guides.values[2:], guides.table.iloc[2:], guides.names, "guide")          # the first target has one guide left
    ax = fit_plots.plot_concordance(single)
    assert len(ax.collections[1].get_offsets()) == n_targets - 1 and ax.get_title() == f"{n_targets - 1} targets; 1 without a pair of guides"
    written = [text for text in ax.texts if text.get_text()]
    assert len(written) == min(12, n_targets - 1) and s.targets[0] not in [text.get_text() for text in written]
    drawn, (width, height) = ax.figure.get_tightbbox(), ax.figure.get_size_inches()
    assert drawn.x0 >= -.02 and drawn.y0 >= -.02 and drawn.x1 <= width + .02 and drawn.y1 <= height + .02


def test_gene_beside_program():
    s, (_, programs) = screen(4, 5, 200), fits_of(4, n_genes=30)
    programs = SimpleNamespace(usage=s.usage, spectra=programs.spectra, genes=programs.genes, names=programs.names)
    programs.spectra[:, 7] = 0                                           # a gene of no program
    X = np.random.default_rng(0).gamma(1, 1, (200, 30))
    adata = ad.AnnData(X, var=pd.DataFrame(index=programs.genes), obsm={"X_umap": s.umap})
    axes = program_plots.plot_gene_beside_program(adata, programs, "G3")
    assert axes[0].get_title() == programs.names[np.argmax(programs.spectra[:, 3])] and axes[1].get_title() == "G3"
    np.testing.assert_allclose(np.sort(X[:, 3]), axes[1].collections[0].get_array())
    order = np.array_split(np.argsort(s.usage[:, 1], kind="stable"), 20)
    trend = program_plots.plot_gene_beside_program(adata, programs, "G7", program="P2")[2].lines[0]
    np.testing.assert_allclose(trend.get_xydata(), [(s.usage[part, 1].mean(), X[part, 7].mean()) for part in order])
    with pytest.raises(ValueError, match="program must be named for a gene that is in none"): program_plots.plot_gene_beside_program(adata, programs, "G7")
    with pytest.raises(ValueError, match="same cells"): program_plots.plot_gene_beside_program(adata[:50].copy(), programs, "G3")
    X[0, 3] = np.nan
    with pytest.raises(ValueError, match="finite"): program_plots.plot_gene_beside_program(ad.AnnData(X, var=adata.var, obsm={"X_umap": s.umap}), programs, "G3")


def test_clusters_keep_their_own_order_and_leave_out_empty_ones():
    s = screen(3, 5, 90)
    labels = pd.Series(pd.Categorical(np.repeat(["b", "a", "c"], 30), categories=["c", "b", "a", "empty"]))
    ax = program_plots.plot_program_clusters(s.programs, labels, ordered=False, scale="none")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["c", "b", "a"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[s.usage[60:, k].mean(), s.usage[:30, k].mean(), s.usage[30:60, k].mean()] for k in range(3)])
    signed = program_plots.plot_program_clusters(s.usage - s.usage.mean(0), labels, palette="colorblind")
    assert signed.images[0].get_clim() == (-1, 1)


def test_three_levels_have_thick_and_thin_borders():
    s = screen(6, 12, 100)
    order = SimpleNamespace(row_order=np.arange(12), program_order=np.arange(6), program_labels=np.arange(6) // 3, row_labels=np.array([np.arange(12) // 2, np.arange(12) // 3, np.arange(12) // 6]))
    lines = plots.plot_response(s.response, order=order).lines[1:]
    assert {line.get_xdata()[0]: line.get_linewidth() for line in lines} == {2.5: .5, 5.5: 1.8, 8.5: .5}


@pytest.mark.parametrize("sign", [1, -1])
def test_arrow_heads_lie_at_the_regulated(sign):
    J = np.zeros((2, 2))
    J[1, 0] = .6 * sign                                                  # A acts on B
    ax = network_plots.network_diagram(J, names=["A", "B"], positions=np.array([[0., 0], [1, 0]]))
    ax.figure.draw_without_rendering()
    parts = ax.patches[0]._get_path_in_displaycoord()[0]
    a, b = ax.transData.transform([[0, 0], [1, 0]])
    line, head = parts[0].vertices, parts[-1].vertices[:3].mean(0)         # three corners; a path that is closed repeats none of them
    assert np.linalg.norm(head - b) < .3 * np.linalg.norm(head - a)
    assert np.linalg.norm(line[0] - a) < np.linalg.norm(line[0] - b)


def test_prune_takes_off_the_weakly_connected_and_angles_can_be_given():
    J = np.zeros((5, 5))
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 3)): J[i, j] = J[j, i] = .5
    assert [text.get_text() for text in network_plots.network_diagram(J, prune=2).texts] == ["P1", "P2", "P3"]
    assert not network_plots.network_diagram(J, prune=9).texts
    angles = np.deg2rad([0, 90, 180, 45, 300])
    ax = network_plots.network_diagram(J, angles=angles)
    np.testing.assert_allclose([(text.get_rotation() + 180) % 360 - 180 for text in ax.texts], [0, 90, 0, 45, -60])
    with pytest.raises(ValueError, match="angles must have one number"): network_plots.network_diagram(J, angles=angles[:2])


def test_tutorial_settings():
    s = screen(24, 25, 500)
    ax = plots.plot_response(s.response)
    assert tuple(ax.figure.get_size_inches()) == (16, 7) and ax.images[0].get_clim() == (-1.5, 1.5)
    shown = ax.images[0].get_array()
    assert shown.shape == (24, 25) and not np.any((np.abs(shown) > 0) & (np.abs(shown) <= .1))
    assert plots.plot_network(s.network).images[0].get_clim() == (-1, 1)
    fan = network_plots.perturbation_fan(s.umap, program_positions(s.umap, s.usage), s.response, s.group)
    assert tuple(fan.figure.get_size_inches()) == (20, 20)
    assert plots.POSITIVE == "#E84B23" and plots.NEGATIVE == "#3285CC" and plots.NODE == "#f0dab1"
    assert plots.DIVERGING(0.5)[:3] == (1, 1, 1)


def test_order_decides_rows_and_columns():
    s = screen(6, 8, 100)
    order = SimpleNamespace(row_order=np.arange(8)[::-1], program_order=np.arange(6)[::-1], program_labels=np.arange(6) // 2, row_labels=np.arange(8)[None] // 4)
    ax = plots.plot_response(s.response, order=order, threshold=0)
    assert [label.get_text() for label in ax.get_xticklabels()] == s.targets[::-1]
    np.testing.assert_array_equal(ax.images[0].get_array(), s.values[::-1, ::-1].T)
    assert len(ax.lines) == 2 + 1 and not ax.texts


def test_the_same_figure_twice():
    s = screen(10, 12, 400)
    positions = program_positions(s.umap, s.usage)
    pictures = []
    for _ in range(2):
        np.random.rand()        # a global state that changed must not matter
        ax = network_plots.perturbation_fan(s.umap, positions, s.response, s.group)
        out = io.BytesIO()
        ax.figure.savefig(out, format="png", dpi=30)
        pictures.append(out.getvalue())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("draw", ["plot_network", "plot_response", "plot_programs_on_umap"])
@pytest.mark.parametrize("format", ["pdf", "ps", "svg"])
def test_text_stays_text(draw, format):
    s = screen(5, 6, 200)
    result = {"plot_network": (s.network,), "plot_response": (s.response,), "plot_programs_on_umap": (s.umap, s.programs)}[draw]
    out = io.BytesIO()
    with plots.style(): getattr(plots, draw)(*result).figure.savefig(out, format=format)
    written = out.getvalue()
    if format == "svg": assert b"<text" in written
    if format == "pdf": assert b"/Type3" not in written and b"/FontFile2" in written
    if format == "ps": assert b"/FontType 42" in written


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("regulator,regulated", [(0, 1), (1, 0)])
def test_arrows_point_from_regulator_to_regulated(regulator, regulated, sign):
    J = np.diag([.9, .9])
    J[regulated, regulator] = .6 * sign
    positions = np.array([[0., 0], [1, 0]])
    ax = network_plots.network_diagram(J, names=["A", "B"], positions=positions)
    arrow, = ax.patches
    assert arrow.get_gid() == f"{'AB'[regulator]}->{'AB'[regulated]}"
    ax.figure.draw_without_rendering()
    start, end = np.asarray(arrow._posA_posB)
    np.testing.assert_array_equal((start, end), positions[[regulator, regulated]])
    heat = plots.plot_network(J, names=["A", "B"])
    row, column = np.argwhere(np.asarray(heat.images[0].get_array()) != 0)[0]
    assert (row, column) == (regulated, regulator) and (heat.get_xlabel(), heat.get_ylabel()) == ("regulator", "regulated")


def test_prune_leaves_out_the_unconnected():
    J = np.zeros((4, 4))
    J[0, 1] = J[1, 0] = .5
    assert [text.get_text() for text in network_plots.network_diagram(J, prune=True).texts] == ["P1", "P2"]
    assert len(network_plots.network_diagram(J).texts) == 4


def test_no_edges_one_program_one_target():
    s = screen(5, 5, 100)
    assert len(network_plots.network_diagram(np.zeros((5, 5))).texts) == 5
    assert len(network_plots.network_diagram(np.zeros((1, 1))).texts) == 1
    for n in (1, 2):
        ax = network_plots.perturbation_fan(s.umap, program_positions(s.umap, s.usage), s.values[:n], np.zeros(n, int), names=s.names, targets=s.targets[:n])
        ax.figure.draw_without_rendering()
        plots.plot_response(s.values[:n], names=s.names)
    quiet = network_plots.perturbation_fan(s.umap, program_positions(s.umap, s.usage), 0 * s.values, s.group[:5])
    assert not any(len(c.get_segments()) for c in quiet.collections if isinstance(c, LineCollection))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.floats(0, 20), st.integers(0, 99))
def test_gradient_of_positions(n, repulsion, seed):
    rng = np.random.default_rng(seed)
    centroids = rng.normal(0, 2, (n, 2))
    p = (np.c_[np.arange(n), np.zeros(n)] + rng.uniform(-.3, .3, (n, 2))).ravel()
    step = 1e-6
    numeric = [(_position_energy(p + step * e, centroids, repulsion)[0] - _position_energy(p - step * e, centroids, repulsion)[0]) / (2 * step) for e in np.eye(2 * n)]
    np.testing.assert_allclose(_position_energy(p, centroids, repulsion)[1], numeric, rtol=1e-4, atol=1e-4)


def test_positions_of_programs_on_one_spot_or_never_used():
    umap, usage = np.zeros((50, 2)), np.ones((50, 6))
    usage[:, 5] = 0
    positions = program_positions(umap, usage)
    apart = np.linalg.norm(positions[:, None] - positions, axis=2) + 9 * np.eye(6)
    assert np.isfinite(positions).all() and apart.min() > 0.8
    np.testing.assert_array_equal(positions, program_positions(umap, usage))


def test_existing_map_is_used_as_it_is():
    s = screen(5, 5, 60)
    np.testing.assert_array_equal(embed_cells(s.adata), s.umap)
    keys = list(s.adata.obsm)
    copied = embed_cells(s.adata, copy=True)
    assert copied is not s.adata and list(s.adata.obsm) == keys


@pytest.mark.parametrize("call,message", [
    (lambda s: plots.plot_levels(s.usage, np.zeros((2, 2))), "two thresholds"),
    (lambda s: plots.plot_usage_on_umap(s.umap, s.usage, axes=[plt.figure().add_subplot()]), "at least 5 Axes"),
    (lambda s: plots.plot_response(s.response, limit=0), "limit must be above 0"),
    (lambda s: plots.plot_response(s.response, targets=["A"]), "one name per row"),
    (lambda s: plots.plot_network(s.values[:, :3]), "square"),
    (lambda s: plots.plot_network(s.network, modules=[0, 1]), "one label for each of 5"),
    (lambda s: plots.plot_response_dots(s.response, size="q"), "size must be 'evidence' or 'response'"),
    (lambda s: program_plots.plot_program_clusters(s.programs, [1, 2]), "one label per cell"),
    (lambda s: program_plots.plot_program_clusters(s.programs, np.zeros(100), scale="z"), "scale must be"),
    (lambda s: program_plots.plot_consensus([], s.programs), "at least two, got 0"),
    (lambda s: evidence_plots.plot_target(targets_of(s), "STAT11"), "did you mean 'STAT1'"),
    (lambda s: evidence_plots.plot_edges(uncertainty_of(s), level=1), "level must lie between"),
    (lambda s: program_positions(s.umap, s.usage, repulsion=-1), "repulsion"),
    (lambda s: network_plots.network_on_umap(s.adata, s.network, s.programs, color="targets"), "did you mean 'target_gene'"),
])
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message): call(screen(5, 5, 100))
