"What would bore a reader of 03c: labels, rules, batches, bad input."
import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbnb.on_target import on_target_change, plot_on_target


def screen(n=60, seed=0, batches=("x", "y"), change=0.3):
    "Gene A is knocked down by two guides, B is not measured; a control and a shift per batch"
    rng = np.random.default_rng(seed)
    rows = [(g, t, b) for g, t in (("A_g1", "A"), ("A_g2", "A"), ("B_g1", "B"), ("nt", "control")) for b in batches for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["guide", "target_gene", "batch"], index=[f"c{i}" for i in range(len(rows))])
    obs["if_control"] = obs["target_gene"] == "control"
    rate = 3. * np.where(obs["target_gene"] == "A", change, 1) * np.where(obs["batch"] == batches[0], 1, 2)
    return ad.AnnData(sparse.csr_matrix(np.log1p(rng.poisson(np.column_stack([rate, np.full(len(rows), 2.)]))).astype(np.float32)), obs, pd.DataFrame(index=["A", "other"]))


def test_rows_and_notes():
    table = on_target_change(screen())
    assert list(table["guide"]) == ["A_g1", "A_g2", "B_g1"] and list(table["note"]) == ["", "", "not measured"]
    assert (table["q"][:2] < 1e-3).all() and table.loc[2, ["mean", "p", "q"]].isna().all() and (table["n_controls"] == 120).all()
    np.testing.assert_allclose(table["log2_fold_change"][:2], np.log2(0.3), atol=0.35)


def test_order_of_cells_and_storage_do_not_matter():
    adata = screen()
    dense = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    dense.X = dense.X.toarray()
    pd.testing.assert_frame_equal(on_target_change(adata), on_target_change(dense), rtol=1e-6)
    before = screen()
    assert (adata.X != before.X).nnz == 0 and adata.obs.equals(before.obs)


def test_a_shift_of_a_batch_is_no_change():
    "Guide cells mostly in the high batch, controls mostly in the low one: nothing is called"
    adata = screen(n=200, change=1.)
    rng = np.random.default_rng(2)
    high = (adata.obs["batch"] == "y").to_numpy()
    kept = rng.random(adata.n_obs) < np.where(adata.obs["if_control"] == high, 0.2, 0.9)
    table = on_target_change(adata[kept].copy())
    assert (table["p"][:2] > 0.01).all() and (table["log2_fold_change"][:2].abs() < 0.3).all()


def test_reference():
    adata = screen()
    no_controls_in_y = adata[~((adata.obs["batch"] == "y") & adata.obs["if_control"])].copy()
    assert set(on_target_change(no_controls_in_y)["reference"]) == {"all controls"}
    none = on_target_change(adata[~adata.obs["if_control"]].copy())
    assert set(none["reference"]) == {"all samples"} and none["p"].isna().all() and list(none["note"]) == ["no controls", "no controls", "not measured"]
    del adata.obs["batch"]
    assert (on_target_change(adata)["note"][:2] == "").all()


def test_few_cells_and_hardly_seen():
    adata = screen()
    few = adata[(adata.obs["guide"] != "A_g1") | (np.arange(adata.n_obs) < 4)].copy()
    table = on_target_change(few)
    assert table.loc[0, "note"] == "few cells" and np.isnan(table.loc[0, "p"]) and table.loc[0, "n_cells"] == 4 and table.loc[1, "note"] == ""
    adata.X = sparse.csr_matrix(adata.X.multiply(np.random.default_rng(0).random(adata.shape) < 0.01))
    assert (on_target_change(adata)["note"][:2] == "hardly seen").all()
    one = adata[(adata.obs["guide"] != "A_g1") | (np.arange(adata.n_obs) < 1)].copy()
    assert np.isnan(on_target_change(one).loc[0, "p"])


def test_combined_guides_have_a_row_per_target():
    adata = screen()
    adata.obs["guide"], adata.obs["target_gene"] = adata.obs["guide"].replace("A_g2", "A_g2+o_g1"), np.where(adata.obs["guide"] == "A_g2", "A+other", adata.obs["target_gene"])
    table = on_target_change(adata)
    assert table.loc[table["guide"] == "A_g2+o_g1", "target_gene"].to_list() == ["A", "other"]


def test_bad_input():
    adata = screen()
    for change, message in ((lambda a: a.obs.__delitem__("guide"), "no column 'guide'"), (lambda a: a.obs.__setitem__("if_control", "no"), "must be True or False"),
                            (lambda a: a.obs.__setitem__("if_control", True), "perturbed cells"), (lambda a: a.X.data.__setitem__(0, np.nan), "must be log-normalised")):
        other = adata.copy()
        change(other)
        with pytest.raises(ValueError, match=message): on_target_change(other)
    with pytest.raises(ValueError, match="min_cells"): on_target_change(adata, min_cells=1)
    with pytest.raises(ValueError, match="none"): plot_on_target(on_target_change(adata).iloc[2:])
