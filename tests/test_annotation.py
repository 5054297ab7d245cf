"""Names, warnings, projection: what would bore a reader of 01d_annotation."""
import logging
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from planted import as_screen, plant
from scipy import sparse
from scipy.optimize import nnls
from scipy.stats import fisher_exact, spearmanr

from perturbnb.annotation import (
    G2M_GENES,
    INTERFERON_GENES,
    S_GENES,
    adopt_programs,
    annotate_programs,
    built_in_gene_sets,
    flag_technical,
    name_programs,
    project_programs,
    read_gmt,
    select_programs,
)
from perturbnb.consensus import find_programs
from perturbnb.programs import Programs, onmf

K = 6


@pytest.fixture(scope="module")
def truth():
    return plant(n_cells=2000, seed=3)


@pytest.fixture(scope="module")
def screen(truth):
    counts = truth[0]
    X = np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 200).astype(np.float32)
    screen = as_screen(sparse.csr_matrix(X))
    screen.obs["total_counts"] = counts.sum(1)
    screen.obs["batch"] = pd.Categorical(np.where(np.arange(len(X)) % 2, "a", "b"))
    return screen


@pytest.fixture(scope="module")
def programs(screen):
    return find_programs(screen, K, n_repeats=2)


@pytest.fixture(scope="module")
def planted_sets(truth):
    return {f"set {k}": [f"g{i}" for i in np.flatnonzero(truth[1] == k)] for k in range(K)}


@pytest.fixture
def heard(caplog):
    "Let caplog hear the package's logger whatever its handlers"
    logger = logging.getLogger("perturbnb")
    before, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger="perturbnb")
    yield caplog
    logger.propagate = before


def made_of(*lists, others=(), usage=None):
    "Programs with given genes of equal weight"
    genes = [gene for members in lists for gene in members] + list(others)
    spectra = np.zeros((len(lists), len(genes)))
    for k, members in enumerate(lists): spectra[k, [genes.index(gene) for gene in members]] = len(members) ** -0.5
    usage = np.ones((4, len(lists)), np.float32) if usage is None else usage
    return Programs(usage=usage, spectra=spectra, names=[f"P{k + 1}" for k in range(len(lists))], genes=genes, scale=np.ones(len(genes)), left_out=[], loss=np.ones(1),
                    explained=np.full(len(lists), 0.1), stability=np.ones(len(lists)), converged=True, parameters={})


OTHERS = [f"x{i}" for i in range(200)]


# gene sets

@pytest.mark.parametrize(("content", "message"), [
    ("", "holds no gene set"), ("\n \n", "holds no gene set"), ("a\tb\n", "line 1 of"), ("a\tb\tc\nx\n", "line 2 of"), ("\tb\tc\n", "line 1 of"), ("a\tb\t \t\n", "line 1 of"),
    ("a b c d\n", "separated by tabs"), ("a\t\tg\n\nb\t\tg\na\t\tg\n", "line 4 of 'sets.gmt' names the set 'a' a second time"),
])
def test_malformed_gmt(tmp_path, content, message):
    (tmp_path / "sets.gmt").write_text(content)
    with pytest.raises(ValueError, match=message): read_gmt(tmp_path / "sets.gmt")


def test_gmt_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "sets.gmt").write_bytes(b"\x1f\x8b\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"): read_gmt(tmp_path / "sets.gmt")
    with pytest.raises(ValueError, match="there is no file 'none.gmt'"): read_gmt(tmp_path / "none.gmt")
    with pytest.raises(ValueError, match="there is no file"): read_gmt(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_gmt_as_programs_write_it(tmp_path, end):
    (tmp_path / "sets.gmt").write_bytes(f"\ufeffa\thttp://x\tg1\tg2\tg1\t\t{end}b\t\tg3".encode())
    assert read_gmt(str(tmp_path / "sets.gmt")) == {"a": ["g1", "g2"], "b": ["g3"]}


def test_gmt_path_is_as_good_as_its_sets(tmp_path, programs, planted_sets):
    (tmp_path / "sets.gmt").write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in planted_sets.items()))
    pd.testing.assert_frame_equal(annotate_programs(programs, tmp_path / "sets.gmt"), annotate_programs(programs, planted_sets))


def test_built_in_sets_of_human_and_mouse():
    human = ["PCNA", "TOP2A", "MT-ND1", "MT-RNR2", "MTOR", "RPL10L", "RPS27A", "RPS6KB1", "MRPL3", "RPL3P4", "STAT2", "HSPA1A", "FOS"]
    sets = built_in_gene_sets(human)
    assert sets["mitochondrial"] == ["MT-ND1", "MT-RNR2"] and sets["ribosomal"] == ["RPL10L", "RPS27A"] and sets["S phase"] == ["PCNA"]
    mouse = built_in_gene_sets([gene.capitalize() if not gene.startswith("MT-") else f"mt-{gene[3:].capitalize()}" for gene in human])
    assert {name: len(genes) for name, genes in mouse.items()} == {name: len(genes) for name, genes in sets.items()}


# annotation

def test_p_is_fishers(programs, planted_sets):
    mixed = {"half": planted_sets["set 0"][::2] + planted_sets["set 1"][:5], **planted_sets}
    table = annotate_programs(programs, mixed)
    for row in table.itertuples():
        own = set(np.array(programs.genes)[programs.spectra[programs.names.index(row.program)] != 0])
        of_set, everything = set(mixed[row.gene_set]) & set(programs.genes), len(programs.genes)
        both = len(own & of_set)
        assert (row.overlap, row.size, len(row.genes.split(", "))) == (both, len(of_set), both)
        assert row.p == pytest.approx(fisher_exact([[both, len(own) - both], [len(of_set) - both, everything - len(own | of_set)]], alternative="greater").pvalue, rel=1e-6)
        assert row.expected == pytest.approx(len(own) * len(of_set) / everything)
    assert (table["q"] >= table["p"]).all() and (table.groupby("program")["p"].apply(lambda p: p.is_monotonic_increasing)).all()
    assert list(table["program"].unique()) == programs.names


def test_planted_sets_are_found(programs, planted_sets):
    best = annotate_programs(programs, planted_sets).query("q < 1e-6 and share > 0.8")
    assert sorted(best["gene_set"]) == sorted(planted_sets) and sorted(best["program"]) == sorted(programs.names)


def test_background_is_what_entered(programs, planted_sets):
    scale = programs.scale.copy()
    silent = np.flatnonzero(programs.spectra[0] != 0)[:5]
    scale[silent] = np.inf
    spectra = programs.spectra.copy()
    spectra[:, silent] = 0
    fewer = replace(programs, scale=scale, spectra=spectra)
    everything = {"all": programs.genes}
    assert set(annotate_programs(fewer, everything)["size"]) == {len(programs.genes) - 5}
    assert (annotate_programs(fewer, everything)["p"] == 1).all()


def test_genes_are_listed_by_weight():
    programs = made_of(["a", "b", "c"], others=OTHERS)
    programs.spectra[0, :3] = [0.1, 0.9, 0.4]
    table = annotate_programs(programs, {"set": ["a", "b", "c", "nowhere", "b"]})
    assert table.loc[0, "genes"] == "b, c, a" and table.loc[0, "size"] == 3
    assert table.loc[0, "share"] == pytest.approx(0.98)


def test_signed_weights_count_by_their_square():
    programs = made_of(["a", "b"], ["c", "d"], others=OTHERS)
    programs.spectra[0, 0] *= -1
    assert annotate_programs(programs, {"set": ["a", "b", "x1"]}).loc[0, ["overlap", "share"]].tolist() == [2, pytest.approx(1)]


def test_sets_without_measured_genes(programs, planted_sets, heard):
    assert annotate_programs(programs, {"elsewhere": ["STAT1", "IRF1", "MX1"]}).empty
    assert "No gene set could be tested" in heard.text and "g0" in heard.text
    assert annotate_programs(programs).empty
    assert set(annotate_programs(programs, planted_sets | {"small": ["g1", "g2"]})["gene_set"]) == set(planted_sets)
    assert "small" in set(annotate_programs(programs, planted_sets | {"small": ["g1", "g2"]}, min_size=2)["gene_set"])
    assert name_programs(programs).names[0].count("/") == 1


@pytest.mark.parametrize("bad", [{}, {"a": []}, {"a": "STAT1"}, {"a": None}, ["STAT1"], 3, "none.gmt"])
def test_what_is_no_gene_set(programs, bad):
    with pytest.raises(ValueError, match="^gene_sets"): annotate_programs(programs, bad)


@pytest.mark.parametrize(("call", "message"), [
    (lambda p, s: annotate_programs(s), "programs must be Programs"), (lambda p, s: name_programs("x"), "programs must be Programs"),
    (lambda p, s: project_programs("x", s), "programs must be Programs"), (lambda p, s: flag_technical("x", s), "programs must be Programs"),
    (lambda p, s: select_programs(s, ["P1"]), "programs must be Programs"), (lambda p, s: flag_technical(p, s, threshold="x"), "threshold must be"),
    (lambda p, s: name_programs(p, max_q="x"), "max_q must be a number from 0 to 1"), (lambda p, s: name_programs(p, min_share=None), "min_share must be a number"),
    (lambda p, s: project_programs(p, s, min_share="x"), "min_share must be"),
    (lambda p, s: name_programs(p, annotate_programs(p, {"a": ["g1", "g2", "g3"]}).drop(columns="q")), "gene_sets must be a table from annotate_programs, it has no column 'q'"),
])
def test_what_is_no_program_or_no_number(programs, screen, call, message):
    with pytest.raises(ValueError, match=message): call(programs, screen)


def test_plain_matrix_can_be_annotated(truth, planted_sets):
    found = onmf(pd.DataFrame(truth[0], columns=[f"g{i}" for i in range(truth[0].shape[1])]), K)
    assert len(annotate_programs(found, planted_sets).query("q < 1e-6")) >= K


# names

def test_built_in_names():
    named = name_programs(made_of(S_GENES[:20], G2M_GENES[:20], INTERFERON_GENES[:20], ["RPL3", "RPS4X", "RPL5", "RPLP0"], ["a", "b", "c"], others=OTHERS))
    assert named.names == ["S phase", "G2M phase", "interferon", "ribosomal", "a/b"]


def test_names_differ():
    programs = made_of(S_GENES[:10], S_GENES[10:20], ["a"], others=OTHERS)
    assert name_programs(programs).names == [f"S phase ({S_GENES[0]})", f"S phase ({S_GENES[10]})", "a"]
    awkward = replace(programs, parameters={"prior_programs": {"a": ["a"]}}, names=["P1", "P2", "a"])
    assert name_programs(awkward).names[2] == "a"
    again = name_programs(name_programs(programs))
    assert again.names == name_programs(programs).names and len(set(again.names)) == 3


def test_prior_programs_and_perturbed_genes():
    programs = made_of(["STAT1", "b", "c", "d"], S_GENES[:10], others=OTHERS)
    programs.spectra[0, :4] = [0.9, 0.3, 0.2, 0.1]
    assert name_programs(programs).names[0] == "STAT1/b"
    assert name_programs(replace(programs, left_out=["STAT1"])).names[0] == "b/c"
    assert name_programs(replace(programs, left_out=["STAT1", "b", "c", "d"]), n_genes=1).names[0] == "STAT1"
    prior = replace(programs, names=["P1", "mine"], parameters={"prior_programs": {"mine": list(S_GENES[:10])}})
    assert name_programs(prior).names[1] == "mine"


def test_a_small_share_lends_no_name():
    many = made_of(["MT-ND1", "MT-ND2", "MT-ND3", *OTHERS[:40]], ["y"], others=OTHERS[40:])
    assert annotate_programs(many).loc[0, "q"] < 0.05
    assert name_programs(many).names[0] == "MT-ND1/MT-ND2"
    assert name_programs(many, min_share=0.05).names[0] == "mitochondrial"


def test_names_survive_a_file(tmp_path, programs, planted_sets):
    named = name_programs(programs, planted_sets)
    named.save(tmp_path / "programs.h5ad")
    loaded = Programs.load(tmp_path / "programs.h5ad")
    assert loaded.names == named.names and sorted(named.names) == sorted(planted_sets) and loaded.parameters["renamed"] == dict(zip(named.names, programs.names))
    assert programs.names == [f"P{k + 1}" for k in range(K)]


# technical programs

def test_columns_are_spearmans_and_eta_squared(screen, programs):
    flags = flag_technical(programs, screen)
    for k, name in enumerate(programs.names):
        assert flags.loc[name, "depth"] == pytest.approx(spearmanr(programs.usage[:, k], screen.obs["total_counts"]).statistic, abs=1e-9)
        a, b = (programs.usage[screen.obs["batch"] == batch, k].astype(float) for batch in "ab")
        whole = programs.usage[:, k].astype(float)
        within = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
        assert flags.loc[name, "batch"] == pytest.approx(1 - within / ((whole - whole.mean()) ** 2).sum(), abs=1e-6)
    assert flags[["mitochondria", "S", "G2M"]].isna().all(axis=None)


def test_what_was_not_measured_is_told(screen, programs, heard):
    flag_technical(programs, screen)
    assert "not judged: mitochondria, S, G2M" in heard.text


def test_threshold_decides(screen, programs):
    usage = programs.usage.copy()
    usage[:, 0] = screen.obs["total_counts"]
    usage[:, 1] = -screen.obs["total_counts"]
    usage[:, 2] = screen.obs["batch"] == "a"
    usage[:, 3] = 1
    flags = flag_technical(replace(programs, usage=usage), screen, threshold=1)
    assert flags["flagged"].tolist() == [True] * 3 + [False] * 3
    assert flags["reasons"].iloc[:4].tolist() == ["depth (ρ = 1.00)", "depth (ρ = -1.00)", "batch (η² = 1.00)", ""]
    assert flags.iloc[3][["depth", "batch"]].isna().all()
    assert flag_technical(programs, screen, threshold=1e-9)["flagged"].all()


def test_few_mitochondrial_genes_say_nothing(screen, programs):
    panel = screen.copy()
    panel.obs["pct_counts_mt"] = programs.usage[:, 0]
    assert flag_technical(programs, panel)["mitochondria"].iloc[0] == pytest.approx(1)
    panel.var["mt"] = np.arange(panel.n_vars) < 2
    assert flag_technical(programs, panel)["mitochondria"].isna().all()
    panel.var["mt"] = np.arange(panel.n_vars) < 12
    assert flag_technical(programs, panel)["flagged"].iloc[0]


def test_depth_is_the_given_size_where_there_is_one(screen, programs):
    panel = screen.copy()
    panel.obs["size_factor"] = programs.usage[:, 2].astype(float)
    assert flag_technical(programs, panel)["depth"].iloc[2] == pytest.approx(1)


def test_one_batch_explains_nothing(screen, programs):
    single = screen.copy()
    single.obs["batch"] = "only"
    assert flag_technical(programs, single)["batch"].isna().all()


def test_bad_input_to_flags(screen, programs):
    with pytest.raises(ValueError, match="the usage of the 5 cells"): flag_technical(programs, screen[:5])
    with pytest.raises(ValueError, match="must be an AnnData"): flag_technical(programs, screen.to_df())
    for threshold in (0, -1, 1.1, np.nan):
        with pytest.raises(ValueError, match="threshold"): flag_technical(programs, screen, threshold=threshold)
    with pytest.raises(ValueError, match="prepare_screen"): flag_technical(programs, ad.AnnData(screen.X))
    broken = screen.copy()
    broken.obs["total_counts"] = np.nan
    with pytest.raises(ValueError, match="total_counts"): flag_technical(programs, broken)


# fewer programs

def test_selection_is_consistent(programs, tmp_path):
    some = select_programs(programs, ["P4", "P2"])
    assert some.names == ["P4", "P2"] and some.genes == programs.genes
    for name in ("explained", "stability"): np.testing.assert_array_equal(getattr(some, name), getattr(programs, name)[[3, 1]])
    np.testing.assert_array_equal(some.usage, programs.usage[:, [3, 1]])
    np.testing.assert_array_equal(some.spectra, programs.spectra[[3, 1]])
    assert list(some.top_genes(3).columns) == ["P4", "P2"]
    some.save(tmp_path / "some.h5ad")
    assert Programs.load(tmp_path / "some.h5ad").parameters["selected_from"] == programs.names


@pytest.mark.parametrize("keep", [np.arange(K) < 2, [True, True] + [False] * 4, pd.Series(np.arange(K) < 2), pd.Series([False] * 4 + [True] * 2, index=["P6", "P5", "P4", "P3", "P2", "P1"]),
                                  ("P1", "P2"), pd.Index(["P1", "P2"])])
def test_ways_to_say_which(programs, keep):
    assert select_programs(programs, keep).names == ["P1", "P2"]


@pytest.mark.parametrize("keep", [[], ["P1", "P1"], ["P9"], [0, 1], [True], np.zeros(K, bool), "P"])
def test_bad_selections(programs, keep):
    with pytest.raises(ValueError, match="keep"): select_programs(programs, keep)
    assert select_programs(programs, "P1").names == ["P1"]


# projection

def test_order_and_extra_genes_change_nothing(screen, programs):
    rng = np.random.default_rng(0)
    extra = ad.AnnData(sparse.csr_matrix(rng.random((screen.n_obs, 30)).astype(np.float32)), obs=screen.obs, var=pd.DataFrame(index=[f"new{i}" for i in range(30)]))
    other = ad.concat([extra, screen[:, rng.permutation(screen.n_vars)]], axis=1)
    before = other.to_df()
    np.testing.assert_allclose(project_programs(programs, other), programs.usage, rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(other.to_df(), before)
    dense = ad.AnnData(other.X.toarray(), var=other.var)
    np.testing.assert_allclose(project_programs(programs, dense), programs.usage, rtol=1e-5, atol=1e-5)
    assert project_programs(programs, other).dtype == np.float32


def test_missing_genes_keep_the_scale_of_exact_programs():
    rng = np.random.default_rng(1)
    programs = made_of(*([f"{k}{i}" for i in range(20)] for k in "abc"))
    spectra = programs.spectra * rng.uniform(0.2, 1, 60)
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    programs, usage = replace(programs, spectra=spectra, scale=rng.uniform(0.5, 2, 60)), rng.gamma(1, 1, (50, 3))
    exact = ad.AnnData((usage @ (spectra * programs.scale)).astype(np.float32), var=pd.DataFrame(index=programs.genes))
    here = rng.permutation(60)[:42]
    np.testing.assert_allclose(project_programs(programs, exact[:, here]), usage, rtol=1e-4)


def test_genes_left_out_stay_left_out(screen, programs):
    heavy = list(programs.top_genes(3).iloc[:, 0])
    without = replace(programs, left_out=heavy)
    reference = without.transform(screen)
    np.testing.assert_allclose(project_programs(without, screen), reference, rtol=1e-5, atol=1e-5)
    missing = screen[:, ~screen.var_names.isin(heavy[:2])]
    np.testing.assert_allclose(project_programs(without, missing), reference, rtol=1e-5, atol=1e-5)


def test_missing_genes_are_told(screen, programs, heard):
    light = programs.to_frame().groupby("program")["gene"].last()
    project_programs(programs, screen[:, ~screen.var_names.isin(light)])
    counted = np.setdiff1d(np.array(programs.genes)[programs.spectra.any(0)], programs.left_out)
    assert f"{np.isin(light, counted).sum()} of the {len(counted)} genes of the programs are missing" in heard.text


def test_too_few_genes(screen, programs):
    own = programs.to_frame().query("program == 'P2'")["gene"]
    other = screen[:, ~screen.var_names.isin(own)]
    with pytest.raises(ValueError, match=r"1 of 6 have less \(P2 0%\)"): project_programs(programs, other)
    rest = select_programs(programs, [name for name in programs.names if name != "P2"])
    np.testing.assert_allclose(project_programs(rest, other), rest.usage, rtol=1e-5, atol=1e-5)
    foreign = screen.copy()
    foreign.var_names = [f"ENSG{i:05d}" for i in range(screen.n_vars)]
    with pytest.raises(ValueError, match="Genes are called g0, g1 in programs, ENSG00000, ENSG00001 in adata"): project_programs(programs, foreign)


def test_backed_screen(screen, programs, tmp_path):
    screen.write_h5ad(tmp_path / "screen.h5ad")
    backed = ad.read_h5ad(tmp_path / "screen.h5ad", backed="r")
    np.testing.assert_allclose(project_programs(programs, backed), programs.usage, rtol=1e-5, atol=1e-5)
    backed.file.close()


def test_bad_input_to_projection(truth, screen, programs):
    with pytest.raises(ValueError, match="must be an AnnData"): project_programs(programs, screen.X)
    with pytest.raises(ValueError, match="whole numbers"): project_programs(programs, as_screen(sparse.csr_matrix(truth[0].astype(np.float32))))
    for change, message in ((np.nan, "finite"), (-1.5, "negative")):
        broken = screen.copy()
        broken.X.data[0] = change
        with pytest.raises(ValueError, match=message): project_programs(programs, broken)
    twice = screen.copy()
    twice.var_names = ["g0", "g0", *screen.var_names[2:]]
    with pytest.raises(ValueError, match="unique var_names"): project_programs(programs, twice)
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="min_share"): project_programs(programs, screen, min_share=share)


# programs from elsewhere

def weights_of(programs): return pd.DataFrame(programs.spectra.copy(), index=programs.names, columns=programs.genes)


def counted(screen, programs):
    "Scaled expression, zero where a gene does not enter usage"
    return np.where(np.isin(programs.genes, programs.left_out), 0, screen[:, programs.genes].X.toarray() / programs.scale)


def test_adopted_programs_are_consistent(screen, programs, tmp_path):
    rng = np.random.default_rng(0)
    other = screen[:, rng.permutation(screen.n_vars)[:-40]].copy()
    before = other.to_df()
    adopted = adopt_programs(other, select_programs(programs, ["P4", "P2", "P1"]))
    assert adopted.names == ["P4", "P2", "P1"] and len(adopted.genes) == other.n_vars and adopted.parameters["genes_missing"] == screen.n_vars - other.n_vars
    np.testing.assert_allclose(np.linalg.norm(adopted.spectra, axis=1), 1)
    np.testing.assert_allclose(adopted.transform(other), adopted.usage, rtol=1e-5, atol=1e-5)
    scaled, everything = other[:, adopted.genes].X.toarray() / adopted.scale, replace(adopted, usage=replace(adopted, left_out=[]).transform(other))
    residual = ((scaled - everything.usage @ everything.spectra) ** 2).sum()
    assert adopted.loss[-1] == pytest.approx(residual, rel=1e-4) and adopted.explained.sum() == pytest.approx(1 - residual / (scaled ** 2).sum(), rel=1e-4)
    assert np.isnan(adopted.stability).all() and len(programs.names) == K
    pd.testing.assert_frame_equal(other.to_df(), before)
    adopted.save(tmp_path / "adopted.h5ad")
    again = adopt_programs(other, tmp_path / "adopted.h5ad")
    np.testing.assert_allclose(again.usage, adopted.usage, rtol=1e-5, atol=1e-6)


def test_perturbed_genes_of_this_screen_are_left_out(screen, programs):
    perturbed = screen.copy()
    gene = programs.top_genes(1)["P1"].iloc[0]
    perturbed.obs["target_gene"] = np.where(np.arange(screen.n_obs) % 2, "control", gene)
    adopted = adopt_programs(perturbed, programs)
    assert adopted.left_out == sorted({gene, *programs.left_out}) and not np.allclose(adopted.usage[:, 0], programs.usage[:, 0])
    np.testing.assert_allclose(adopted.usage, replace(programs, left_out=adopted.left_out).transform(screen), rtol=1e-5, atol=1e-5)


def test_weights_with_signs_are_seen_from_the_controls(screen, programs):
    weights = weights_of(programs)
    weights.iloc[0, np.flatnonzero(weights.iloc[0])[::2]] *= -1
    control = screen.copy()
    control.obs["if_control"] = np.arange(screen.n_obs) % 3 == 0
    adopted = adopt_programs(control, weights)
    assert adopted.centre is not None and (adopted.usage < 0).any() and (adopted.spectra[0] < 0).any()
    scaled = counted(screen, adopted)
    for batch in "ab":
        here = (screen.obs["batch"] == batch).to_numpy()
        expected = (scaled[here] - scaled[here & control.obs["if_control"].to_numpy()].mean(0)) @ adopted.spectra.T
        np.testing.assert_allclose(adopted.usage[here], expected, atol=1e-3)
    np.testing.assert_allclose(adopt_programs(control, adopted).usage, adopted.usage, atol=1e-4)


def test_weights_that_share_genes_take_least_squares(screen, programs):
    weights = weights_of(programs) + 0.02
    adopted = adopt_programs(screen, weights)
    scaled = counted(screen, adopted)
    for cell in (0, 5, 9): np.testing.assert_allclose(adopted.usage[cell], nnls(adopted.spectra.T, scaled[cell])[0], atol=1e-3)


@pytest.mark.parametrize(("suffix", "tidy"), [(".csv", True), (".csv", False), (".tsv", True), (".txt", False)])
def test_weights_of_a_file(screen, programs, tmp_path, suffix, tidy):
    table = programs.to_frame() if tidy else weights_of(programs)
    table.to_csv(tmp_path / f"weights{suffix}", sep="," if suffix == ".csv" else "\t", index=not tidy)
    adopted = adopt_programs(screen, tmp_path / f"weights{suffix}")
    assert adopted.names == programs.names
    np.testing.assert_allclose(adopted.usage, adopt_programs(screen, weights_of(programs)).usage, atol=1e-4)
    np.testing.assert_allclose(adopt_programs(screen, table).usage, adopted.usage, atol=1e-4)


def test_what_cannot_be_adopted(screen, programs, tmp_path):
    weights = weights_of(programs)
    twice = pd.concat([weights, weights.iloc[:1]])
    bad = {"name each program once": twice, "name each gene once": pd.concat([weights, weights.iloc[:, :1]], axis=1), "finite": weights * np.nan,
           "table of numbers": weights.astype(str), "some gene, 'P2'": weights.assign(**{gene: weights[gene].where(weights.index != "P2", 0) for gene in weights}),
           "transpose": weights.T, "got list": [1, 2]}
    for message, given in bad.items():
        with pytest.raises(ValueError, match=message): adopt_programs(screen, given)
    (tmp_path / "packed.csv").write_bytes(b"\x1f\x8b\xff\xfe\x00")
    (tmp_path / "twice.csv").write_text("program,gene,weight\nP1,g1,1\nP1,g1,2\n")
    for name, message in {"packed.csv": "no table of weights", "none.csv": "there is no file 'none.csv'", "twice.csv": "each gene of a program once"}.items():
        with pytest.raises(ValueError, match=message): adopt_programs(screen, tmp_path / name)
    with pytest.raises(ValueError, match="must be an AnnData"): adopt_programs(screen.X, programs)
    with pytest.raises(ValueError, match="whole numbers"): adopt_programs(ad.AnnData(sparse.csr_matrix(np.ones(screen.shape, np.float32)), obs=screen.obs, var=screen.var), programs)
