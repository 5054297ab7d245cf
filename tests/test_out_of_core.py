"A screen on disk gives what the same screen in memory gives; and what is refused"
import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbnb as pnb
from perturbnb.out_of_core import _is_lazy, _stacked, _summed
from perturbnb.preprocess import G2M_GENES, S_GENES

KEYS = dict(guide_key="guide", target_key="gene", control="control", batch_key="batch")


@pytest.fixture(scope="module")
def counts():
    "A screen with cell-cycle and mitochondrial genes"
    screen = pnb.simulate_screen(n_cells=2000, n_genes=600, n_programs=8, seed=1)
    wanted = [*S_GENES, *G2M_GENES, *(f"MT-{i}" for i in range(15))]
    kept = {*screen.obs["gene"], *wanted}
    free = iter([gene for gene in screen.var_names if gene not in kept])
    screen.var_names = screen.var_names.to_series().replace({next(free): gene for gene in wanted if gene not in screen.var_names})
    return screen


@pytest.fixture(scope="module")
def path(counts, tmp_path_factory):
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    counts.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def prepared(counts):
    return pnb.prepare_screen(counts, keep_raw=True, **KEYS)


@pytest.fixture(scope="module")
def on_disk(path):
    "Prepared block by block, written, and opened again with other blocks"
    screen = pnb.prepare_screen(pnb.open_screen(path, chunk_cells=700), keep_raw=True, **KEYS)
    assert _is_lazy(screen.X) and _is_lazy(screen.layers["counts"])
    pnb.write_screen(screen, path.with_name("prepared.h5ad"))
    return pnb.open_screen(path.with_name("prepared.h5ad"), chunk_cells=901)


def test_preparation_is_the_same(prepared, on_disk, path):
    pd.testing.assert_frame_equal(on_disk.obs, prepared.obs, rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(on_disk.var, prepared.var, rtol=1e-5)
    assert set(prepared.obs["phase"]) == {"G1", "S", "G2M"}
    for name in ("samples", "removed"): pd.testing.assert_frame_equal(on_disk.uns["perturbnb"][name], prepared.uns["perturbnb"][name])
    whole = ad.read_h5ad(path.with_name("prepared.h5ad"))
    assert (whole.layers["counts"] != prepared.layers["counts"]).nnz == 0
    for here, there in ((whole.X, prepared.X), (whole.raw.X, prepared.raw.X)): np.testing.assert_allclose(here.toarray(), there.toarray(), rtol=1e-6)


def test_a_written_screen_has_narrow_indices(on_disk, path, counts, tmp_path):
    "Gene numbers take 32 bits and places of entries 64, so a file is small and may hold more than two billion of them; dense and empty matrices stay what they are"
    with h5py.File(path.with_name("prepared.h5ad")) as file:
        for key in ("X", "layers/counts"): assert (file[key]["indices"].dtype, file[key]["indptr"].dtype) == (np.int32, np.int64)
    mixed = pnb.open_screen(path, chunk_cells=700)
    mixed.layers["dense"], mixed.layers["empty"] = counts.X.toarray(), pnb.open_screen(path).X * 0
    pnb.write_screen(mixed, tmp_path / "mixed.h5ad")
    mixed.X = None
    pnb.write_screen(mixed, tmp_path / "none.h5ad")
    for name in ("mixed", "none"):
        again = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        assert (again.X is None) == (name == "none") and again.obs_names.equals(counts.obs_names)
        np.testing.assert_array_equal(again.layers["dense"], counts.X.toarray())
        assert again.layers["empty"].shape == counts.shape and not again.layers["empty"].count_nonzero()
    assert (ad.read_h5ad(tmp_path / "mixed.h5ad").X != counts.X).nnz == 0


def test_highly_variable_genes_are_the_same(path, counts, monkeypatch):
    monkeypatch.setattr("perturbnb.preprocess.PANEL_GENES", 100)
    options = KEYS | dict(max_genes=250, min_genes=10)
    whole, blocks = pnb.prepare_screen(counts, **options), pnb.prepare_screen(pnb.open_screen(path, chunk_cells=700), **options)
    assert 0 < whole.n_vars < counts.n_vars
    assert list(blocks.var_names) == list(whole.var_names)
    pd.testing.assert_frame_equal(blocks.var, whole.var, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, dict(signed=True), dict(overlap=2), dict(balance="none", min_cell_fraction=0.1), dict(min_group_cells=100)], ids=str)
def test_programs_are_the_same(prepared, on_disk, options):
    whole, blocks = (pnb.find_programs(screen, 9, n_repeats=3, **options) for screen in (prepared, on_disk))
    assert whole.names == blocks.names and whole.genes == blocks.genes and whole.left_out == blocks.left_out
    np.testing.assert_array_equal(blocks.spectra != 0, whole.spectra != 0)
    np.testing.assert_allclose(blocks.usage, whole.usage, rtol=1e-5, atol=1e-5 * abs(whole.usage).max())
    np.testing.assert_allclose(blocks.explained, whole.explained, rtol=1e-5)
    levels = pnb.fit_levels(whole.usage)
    assert (levels.apply(blocks.usage) == levels.apply(whole.usage)).mean() > 0.9999        # a value may lie on a threshold
    np.testing.assert_allclose(pnb.fit_levels(blocks.usage).thresholds, levels.thresholds, rtol=1e-5, atol=1e-6)


def test_many_perturbed_genes(prepared, on_disk):
    "Above one in twenty, perturbed genes get the level of the controls in their cells"
    few = list(prepared.var_names[~prepared.var_names.isin(prepared.obs["target_gene"])][:150]) + sorted(set(prepared.obs["target_gene"]) & set(prepared.var_names))
    whole, blocks = (pnb.find_programs(screen[:, few], 9, n_repeats=1) for screen in (prepared, on_disk))
    assert whole.left_out == []
    np.testing.assert_allclose(blocks.usage, whole.usage, rtol=1e-5, atol=1e-5 * whole.usage.max())


def test_number_of_programs_is_the_same(prepared, on_disk):
    whole, blocks = (pnb.choose_n_programs(screen, [6, 8], n_repeats=1) for screen in (prepared, on_disk))
    assert whole.best == blocks.best
    pd.testing.assert_frame_equal(whole.table, blocks.table, rtol=1e-5)


def test_foreign_programs_are_the_same(prepared, on_disk):
    programs = pnb.find_programs(prepared, 9, n_repeats=1)
    for function in (lambda screen: pnb.adopt_programs(screen, programs).usage, lambda screen: pnb.project_programs(programs, screen)):
        np.testing.assert_allclose(function(on_disk), function(prepared), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_zarr(counts, prepared, tmp_path):
    counts.write_zarr(tmp_path / "screen.zarr")
    for screen in (pnb.open_screen(tmp_path / "screen.zarr", chunk_cells=800), tmp_path / "screen.zarr"):
        found = pnb.prepare_screen(screen, keep_raw=True, **KEYS)
        np.testing.assert_allclose(np.asarray(_stacked(lambda block: block.sum(1), found.X)), np.asarray(prepared.X.sum(1)), rtol=1e-6)


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, lambda X: X.astype(np.int64), lambda X: sparse.csr_matrix(X.astype(np.int32))])
def test_kinds_of_counts(tmp_path, prepared, counts, store):
    other = ad.AnnData(store(counts.X.toarray()), obs=counts.obs, var=counts.var)
    other.write_h5ad(tmp_path / "other.h5ad")
    found = pnb.prepare_screen(pnb.open_screen(tmp_path / "other.h5ad", chunk_cells=800), **KEYS)
    assert found.X[:5].compute().dtype == np.float32
    np.testing.assert_allclose(np.asarray(_stacked(lambda block: block.sum(1), found.X)), np.asarray(prepared.X.sum(1)), rtol=1e-6)


def broken(counts, value):
    other = counts.copy()
    other.X = other.X.copy()
    other.X.data[-1] = value
    return other


@pytest.mark.parametrize(("value", "message"), [(np.nan, "X must hold counts, found 1 NaN"), (-1, "X must hold counts, found 1 negative"), (np.inf, "1 infinite"),
                                                (0.5, "1 values that are not whole numbers")])
def test_what_is_no_count(counts, tmp_path, value, message):
    broken(counts, value).write_h5ad(tmp_path / "broken.h5ad")
    with pytest.raises(ValueError, match=message): pnb.prepare_screen(pnb.open_screen(tmp_path / "broken.h5ad", chunk_cells=800), **KEYS)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "adata.X must be finite, got 1 NaN"), (-1, "adata.X must not be negative, got 1 negative")])
def test_what_is_no_expression(prepared, tmp_path, value, message):
    broken(prepared, value).write_h5ad(tmp_path / "broken.h5ad")
    with pytest.raises(ValueError, match=message): pnb.find_programs(pnb.open_screen(tmp_path / "broken.h5ad"), 5)


DAMAGES = {"a gene that is not there": ("indices", 70, 600, ""), "a gene far away": ("indices", slice(0, 100), 5_000_000, ""), "a gene below the first": ("indices", 9, -1, ""),
           "rows without an end": ("indptr", slice(900, None), 0, "the ends"), "a row of millions": ("indptr", 100, 10**8, "the ends"),
           "a first row without a begin": ("indptr", 0, 3, "the ends")}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", ["path", "in memory", "in blocks", "programs in blocks", "programs in memory"])
def test_a_damaged_matrix_is_refused(counts, prepared, tmp_path, damage, way):
    "What leads out of the matrix would crash the process in a compiled function"
    path, (part, where, value, in_blocks) = tmp_path / "damaged.h5ad", DAMAGES[damage]
    (prepared if "programs" in way else counts).write_h5ad(path)
    if way in ("in memory", "programs in memory"):
        screen = ad.read_h5ad(path)
        getattr(screen.X, part)[where] = value
    with h5py.File(path, "r+") as file:
        values = file["X"][part][:]
        values[where] = value
        file["X"][part][:] = values
    with pytest.raises(ValueError, match="X is damaged: " + (in_blocks if "blocks" in way else "the places") if way != "path" else "damaged"):
        if way == "path": pnb.prepare_screen(path, **KEYS)
        if way == "in memory": pnb.prepare_screen(screen, **KEYS)
        if way == "in blocks": pnb.prepare_screen(pnb.open_screen(path, chunk_cells=800), **KEYS)
        if way == "programs in blocks": pnb.find_programs(pnb.open_screen(path, chunk_cells=800), 5)
        if way == "programs in memory": pnb.find_programs(screen, 5)


def test_what_cannot_be_opened(tmp_path, counts):
    ad.AnnData(counts.X.tocsc(), obs=counts.obs).write_h5ad(tmp_path / "columns.h5ad")
    (tmp_path / "text.h5ad").write_text("no file of this kind")
    with h5py.File(tmp_path / "other.h5ad", "w") as file: file["x"] = [1]
    for name, message in {"columns.h5ad": "X must be stored by rows", "text.h5ad": "cannot be read as .h5ad", "other.h5ad": "must hold an AnnData, it has no obs",
                          "none.h5ad": "there is no file", "none.csv": "neither an .h5ad file nor a .zarr folder"}.items():
        with pytest.raises(ValueError, match=message): pnb.open_screen(tmp_path / name)
    with pytest.raises(ValueError, match="path must end in .h5ad"): pnb.write_screen(counts, tmp_path / "x.csv")
    with pytest.raises(ValueError, match="existing folder"): pnb.write_screen(counts, tmp_path / "nowhere" / "x.h5ad")
    (tmp_path / "folder.h5ad").mkdir()
    with pytest.raises(ValueError, match="path must be a file, .*folder.h5ad' is a folder"): pnb.write_screen(counts, tmp_path / "folder.h5ad")
    with pytest.raises(ValueError, match="path must lie in a folder that can be written"): pnb.write_screen(counts, "/proc/x.h5ad")


def test_failed_writing_keeps_what_was_there(tmp_path, on_disk):
    path = tmp_path / "screen.h5ad"
    path.write_text("before")
    def fails(block): raise OSError("disk full")
    screen = on_disk.copy()
    screen.X = screen.X.map_blocks(fails, dtype=np.float32, meta=sparse.csr_matrix((0, 0), dtype=np.float32))
    with pytest.raises(OSError, match="disk full"): pnb.write_screen(screen, path)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_result_depends_on_blocks_only_in_rounding(path):
    def gram(block): return (block.astype(float).T @ block).toarray()
    sums = [_summed(gram, pnb.open_screen(path, chunk_cells=cells).X) for cells in (100, 100, 1999)]
    np.testing.assert_array_equal(sums[0], sums[1])
    np.testing.assert_allclose(sums[0], sums[2], rtol=1e-6)


def test_own_transcripts_are_the_same(prepared, on_disk, monkeypatch):
    monkeypatch.setattr("perturbnb.on_target._GENES_AT_ONCE", 7)
    whole, blocks = (pnb.on_target_change(screen) for screen in (prepared, on_disk))
    assert whole["p"].notna().sum() > 20
    pd.testing.assert_frame_equal(blocks, whole, rtol=1e-5)


def test_map_of_a_sample(prepared, on_disk):
    whole, blocks = (pnb.embedding.embed_cells(screen[:300], max_cells=100, seed=1) for screen in (prepared, on_disk))
    placed = np.isfinite(whole).all(1)
    assert placed.sum() == 100
    np.testing.assert_array_equal(np.isfinite(blocks).all(1), placed)
    np.testing.assert_array_equal(blocks[placed], whole[placed])
    with pytest.raises(ValueError, match="max_cells must be a whole number of at least 4"): pnb.embedding.embed_cells(prepared, max_cells=2)


def test_the_command_is_the_same(path, tmp_path, monkeypatch):
    "All stages of a run, and all files but figures and report, with the screen in memory, on disk, and on disk with two workers; the map is of a sample"
    monkeypatch.setattr("perturbnb.pipeline._MOST_ON_MAP", 400)
    monkeypatch.setattr("perturbnb.pipeline._MOST_CHECKED", 500)
    monkeypatch.setattr("perturbnb.pipeline._write_report", lambda *arguments: None)
    monkeypatch.setattr("perturbnb.pipeline._draw_figures", lambda analysis, folder: folder.mkdir() or pnb.results._with_place(analysis).screen.n_obs)
    options = dict(KEYS, n_programs=9, n_repeats=2, null_rounds=0)
    pnb.run(path, tmp_path / "whole", **options)
    monkeypatch.setattr("perturbnb.fits_memory", lambda *arguments, **more: False)
    monkeypatch.setattr("perturbnb.out_of_core._CHUNK_BYTES", 4 * 600 * 700)
    pnb.run(path, tmp_path / "blocks", **options)
    pytest.importorskip("distributed", reason="a cluster needs the package distributed: pip install 'perturbnb[cluster]'")
    monkeypatch.setattr("perturbnb.cluster._WORTH_IT", 1000)
    sharded, fit = [], pnb.network.infer_network
    monkeypatch.setattr("perturbnb.infer_network", lambda spins, *arguments, **more: sharded.append(_is_lazy(spins)) or fit(spins, *arguments, **more))
    pnb.run(path, tmp_path / "cluster", dask="local", **options)
    assert sharded == [True]
    whole = ad.read_h5ad(tmp_path / "whole" / "screen.h5ad")
    for name in ("blocks", "cluster"):
        for table in sorted((tmp_path / "whole").glob("*.csv")):
            pd.testing.assert_frame_equal(pd.read_csv(tmp_path / name / table.name), pd.read_csv(table), rtol=1e-3, atol=1e-5, obj=table.name)
        found = ad.read_h5ad(tmp_path / name / "screen.h5ad")
        np.testing.assert_array_equal(found.obsm["spins"], whole.obsm["spins"])
        np.testing.assert_allclose(found.obsm["X_umap"], whole.obsm["X_umap"], rtol=1e-5)
        assert np.isfinite(found.obsm["X_umap"]).all(1).sum() == 400
        assert (found.layers["counts"] != whole.layers["counts"]).nnz == 0
