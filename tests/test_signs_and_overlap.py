"""Signed and overlapping programs, and the Gram matrix under them: what would bore a reader of 01_gram and 01c_signs_and_overlap."""
import numpy as np
import pytest
from planted import as_screen, plant, plant_shared, plant_signed
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from perturbnb.consensus import find_programs, store_programs
from perturbnb.gram import gene_gram, gene_scale
from perturbnb.levels import discretize
from perturbnb.network import infer_network
from perturbnb.programs import Programs, onmf


def scaled(counts):
    X = sparse.csr_matrix(np.log1p(counts).astype(np.float32))
    return X.multiply(1 / gene_scale(X)).tocsr()


def of_gene(fit): return np.abs(fit.spectra).argmax(0)


def sign_agreement(fit, truth, sign):
    found = np.sign(fit.spectra[of_gene(fit), np.arange(len(truth))])
    return sum(max((found[g] == sign[g]).sum(), (found[g] == -sign[g]).sum()) for g in (truth == k for k in np.unique(truth))) / len(truth)


@pytest.fixture(scope="module")
def signed_screen():
    counts, truth, sign = plant_signed()
    screen = as_screen(sparse.csr_matrix(np.log1p(counts).astype(np.float32)))
    screen.obs["if_control"] = screen.obs["target_gene"] == "control"
    screen.obs["batch"] = np.where(np.arange(screen.n_obs) % 2, "x", "y")
    return screen, truth, sign


def test_planted_signed_programs_from_every_seed():
    for data in range(3):
        counts, truth, sign = plant_signed(3000, 600, 12, seed=data, level=0.15)
        X = scaled(counts)
        fits = [onmf(X, 12, signed=True, seed=seed) for seed in range(4)]
        final = np.array([fit.loss[-1] for fit in fits])
        assert np.ptp(final) / final.mean() < 2e-4
        for fit in fits:
            assert adjusted_rand_score(truth, of_gene(fit)) >= 0.90 and sign_agreement(fit, truth, sign) >= 0.99
            assert (np.diff(fit.loss) <= 1e-9 * fit.loss[0]).all() and fit.converged
            assert ((fit.spectra * np.abs(fit.spectra)).sum(1) >= 0).all()
        assert adjusted_rand_score(truth, of_gene(onmf(X, 12))) < 0.75


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_signed_accepts_negative_values_and_does_not_care_for_a_shift(form):
    X = scaled(plant_signed()[0]).toarray()
    shifted = X - 1.5
    if form is not np.asarray: shifted[0, 0] = 0
    reference, other = onmf(X, 6, signed=True), onmf(form(shifted), 6, signed=True)
    np.testing.assert_array_equal(of_gene(reference), of_gene(other))
    np.testing.assert_allclose(reference.usage[1:], other.usage[1:], rtol=1e-2, atol=2e-2)


def test_constant_genes_stay_out_of_signed_programs():
    X = scaled(plant_signed()[0]).toarray()
    X[:, 3], X[:, 4] = 0, 2.7
    fit = onmf(X, 6, signed=True)
    assert not fit.spectra[:, [3, 4]].any() and np.isfinite(fit.usage).all()


@pytest.mark.parametrize("balance", ["sqrt", "none"])
def test_signed_screen(signed_screen, balance):
    screen, truth, sign = signed_screen
    found = find_programs(screen, 6, n_repeats=3, signed=True, balance=balance)
    assert adjusted_rand_score(truth, of_gene(found)) >= 0.90 and sign_agreement(found, truth, sign) >= 0.99
    assert list(found.centre.index) == ["y", "x", ""] and list(found.centre.columns) == found.genes
    controls = (screen.obs["if_control"] & (screen.obs["batch"] == "x")).to_numpy()
    visible = ~np.isin(found.genes, found.left_out)
    np.testing.assert_allclose(found.centre.loc["x"], np.asarray(screen.X[controls].mean(0)).ravel(), rtol=1e-4)
    moved = (screen.X.toarray() - found.centre.loc[screen.obs["batch"]].to_numpy()) / found.scale
    np.testing.assert_allclose(found.usage, moved[:, visible] @ found.spectra[:, visible].T, rtol=1e-3, atol=1e-3)


def test_signed_programs_go_to_a_file_and_other_cells(tmp_path, signed_screen):
    screen, _, _ = signed_screen
    found = find_programs(screen, 6, n_repeats=1, signed=True)
    found.save(tmp_path / "p.h5ad")
    again = Programs.load(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(again.centre, found.centre)
    assert list(again.centre.index) == list(found.centre.index)
    np.testing.assert_allclose(again.transform(screen[::3].copy()), found.usage[::3], rtol=1e-4, atol=1e-4)
    elsewhere = screen.copy()
    elsewhere.obs["batch"] = "new"
    np.testing.assert_allclose(found.transform(elsewhere), found.transform(screen.X), rtol=1e-5)
    assert found.to_frame()["weight"].min() < 0 and found.summary()["genes"].sum() == (found.spectra != 0).sum()
    first = found.to_frame().query("rank == 1").set_index("program")["weight"].abs()
    np.testing.assert_allclose(first[found.names], np.abs(found.spectra).max(1))


def test_signed_without_controls_or_batches_and_one_job_as_two(signed_screen):
    plain = signed_screen[0].copy()
    plain.obs = plain.obs[["target_gene"]]
    found = find_programs(plain, 6, n_repeats=3, signed=True)
    np.testing.assert_allclose(found.centre.loc[""], np.asarray(plain.X.mean(0)).ravel(), rtol=1e-4)
    parallel = find_programs(plain, 6, n_repeats=3, signed=True, n_jobs=2)
    np.testing.assert_array_equal(np.sign(parallel.spectra), np.sign(found.spectra))


def test_signed_usage_is_discretised_stored_and_networked(signed_screen):
    screen, _, _ = signed_screen
    found = find_programs(screen, 6, n_repeats=2, signed=True, prior_programs={"mine": ["g1", "g7", "g9"]})
    assert set(found.to_frame().query("program == 'mine'")["gene"]) == {"g1", "g7", "g9"}
    spins = discretize(found.usage)
    assert store_programs(screen, found, spins).varm["onmf"].min() < 0
    assert np.isfinite(infer_network(spins, screen.obs["target_gene"]).J).all()


@pytest.mark.parametrize("seed", range(3))
def test_second_memberships(seed):
    counts, truth, second = plant_shared(seed=seed)
    X = scaled(counts)
    hard, soft = onmf(X, 6), onmf(X, 6, overlap=2)
    member, shared = np.eye(6, dtype=bool)[truth].T, second >= 0
    member[second[shared], np.flatnonzero(shared)] = True
    rows, columns = linear_sum_assignment(-((soft.spectra > 0).astype(int) @ member.T.astype(int)))
    guess = np.zeros_like(member)
    guess[columns] = soft.spectra[rows] > 0
    right = ((guess & member).sum(0) == 2).sum()
    assert right / (guess.sum(0) == 2).sum() >= 0.8 and right / shared.sum() >= 0.7
    assert adjusted_rand_score(truth[~shared], of_gene(soft)[~shared]) >= adjusted_rand_score(truth[~shared], of_gene(hard)[~shared])
    assert soft.loss[-1] < hard.loss[-1]
    assert soft.loss[-1] == pytest.approx(np.linalg.norm(X.toarray() - soft.usage @ soft.spectra) ** 2, rel=1e-4)
    assert (soft.usage >= 0).all() and (soft.spectra >= 0).all() and (np.diff(soft.explained) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(soft.spectra, axis=1), 1)


def test_overlap_on_a_screen(tmp_path):
    counts, truth, second = plant_shared()
    screen = as_screen(sparse.csr_matrix(np.log1p(counts).astype(np.float32)))
    found = find_programs(screen, 6, n_repeats=2, overlap=2)
    shared = (found.spectra > 0).sum(0) == 2
    assert (second[shared] >= 0).mean() >= 0.8 and shared[second >= 0].mean() >= 0.7
    found.save(tmp_path / "p.h5ad")
    np.testing.assert_allclose(Programs.load(tmp_path / "p.h5ad").transform(screen[:50]), found.usage[:50], rtol=1e-4, atol=1e-5)
    assert len(found.to_frame()) == (found.spectra > 0).sum() > screen.n_vars
    both = find_programs(screen, 6, n_repeats=1, overlap=3, signed=True)
    assert np.isfinite(both.usage).all() and ((both.spectra != 0).sum(0) <= 3).all()


def test_overlap_alone_changes_no_first_program():
    counts, truth = plant(3000, 400, 8)
    X = scaled(counts)
    hard, soft = onmf(X, 8), onmf(X, 8, overlap=2)
    assert adjusted_rand_score(of_gene(hard), of_gene(soft)) == 1
    assert ((soft.spectra > 0).sum(0) > 1).sum() <= 6


@pytest.mark.parametrize("call, message", [
    (lambda X: onmf(X, 6, overlap=0), "overlap must be a whole number"),
    (lambda X: onmf(X, 6, overlap=1.5), "overlap must be a whole number"),
    (lambda X: find_programs(as_screen(X), 6, overlap=-1), "overlap must be a whole number"),
    (lambda X: onmf(-X, 6), "must not be negative"),
    (lambda X: onmf(np.ones((30, 20)), 2, signed=True), "genes with any variation, 0"),
])
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(scaled(plant()[0]))


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_gram_kernel_with_unsorted_and_repeated_entries(dtype):
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 200, 3000), rng.integers(0, 130, 3000)
    values = rng.integers(1, 5, 3000).astype(dtype)
    tidy = sparse.csr_matrix((values, (rows, columns)), (200, 130))
    order = np.argsort(rows, kind="stable")
    messy = sparse.csr_matrix((values[order], columns[order], np.r_[0, np.cumsum(np.bincount(rows, minlength=200))]), (200, 130))
    before = messy.indices.copy()
    weights = rng.random(200)
    expected = tidy.toarray().T.astype(float) @ (weights[:, None] * tidy.toarray())
    np.testing.assert_allclose(gene_gram(messy, weights=weights, max_density=1), expected, rtol=1e-9)
    np.testing.assert_allclose(gene_gram(messy, weights=weights, max_density=0), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(messy.indices, before)
