"""Orthogonal NMF: what would bore a reader of 01_onmf."""
import numpy as np
import pandas as pd
import pytest
from planted import plant
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from perturbnb.gram import gene_scale
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


@pytest.mark.parametrize("k", [5, 8, 12])
def test_planted_programs_found_with_the_same_loss_from_every_seed(k):
    counts, truth = plant(3000, 400, k, seed=k)
    X = sparse.csr_matrix(np.log1p(counts))
    scale = gene_scale(X)
    X = X.multiply(1 / scale).tocsr()
    fits = [onmf(X, k, seed=seed) for seed in range(5)]
    final = np.array([fit.loss[-1] for fit in fits])
    assert np.ptp(final) / final.mean() < 2e-4
    for fit in fits:
        assert adjusted_rand_score(truth, fit.spectra.argmax(0)) >= 0.94
        assert (np.diff(fit.loss) <= 1e-9 * fit.loss[0]).all() and fit.converged


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
])
def test_bad_input(planted, call, message):
    with pytest.raises(ValueError, match=message):
        call(planted)


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
