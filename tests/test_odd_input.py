"""Odd AnnData, drawn by hypothesis: how numbers are stored changes nothing, labels of any kind are the same texts, and the smallest screens end in finite results or in an error with a name."""
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy import sparse

import perturbnb as pnb
from perturbnb.common import logger

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")
FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
OPEN = dict(max_mito_percent=None, min_genes=0, min_cells_per_guide=1, min_cell_fraction=0., cell_cycle=False)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    before = logger.level
    pnb.set_verbosity("error")
    yield
    logger.setLevel(before)


def counts(n_cells=60, n_genes=12, seed=0): return np.random.default_rng(seed).poisson(2, (n_cells, n_genes)).clip(0, 100)
def labels(n_cells=60): return np.resize(["NT_1", "A_1", "A_2", "B_1", "B_2"], n_cells)
def screen_of(X, guide=None, **obs): return ad.AnnData(X, obs=pd.DataFrame({"guide": labels(X.shape[0]) if guide is None else guide, **obs}, index=[f"c{i}" for i in range(X.shape[0])]))


# how numbers are stored

def unsorted(X):
    "CSR with the indices of each row backwards"
    X = sparse.csr_matrix(X)
    for i in range(X.shape[0]):
        row = slice(X.indptr[i], X.indptr[i + 1])
        X.indices[row], X.data[row] = X.indices[row][::-1].copy(), X.data[row][::-1].copy()
    X.has_sorted_indices = False
    return X

def doubled(X):
    "CSR in which each number is stored as two parts, at one place"
    X = sparse.csr_matrix(X)
    first = X.data // 2
    parts = np.stack([first, X.data - first], axis=1).astype(X.dtype).ravel()
    return sparse.csr_matrix((parts, np.repeat(X.indices, 2), 2 * X.indptr), X.shape)

def long_indices(X):
    X = sparse.csr_matrix(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X

def explicit_zeros(X): return sparse.csr_matrix((np.asarray(X).ravel(), np.tile(np.arange(X.shape[1]), X.shape[0]), np.arange(X.shape[0] + 1) * X.shape[1]), X.shape)

LAYOUTS = {"C": np.ascontiguousarray, "F": np.asfortranarray, "CSR": sparse.csr_matrix, "CSC": sparse.csc_matrix, "CSR array": sparse.csr_array, "unsorted": unsorted, "duplicates": doubled,
           "64-bit indices": long_indices, "explicit zeros": explicit_zeros, "read-only": lambda X: np.broadcast_to(X, X.shape), "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2]}
MATRICES = LAYOUTS | {"COO": sparse.coo_matrix, "DataFrame": pd.DataFrame, "matrix": np.matrix, "list": lambda X: X.tolist()}
dtypes = st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "int64", "uint64", "float32", "float64"])


@pytest.fixture(scope="module")
def prepared(): return pnb.prepare_screen(screen_of(counts()), guide_key="guide", control="NT*", **OPEN)


@FEW
@given(layout=st.sampled_from(sorted(LAYOUTS)), dtype=dtypes, place=st.sampled_from(["X", "layer", "view", "raw"]))
def test_counts_may_be_stored_in_any_way(prepared, layout, dtype, place):
    X = LAYOUTS[layout](counts().astype(dtype))
    adata = screen_of(X)
    if place == "layer": adata = ad.AnnData(np.full(X.shape, np.nan), obs=adata.obs, layers={"counts": X})
    if place == "view": adata = screen_of(sparse.vstack([sparse.csr_matrix(X)] * 2).tocsr() if sparse.issparse(X) else np.vstack([X, X]), np.tile(labels(), 2))[:60]
    if place == "raw": adata.raw = adata.copy()
    before = adata.copy()
    found = pnb.prepare_screen(adata, guide_key="guide", control="NT*", layer="counts" if place == "layer" else None, **OPEN)
    np.testing.assert_allclose(found.X.toarray(), prepared.X.toarray(), rtol=1e-6)
    np.testing.assert_array_equal(found.layers["counts"].toarray(), counts())
    assert found.X.has_canonical_format and found.X.dtype == np.float32
    pd.testing.assert_frame_equal(found.uns["perturbnb"]["samples"], prepared.uns["perturbnb"]["samples"])
    kept, given_before = (each.layers["counts"] if place == "layer" else each.X for each in (adata, before))
    assert sparse.issparse(kept) == sparse.issparse(given_before) and kept.dtype == given_before.dtype, "the input is as it was"
    np.testing.assert_array_equal(*(each.toarray() if sparse.issparse(each) else each for each in (kept, given_before)))


@FEW
@given(layout=st.sampled_from(sorted(MATRICES)), dtype=dtypes, order=st.sampled_from(["F", "C"]))
def test_matrices_and_usage_in_any_form(layout, dtype, order):
    X = counts(40, 8, seed=1)
    one, two = pnb.onmf(X.astype(float), 2), pnb.onmf(MATRICES[layout](X.astype(dtype)), 2)
    np.testing.assert_allclose(two.spectra, one.spectra, atol=1e-5)
    usage = np.asarray(X.astype(dtype), order=order)
    for form in (np.asarray, pd.DataFrame, lambda x: x.tolist()):
        spins = pnb.discretize(form(usage))
        np.testing.assert_array_equal(spins, pnb.discretize(X.astype(float)))
    for x, s in zip(X.T, spins.T): assert (np.diff(s[np.argsort(x, kind="stable")]) >= 0).all(), "more usage is never a lower level"


forms = st.sampled_from([np.asarray, np.asfortranarray, np.matrix, pd.DataFrame, lambda s: s.tolist(), lambda s: np.repeat(s, 2, axis=0)[::2]])
containers = st.sampled_from([list, tuple, np.array, pd.Series, pd.Index, pd.Categorical, lambda x: pd.Series(x, dtype="string"), lambda x: pd.Categorical(x, sorted({*x, "nobody"}), ordered=True),
                              lambda x: pd.Series(x, index=np.arange(len(x))[::-1])])


@FEW
@given(form=forms, dtype=st.sampled_from(["int8", "int16", "int64", "float32", "float64"]), container=containers)
def test_spins_and_labels_in_any_form(form, dtype, container):
    spins, sample = np.random.default_rng(2).integers(-1, 2, (60, 3)), labels()
    one = pnb.infer_network(spins, sample, l2_response=1., l1_J=0., method="pseudo_likelihood")
    two = pnb.infer_network(form(spins.astype(dtype)), container(sample), l2_response=1., l1_J=0., method="pseudo_likelihood")
    np.testing.assert_array_equal(one.J, two.J)
    np.testing.assert_array_equal(one.h, two.h)
    assert list(one.samples.index) == list(two.samples.index)
    np.testing.assert_array_equal(pnb.fit_quality(one, spins, sample), pnb.fit_quality(two, form(spins.astype(dtype)), container(sample)))


# labels

names = st.sampled_from(["A", "α-βγ", "基因 1", "a|b", "a b", "-1", "1.0", "007", "TP53", "x/y", "é", "$μ$", "None of these", "True"])
odd_column = st.lists(st.one_of(names, st.integers(-3, 12), st.booleans(), st.sampled_from([None, np.nan, pd.NA, "", "nan", " "])), min_size=40, max_size=40)
wrapping = st.sampled_from(["object", "categories", "ordered", "categories without members"])


@FEW
@given(guides=odd_column, batches=st.lists(st.one_of(names, st.integers(0, 3)), min_size=40, max_size=40), wrap=wrapping)
def test_guides_and_batches_of_any_name(guides, batches, wrap, tmp_path_factory):
    def column(values):
        values = pd.Series(values, dtype=object)
        if wrap == "object": return values.to_numpy()
        values = values.map(lambda value: str(value) if isinstance(value, bool) else value)      # pandas has one category for 1 and True
        known = sorted(values.dropna().unique(), key=str)
        return pd.Categorical(values, [*known, "nobody"] if wrap == "categories without members" else known, ordered=wrap == "ordered")
    adata = screen_of(counts(40, 6, seed=3), column(guides), batch=column(batches))
    text = pd.Series([None if pd.isna(value) or str(value).strip() in ("", "nan") else str(value).strip() for value in guides])
    try: screen = pnb.prepare_screen(adata, guide_key="guide", batch_key="batch", multi_guide="keep", guide_separator=None, **OPEN)
    except ValueError as error:
        assert re.match("screen|guide|batch_key|sample_id|control", str(error)), error
        return
    assert sorted(screen.obs["guide"].astype(str)) == sorted(text.dropna())
    assert screen.uns["perturbnb"]["samples"]["n_cells"].sum() == screen.n_obs and np.isfinite(screen.X.data).all()
    path = tmp_path_factory.getbasetemp() / "odd.h5ad"
    screen.write_h5ad(path)
    again = ad.read_h5ad(path)
    assert list(again.obs["sample_id"].astype(str)) == list(screen.obs["sample_id"].astype(str))


@FEW
@given(yes=st.sampled_from([True, 1, 1., "True", "true", "1", np.int8(1)]), no=st.sampled_from([False, 0, 0., "False", "false", "0", np.int8(0)]), wrap=st.booleans())
def test_flags_in_any_spelling(yes, no, wrap):
    flags = [yes if guide.startswith("NT") else no for guide in labels()]
    adata = screen_of(counts(), control=pd.Categorical(pd.Series(flags, dtype=object)) if wrap else pd.Series(flags, dtype=object).to_numpy())
    screen = pnb.prepare_screen(adata, guide_key="guide", control_key="control", **OPEN)
    assert list(screen.obs["if_control"]) == [guide.startswith("NT") for guide in labels()]


@pytest.mark.parametrize("index", ["numbers", "twice", "unicode", "empty"])
def test_names_of_cells_and_genes(index, tmp_path):
    adata = screen_of(counts())
    n_cells, n_genes = adata.shape
    cells, genes = {"numbers": (range(n_cells), range(n_genes)), "twice": (["c"] * n_cells, ["g"] * n_genes), "unicode": ([f"细胞 {i}" for i in range(n_cells)], [f"γ{i}" for i in range(n_genes)]),
                    "empty": ([""] * n_cells, [""] * n_genes)}[index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names, adata.var_names = list(map(str, cells)), list(map(str, genes))
    screen = pnb.prepare_screen(adata, guide_key="guide", control="NT*", **OPEN)
    assert screen.shape == adata.shape and screen.obs_names.is_unique and screen.var_names.is_unique
    programs = pnb.find_programs(screen, 2, n_repeats=1)
    pnb.store_programs(screen, programs, pnb.discretize(programs.usage)).write_h5ad(tmp_path / "named.h5ad")
    assert list(ad.read_h5ad(tmp_path / "named.h5ad").var_names) == list(screen.var_names)


def test_a_screen_on_disk_is_the_same_screen(prepared, tmp_path):
    screen_of(sparse.csr_matrix(counts())).write_h5ad(tmp_path / "screen.h5ad")
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    for screen in (tmp_path / "screen.h5ad", str(tmp_path / "screen.h5ad"), backed, backed[:]):
        found = pnb.prepare_screen(screen, guide_key="guide", control="NT*", **OPEN)
        np.testing.assert_array_equal(found.X.toarray(), prepared.X.toarray())


# the smallest screens

ARGUMENTS = r"^(screen|X|adata|n_programs|usage|spins|sample_id|samples|design|network|response|control|guide|batch|J|min_|multi_guide|uncertainty|estimate|covariance|names|level)"


@settings(FEW, max_examples=40)
@given(data=st.data(), n_cells=st.integers(1, 8), n_genes=st.integers(1, 4), with_control=st.booleans())
def test_the_smallest_screens_are_finite_or_refused(data, n_cells, n_genes, with_control):
    "One cell, one gene, one guide, one target, no control, one control: nothing else than these two ends"
    X = np.array(data.draw(st.lists(st.lists(st.integers(0, 3), min_size=n_genes, max_size=n_genes), min_size=n_cells, max_size=n_cells)))
    guides = data.draw(st.lists(st.sampled_from(["NT_1", "A_1", "A_2", "B_1"]), min_size=n_cells, max_size=n_cells))
    batches = data.draw(st.lists(st.sampled_from(["1", "2"]), min_size=n_cells, max_size=n_cells))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            screen = pnb.prepare_screen(screen_of(X, guides, batch=batches), guide_key="guide", batch_key="batch", control="NT*" if with_control else None, **OPEN)
            programs = pnb.find_programs(screen, 1, n_repeats=1, balance="none")
            spins, sample_id = pnb.discretize(programs.usage), screen.obs["sample_id"]
            network = pnb.infer_network(spins, sample_id, samples=screen.uns["perturbnb"]["samples"])
            response = pnb.relative_response(network)
            targets = response.by_target()
            modules = pnb.network_modules(network.J)
            groups = pnb.response_groups(network.J, targets, modules)
        except ValueError as error:
            assert re.match(ARGUMENTS, str(error)), error
            return
    found = dict(usage=programs.usage, spectra=programs.spectra, explained=programs.explained, J=network.J, h=network.h, coefficients=network.coefficients, sd=network.coefficient_sd,
                 response=response.values, targets=targets.values, groups=groups.strength, quality=pnb.fit_quality(network, spins, sample_id)["deviance_explained"])
    for name, values in found.items(): assert np.isfinite(np.asarray(values, float)).all(), (name, values)
