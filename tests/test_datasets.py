"The loaders: files, hashes, conversions, and the independent conversions where there are any."
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pooch
import pytest
from scipy import sparse

import perturbnb
from perturbnb import datasets


@pytest.fixture(scope="module")
def papalexi(published_data): return datasets.papalexi()


@pytest.fixture(scope="module")
def hsc(published_data): return datasets.hsc()


def test_addresses_name_a_commit_and_a_whole_hash():
    for folder, sha256 in datasets._FILES.values():
        assert folder.startswith("https://raw.githubusercontent.com/")
        assert any(len(part) == 40 and set(part) <= set("0123456789abcdef") for part in folder.split("/"))
        assert len(sha256) == 64


def test_unreachable_file_says_what_to_do(monkeypatch, tmp_path):
    def unplugged(*args, **kwargs): raise ConnectionError("no route to host")
    monkeypatch.setattr(pooch.Pooch, "fetch", unplugged)
    monkeypatch.delenv("PERTURBNB_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"not set.*Download https://.*refNetwork\.csv.*set PERTURBNB_DATA_DIR"): datasets.fetch("refNetwork.csv")
    monkeypatch.setenv("PERTURBNB_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="without that file"): datasets.fetch("refNetwork.csv")


def test_other_content_is_refused_and_left_alone(monkeypatch, tmp_path):
    file = tmp_path / "refNetwork.csv"
    file.write_text("mine")
    monkeypatch.setenv("PERTURBNB_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="not the published one"): datasets.fetch("refNetwork.csv")
    assert file.read_text() == "mine"


def test_file_in_the_folder_is_used_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setitem(datasets._FILES, "small.csv", ("https://raw.githubusercontent.com/nobody/nothing/0/x", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"))
    (tmp_path / "small.csv").write_text("hello")
    monkeypatch.setenv("PERTURBNB_DATA_DIR", str(tmp_path))
    assert datasets.fetch("small.csv") == tmp_path / "small.csv"


def test_missing_rdata_names_the_line_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(ImportError, match=r'pip install "perturbnb\[data\]"'): datasets._read_rda(tmp_path / "any.rda")


def test_papalexi_facts(papalexi):
    obs = papalexi.obs
    assert papalexi.shape == (19619, 299)
    assert obs["guide"].nunique() == 106 and obs["guide"].cat.categories.size == 106
    assert set(obs["gene"].cat.categories) >= {"control", "JAK2", "STAT1", "SPI1"} and obs["gene"].nunique() == 26
    assert (obs["gene"] == "control").sum() == 2292
    assert list(obs["batch"].cat.categories) == ["rep_1", "rep_2", "rep_3"]
    assert (obs.groupby("guide", observed=True)["gene"].nunique() == 1).all()
    assert (obs.groupby("guide", observed=True)["batch"].nunique() == 3).all()
    assert obs["n_umi_total"].median() == pytest.approx(11.9e3, rel=0.01)
    assert obs["p_mito"].between(0, 1).all()


def test_papalexi_counts_are_raw(papalexi):
    assert sparse.isspmatrix_csr(papalexi.X) and papalexi.X.dtype == np.float32
    assert (papalexi.X.data == np.round(papalexi.X.data)).all() and papalexi.X.data.min() > 0
    assert papalexi.X.sum(dtype=np.float64) == 4083813
    assert papalexi.obsm["guide_counts"].shape == (19619, 110)
    assert (papalexi.obsm["guide_counts"].sum(axis=1) == papalexi.obs["guide_umi_total"]).all()
    assert papalexi.obs_names.is_unique and papalexi.var_names.is_unique


def test_papalexi_agrees_with_an_independent_conversion(papalexi, expected_data):
    expected = ad.read_h5ad(expected_data / "papalexi_thp1_303g.h5ad")
    assert list(papalexi.obs_names) == list(expected.obs_names)
    for key in ("guide", "gene", "batch"): assert (papalexi.obs[key].astype(str) == expected.obs[key].astype(str)).all(), key
    for key in ("n_umi_total", "n_gene_total", "p_mito", "guide_umi", "guide_umi_total"): np.testing.assert_allclose(papalexi.obs[key], expected.obs[key], err_msg=key)
    assert abs(papalexi.X - expected[:, papalexi.var_names].X).nnz == 0
    counts = expected.obsm["guide_counts"].toarray()
    assert (papalexi.obsm["guide_counts"][list(expected.uns["guide_names"])].to_numpy() == counts).all()


def test_hsc_facts(hsc):
    assert hsc.shape == (13000, 11)
    cells = hsc.obs["sample_id"].value_counts()
    assert cells["control"] == 2000 and len(cells) == 23 and set(cells.drop("control")) == {500}
    assert (hsc.obs["if_control"] == (hsc.obs["sample_id"] == "control")).all()
    assert hsc.uns["reference_network"].shape == (30, 3)
    samples = hsc.uns["perturbnb"]["samples"]
    assert samples["n_cells"].to_dict() == cells.to_dict() and list(samples.index[samples["if_control"]]) == ["control"]


def test_hsc_network_points_from_regulator_to_regulated(hsc):
    sign = pd.DataFrame(hsc.varp["reference_network"], hsc.var_names, hsc.var_names)
    assert sign.loc["Pu1", "cJun"] == 1 and sign.loc["cJun", "Pu1"] == 0
    assert sign.loc["Gfi1", "EgrNab"] == -1 and sign.loc["Cebpa", "Gfi1"] == 1 and sign.loc["Gfi1", "Cebpa"] == 0
    assert np.count_nonzero(sign) == 30 and np.count_nonzero(np.diag(sign)) == 4


def test_hsc_perturbed_genes_move_as_named(hsc):
    means = hsc.to_df().groupby(hsc.obs["sample_id"], observed=True).mean()
    for gene in hsc.var_names: assert means.loc[f"{gene} knock-out", gene] < means.loc[f"{gene} activation", gene], gene


def test_hsc_agrees_with_an_independent_conversion(hsc, expected_data):
    expected = ad.read_h5ad(expected_data / "dspin_hsc_sim.h5ad")
    assert list(hsc.obs_names) == list(expected.obs_names) and list(hsc.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(hsc.X, expected.X)
    np.testing.assert_array_equal(hsc.varp["reference_network"], expected.varp["reference_network"])
    assert (hsc.obs["target_gene"].astype(str) == expected.obs["gene"].astype(str)).all()
    action = expected.obs["perturbation_type"].astype(str).map({"none": "none", "KO": "knock-out", "OE": "activation"})
    assert (hsc.obs["perturbation"].astype(str) == action).all()


@pytest.mark.parametrize("load", ["papalexi", "hsc"])
def test_written_and_read_again(load, request, tmp_path):
    adata = request.getfixturevalue(load)
    adata.write_h5ad(tmp_path / "x.h5ad")
    again = ad.read_h5ad(tmp_path / "x.h5ad")
    assert again.shape == adata.shape and list(again.obs.columns) == list(adata.obs.columns)
    assert again.X.sum() == adata.X.sum()


def test_papalexi_goes_through_preparation(papalexi):
    screen = perturbnb.prepare_screen(papalexi, guide_key="guide", target_key="gene", control="control", batch_key="batch", size_factor_key="n_umi_total")
    assert len(screen.uns["perturbnb"]["samples"]) > 300 and screen.obs["if_control"].sum() > 2000
