"""The bad input of every stage, taken through the stages that follow it.

`test_preprocess` and `test_programs` have what a single stage refuses; here is what passes the first and must not break the next."""
import logging
import warnings

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from perturbnb import clustering, network_plots, plots
from perturbnb.consensus import find_programs, store_programs
from perturbnb.embedding import embed_cells, program_positions
from perturbnb.goodness import fit_quality
from perturbnb.levels import discretize, fit_levels
from perturbnb.network import SpinNetwork, infer_network
from perturbnb.pipeline import analyse_screen
from perturbnb.preprocess import prepare_screen
from perturbnb.response import guide_concordance, relative_response
from perturbnb.results import SCHEMA, _figures, _write_arrays, result_tables
from perturbnb.simulate import simulate_screen

KEYS = dict(guide_key="guide", target_key="gene", control="control", batch_key="batch")
CHAIN = dict(n_programs=5, n_repeats=2)


@pytest.fixture(scope="module")
def raw():
    "A small screen, with a map of its own so that none needs to be made"
    screen = simulate_screen(900, 300, n_programs=4, n_targets=5, guides_per_target=2, n_control_guides=2, seed=4)
    screen.obsm["X_umap"] = np.random.default_rng(0).normal(0, 3, (900, 2))
    return screen


@pytest.fixture(autouse=True)
def heard(caplog):
    "Let caplog hear the package's logger whatever its handlers"
    logger = logging.getLogger("perturbnb")
    before, logger.propagate = logger.propagate, True
    caplog.set_level(logging.WARNING, logger="perturbnb")
    yield caplog
    logger.propagate = before
    plt.close("all")


def told(caplog): return "\n".join(record.getMessage() for record in caplog.records)


def everything_of(analysis, folder):
    "Draws all figures and writes all tables and arrays; nothing in them may be NaN but what a single guide, a single program, unmeasured genes or a lack of controls leave open"
    always = {"target_gene", "program", "response", "J", "n_guides", "n_cells", "reference", "caution", "label", "regulator_label", "regulated_label", "regulator", "regulated",
              "guide", "module", "group", "cluster"}
    evidence = [name for table in ("responses", "targets", "network", "guides", "modules", "groups") for name in SCHEMA[table] if name not in always]
    open_ones = [*evidence, "spread", "correlation", "lowest", "odd_guide", "gene_set", "share", "q", "depth", "mitochondria", "S", "G2M", "batch"]
    for _, draw in _figures(analysis).values():
        axes = np.ravel(np.asarray(draw(), dtype=object))
        axes[0].figure.canvas.draw()
        plt.close("all")
    tables = result_tables(analysis)
    for name, table in tables.items(): assert table.drop(columns=open_ones, errors="ignore").notna().all(axis=None), name
    _write_arrays(analysis, tables, folder)
    assert np.isfinite(SpinNetwork.load(folder / "responses.h5ad").h).all()
    return tables


# controls, through the whole chain

def test_one_control_cell(raw, tmp_path, heard):
    controls = raw.obs_names[raw.obs["gene"] == "control"]
    screen = prepare_screen(raw[~raw.obs_names.isin(controls[1:])], **KEYS, max_mito_percent=None)
    assert screen.obs["if_control"].sum() == 1 and "only 1 control cell" in told(heard)
    analysis = analyse_screen(screen, **CHAIN)
    assert "one control sample" in told(heard) and analysis.network.converged
    tables = everything_of(analysis, tmp_path)
    assert len(tables["responses"]) == 5 * 5 and tables["responses"]["response"].abs().max() < 10
    assert "own batch" not in set(tables["responses"]["reference"]), "one batch only has the control; every target spans both"


def test_no_controls(raw, tmp_path, heard):
    perturbed = raw[raw.obs["gene"] != "control"].copy()
    screen = prepare_screen(perturbed, **{**KEYS, "control": None})
    analysis = analyse_screen(screen, **CHAIN)
    assert "no controls named" in told(heard) and "no control samples" in told(heard)
    tables = everything_of(analysis, tmp_path)
    assert set(tables["responses"]["reference"]) == {"all samples"} and len(tables["groups"]) == 5
    assert tables["responses"][["p", "q", "total_p", "total_q"]].isna().all(axis=None) and tables["responses"]["caution"].str.contains("no controls").all()
    assert tables["targets"][["p", "q", "calibrated_q", "total_q", "energy_q"]].isna().all(axis=None) and tables["network"]["q"].notna().all()
    with pytest.raises(ValueError, match="control='control' is neither"): prepare_screen(perturbed, **KEYS)


def test_controls_only(raw):
    with pytest.raises(ValueError, match="nothing is perturbed"): prepare_screen(raw[raw.obs["gene"] == "control"].copy(), **KEYS)


# a program that never varies

@pytest.fixture(scope="module")
def still(raw):
    "The chain with a program that is the same in every cell"
    analysis = analyse_screen(prepare_screen(raw, **KEYS), until="network", **CHAIN)
    usage = analysis.programs.usage.copy()
    usage[:, 2] = 1.5
    return analysis, usage


def test_a_program_that_never_varies(still, tmp_path, heard):
    from dataclasses import replace
    before, usage = still
    programs, screen = replace(before.programs, usage=usage), before.screen
    levels = fit_levels(usage, names=programs.names)
    spins = levels.apply(usage)
    assert not spins[:, 2].any() and (spins[:, 0] != 0).any()
    samples = screen.uns["perturbnb"]["samples"]
    network = infer_network(spins, screen.obs["sample_id"], samples=samples, names=programs.names)
    assert "P3 is the same in every cell" in told(heard) and network.converged
    assert not network.J[2].any() and not network.J[:, 2].any() and not network.h[:, 2].any() and network.J[0, 1]
    without = infer_network(np.delete(spins, 2, axis=1), screen.obs["sample_id"], samples=samples)
    np.testing.assert_allclose(without.J, np.delete(np.delete(network.J, 2, 0), 2, 1), atol=1e-6)
    quality = fit_quality(network, spins, screen.obs["sample_id"])
    assert np.isfinite(quality).all()
    guides = relative_response(network)
    targets = guides.by_target()
    assert not targets.values[:, 2].any() and np.isfinite(guide_concordance(guides)["strength"]).all()
    modules = clustering.network_modules(network.J, names=network.names)
    assert (modules.labels == modules.labels[2]).sum() == 1, "it has no edges, so it is a module of its own"
    groups, order = clustering.response_groups(network.J, targets, modules), clustering.response_order(targets)
    positions = program_positions(screen.obsm["X_umap"], usage)
    assert np.isfinite(positions).all()
    whole = replace(before, programs=programs, levels=levels, spins=spins, network=network, quality=quality, guides=guides, targets=targets, modules=modules, groups=groups, order=order,
                    umap=screen.obsm["X_umap"], positions=positions)
    everything_of(whole, tmp_path)


def test_no_program_varies(still):
    with pytest.raises(ValueError, match="spins must vary, got only constant columns"): infer_network(np.ones((40, 3)), np.arange(40) % 4)
    assert not discretize(np.full((40, 3), 2.)).any()


def test_a_program_that_is_on_in_one_cell(still):
    analysis, usage = still
    rare = np.zeros((len(usage), 2))
    rare[:, 0], rare[7, 1] = usage[:, 0], 3.
    network = infer_network(discretize(rare), analysis.screen.obs["sample_id"], samples=analysis.screen.uns["perturbnb"]["samples"])
    assert np.isfinite(network.J).all() and np.abs(relative_response(network).values).max() < 10


# names, sizes, values

def test_names_that_occur_twice(raw, tmp_path, heard):
    twice = raw.copy()
    twice.var_names = [twice.var_names[1], *twice.var_names[1:]]
    twice.obs_names = [twice.obs_names[1], *twice.obs_names[1:]]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not unique")
        screen = prepare_screen(twice, **KEYS)
    assert screen.var_names.is_unique and screen.obs_names.is_unique and "1 gene names" in told(heard) and "1 cell names" in told(heard)
    analysis = analyse_screen(screen, **CHAIN)
    everything_of(analysis, tmp_path)
    again = ad.read_h5ad(tmp_path / "screen.h5ad")
    assert list(again.var_names) == list(screen.var_names) and list(again.obs_names) == list(screen.obs_names)
    with pytest.raises(ValueError, match="6 different names"): infer_network(np.eye(6), np.zeros(6), names=["P1"] * 6)
    with pytest.raises(ValueError, match="names must not repeat 'P1'"): clustering.network_modules(np.eye(2), names=["P1", "P1"])


@pytest.mark.parametrize("n_cells,message", [(4, "n_programs must not exceed the number of cells, 4, got 5"), (1, "at least two cells, got 1")])
def test_fewer_cells_than_programs(raw, n_cells, message):
    screen = prepare_screen(raw, **KEYS)[:n_cells].copy()
    with pytest.raises(ValueError, match=message): analyse_screen(screen, **CHAIN)


def test_constant_genes(raw, tmp_path):
    level = raw.copy()
    X = level.X.toarray()
    X[:, 10], X[:, 11] = 0, X[:, 11].max() + 1
    level.X = sparse.csr_matrix(X)
    analysis = analyse_screen(prepare_screen(level, **KEYS), **CHAIN)
    assert level.var_names[10] not in analysis.programs.genes
    everything_of(analysis, tmp_path)


@pytest.mark.parametrize("value,message", [
    (2, "got 5 other values such as 2"), (0.5, "got 5 other values such as 0.5"), (np.nan, "spins must be finite, got 5"), (-np.inf, "spins must be finite, got 5")])
def test_spins_of_other_values(still, value, message):
    analysis, _ = still
    spins = analysis.spins.astype(float)
    spins[3] = value
    with pytest.raises(ValueError, match=message): infer_network(spins, analysis.screen.obs["sample_id"])
    with pytest.raises(ValueError, match=message): fit_quality(analysis.network, spins, analysis.screen.obs["sample_id"])
    with pytest.raises(ValueError, match="one entry per cell"): infer_network(analysis.spins, analysis.screen.obs["sample_id"].iloc[:-1])
    with pytest.raises(ValueError, match="spins must be .* cells × 5 programs"): store_programs(analysis.screen, analysis.programs, analysis.spins[:, :4])


def test_a_sample_of_one_cell(raw, tmp_path):
    obs = raw.obs
    mine = obs_names = raw.obs_names[(obs["guide"] == "TF01_g1") & (obs["batch"] == "1")]
    screen = prepare_screen(raw[~raw.obs_names.isin(obs_names[1:])], **KEYS, max_mito_percent=None)
    assert len(mine) > 5 and screen.uns["perturbnb"]["samples"].loc["TF01_g1|1", "n_cells"] == 1
    analysis = analyse_screen(screen, **CHAIN)
    assert np.isfinite(analysis.network.h).all() and "TF01_g1" in analysis.guides.rows
    free = infer_network(analysis.spins, screen.obs["sample_id"], samples=screen.uns["perturbnb"]["samples"], design="free", l2_h=0.01, sample_weight="equal")
    assert np.isfinite(relative_response(free).values).all()
    everything_of(analysis, tmp_path)


def test_a_guide_alone_in_a_batch(raw, tmp_path, heard):
    "Guide and batch cannot be told apart: both are named, and what follows stays finite"
    moved = raw.copy()
    moved.obs["batch"] = np.where(moved.obs["guide"] == "TF01_g1", "9", moved.obs["batch"].astype(str))
    analysis = analyse_screen(prepare_screen(moved, **KEYS), **CHAIN)
    assert "cannot tell apart: batch[9], guide[TF01_g1]" in told(heard) and "no controls in batch 9" in told(heard)
    tables = everything_of(analysis, tmp_path)
    known = tables["responses"].set_index("target_gene")["q"]
    assert known.notna().all() and (tables["responses"].query("target_gene == 'TF01'")["se"] > 0.05).all(), "the other guide of the target speaks for it"
    layers = ad.read_h5ad(tmp_path / "responses.h5ad")
    assert np.isnan(layers[(layers.obs["guide"] == "TF01_g1").to_numpy()].layers["se"]).all()


@pytest.mark.parametrize("sample,spin", [("TF01_g1|1", "P9"), ("TF01_g1|7", "P1")])
def test_interventions_on_what_is_not_there(still, sample, spin):
    analysis, _ = still
    with pytest.raises(ValueError, match="interventions must name"): infer_network(analysis.spins, analysis.screen.obs["sample_id"], interventions={sample: {spin: -1}})


def test_every_cell_its_own_sample():
    "As many parameters as data: shrunk to nothing, but finite"
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network = infer_network(rng.integers(-1, 2, (60, 3)), np.arange(60))
    assert np.isfinite(network.h).all() and np.isfinite(network.J).all() and np.abs(network.h).max() < 20


def test_one_target_one_guide_one_batch(raw, tmp_path):
    "The smallest screen that says anything: one perturbation against the controls"
    keep = raw.obs["gene"].isin(["control", "TF01"]).to_numpy() & (raw.obs["guide"] != "TF01_g2").to_numpy()
    screen = prepare_screen(raw[keep].copy(), guide_key="guide", control="control_*")
    analysis = analyse_screen(screen, n_programs=3, n_repeats=2)
    assert analysis.targets.rows == ["TF01"] and np.isnan(analysis.targets.spread).all() and analysis.groups.n_groups == 1
    everything_of(analysis, tmp_path)


def test_one_program(raw, tmp_path):
    analysis = analyse_screen(prepare_screen(raw, **KEYS), n_programs=1, n_repeats=2)
    assert analysis.network.J.shape == (1, 1) and analysis.network.to_frame().empty and analysis.modules.n_modules == 1
    everything_of(analysis, tmp_path)


@pytest.mark.parametrize("kind", ["dense", "integer", "float64", "csc", "backed"])
def test_storage_does_not_matter_to_the_programs(raw, tmp_path, kind):
    reference, other = prepare_screen(raw, **KEYS), raw.copy()
    if kind == "dense": other.X = other.X.toarray()
    if kind == "integer": other.X = other.X.astype(np.int64)
    if kind == "float64": other.X = other.X.astype(np.float64)
    if kind == "csc": other.X = other.X.tocsc()
    if kind == "backed":
        other.write_h5ad(tmp_path / "raw.h5ad")
        other = ad.read_h5ad(tmp_path / "raw.h5ad", backed="r")
    one, two = (find_programs(screen, 5, n_repeats=1) for screen in (reference, prepare_screen(other, **KEYS)))
    np.testing.assert_allclose(one.spectra, two.spectra, atol=1e-6)
    np.testing.assert_array_equal(discretize(one.usage), discretize(two.usage))


def test_counts_given_where_normalised_cells_are_needed_or_the_other_way_round(raw):
    screen = prepare_screen(raw, **KEYS)
    with pytest.raises(ValueError, match="it looks log-normalised.*layer='counts' holds counts"): prepare_screen(screen, guide_key="guide", control="control_*")
    with pytest.raises(ValueError, match="must come from prepare_screen"): analyse_screen(raw)


@pytest.mark.parametrize("draw,message", [
    (lambda a: plots.plot_network(np.full((3, 3), np.nan)), "J must be finite, got 9"),
    (lambda a: plots.plot_response(np.full((3, 3), np.inf)), "response must be finite"),
    (lambda a: plots.plot_levels(np.full((9, 2), np.nan), np.zeros((2, 2))), "usage must be finite"),
    (lambda a: plots.plot_network(a.network, names=["A"]), "names must have one name per column"),
    (lambda a: network_plots.network_diagram(a.network, threshold=-1), "threshold must be at least 0"),
    (lambda a: network_plots.network_diagram(a.network, positions=np.zeros((2, 2))), "positions must have shape"),
    (lambda a: network_plots.perturbation_fan(a.screen.obsm["X_umap"], np.zeros((2, 2)), relative_response(a.network), np.zeros(10, int)), "positions must have shape"),
    (lambda a: network_plots.perturbation_fan(a.screen.obsm["X_umap"], np.zeros((5, 2)), relative_response(a.network), np.zeros(3, int)), "one label for each of 10"),
    (lambda a: embed_cells(ad.AnnData(np.ones((9, 3))), use_rep="X_pca"), "use_rep must be a key of obsm"),
    (lambda a: embed_cells(ad.AnnData(np.ones((3, 3)))), "at least four cells"),
    (lambda a: program_positions(np.full((9, 2), np.nan), np.ones((9, 2))), "umap must be finite"),
])
def test_figures_refuse(still, draw, message):
    with pytest.raises(ValueError, match=message): draw(still[0])


def test_missing_values_in_columns_that_are_not_needed(raw, tmp_path):
    "Odd columns beside the needed ones neither disturb nor get lost"
    odd = raw.copy()
    odd.obs["notes"] = np.where(np.arange(900) % 2, "x", None)
    odd.obs["mixed"] = pd.Series([1, "a", None] * 300, index=odd.obs_names, dtype=object)
    odd.obs["day/night"] = np.nan
    screen = prepare_screen(odd, **KEYS)
    analysis = analyse_screen(screen, until="response", **CHAIN)
    store_programs(screen, analysis.programs, analysis.spins).write_h5ad(tmp_path / "screen.h5ad")
    again = ad.read_h5ad(tmp_path / "screen.h5ad")
    assert {"notes", "mixed", "day_night"} <= set(again.obs) and again.obs["notes"].isna().sum() == screen.obs["notes"].isna().sum() > 300
