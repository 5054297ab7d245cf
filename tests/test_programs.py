"""Orthogonal NMF: what would bore a reader of 01_onmf."""
import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from planted import plant_signed
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from perturbnb import programs as module
from perturbnb.gene_clusters import ImplicitGram, _fit_gram, _merge
from perturbnb.gram import gene_gram, gene_scale
from perturbnb.programs import Programs, onmf

FORMATS = {
    "csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "csr_array": sparse.csr_array, "dense": np.asarray, "frame": pd.DataFrame, "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.float64, np.uint16])
def test_format_and_dtype_do_not_matter(planted, form, dtype):
    reference = onmf(planted[0].astype(np.float64), 6)
    other = onmf(FORMATS[form](planted[0].astype(dtype)), 6)
    np.testing.assert_array_equal(other.spectra > 0, reference.spectra > 0)
    np.testing.assert_allclose(other.usage, reference.usage, rtol=1e-5, atol=1e-5)
    assert other.usage.dtype == np.float32


def scaled(counts):
    X = sparse.csr_matrix(np.log1p(counts).astype(np.float32))
    return X.multiply(1 / gene_scale(X)).tocsr()


def plant_unequal(n_cells, n_genes, n_programs, seed):
    "Programs whose sizes differ tenfold: a small one is easily lost to two halves of a large one"
    rng = np.random.default_rng(seed)
    truth = rng.choice(n_programs, n_genes, p=rng.dirichlet(np.full(n_programs, 4.0)))
    rate = 0.12 * rng.lognormal(0, 0.7, n_genes) * (rng.gamma(0.6, 1, (n_cells, n_programs))[:, truth] + 0.2)
    return rng.poisson(rate), truth


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n_cells, n_genes, k", [(2000, 300, 8), (2000, 500, 16), (2500, 700, 24)])
def test_planted_programs_found_with_the_same_loss_from_every_seed(n_cells, n_genes, k, signed):
    counts, truth = plant_signed(n_cells, n_genes, k, seed=k, level=0.2)[:2] if signed else plant_unequal(n_cells, n_genes, k, seed=k)
    X = scaled(counts)
    fits = [onmf(X, k, seed=seed, signed=signed) for seed in range(6)]
    final = np.array([fit.loss[-1] for fit in fits] + [onmf(X.toarray(), k, seed=7, signed=signed).loss[-1]])
    assert np.ptp(final) / final.mean() < 2e-4
    for fit in fits:
        assert adjusted_rand_score(truth, np.abs(fit.spectra).argmax(0)) >= 0.94
        assert (np.diff(fit.loss) <= 1e-9 * fit.loss[0]).all() and fit.converged


@pytest.mark.parametrize("data", range(3))
def test_no_seed_is_worse_than_the_planted_clusters(data):
    counts, truth = plant_unequal(1500, 400, 16, seed=data)
    G = gene_gram(scaled(counts))
    planted_loss = np.trace(G) - sum(np.linalg.eigvalsh(G[np.ix_(truth == k, truth == k)])[-1] for k in np.unique(truth))
    for seed in range(20):
        assert _fit_gram(G, 16, rng=np.random.default_rng(seed))[3][-1] <= planted_loss * (1 + 2e-4)


def test_merging_two_clusters_is_foreseen_to_its_lower_bound():
    X = np.random.default_rng(0).gamma(1, 1, (40, 30))
    G, labels = X.T @ X, np.arange(30) % 3
    spectra = np.array([np.linalg.svd(X * (labels == k), full_matrices=False)[2][0] for k in range(3)])
    kept = {pair: np.linalg.eigvalsh(spectra[list(pair)] @ G @ spectra[list(pair)].T)[1] + sum(h @ G @ h for k, h in enumerate(spectra) if k not in pair) for pair in [(0, 1), (0, 2), (1, 2)]}
    a, b = max(kept, key=kept.get)
    assert adjusted_rand_score(_merge(G, labels, spectra, 2), np.where(labels == b, a, labels)) == 1


@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_number_of_jobs_does_not_matter(planted, n_jobs):
    reference, other = (onmf(sparse.csr_matrix(planted[0]), 6, n_jobs=n) for n in (1, n_jobs))
    np.testing.assert_array_equal(other.spectra, reference.spectra)
    np.testing.assert_array_equal(other.usage, reference.usage)


def peak(call):
    "Result and largest memory in MB allocated on the way"
    tracemalloc.start()
    try: return call(), tracemalloc.get_traced_memory()[1] / 1e6
    finally: tracemalloc.stop()


def wide(n_cells, n_genes, per_cell=12, n_programs=4):
    "A sparse matrix whose cells draw their genes from one program each"
    rng = np.random.default_rng(0)
    of_cell = rng.integers(n_programs, size=n_cells)
    genes = (rng.integers(n_genes // n_programs, size=(n_cells, per_cell)) * n_programs + of_cell[:, None]).ravel()
    X = sparse.csr_matrix((rng.random(len(genes), dtype=np.float32) + 0.5, (np.repeat(np.arange(n_cells), per_cell), genes)), (n_cells, n_genes))
    return X, of_cell


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_is_never_made_dense(form):
    X, _ = wide(60_000, 1200)
    fit, used = peak(lambda: onmf(form(X), 4))
    assert used < 120                               # 288 MB in single precision
    assert adjusted_rand_score(np.arange(1200) % 4, fit.spectra.argmax(0)) == 1


# without the written matrix
@pytest.mark.parametrize("options", [{}, {"signed": True}, {"overlap": 2}])
def test_implicit_gram_leads_to_the_same(monkeypatch, options):
    X = scaled(plant_unequal(1500, 300, 8, seed=1)[0])
    written = onmf(X, 8, **options)
    monkeypatch.setattr(module, "_LARGEST_GRAM", 299)
    for form in (X, X.toarray()):
        implicit = onmf(form, 8, **options)
        np.testing.assert_array_equal(implicit.spectra != 0, written.spectra != 0)
        assert implicit.loss[-1] == pytest.approx(written.loss[-1], rel=1e-6)
        np.testing.assert_allclose(implicit.usage, written.usage, rtol=1e-3, atol=1e-3)


def test_implicit_gram_holds_no_genes_by_genes():
    X, _ = wide(3000, 12_000, per_cell=200)
    fit, used = peak(lambda: onmf(X, 4))
    assert used < 300                               # 1,150 MB for 12,000 × 12,000
    assert adjusted_rand_score(np.arange(12_000) % 4, fit.spectra.argmax(0)) == 1


def test_implicit_gram_of_weighted_scaled_cells():
    rng = np.random.default_rng(0)
    X, weights, scale = rng.gamma(1, 1, (60, 20)), rng.random(60), rng.random(20) + 0.5
    G = ImplicitGram(np.sqrt(weights)[:, None] * X / scale)
    np.testing.assert_allclose(G @ np.eye(20), gene_gram(X, weights=weights) / np.outer(scale, scale), rtol=1e-4)


# each cell uses one program
def plant_types(n_cells=1500, n_genes=200, n_types=6, seed=0):
    rng = np.random.default_rng(seed)
    types, profiles = rng.integers(n_types, size=n_cells), rng.lognormal(0, 0.8, (n_types, n_genes))
    return np.log1p(rng.poisson(0.2 * rng.lognormal(0, 0.3, (n_cells, 1)) * profiles[types])), types


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_cells_of_one_program_each(form, tmp_path):
    X, types = plant_types()
    X[3] = 0
    fits = [onmf(form(X), 6, orthogonal="cells", seed=seed) for seed in range(3)]
    assert np.ptp([fit.loss[-1] for fit in fits]) / fits[0].loss[-1] < 2e-4
    for fit in fits:
        assert adjusted_rand_score(np.delete(types, 3), np.delete(fit.usage, 3, 0).argmax(1)) >= 0.95
        assert not fit.usage[3].any() and ((fit.usage > 0).sum(1) == (np.arange(len(X)) != 3)).all()
        assert (np.diff(fit.loss) <= 1e-9 * fit.loss[0]).all() and fit.converged and (fit.spectra >= 0).all()
        assert fit.loss[-1] == pytest.approx(np.linalg.norm(X - fit.usage @ fit.spectra) ** 2, rel=1e-5)
        assert fit.explained.sum() == pytest.approx(1 - fit.loss[-1] / np.linalg.norm(X) ** 2)
        np.testing.assert_allclose(np.linalg.norm(fit.spectra, axis=1), 1)
    fit.save(tmp_path / "p.h5ad")
    np.testing.assert_allclose(Programs.load(tmp_path / "p.h5ad").transform(X[:100]), fit.usage[:100], rtol=1e-4, atol=1e-5)


def test_programs_of_cells_have_the_best_direction_of_their_cells():
    X, _ = plant_types(300, 60, 3)
    fit = onmf(X, 3, orthogonal="cells")
    for k in range(3):
        by_svd = np.abs(np.linalg.svd(X[fit.usage.argmax(1) == k], full_matrices=False)[2][0])
        np.testing.assert_allclose(fit.spectra[k], by_svd, atol=1e-5)


def test_clusters_of_cells_hold_no_cells_by_cells():
    X, of_cell = wide(20_000, 200)
    fit, used = peak(lambda: onmf(X, 4, orthogonal="cells", n_init=1))
    assert used < 200                               # 1,600 MB for cells × cells in single precision
    assert adjusted_rand_score(of_cell, fit.usage.argmax(1)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_loss_beats_multiplicative_restarts_in_noise(seed):
    X = np.random.default_rng(seed).gamma(1, 1, (100, 40))
    fit = onmf(X, 5, seed=seed)
    residual = np.linalg.norm(X - fit.usage @ fit.spectra) ** 2
    assert fit.loss[-1] == pytest.approx(residual, rel=1e-5)
    assert (np.diff(fit.loss) <= 1e-9 * residual).all()
    best = min(sum((np.linalg.svd(X[:, labels == k], compute_uv=False)[1:] ** 2).sum() for k in np.unique(labels))
               for labels in (KMeans(5, n_init=1, random_state=i).fit_predict((X / np.linalg.norm(X, axis=0)).T) for i in range(20)))
    assert fit.loss[-1] <= best


def test_transform(screen, programs):
    np.testing.assert_allclose(programs.transform(screen), programs.usage, rtol=1e-6)
    np.testing.assert_allclose(programs.transform(screen[:10, ::-1].copy()), programs.usage[:10], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(programs.transform(screen.X[:7]), programs.usage[:7], rtol=1e-6)
    with pytest.raises(ValueError, match="1 of 240 are missing: g5"):
        programs.transform(screen[:, screen.var_names != "g5"].copy())
    with pytest.raises(ValueError, match="the 240 genes of the programs, got 3"):
        programs.transform(screen.X[:, :3])


def test_save_load_and_tables(tmp_path, programs):
    programs.save(tmp_path / "p.h5ad")
    again = Programs.load(tmp_path / "p.h5ad")
    for field in ("usage", "spectra", "scale", "loss", "explained", "stability"):
        np.testing.assert_array_equal(getattr(again, field), getattr(programs, field))
    for field in ("names", "genes", "left_out", "converged", "parameters"):
        assert getattr(again, field) == getattr(programs, field)
    table = programs.to_frame()
    assert list(table.columns) == ["program", "gene", "weight", "rank"] and len(table) == (programs.spectra > 0).sum()
    assert (table.groupby("program")["weight"].apply(lambda w: np.linalg.norm(w)) - 1).abs().max() < 1e-9
    assert list(programs.top_genes(3).columns) == programs.names and programs.top_genes(3).shape == (3, 6)
    assert (np.diff(programs.explained) <= 0).all()


def test_summary(programs):
    table = programs.summary(2)
    assert list(table.index) == programs.names and list(table.columns) == ["genes", "explained", "stability", "heaviest"]
    assert table["genes"].sum() == (programs.spectra > 0).sum()
    np.testing.assert_array_equal(table["explained"], programs.explained)
    np.testing.assert_array_equal(table["stability"], programs.stability)
    assert table.loc["P1", "heaviest"].split(", ") == list(programs.top_genes(2)["P1"])
    assert (programs.summary(1000)["heaviest"].str.count(",") + 1 == table["genes"]).all()


@pytest.mark.parametrize("call, message", [
    (lambda p: onmf(np.ones(5), 1), "X must be cells × genes"),
    (lambda p: onmf(np.array([["a", "b"], ["c", "d"]]), 1), "X must be numeric"),
    (lambda p: onmf(np.zeros((5, 4)), 1), "number of genes"),
    (lambda p: onmf(p[0], 6, max_iter=0), "max_iter"),
    (lambda p: onmf(p[0], 6, n_init=0), "n_init"),
    (lambda p: onmf(p[0], 6, tol=-1), "tol must be a number of at least 0"),
    (lambda p: onmf(p[0], 6, tol=np.nan), "tol must be a number of at least 0"),
    (lambda p: onmf(p[0], 6, tol="x"), "tol must be a number of at least 0"),
    (lambda p: onmf(p[0], 6, signed="yes"), "signed must be True or False, got 'yes'"),
    (lambda p: onmf(p[0] * 1e30, 6), "X must have a squared norm below 1e18"),
    (lambda p: onmf(sparse.csr_matrix(p[0] * 1e300), 6), "X must have a squared norm below 1e18, got inf"),
    (lambda p: onmf(p[0], 6).top_genes("x"), "n must be a whole number of at least 1"),
    (lambda p: onmf(p[0], 6, n_jobs=0), "n_jobs must be"),
    (lambda p: onmf(p[0], 6, n_jobs=-2), "n_jobs must be"),
    (lambda p: onmf(p[0], 6, n_jobs=1.5), "n_jobs must be"),
    (lambda p: onmf(p[0], 6, seed=-1), "seed must be"),
    (lambda p: onmf(p[0], 0), "n_programs must be a whole number of at least 1"),
    (lambda p: onmf(p[0], 2.0), "n_programs must be a whole number"),
    (lambda p: onmf(p[0], 241), "number of genes with any variation, 240, got 241"),
    (lambda p: onmf(p[0][:4], 5), "number of cells, 4, got 5"),
    (lambda p: onmf(p[0][:1], 1), "at least two cells"),
    (lambda p: onmf(-p[0], 6), "X must not be negative, its lowest value is"),
    (lambda p: onmf(sparse.csr_matrix(-p[0]), 6), "X must not be negative"),
    (lambda p: onmf(np.where(p[0] > 5, np.nan, p[0]), 6), "X must be finite"),
    (lambda p: onmf(sparse.csr_matrix(np.where(p[0] > 5, np.inf, p[0])), 6), "X must be finite"),
    (lambda p: onmf(p[0].astype(object), 6), "X must be numeric, got dtype object"),
    (lambda p: onmf(p[0].astype(complex), 6), "X must be numeric, got dtype complex"),
    (lambda p: onmf(ad.AnnData(p[0].astype(float)), 6), "X must be a matrix, got AnnData"),
    (lambda p: onmf(p[0], 6, orthogonal="both"), "orthogonal must be 'genes' or 'cells'"),
    (lambda p: onmf(p[0], 6, orthogonal="cells", signed=True), "neither with signed nor with overlap"),
    (lambda p: onmf(p[0], 6, orthogonal="cells", overlap=2), "neither with signed nor with overlap"),
    (lambda p: onmf(p[0], 6, orthogonal="cells", solver="mu"), "solver='em' only"),
    (lambda p: onmf(np.eye(5)[:, :3], 4, orthogonal="cells"), "number of cells, 3, got 4"),
])
def test_bad_input(planted, call, message):
    with pytest.raises(ValueError, match=message):
        call(planted)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("options", [{}, {"signed": True}, {"overlap": 2}, {"orthogonal": "cells"}])
def test_large_values_are_taken_without_overflow(planted, form, options):
    X = planted[0].astype(float)
    X *= 0.9e9 / np.linalg.norm(X)
    np.testing.assert_allclose(onmf(form(X), 6, **options).explained, onmf(form(planted[0].astype(float)), 6, **options).explained, rtol=1e-4)


def test_true_and_false_count_as_one_and_zero(planted):
    for form in (np.asarray, sparse.csr_matrix):
        fit, reference = onmf(form(planted[0] > 0), 6), onmf((planted[0] > 0).astype(float), 6)
        np.testing.assert_array_equal(fit.spectra > 0, reference.spectra > 0)
        np.testing.assert_allclose(fit.usage, reference.usage, rtol=1e-5, atol=1e-5)


def test_all_zero_genes_and_cells(planted):
    X = planted[0].astype(float)
    X[:, 5], X[7] = 0, 0
    fit = onmf(X, 6)
    assert not fit.spectra[:, 5].any() and not fit.usage[7].any() and np.isfinite(fit.usage).all()


def test_one_program_and_as_many_as_genes():
    X = np.random.default_rng(0).gamma(1, 1, (50, 6))
    np.testing.assert_allclose(onmf(X, 1).loss[-1], (np.linalg.svd(X, compute_uv=False)[1:] ** 2).sum(), rtol=1e-4)
    assert onmf(X, 6).loss[-1] == pytest.approx(0, abs=1e-3)


def test_multiplicative_updates_are_the_reference(planted):
    X = np.log1p(planted[0]).astype(float)
    ours, theirs = onmf(X, 6), onmf(sparse.csr_matrix(X), 6, solver="mu", max_iter=1000, tol=1e-6)
    assert adjusted_rand_score(ours.spectra.argmax(0), theirs.spectra.argmax(0)) > 0.8
    assert theirs.loss[-1] == pytest.approx(np.linalg.norm(X - theirs.usage @ theirs.spectra) ** 2, rel=1e-4)
    assert len(theirs.loss) > 2 and theirs.loss[-1] <= theirs.loss[-2] * (1 + 1e-6) and (theirs.usage >= 0).all()
    np.testing.assert_allclose(theirs.transform(X[:20]), theirs.usage[:20], rtol=1e-4, atol=1e-5)
    for wrong in (dict(solver="als"), dict(solver="mu", signed=True), dict(solver="mu", overlap=2)):
        with pytest.raises(ValueError, match="solver"):
            onmf(X, 6, **wrong)
