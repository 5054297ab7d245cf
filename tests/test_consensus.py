"""Programs of a screen: what would bore a reader of 01b_consensus."""
import io
import logging
import sys

import anndata as ad
import numpy as np
import pytest
from planted import as_screen, plant
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from perturbnb.consensus import choose_n_programs, find_programs, store_programs
from perturbnb.levels import discretize


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_screen_format_does_not_matter(planted, programs, form):
    X = np.log1p(planted[0])
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
    ({"a": []}, "at least one gene"), ({"a": "g1"}, "must be a list"), ({"a": ["g1"], "b": ["g2"]}, "must count the 2 prior programs"),
])
def test_bad_prior_programs(screen, prior, message):
    with pytest.raises(ValueError, match=message):
        find_programs(screen, 1, prior_programs=prior)


def test_perturbed_genes(screen, programs, planted, caplog):
    assert programs.left_out == ["g1"]
    assert programs.spectra[:, 1].any()
    blind = screen.copy()
    blind.X = (blind.X @ sparse.diags((np.arange(240) != 1).astype(np.float32))).tocsr()
    np.testing.assert_allclose(programs.transform(blind), programs.usage, rtol=1e-5)
    combined = as_screen(screen.X, ["control", "g3+g5", "g7+TF1"])
    assert find_programs(combined, 6, n_repeats=1).left_out == ["g3", "g5", "g7"]
    many = as_screen(screen.X, [f"g{i}" for i in range(30)])
    with caplog.at_level(logging.WARNING, logger="perturbnb"):
        assert find_programs(many, 6, n_repeats=1, balance="none").left_out == []


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
    (lambda p: find_programs(broken(p), 6, seed=-1), "seed must be"),
    (lambda p: choose_n_programs(broken(p), candidates=[]), "candidates"),
    (lambda p: choose_n_programs(broken(p), candidates=[4, 400]), "n_programs must not exceed"),
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
