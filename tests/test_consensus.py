"""Programs of a screen and their number: what would bore a reader of 01b_consensus and 01b_number."""
import io
import logging
import sys
import tracemalloc
from dataclasses import replace
from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from planted import as_screen, plant, plant_signed
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from perturbnb import consensus
from perturbnb.common import seeds_for
from perturbnb.consensus import _balanced_weights, _dealt, _resampled, _resamplings, find_programs, store_programs
from perturbnb.levels import discretize
from perturbnb.number_of_programs import choose_n_programs
from perturbnb.out_of_core import open_screen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_screen_format_does_not_matter(planted, programs, form, dtype):
    X = np.log1p(planted[0]).astype(dtype)
    other = find_programs(as_screen(form(X)), 6, n_repeats=3)
    np.testing.assert_array_equal(other.spectra > 0, programs.spectra > 0)
    np.testing.assert_allclose(other.usage, programs.usage, rtol=1e-4, atol=1e-4)


def test_input_unchanged(screen):
    before = screen.copy()
    found = find_programs(screen, 6, n_repeats=2)
    store_programs(screen, found, discretize(found.usage))
    assert (screen.X != before.X).nnz == 0 and list(screen.obsm) == [] and screen.uns == before.uns


def test_seed_decides_and_jobs_do_not_matter(screen, programs):
    same, parallel = find_programs(screen, 6, n_repeats=3), find_programs(screen, 6, n_repeats=3, n_jobs=2)
    np.testing.assert_array_equal(same.usage, programs.usage)
    np.testing.assert_array_equal(parallel.spectra > 0, programs.spectra > 0)
    np.testing.assert_allclose(parallel.usage, programs.usage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parallel.stability, programs.stability, rtol=1e-5)


@pytest.mark.parametrize("balance", ["sqrt", "equal", "proportional", "none"])
def test_every_balance_finds_the_programs(planted, balance):
    X = sparse.csr_matrix(np.log1p(planted[0]))
    screen = as_screen(X, ["control"] * 4 + ["rare"])
    assert adjusted_rand_score(planted[1], find_programs(screen, 6, n_repeats=2, balance=balance).spectra.argmax(0)) > 0.9


def test_whole_numbers_are_taken_as_they_are(planted):
    whole, same = (find_programs(as_screen(sparse.csr_matrix(planted[0].astype(dtype))), 6, n_repeats=1) for dtype in (np.int64, np.float64))
    np.testing.assert_allclose(whole.spectra, same.spectra, atol=1e-6)
    np.testing.assert_allclose(whole.usage, same.usage, rtol=1e-5)


def test_silent_cells_and_genes(planted):
    X = np.log1p(planted[0]).astype(float)
    X[5], X[:, 7] = 0, 0
    found = find_programs(as_screen(sparse.csr_matrix(X)), 6, n_repeats=2)
    assert not found.usage[5].any() and "g7" not in found.genes and np.isfinite(found.usage).all()


def test_unused_categories_are_no_groups(screen, programs):
    categorical = screen.copy()
    categorical.obs["target_gene"] = pd.Categorical(screen.obs["target_gene"], categories=["nobody", "TF1", "control", "g1", "nothing"])
    np.testing.assert_array_equal(find_programs(categorical, 6, n_repeats=3).usage, programs.usage)


@pytest.mark.parametrize("balance, weight", [("sqrt", np.sqrt), ("equal", np.ones_like), ("proportional", lambda n: n)])
def test_balance_weighs_groups(balance, weight):
    sizes = np.array([500., 40, 3])
    groups = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], sizes.astype(int)))
    total = np.bincount(groups, _balanced_weights(groups, balance))
    np.testing.assert_allclose(total / total.sum(), weight(sizes) / weight(sizes).sum())


def test_no_group_is_drawn_more_often_than_it_has_cells():
    groups = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [500, 40, 3]))
    draws = [_resampled(groups, np.random.default_rng(stream)) for stream in seeds_for("find_programs", 0, 50)]
    for drawn in draws: np.testing.assert_array_equal(np.bincount(groups, drawn), [500, 40, 3])
    centred = np.stack(draws)[:, groups == 0] - 1.
    np.testing.assert_allclose(centred.mean(), 0, atol=1e-12)
    assert abs(centred.var() - 1) < 0.05                                  # multinomial: variance 1 - 1/n
    assert np.abs(np.corrcoef(centred)[np.triu_indices(50, 1)]).max() < 0.25   # independent streams: sd 1/sqrt(500)


def test_parts_are_dealt_evenly_and_at_random():
    groups = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [500, 41, 3]))
    deals = [_dealt(groups, 16, np.random.default_rng(stream)) for stream in range(40)]
    for parts in deals:
        assert np.ptp(np.bincount(parts, minlength=16)) <= 1
        for group in range(3): assert np.ptp(np.bincount(parts[groups == group], minlength=16)) <= 1
    together = np.mean([parts[:-1] == parts[1:] for parts in deals], axis=1)
    assert abs(together.mean() - 1 / 16) < 0.01                           # neighbours share a part as often as chance has it


def test_many_cells_are_drawn_in_parts(monkeypatch):
    groups, streams = np.random.default_rng(0).integers(0, 3, 400), [np.random.default_rng(stream) for stream in range(4)]
    parts, counts = _resamplings(groups, streams[:3], streams[3])
    np.testing.assert_array_equal(parts, np.arange(400))                  # few cells: each by itself
    for column in counts.T: np.testing.assert_array_equal(np.bincount(groups, column), np.bincount(groups))
    monkeypatch.setattr(consensus, "_FEW_CELLS", 399)
    parts, counts = _resamplings(groups, streams[:3], streams[3])
    assert counts.shape == (16, 4) and (counts[:, 0] == 1).all() and (counts.sum(0) == 16).all() and (counts[:, 1:].std(0) > 0.5).all()
    assert len(np.unique(counts, axis=1).T) == 4
    parts, counts = _resamplings(groups, streams[:1], streams[3])
    assert (counts[parts] == 1).all()                                     # one fit: to all cells


@pytest.mark.parametrize("form", ["csr", "dense", "backed"])
def test_programs_from_parts(form, screen, planted, programs, monkeypatch, tmp_path):
    "Planted programs come back as well as from cells drawn one by one, whatever the matrix and the number of threads"
    monkeypatch.setattr(consensus, "_FEW_CELLS", 100)
    here = find_programs(screen, 6, n_repeats=3)
    other = screen.copy()
    if form == "dense": other.X = screen.X.toarray()
    if form == "backed":
        screen.write_h5ad(tmp_path / "s.h5ad")
        other = open_screen(tmp_path / "s.h5ad", chunk_cells=400)
    found = find_programs(other, 6, n_repeats=3, n_jobs=2)
    np.testing.assert_array_equal(found.spectra != 0, here.spectra != 0)
    np.testing.assert_allclose(found.usage, here.usage, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(find_programs(other, 6, n_repeats=3, n_jobs=1).usage, found.usage)
    assert adjusted_rand_score(planted[1], found.spectra.argmax(0)) == adjusted_rand_score(planted[1], programs.spectra.argmax(0)) > 0.95
    assert 0 < np.abs(found.stability - programs.stability).max() < 0.05


def test_small_groups_kept_or_dropped(planted, caplog):
    X = sparse.csr_matrix(np.log1p(planted[0]))
    screen = as_screen(X)
    screen.obs["target_gene"] = np.where(np.arange(len(X.toarray())) % 100 == 3, "rare", screen.obs["target_gene"])
    rare = (screen.obs["target_gene"] == "rare").to_numpy()
    kept = find_programs(screen, 6, n_repeats=2)
    assert kept.parameters["cells_not_shaping"] == 0
    with caplog.at_level(logging.INFO, logger="perturbnb"): found = find_programs(screen, 6, n_repeats=2, min_group_cells=20)
    assert f"1 of 4 groups have fewer than 20 cells; their {rare.sum()} cells do not shape the programs" in caplog.text
    assert (found.parameters["min_group_cells"], found.parameters["cells_not_shaping"]) == (20, rare.sum())
    spoilt = screen.copy()
    spoilt.X = sparse.diags(np.where(rare, 7., 1)) @ screen.X             # what is dropped has no say in the spectra, its usage follows
    other = find_programs(spoilt, 6, n_repeats=2, min_group_cells=20)
    np.testing.assert_array_equal(other.spectra, found.spectra)
    np.testing.assert_array_equal(other.scale, found.scale)
    np.testing.assert_allclose(other.usage[rare], 7 * found.usage[rare], rtol=1e-5)
    assert not np.allclose(find_programs(spoilt, 6, n_repeats=1).spectra, find_programs(screen, 6, n_repeats=1).spectra)


def test_small_groups_of_signed_programs():
    counts, truth, _ = plant_signed(1500, 120, 4)
    screen = as_screen(sparse.csr_matrix(np.log1p(counts)))
    screen.obs["batch"], screen.obs["if_control"] = np.where(np.arange(1500) < 700, "a", "b"), screen.obs["target_gene"] == "control"
    screen.obs["target_gene"] = np.where(np.arange(1500) >= 1490, "rare", screen.obs["target_gene"])
    found = find_programs(screen, 4, n_repeats=2, signed=True, overlap=2, min_group_cells=20)
    assert found.usage.shape == (1500, 4) and adjusted_rand_score(truth, np.abs(found.spectra).argmax(0)) > 0.9


def test_memory():
    X = sparse.random(10000, 400, density=0.05, format="csr", random_state=0, dtype=np.float32)
    X.data[:] = np.round(4 * X.data) + 1
    screen = as_screen(X)
    find_programs(screen[:500].copy(), 3, n_repeats=2, density_threshold=1.42)          # what is compiled on the way does not count
    tracemalloc.start()
    find_programs(screen, 3, n_repeats=2, density_threshold=1.42)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.75 * X.shape[0] * X.shape[1] * 4, "a dense copy of the screen was made"


@pytest.mark.parametrize("seed", [0, 1])
def test_programs_come_back_from_other_cells(seed):
    "Five bootstrap samples of the cells, each with its own consensus"
    counts, _ = plant(2000, 300, 8, seed)
    X, rng = sparse.csr_matrix(np.log1p(counts)), np.random.default_rng(seed)
    spectra = [find_programs(as_screen(X[rng.integers(2000, size=2000)], seed=i), 8, n_repeats=5, seed=i).spectra for i in range(5)]
    for a, b in combinations(spectra, 2):
        cosine = a @ b.T
        assert cosine[linear_sum_assignment(-cosine)].min() >= 0.95


def test_more_programs_than_there_are_is_refused_or_told(screen, caplog):
    X = sparse.csr_matrix(np.random.default_rng(0).poisson(0.3, (300, 200)).astype(float))
    with pytest.raises(ValueError, match="n_programs=20 is more than these cells support.*choose_n_programs"):
        find_programs(as_screen(X), 20, n_repeats=5)


def test_choice():
    counts, _ = plant(2000, 300, 8, seed=3)
    choice = choose_n_programs(as_screen(sparse.csr_matrix(np.log1p(counts))), candidates=[4, 6, 7, 8, 9, 10, 14])
    assert choice.best == 8 and "stability" in choice.reason
    assert list(choice.table.columns) == ["n_programs", "error", "error_sd", "stability"]
    assert choice.table["error"].between(0, 1).all()
    assert choose_n_programs(as_screen(sparse.csr_matrix(np.log1p(counts))), candidates=[4, 5]).reason.endswith("try more")


def test_default_candidates_reach_as_far_as_the_genes_and_try_the_neighbours_of_the_best():
    counts, _ = plant(600, 60, 5, seed=3)
    choice = choose_n_programs(as_screen(sparse.csr_matrix(np.log1p(counts))))
    assert list(choice.table["n_programs"]) == [4, 5, 6, 7, 8, 10, 12]          # the best of 4, 6, ..., 12 is 6
    assert choice.best == 5
    with_prior = choose_n_programs(as_screen(sparse.csr_matrix(np.log1p(counts))), prior_programs={"mine": ["g1", "g2"]}, n_repeats=1)
    assert with_prior.table["n_programs"].iloc[0] >= 4 and with_prior.best > 1


@pytest.mark.parametrize("n_programs, seed", [(8, 11), (16, 12)])
def test_number_of_planted_programs(n_programs, seed):
    counts, _ = plant(3000, 30 * n_programs, n_programs, seed)
    candidates = [4, n_programs - 2, n_programs - 1, n_programs, n_programs + 1, n_programs + 2, n_programs + 6]
    assert choose_n_programs(as_screen(sparse.csr_matrix(np.log1p(counts))), candidates, n_repeats=1, seed=seed).best == n_programs


def test_choice_of_signed_and_of_prior_programs(screen, planted):
    counts, _, _ = plant_signed(2000, 240, 6)
    assert choose_n_programs(as_screen(sparse.csr_matrix(np.log1p(counts))), [4, 5, 6, 7], n_repeats=1, signed=True).best == 6
    prior = {name: [f"g{i}" for i in np.flatnonzero(planted[1] == k)] for k, name in enumerate(["mine", "yours"])}
    choice = choose_n_programs(screen, [2, 5, 6, 7], n_repeats=1, prior_programs=prior)
    assert choice.best == 6 and choice.table.loc[0, "stability"] == 1


def test_choice_does_not_depend_on_other_candidates(screen):
    few, many = (choose_n_programs(screen, candidates).table.set_index("n_programs") for candidates in ([5, 7], [7, 6, 2, 5, 7]))
    pd.testing.assert_frame_equal(few, many.loc[[5, 7]])


def test_choice_leaves_small_groups_out(screen):
    rare = screen.copy()
    rare.obs["target_gene"] = np.where(np.arange(rare.n_obs) < 15, "rare", rare.obs["target_gene"])
    without, by_hand = choose_n_programs(rare, [5, 6, 7], min_group_cells=20), choose_n_programs(rare[15:].copy(), [5, 6, 7])
    pd.testing.assert_frame_equal(without.table, by_hand.table)


class Terminal(io.StringIO):
    def isatty(self): return True


@pytest.mark.parametrize("stream, shown", [(Terminal, True), (io.StringIO, False), (lambda: None, False)])
def test_progress_only_on_a_terminal(screen, monkeypatch, stream, shown):
    stream = stream()
    monkeypatch.setattr(sys, "stderr", stream)
    find_programs(screen, 6, n_repeats=2)
    choose_n_programs(screen, candidates=[5, 6], n_repeats=1)
    written = stream.getvalue() if stream is not None else ""
    assert ("Resamplings" in written) == ("Numbers of programs" in written) == shown


def test_prior_programs(screen, planted):
    third = np.flatnonzero(planted[1] == 2)
    members, other = [f"g{i}" for i in third[:-1]], f"g{third[-1]}"
    found = find_programs(screen, 7, prior_programs={"mine": members, "P1": [other]})
    mine = found.to_frame().query("program == 'mine'")
    assert set(mine["gene"]) == set(members) and (mine["weight"] > 0).all()
    assert found.usage.shape[1] == 7 and sorted(found.names) == ["P1", "P2", "P3", "P4", "P5", "P6", "mine"]
    only = find_programs(screen, 1, prior_programs={"mine": members})
    np.testing.assert_allclose(np.linalg.norm(only.spectra, axis=1), 1)
    assert (only.spectra > 0).sum() == len(members)


@pytest.mark.parametrize("prior, message", [
    ({"a": ["nonsense"]}, "'nonsense', which is no gene"), ({"a": ["g1", "g1"]}, "'g1' twice"), ({"a": ["g1"], "b": ["g2", "g1"]}, "overlap, 'g1' is in 'a' and 'b'"),
    ({"a": []}, "at least one gene"), ({"a": "g1"}, "must be a list"),
    ({"a": None}, "must be a list"), (["g1"], "must be a dict"), ("g1", "must be a dict"), ({"a": ["g1"], "b": ["g2"]}, "must count the 2 prior programs"),
])
def test_bad_prior_programs(screen, prior, message):
    with pytest.raises(ValueError, match=message):
        find_programs(screen, 1, prior_programs=prior)


def test_prior_programs_must_leave_genes(screen):
    with pytest.raises(ValueError, match="prior_programs must leave enough genes for the other programs, they leave 0 that vary for 2 more"):
        find_programs(screen, 3, prior_programs={"all": list(screen.var_names)})


def test_as_many_programs_as_genes_comes_to_an_end(planted):
    screen = as_screen(sparse.csr_matrix(np.log1p(planted[0][:300, :40])))
    found = find_programs(screen, 40, n_repeats=2)
    assert len(found.names) == 40 and ((found.spectra != 0).sum(1) == 1).all() and found.converged


@pytest.mark.parametrize("factor, warned", [(1, False), (30, True), (30.5, False)])
def test_counts_are_warned_of(planted, caplog, monkeypatch, factor, warned):
    monkeypatch.setattr(logging.getLogger("perturbnb"), "propagate", True)
    counts = np.minimum(planted[0], 1) * factor
    with caplog.at_level(logging.WARNING, logger="perturbnb"):
        find_programs(as_screen(sparse.csr_matrix(counts.astype(float))), 2, n_repeats=1)
    assert ("as counts do" in caplog.text) == warned


def test_discarded_programs_are_told(monkeypatch, screen, programs):
    assert programs.parameters["discarded"] == 0 and "come back" not in repr(programs)
    found = replace(programs, parameters=programs.parameters | {"n_programs": 7, "discarded": 1})
    assert "1 of the 7 asked for did not come back" in repr(found)
    label = consensus._label_by_consensus

    def one_less(*args):
        labels, stability = label(*args)
        return np.where(labels == len(stability) - 1, 0, labels), stability[:-1]
    monkeypatch.setattr(consensus, "_label_by_consensus", one_less)
    fewer = find_programs(screen, 6, n_repeats=2)
    assert len(fewer.names) == 5 and fewer.parameters["n_programs"] == 6 and fewer.parameters["discarded"] == 1


def test_perturbed_genes(screen, programs, planted):
    assert programs.left_out == ["g1"]
    assert programs.spectra[:, 1].any()
    blind = screen.copy()
    blind.X = (blind.X @ sparse.diags((np.arange(240) != 1).astype(np.float32))).tocsr()
    np.testing.assert_allclose(programs.transform(blind), programs.usage, rtol=1e-5)
    combined = as_screen(screen.X, ["control", "g3+g5", "g7+TF1"])
    assert find_programs(combined, 6, n_repeats=1).left_out == ["g3", "g5", "g7"]
    many = as_screen(screen.X, [f"g{i}" for i in range(30)])
    assert find_programs(many, 6, n_repeats=1, balance="none").left_out == []


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_own_transcripts_do_not_reach_usage_where_perturbed_genes_are_many(screen, kind):
    many = as_screen(screen.X, ["control", *(f"g{i}" for i in range(20)), "g3+g25", "g9+TF1"])
    many.obs["if_control"], many.obs["batch"] = many.obs["target_gene"] == "control", np.where(np.arange(many.n_obs) % 2, "a", "b")
    hidden = many.X.toarray()
    for c, target in enumerate(many.obs["target_gene"]):
        for name in target.split("+"):
            if name in many.var_names: hidden[c, many.var_names.get_loc(name)] = 0
    assert (hidden != many.X.toarray()).any()
    (a, left_out), (b, _) = (consensus._without_own_effect(many, X if kind == "dense" else sparse.csr_matrix(X), list(many.var_names)) for X in (many.X.toarray(), hidden))
    assert left_out == [] and sparse.issparse(a) == (kind == "csr")
    a, b = (X.toarray() if sparse.issparse(X) else X for X in (a, b))
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(a[many.obs["if_control"]], many.X.toarray()[many.obs["if_control"]])


def test_backed(tmp_path, screen, programs):
    screen.write_h5ad(tmp_path / "s.h5ad")
    backed = ad.read_h5ad(tmp_path / "s.h5ad", backed="r")
    found = find_programs(backed, 6, n_repeats=3)
    np.testing.assert_array_equal(found.usage, programs.usage)
    np.testing.assert_allclose(programs.transform(backed), programs.usage, rtol=1e-6)
    assert store_programs(backed, found, discretize(found.usage)).varm["onmf"].shape == (240, 6)


def test_store_fills_genes_that_did_not_enter(planted):
    X = np.log1p(planted[0]).astype(float)
    X[:, 0], X[:, 9] = 0, 1
    screen = as_screen(sparse.csr_matrix(X))
    screen.uns["perturbnb"] = {"kept": 1}
    found = find_programs(screen, 6, n_repeats=1)
    assert "g0" not in found.genes and found.scale[found.genes.index("g9")] == np.inf
    assert not found.spectra[:, found.genes.index("g9")].any()
    stored = store_programs(screen, found, discretize(found.usage))
    assert stored.uns["perturbnb"]["kept"] == 1 and "programs" not in screen.uns["perturbnb"]
    assert not stored.varm["onmf"][[0, 9]].any() and stored.obsm["spins"].dtype == np.int8


def test_highly_variable_above_5000_genes():
    X = sparse.random(30, 5200, density=0.2, format="csr", random_state=0)
    screen = as_screen(X)
    with pytest.raises(ValueError, match="highly_variable"):
        find_programs(screen, 2, n_repeats=1)
    screen.var["highly_variable"] = np.arange(5200) < 80
    assert len(find_programs(screen, 2, n_repeats=1).genes) <= 80


def broken(planted, **changes):
    X = np.log1p(planted[0]).astype(float)
    for (row, column), value in changes.pop("cells", {}).items(): X[row, column] = value
    return as_screen(X)


@pytest.mark.parametrize("call, message", [
    (lambda p: find_programs(broken(p, cells={(3, 3): np.nan}), 6), "adata.X must be finite, got 1"),
    (lambda p: find_programs(broken(p, cells={(3, 3): np.inf}), 6), "adata.X must be finite, got 1"),
    (lambda p: find_programs(broken(p, cells={(3, 3): -1}), 6), "adata.X must not be negative"),
    (lambda p: find_programs(p[0], 6), "adata must be an AnnData, got ndarray"),
    (lambda p: find_programs(broken(p), 0), "n_programs must be a whole number"),
    (lambda p: find_programs(broken(p), 2.5), "n_programs must be a whole number"),
    (lambda p: find_programs(broken(p), 241), "number of genes"),
    (lambda p: find_programs(broken(p)[:5].copy(), 6), "number of cells, 5"),
    (lambda p: find_programs(broken(p)[:1].copy(), 1), "at least two cells, got 1"),
    (lambda p: find_programs(as_screen(np.ones((50, 10))), 2), "genes with any variation, 0"),
    (lambda p: find_programs(broken(p), 6, balance="square"), "balance must be"),
    (lambda p: find_programs(broken(p), 6, balance_key="target_genes"), "did you mean 'target_gene'"),
    (lambda p: find_programs(broken(p), 6, n_repeats=0), "n_repeats must be a whole number"),
    (lambda p: find_programs(broken(p), 6, n_jobs=0), "n_jobs must be at least 1, or -1 for all cores, got 0"),
    (lambda p: find_programs(broken(p), 6, n_jobs=None), "n_jobs"),
    (lambda p: find_programs(broken(p), 6, min_group_cells=-1), "min_group_cells must be a whole number"),
    (lambda p: find_programs(broken(p), 6, min_group_cells=5000), "min_group_cells must not exceed the largest group"),
    (lambda p: find_programs(broken(p), 6, min_group_cells=5, balance="none"), "min_group_cells must be 0 with balance='none'"),
    (lambda p: find_programs(broken(p), 6, min_cell_fraction=20), "min_cell_fraction must be a share"),
    (lambda p: find_programs(broken(p), 6, density_threshold=-1), "density_threshold must be"),
    (lambda p: find_programs(broken(p), 6, density_threshold="x"), "density_threshold must be"),
    (lambda p: find_programs(broken(p), 6, signed="yes"), "signed must be True or False"),
    (lambda p: find_programs(as_screen(1e30 * p[0].astype(float)), 6), "adata.X must have a squared norm"),
    (lambda p: find_programs(as_screen(np.zeros((50, 10))), 2), "genes with any variation, 0"),
    (lambda p: find_programs(as_screen(np.full((50, 10), "a")), 2), "adata.X must be numeric"),
    (lambda p: find_programs(broken(p), 6, seed=-1), "seed must be"),
    (lambda p: choose_n_programs(broken(p), candidates=[]), "candidates"),
    (lambda p: choose_n_programs(broken(p), candidates=[4, 400]), "candidates must not exceed"),
    (lambda p: choose_n_programs(broken(p), candidates=[0, 4]), "candidates must be a whole number"),
    (lambda p: choose_n_programs(broken(p), candidates=7), "candidates must be a list"),
    (lambda p: choose_n_programs(broken(p), signed="yes"), "signed must be True or False"),
    (lambda p: choose_n_programs(broken(p)[:19].copy()), "at least 20 cells that take part, for two halves that can be compared, got 19"),
    (lambda p: choose_n_programs(broken(p), prior_programs="g1"), "prior_programs must be a dict"),
    (lambda p: choose_n_programs(broken(p), n_repeats=0), "n_repeats must be"),
    (lambda p: choose_n_programs(p[0]), "adata must be an AnnData, got ndarray"),
    (lambda p: choose_n_programs(broken(p), [1, 4], prior_programs={"a": ["g1"], "b": ["g2"]}), "must count the 2 prior programs"),
    (lambda p: choose_n_programs(broken(p), [1], prior_programs={"all": [f"g{i}" for i in range(240)]}), "must leave genes for other programs"),
])
def test_bad_input(planted, call, message):
    with pytest.raises(ValueError, match=message):
        call(planted)


def test_duplicated_genes_and_missing_groups(planted):
    screen = broken(planted)
    screen.obs.loc["c3", "target_gene"] = np.nan
    with pytest.raises(ValueError, match="1 cells have none"):
        find_programs(screen, 6)
    screen.var_names = ["g0", "g0", *screen.var_names[2:]]
    with pytest.raises(ValueError, match="'g0' occurs more than once"):
        find_programs(screen, 6, balance="none")


@pytest.mark.parametrize("column, values, message", [
    ("if_control", ["True", "False"], "if_control must be true or false in every row"),
    ("if_control", [1., np.nan], "if_control must be true or false"),
    ("batch", ["a", None], "batch'\\] must give every cell a batch, 750 cells have none"),
])
@pytest.mark.parametrize("call", [find_programs, lambda screen, k, **options: choose_n_programs(screen, [k], **options)])
def test_bad_columns_of_signed_programs(screen, column, values, message, call):
    bad = screen.copy()
    bad.obs[column] = np.resize(np.array(values, dtype=object if isinstance(values[0], str) else float), bad.n_obs)
    with pytest.raises(ValueError, match=message):
        call(bad, 4, signed=True)


def test_text_in_highly_variable():
    screen = as_screen(sparse.random(30, 5200, density=0.2, format="csr", random_state=0))
    screen.var["highly_variable"] = "False"
    with pytest.raises(ValueError, match="highly_variable must be true or false"):
        find_programs(screen, 2, n_repeats=1)
