"What `prepare_screen` does with input that a lesson would not show: malformed, oddly typed, oddly named"
import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbnb.preprocess import G2M_GENES, S_GENES, derive_targets, guides_from_counts, prepare_screen, samples_table, summarise_screen

GUIDES = ["JAK2_g1", "JAK2_g2", "STAT1_g1", "STAT1_g2", "NT_g1", "NT_g2"]
KEYS = {"guide_key": "guide", "target_key": "gene", "control": "NT", "batch_key": "batch"}

@pytest.fixture
def screen():
    return plant()

def plant(n_cells=240, n_genes=60, genes=None, rate=2., seed=0):
    "Poisson counts; guides and batches in turn"
    rng = np.random.default_rng(seed)
    guide = np.array(GUIDES)[np.arange(n_cells) % len(GUIDES)]
    obs = pd.DataFrame({"guide": guide, "gene": [g.split("_")[0] for g in guide], "batch": np.array(["r1", "r2"])[np.arange(n_cells) // 6 % 2],
                            "size": rng.uniform(900, 1100, n_cells)}, index=[f"cell{i}" for i in range(n_cells)])
    X = sparse.csr_matrix(rng.poisson(rate, (n_cells, n_genes)).astype(np.float32))
    return ad.AnnData(X, obs=obs, var=pd.DataFrame(index=genes if genes is not None else [f"G{i}" for i in range(n_genes)]))

def messages(caplog, level=logging.INFO):
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno >= level)

@pytest.fixture(autouse=True)
def heard(caplog):
    "Let caplog hear the package's logger whatever its level and handlers"
    caplog.set_level(logging.INFO, logger="perturbnb")
    logger = logging.getLogger("perturbnb")
    before, logger.propagate = logger.propagate, True
    yield
    logger.propagate = before

def set_value(value):
    def change(screen): screen.X = screen.X.toarray(); screen.X[3, 4] = value
    return change

def set_obs(column, values):
    def change(screen): screen.obs[column] = values(screen.obs) if callable(values) else values
    return change

def log_normalise_it(screen):
    screen.layers["umi"] = screen.X.copy()
    screen.X = sparse.csr_matrix(np.log1p(screen.X.toarray() * 1.7))

def guide_umis(screen, kind="frame"):
    counts = (screen.obs["guide"].to_numpy()[:, None] == np.array(GUIDES)).astype(float) * 9 + 1
    counts[0] = 0
    if kind == "frame": screen.obsm["umis"] = pd.DataFrame(counts, index=screen.obs_names, columns=GUIDES)
    else: screen.obsm["umis"] = counts if kind == "array" else sparse.csr_matrix(counts)
    return screen

nothing = lambda screen: None

@pytest.mark.parametrize("change, arguments, expected", [
    # columns
    (nothing, {"guide_key": None}, r"guide_key .* required.*guide_key='guide'.*gene, batch"),
    (nothing, {"guide_key": "guides"}, r"guide_key='guides' .*did you mean 'guide'"),
    (nothing, {"target_key": "genes"}, r"target_key='genes' .*did you mean 'gene'"),
    (nothing, {"batch_key": "batches"}, r"batch_key='batches' .*did you mean 'batch'"),
    (nothing, {"size_factor_key": "sizes"}, r"size_factor_key='sizes' .*did you mean 'size'"),
    (nothing, {"guide_counts_key": "umis"}, r"one of the two"),
    (nothing, {"guide_key": None, "guide_counts_key": "umis"}, r"guide_counts_key='umis' is not in obsm"),
    (guide_umis, {"guide_key": "umis"}, r"guide_counts_key='umis'"),
    (lambda s: guide_umis(s, "array"), {"guide_key": None, "guide_counts_key": "umis"}, r"guide_names_key='guide_names' is not in uns"),
    (nothing, {"gene_symbols": "symbol"}, r"gene_symbols='symbol' is not a column of var"),
    (nothing, {"layer": "counts"}, r"layer='counts' is not a layer"),
    # controls
    (nothing, {"control": "NTC"}, r"control='NTC' is neither.*did you mean 'NT'"),
    (nothing, {"control": "NT_"}, r"control='NT_\*'"),
    (nothing, {"control": "nt"}, r"look like controls: NT"),
    (nothing, {"control": ["NT", "safe"]}, r"control='safe' is neither"),
    (nothing, {"control": []}, r"control is an empty list"),
    (nothing, {"control": ""}, r"control='' is neither"),
    (nothing, {"control": "CONTROL-*"}, r"no guide name matches 'CONTROL-\*'"),
    (nothing, {"control": re.compile("^CTRL")}, r"no guide name matches '\^CTRL'"),
    (nothing, {"control": "*"}, r"control marks every cell"),
    (nothing, {"control_key": "gene"}, r"control and control_key"),
    (nothing, {"control": None, "control_key": "gene"}, r"control_key='gene' must hold True/False"),
    (set_obs("is_nt", False), {"control": None, "control_key": "is_nt"}, r"control_key='is_nt' marks no cell"),
    (set_obs("is_nt", lambda o: np.where(o.gene == "NT", 1., np.nan)), {"control": None, "control_key": "is_nt"}, r"has no value for 160 cells"),
    (set_obs("is_nt", lambda o: np.where(o.gene == "NT", 2, 0)), {"control": None, "control_key": "is_nt"}, r"must hold True/False or 0/1, got 2"),
    (set_obs("is_nt", lambda o: np.arange(len(o)) < 100), {"control": None, "control_key": "is_nt"}, r"control_key: guide '.*' has more than one value"),
    # guides, targets, batches
    (set_obs("gene", lambda o: np.where(np.arange(len(o)) == 0, "STAT1", o.gene)), {}, r"guide 'JAK2_g1' has more than one value: STAT1, JAK2"),
    (set_obs("gene", lambda o: o.gene.where(o.guide != "JAK2_g1")), {}, r"guide 'JAK2_g1' has no target"),
    (set_obs("batch", lambda o: o.batch.where(o.gene != "NT")), {}, r"batch_key='batch' has no value for 80 cells"),
    (set_obs("guide", None), {}, r"no cells left after step 'guide'"),
    (set_obs("guide", lambda o: o.guide + "+X_g1"), {}, r"no cells left after step 'multi_guide'.*multi_guide='keep'"),
    (set_obs("batch", lambda o: np.where(o.batch == "r1", "a/b", "a_b")), {}, r"batch_key: two batches differ only"),
    # counts
    (set_value(np.nan), {}, r"X must hold counts, found 1 NaN and 0 infinite"),
    (set_value(np.inf), {}, r"0 NaN and 1 infinite"),
    (set_value(-1), {}, r"1 negative"),
    (set_value(0.5), {}, r"1 values that are not whole numbers"),
    (log_normalise_it, {}, r"log-normalised\. layer='umi' holds counts"),
    (set_obs("size", 0.), {"size_factor_key": "size"}, r"size_factor_key='size' must be > 0, 240 cells"),
    (set_obs("size", np.inf), {"size_factor_key": "size"}, r"must hold finite numbers, 240 cells"),
    (nothing, {"size_factor_key": "gene"}, r"must hold finite numbers, 240 cells"),
    (set_obs("size", 1.), {"size_factor_key": "size"}, r"must hold totals; its median 1 "),
    # options
    (nothing, {"multi_guide": "both"}, r"multi_guide must be 'drop' or 'keep'"),
    (nothing, {"min_guide_share": 1.5}, r"min_guide_share must be a number between 0 and 1"),
    (nothing, {"max_mito_percent": "20"}, r"max_mito_percent must be a number"),
    (nothing, {"min_cell_fraction": 2}, r"min_cell_fraction must be"),
    (nothing, {"target_key": None, "target_pattern": "(.+)_g"}, r"target_pattern needs a group named target"),
    (nothing, {"target_key": None, "target_pattern": "(?P<target>"}, r"target_pattern is not a regular expression"),
    (guide_umis, {"guide_key": None, "guide_counts_key": "umis", "multi_guide": "keep"}, r"min_guide_share below 0.5"),
    (nothing, {"min_genes": 61}, r"no cells left after step 'min_genes'"),
])
def test_refused(screen, change, arguments, expected):
    change(screen)
    with pytest.raises(ValueError, match=expected): prepare_screen(screen, **{**KEYS, **arguments})

def write(path, data):
    path.write_bytes(data)
    return path

def test_files_that_are_none(screen, tmp_path):
    whole = tmp_path / "screen.h5ad"
    screen.write_h5ad(whole)
    for path, expected in [
        (tmp_path / "absent.h5ad", "no file 'absent.h5ad'"), (tmp_path, "no file"), (write(tmp_path / "screen.csv", b"a,b"), "not an .h5ad file"),
        (write(tmp_path / "empty.h5ad", b""), "is empty"), (write(tmp_path / "cut.h5ad", whole.read_bytes()[:5000]), "truncated or damaged"),
        (write(tmp_path / "text.h5ad", b"hello"), "truncated or damaged"), (7, "must be an AnnData or the path"),
        (ad.AnnData(np.zeros((0, 5))), "is empty"), (ad.AnnData(obs=screen.obs), "screen has no X"),
    ]:
        with pytest.raises(ValueError, match=expected): prepare_screen(path, **KEYS)

def same(one, other):
    np.testing.assert_allclose(one.X.toarray(), other.X.toarray(), rtol=1e-6)
    for key in ("guide", "target_gene", "batch", "sample_id", "if_control"): assert list(one.obs[key].astype(str)) == list(other.obs[key].astype(str)), key
    pd.testing.assert_frame_equal(one.uns["perturbnb"]["samples"], other.uns["perturbnb"]["samples"])

@pytest.mark.parametrize("store", [
    lambda X: X.toarray(), lambda X: X.toarray().astype(np.int64), lambda X: X.astype(np.float64), lambda X: X.tocsc(), lambda X: X.astype(np.int32).tocsc(),
    lambda X: sparse.csr_array(X), lambda X: np.asfortranarray(X.toarray()), lambda X: X.astype(np.uint16),
], ids=["dense", "int64", "float64", "csc", "int csc", "csr_array", "fortran", "uint16"])
def test_storage_of_counts_does_not_matter(screen, store):
    reference = prepare_screen(screen, **KEYS)
    screen.X = store(screen.X)
    ours = prepare_screen(screen, **KEYS)
    same(ours, reference)
    for matrix in ours.X, ours.layers["counts"]: assert sparse.issparse(matrix) and matrix.format == "csr" and matrix.dtype == np.float32

def test_path_backed_and_layer(screen, tmp_path):
    reference = prepare_screen(screen, **KEYS)
    screen.write_h5ad(tmp_path / "screen.h5ad")
    same(prepare_screen(tmp_path / "screen.h5ad", **KEYS), reference)
    same(prepare_screen(str(tmp_path / "screen.h5ad"), **KEYS), reference)
    same(prepare_screen(ad.read_h5ad(tmp_path / "screen.h5ad", backed="r"), **KEYS), reference)
    log_normalise_it(screen)
    layered = prepare_screen(screen, layer="umi", **KEYS)
    same(layered, reference)
    assert set(layered.layers) - {None} == {"counts"} and set(screen.layers) - {None} == {"umi"}      # anndata 0.13 lists X as the layer None
    same(prepare_screen(reference, layer="counts", **KEYS), reference)

@pytest.mark.parametrize("flags", [
    lambda f: f, lambda f: f.astype(int), lambda f: f.astype(float), lambda f: f.astype(str), lambda f: f.astype(str).str.lower(),
    lambda f: f.astype("category"), lambda f: f.astype(object), lambda f: f.astype(int).astype(str).astype("category"), lambda f: f.astype("boolean"),
], ids=["bool", "int", "float", "str", "lower", "category", "object", "category of 0/1", "nullable"])
def test_flags_of_any_type(screen, flags):
    screen.obs["is_nt"] = flags(screen.obs["gene"] == "NT")
    same(prepare_screen(screen, **{**KEYS, "control": None, "control_key": "is_nt"}), prepare_screen(screen, **KEYS))

@pytest.mark.parametrize("control", ["NT", ["NT"], ("NT_g1", "NT_g2"), "NT_*", re.compile("^NT")], ids=str)
def test_ways_to_name_controls(screen, control):
    same(prepare_screen(screen, **{**KEYS, "control": control}), prepare_screen(screen, **KEYS))

@pytest.mark.parametrize("kind", ["str", "category", "int", "float with gaps"])
def test_labels_of_any_type(screen, kind):
    number = screen.obs["guide"].map({g: i for i, g in enumerate(GUIDES)})
    batch = screen.obs["batch"].map({"r1": 1, "r2": 2})
    dtype = {"str": str, "category": "category", "int": int, "float with gaps": float}[kind]
    screen.obs["guide"], screen.obs["batch"] = number.astype(dtype), batch.astype(dtype)
    if kind == "float with gaps": screen.obs.loc["cell7", "guide"] = np.nan
    prepared = prepare_screen(screen, **KEYS)
    assert set(prepared.obs["guide"]) == set("012345") and set(prepared.obs["sample_id"]) >= {"0|1", "5|2"}
    assert prepared.n_obs == (239 if "gaps" in kind else 240)
    assert list(prepared.obs["batch1"]) == list(prepared.obs["batch"] == "1") and prepared.obs["batch1"].dtype == bool

def test_unassigned_cells_are_counted(screen, caplog):
    for i, missing in enumerate(["", " ", "nan", None, np.nan]): screen.obs.loc[f"cell{i}", "guide"] = missing
    prepared = prepare_screen(screen, **KEYS)
    assert summarise_screen(prepared).set_index("step").removed["guide"] == 5 and prepared.n_obs == 235
    assert "5 of 240 cells removed (no guide)" in messages(caplog)

def test_combinations(screen):
    pairs = ["STAT1_g1+JAK2_g1", "JAK2_g1+STAT1_g1", "NT_g1+JAK2_g1", "NT_g2+NT_g1"]
    screen.obs.loc[[f"cell{i}" for i in range(4)], "guide"] = pairs
    assert summarise_screen(prepare_screen(screen, **KEYS)).set_index("step").removed["multi_guide"] == 4
    screen.obs.loc["cell2", "gene"] = "NT"       # a column that knows of one guide only
    for target_key in "gene", None:
        kept = prepare_screen(screen, **{**KEYS, "target_key": target_key}, multi_guide="keep", min_cells_per_guide=1)
        control = "control" if target_key is None else "NT"
        assert list(kept.obs["guide"][:4]) == ["JAK2_g1+STAT1_g1"] * 2 + ["JAK2_g1+NT_g1", "NT_g1+NT_g2"]
        assert list(kept.obs["target_gene"][:4]) == ["JAK2+STAT1"] * 2 + ["JAK2", control]
        assert list(kept.obs["if_control"][:4]) == [False, False, False, True]
    assert prepare_screen(screen, **{**KEYS, "target_key": None}, guide_separator=None, min_cells_per_guide=1).n_obs == 240

def test_library_of_combinations_only(screen):
    "Norman-like: every cell carries a pair, and the target column says so"
    screen.obs["guide"] = screen.obs["guide"] + "+NT_g9"
    screen.obs["gene"] = screen.obs["gene"] + "+NT"
    prepared = prepare_screen(screen, **KEYS, multi_guide="keep")
    assert set(prepared.obs["target_gene"]) == {"JAK2", "STAT1", "NT"} and prepared.obs["if_control"].sum() == 80

@pytest.mark.parametrize("kind", ["frame", "array", "sparse"])
def test_guide_counts(screen, kind):
    guide_umis(screen, kind).uns["guide_names"] = np.array(GUIDES)
    prepared = prepare_screen(screen, guide_counts_key="umis", control="NT", batch_key="batch")
    assert list(prepared.obs["guide"]) == list(screen.obs["guide"][1:])

def test_guide_counts_malformed():
    for counts, names, expected in [([[1, -1]], "ab", ">= 0"), ([[1, np.nan]], "ab", "finite"), ([[1, 1]], "abc", "3 guide names")]:
        with pytest.raises(ValueError, match=expected): guides_from_counts(np.array(counts, float), list(names))
    assert list(guides_from_counts(np.zeros((2, 2)), ["a", "b"])) == [None, None]

def test_controls_few_or_none(screen, caplog):
    prepared = prepare_screen(screen, **{**KEYS, "control": None})
    assert not prepared.obs["if_control"].any() and "no controls named" in messages(caplog, logging.WARNING) and "NT" in messages(caplog, logging.WARNING)
    caplog.clear()
    controls = screen.obs_names[screen.obs["gene"] == "NT"]
    one = prepare_screen(screen[~screen.obs_names.isin(controls[1:])], **KEYS)
    assert one.obs["if_control"].sum() == 1 and "only 1 control cells" in messages(caplog, logging.WARNING)

def test_controls_lost_to_quality_control(screen):
    X = screen.X.toarray()
    X[screen.obs["gene"] == "NT", 5:] = 0
    screen.X = X
    with pytest.raises(ValueError, match="no control cell is left"): prepare_screen(screen, **KEYS, min_genes=20)

def test_missing_target_of_controls_is_filled(screen):
    screen.obs["gene"] = screen.obs["gene"].where(screen.obs["gene"] != "NT")
    prepared = prepare_screen(screen, **{**KEYS, "control": "NT_*"})
    assert set(prepared.obs["target_gene"]) == {"JAK2", "STAT1", "control"}

def test_repeated_names(screen, caplog):
    screen.var_names = ["G0", "G0", *screen.var_names[2:]]
    screen.obs_names = ["cell0", "cell0", *screen.obs_names[2:]]
    prepared = prepare_screen(screen, **KEYS)
    assert list(prepared.var_names[:2]) == ["G0", "G0-1"] and list(prepared.obs_names[:2]) == ["cell0", "cell0-1"]
    assert "1 gene names" in messages(caplog, logging.WARNING) and "1 cell names" in messages(caplog, logging.WARNING)

def test_gene_symbols(screen):
    screen.var["symbol"] = [f"MT-{i}" if i < 12 else None if i == 20 else f"S{i}" for i in range(screen.n_vars)]
    prepared = prepare_screen(screen, **KEYS, gene_symbols="symbol", max_mito_percent=None)
    assert prepared.var_names[12] == "S12" and prepared.var_names[20] == "G20" and prepared.var["gene_ids"].iloc[12] == "G12" and prepared.var["mt"].sum() == 12

def test_genes_never_or_always_seen(screen):
    X = screen.X.toarray()
    X[:, 0], X[:, 1], X[:, 2], X[7, 2] = 0, 3, 0, 1
    screen.X = X
    assert list(prepare_screen(screen, **KEYS).var_names[:3]) == ["G1", "G2", "G3"]
    assert "G0" not in prepare_screen(screen, **KEYS, min_cell_fraction=0).var_names
    assert list(prepare_screen(screen, **KEYS, min_cell_fraction=0.01).var_names[:2]) == ["G1", "G3"]

def test_cells_without_counts(screen):
    X = screen.X.toarray()
    X[5] = 0
    screen.X = X
    assert prepare_screen(screen, **KEYS).n_obs == 239
    sized = prepare_screen(screen, **KEYS, size_factor_key="size")
    assert sized.n_obs == 240 and np.isfinite(sized.X.data).all() and sized.X[5].nnz == 0 and sized.obs["pct_counts_mt"].notna().all()
    np.testing.assert_allclose(sized.X[0].toarray()[0], np.log1p(X[0] / screen.obs["size"].iloc[0] * 1e4), rtol=1e-5)

def test_few_cells_of_a_guide(screen):
    few = np.r_[screen.obs_names[screen.obs["guide"] == "JAK2_g1"][3:], screen.obs_names[screen.obs["guide"] == "NT_g1"][3:]]
    prepared = prepare_screen(screen[~screen.obs_names.isin(few)], **KEYS)
    assert "JAK2_g1" not in set(prepared.obs["guide"]) and (prepared.obs["guide"] == "NT_g1").sum() == 3

def test_only_given_data_changes(screen):
    before = screen.copy()
    prepare_screen(screen, **KEYS)
    assert before.obs.equals(screen.obs) and before.var.equals(screen.var) and (before.X != screen.X).nnz == 0 and not screen.layers and not screen.uns
    view = screen[:120]
    prepare_screen(view, **KEYS)
    assert view.is_view
    screen.obs.loc["cell3", "guide"] = None
    ours = prepare_screen(screen, **KEYS, copy=False)
    assert ours is screen and screen.n_obs == 239 and "perturbnb" in screen.uns

def test_global_random_state_is_left_alone():
    genes = [*S_GENES, *G2M_GENES, *(f"G{i}" for i in range(200))]
    cycling = plant(n_genes=len(genes), genes=[g.capitalize() for g in genes])   # as a mouse has them
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    one, other = prepare_screen(cycling, **KEYS), prepare_screen(cycling, **KEYS)
    assert np.random.random() == expected  # noqa: NPY002
    assert one.obs["S_score"].equals(other.obs["S_score"]) and one.obs["phase"].dtype == "category"
    assert "phase" not in prepare_screen(cycling, **KEYS, cell_cycle=False).obs

def test_whole_transcriptome():
    whole = plant(n_genes=2500, rate=0.5)
    prepared = prepare_screen(whole, **KEYS, max_genes=1000, keep_raw=True)
    marked = prepared.var["highly_variable"]
    assert marked.all() and prepared.n_vars < 2500 and prepared.raw.shape == (240, 2500)
    everything = prepare_screen(whole, **KEYS)
    assert everything.n_vars == 2500 and everything.var["highly_variable"].sum() == prepared.n_vars and everything.raw is None
    with pytest.raises(ValueError, match="no cells left after step 'min_genes'"): prepare_screen(plant(n_genes=2500, rate=0.01), **KEYS)

def test_written_and_read(screen, tmp_path):
    screen.obs["guide"] = screen.obs["guide"].str.replace("JAK2_g1", "JÄK/2_g1")
    screen.obs["gene"] = screen.obs["gene"].where(screen.obs["guide"] != "JÄK/2_g1", "JÄK/2")
    screen.obs["batch"] = screen.obs["batch"].str.replace("r1", "Charité/1")
    screen.obs["notes"] = [1, "a", None] * 80
    screen.obsm["umis"] = pd.DataFrame(1., index=screen.obs_names, columns=["a/1", "b"])
    prepared = prepare_screen(screen, **{**KEYS, "control": re.compile("^NT")}, size_factor_key="size", keep_raw=True)
    prepared.write_h5ad(tmp_path / "prepared.h5ad")
    read = ad.read_h5ad(tmp_path / "prepared.h5ad")
    same(read, prepared)
    assert "JÄK/2_g1|Charité/1" in set(read.obs["sample_id"]) and "batchCharité_1" in read.obs and list(read.obsm["umis"].columns) == ["a_1", "b"]
    pd.testing.assert_frame_equal(summarise_screen(read), summarise_screen(prepared))
    assert read.uns["perturbnb"]["parameters"]["control"] == "^NT" and read.uns["perturbnb"]["versions"].keys() >= {"perturbnb", "scanpy"}
    pd.testing.assert_frame_equal(samples_table(read.obs), prepared.uns["perturbnb"]["samples"], check_index_type=False)

def test_sample_names_that_collide(screen):
    screen.obs["guide"] = np.where(screen.obs["guide"] == "JAK2_g1", "JAK2|r1", screen.obs["guide"])
    screen.obs.loc[screen.obs["guide"] == "JAK2_g2", "guide"] = "JAK2"
    screen.obs["batch"] = np.where(screen.obs["guide"] == "JAK2", "r1|r1", screen.obs["batch"])
    screen.obs.loc[screen.obs["guide"] == "JAK2|r1", "batch"] = "r1"
    with pytest.raises(ValueError, match="stands for more than one guide or batch"): prepare_screen(screen, **KEYS)

def test_the_account_adds_up(screen):
    screen.obs.loc["cell3", "guide"] = None
    prepared = prepare_screen(screen, **KEYS)
    account = summarise_screen(prepared)
    for unit, start, end in ("cells", 240, prepared.n_obs), ("genes", 60, prepared.n_vars):
        steps = account[account.unit == unit]
        assert steps.before.iloc[0] == start and steps.kept.iloc[-1] == end and list(steps.before[1:]) == list(steps.kept[:-1])
    with pytest.raises(ValueError, match="prepare_screen first"): summarise_screen(screen)

@pytest.mark.parametrize("guide, target", [
    ("STAT5Ag12", "STAT5A"), ("JAK2-1", "JAK2"), ("JAK2.3", "JAK2"), ("JAK2_sgRNA_2", "JAK2"), ("JAK2 guide", "JAK2 guide"), ("HLA-DRB1_g1", "HLA-DRB1"),
    ("Ing4", "Ing4"), ("NKX2-5-1", "NKX2-5"), ("NTg10", "NT"), ("non-targeting_00023", "non-targeting"), ("IRF1_-_131826458.23-P1P2", "IRF1"), ("7", "7"),
])
def test_targets_from_names(guide, target): assert derive_targets([guide]) == [target]
