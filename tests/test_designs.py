"What would bore a reader of 02_designs: labels of any kind, sparse against dense, and random circuits"
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from perturbnb.designs import _circuits, _distinct_rows, cell_design, check_identified, formula_design, free_design, given_design, screen_design


@pytest.fixture
def samples():
    rows = [(g, b, g.startswith("nt")) for g in ("b_1", "a_1", "nt_1", "nt_2") for b in "yx"]
    return pd.DataFrame(rows, columns=["guide", "batch", "if_control"], index=[f"{g}|{b}" for g, b, _ in rows])


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr("perturbnb.common.logger.propagate", True)
    caplog.set_level(logging.INFO, logger="perturbnb")
    return lambda: caplog.text


def test_screen_design(samples):
    design = screen_design(samples)
    assert list(design.terms.index) == ["intercept", "batch[y]", "guide[b_1]", "guide[a_1]"], "guides in order of appearance, batches sorted"
    assert list(design.terms["kind"]) == ["intercept", "batch", "guide", "guide"] and list(design.terms["shrunk"]) == [False, False, True, True]
    expected = np.column_stack([np.ones(8), samples["batch"] == "y", samples["guide"] == "b_1", samples["guide"] == "a_1"])
    np.testing.assert_array_equal(design.matrix, expected)
    assert list(design.rows) == list(samples.index) and "8 samples × 4 terms" in repr(design)


@pytest.mark.parametrize("change", [lambda s: s.astype({"guide": "category", "batch": "category"}), lambda s: s.assign(if_control=s["if_control"].astype(float)), lambda s: s.assign(extra=1.5)])
def test_types_of_columns_do_not_matter(samples, change):
    before = samples.copy()
    pd.testing.assert_frame_equal(screen_design(change(samples)).to_frame(), screen_design(samples).to_frame())
    pd.testing.assert_frame_equal(formula_design("~ batch + guide", change(samples)).to_frame(), screen_design(samples).to_frame())
    pd.testing.assert_frame_equal(samples, before)


def test_the_reference_batch_has_controls(samples):
    moved = samples.assign(batch=np.where(samples["if_control"] & (samples["batch"] == "x"), "z", samples["batch"]))
    assert list(screen_design(moved).terms.query("kind == 'batch'").index) == ["batch[x]", "batch[z]"], "x is first, but y is the first with controls"


def test_batches_written_as_numbers_are_batches(samples):
    numbers = samples.assign(batch=np.where(samples["batch"] == "x", 1, 2))
    assert list(formula_design("~ batch", numbers).terms.index) == ["intercept", "batch[2]"]


def test_covariates_of_samples(samples):
    design = screen_design(samples.assign(dose=np.arange(8)), covariates=["dose"])
    np.testing.assert_array_equal(design.to_frame()["dose"], np.arange(8))
    assert design.terms.loc["dose"].to_dict() == {"kind": "covariate", "guide": "", "shrunk": False}
    with pytest.raises(ValueError, match="covariates must be columns of samples, got 'doze'; did you mean"): screen_design(samples.assign(dose=1.), covariates=["doze"])
    with pytest.raises(ValueError, match="must be numeric"): screen_design(samples.assign(dose="high"), covariates=["dose"])
    with pytest.raises(ValueError, match="interactions needs separator"): screen_design(samples, interactions=True)


def test_combinations(samples):
    more = pd.concat([samples, pd.DataFrame({"guide": ["a_1+b_1", "a_1+nt_1", "b_1 + a_1"], "batch": "x", "if_control": False}, index=list("pqr"))])
    design = screen_design(more, separator="+").to_frame()
    assert list(design.columns) == ["intercept", "batch[y]", "guide[b_1]", "guide[a_1]"]
    assert design.loc["p"].tolist() == design.loc["r"].tolist() == [1, 0, 1, 1] and design.loc["q"].tolist() == design.loc["a_1|x"].tolist()
    assert list(screen_design(more).terms.query("kind == 'guide'")["guide"]) == ["b_1", "a_1", "a_1+b_1", "a_1+nt_1", "b_1 + a_1"]


@pytest.mark.parametrize("kind", ["frame", "array", "csr", "csc", "bool"])
def test_tables_of_guides_of_any_kind(kind):
    rng = np.random.default_rng(0)
    table = (rng.random((60, 5)) < 0.4).astype(int)
    names = list("ABCDE")
    reference = cell_design(pd.DataFrame(table, columns=names), control=["C"])
    labelled = pd.DataFrame(table, columns=names, index=[f"cell{i}" for i in range(60)])
    given_as = {"frame": labelled, "array": table.astype(np.uint8), "csr": sparse.csr_matrix(table), "csc": sparse.csc_array(table), "bool": table.astype(bool)}[kind]
    design = cell_design(given_as, control=["C"], names=None if kind == "frame" else names)
    pd.testing.assert_frame_equal(design.to_frame(), reference.to_frame())
    np.testing.assert_array_equal(design.row_of_cell, reference.row_of_cell)
    np.testing.assert_array_equal(design.to_frame().to_numpy()[design.row_of_cell, 1:], table[:, [0, 1, 3, 4]])
    assert sparse.issparse(design.matrix) and len(design.terms) == 5


def test_cells_without_guides_are_the_reference():
    design = cell_design(["A", None, "", np.nan, "ctrl", "A+ctrl", "A+A"], control=["ctrl"])
    np.testing.assert_array_equal(design.to_frame().to_numpy()[design.row_of_cell, 1], [1, 0, 0, 0, 0, 1, 1])
    assert design.matrix.shape == (2, 2)


def test_pairs_need_cells():
    labels = ["A+B"] * 9 + ["A+C"] * 10 + ["A", "B", "C"]
    assert list(cell_design(labels, interactions=True).terms.query("kind == 'interaction'")["guide"]) == ["A+C"]
    assert list(cell_design(labels, interactions=True, min_cells=9).terms.query("kind == 'interaction'")["guide"]) == ["A+B", "A+C"]


@pytest.mark.parametrize("options,message", [
    (dict(guides=["A", "B"], batch=["x"]), "batch must have one entry per cell"), (dict(guides=["A", "B"], covariates=pd.DataFrame({"d": [1.]})), "one row per cell"),
    (dict(guides=["A", "B"], covariates=pd.DataFrame({"d": [1., np.nan]})), "must be known for every cell, got 1"), (dict(guides=np.array([[1., np.nan]]), names=["A", "B"]), "guides must be finite"),
    (dict(guides=np.ones((2, 2)), names=["A"]), "one name for each of the 2 guides, got 1"), (dict(guides=["A", "B"], control=["ctrl"]), "control must name guides"),
    (dict(guides=["A", "B"], batch=["x", np.nan]), "batch must be known for every cell, got 1"), (dict(guides=["A", "B"], batch=[np.nan, np.nan]), "got 2 missing"),
    (dict(guides=["A", "B"], covariates=np.ones(2)), "covariates must be a DataFrame, got ndarray"), (dict(guides=["A", "B"], covariates=pd.Series([1., 2.])), "got Series"),
    (dict(guides=["A+B"], interactions=[("A", "A")]), "different guides, got \\('A', 'A'\\)"), (dict(guides=["A+B"], interactions=[("A", "B"), ("B", "A")]), "got \\('B', 'A'\\) again"),
    (dict(guides=["A", "B"], interactions=[("A", "B")]), "got \\('A', 'B'\\), which none does"), (dict(guides=["A+B+C"], interactions=[("A", "B", "C")]), "pairs of guides such as"),
    (dict(guides=["A+B"], interactions=["AB"]), "pairs of guides such as"), (dict(guides=["A+B"], interactions="A"), "pairs of guides such as"), (dict(guides=["A+B"], interactions=3), "got 3")])
def test_cell_designs_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message): cell_design(**options)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 999))
def test_distinct_rows_give_back_all_rows(n_rows, n_terms, seed):
    matrix = np.random.default_rng(seed).choice([0., 1., 0.3], (n_rows, n_terms))
    rows, which = _distinct_rows(matrix)
    np.testing.assert_array_equal(rows.toarray()[which], matrix)
    assert rows.shape[0] == len(np.unique(matrix, axis=0)) and (np.diff(np.unique(which, return_index=True)[1]) > 0).all()


@pytest.mark.parametrize("formula,terms", [
    ("~ guide", {"intercept": "intercept", "guide[b_1]": "guide", "guide[a_1]": "guide"}), ("~ target_gene", {"intercept": "intercept", "target_gene[b]": "target", "target_gene[a]": "target"}),
    ("~ batch:guide", None), ("~ C(batch) + guide", None),
    ("~ 1 + batch", {"intercept": "intercept", "batch[y]": "batch"}), ("~ np.log(dose + 1)", {"intercept": "intercept", "np.log(dose + 1)": "covariate"})])
def test_formulas(samples, formula, terms):
    table = samples.assign(target_gene=samples["guide"].str[:-2], dose=1. + np.arange(8))
    design = formula_design(formula, table)
    if terms: assert dict(design.terms["kind"]) == terms
    assert (design.terms["shrunk"] == design.terms["kind"].isin(["guide", "target", "interaction"])).all()
    assert design.terms["shrunk"].any() == ("guide" in formula or "target_gene" in formula) and not (design.matrix == 0).all(0).any()


def test_formulas_of_cells(samples):
    cells = samples.loc[np.repeat(samples.index, 20)].assign(depth=np.tile([1., 2.], 80)).reset_index(drop=True)
    design = formula_design("~ batch + guide + depth", cells, of_cells=True)
    np.testing.assert_array_equal(design.to_frame()["depth"].to_numpy()[design.row_of_cell], cells["depth"])
    assert sparse.issparse(design.matrix) and design.matrix.shape[0] == 12, "two batches, two depths, and three of a_1, b_1 and controls"


@pytest.mark.parametrize("formula,message", [
    ("~ batch + gide", "uses 'gide'; did you mean 'guide'"), ("~ (batch", "formula that can be read"), ("batch ~ guide", "one right-hand side"),
    ("~ guide | batch", "one right-hand side"), ("~ guide - 1", "keep its intercept"),
    ("~ batch + note", "'note' misses 8 values"), ("~ log(zero)", "design must be finite"), ("~ batch**guide", "formula that can be")])
def test_formulas_that_are_refused(samples, formula, message):
    with pytest.raises(ValueError, match=message): formula_design(formula, samples.assign(note=np.nan, zero=0.))


def test_given_designs():
    table = pd.DataFrame({"a": [1, 2], "b": [True, False]}, index=["s", "t"])
    np.testing.assert_array_equal(given_design(table).matrix, [[1, 1], [2, 0]])
    assert list(given_design(sparse.csr_array(np.eye(3)), of_cells=True).terms.index) == ["term1", "term2", "term3"]
    for bad, message in ((np.ones(3), "two-dimensional"), (np.ones((3, 0)), "two-dimensional"), (np.full((2, 2), np.nan), "design must be finite"), (pd.DataFrame({"a": ["x"]}), "must be numeric")):
        with pytest.raises(ValueError, match=message): given_design(bad)
    with pytest.raises(ValueError, match="different names, got 'a' twice"): given_design(pd.DataFrame(np.eye(2), columns=["a", "a"]))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 4), st.integers(0, 999))
def test_circuits_are_minimal_and_complete(n_free, n_dependent, seed):
    rng = np.random.default_rng(seed)
    free = rng.integers(-2, 3, (30, n_free)) + 0.1 * rng.normal(size=(30, n_free))
    mixing = rng.integers(-1, 2, (n_free, n_dependent))
    matrix = np.c_[free, free @ mixing][:, rng.permutation(n_free + n_dependent)]
    for form in (matrix, sparse.csr_array(matrix)):
        found = _circuits(form)
        assert len(found) == matrix.shape[1] - np.linalg.matrix_rank(matrix)
        for circuit in found:
            assert np.linalg.matrix_rank(matrix[:, circuit], tol=1e-7) == len(circuit) - 1
            assert all(np.linalg.matrix_rank(matrix[:, np.setdiff1d(circuit, j)], tol=1e-7) == len(circuit) - 1 for j in circuit)


def test_what_is_identified_is_not_told(samples, told):
    assert check_identified(screen_design(samples)) == check_identified(free_design(samples)) == [] and not told()


def test_batches_without_controls(samples, told):
    other = pd.DataFrame({"guide": ["c_1", "d_1"], "batch": "w", "if_control": False}, index=["c_1|w", "d_1|w"])
    assert check_identified(screen_design(pd.concat([samples, other]))) == [["batch[w]", "guide[c_1]", "guide[d_1]"]]
    assert "batch[w] has neither controls nor guides that are also elsewhere" in told()
    bridge = pd.DataFrame({"guide": ["c_1"], "batch": "x", "if_control": False}, index=["c_1|x"])
    assert check_identified(screen_design(pd.concat([samples, other, bridge]))) == [], "c_1 is also in a batch with controls"


def test_no_controls_is_the_mean_of_guides(samples, told):
    alone = samples.query("not if_control")
    assert check_identified(screen_design(alone)) == [["intercept", "guide[b_1]", "guide[a_1]"]] and "relative to their own mean" in told()


def test_too_many_terms_are_not_looked_through(told, monkeypatch):
    monkeypatch.setattr("perturbnb.designs._MOST_TERMS", 2)
    assert check_identified(given_design(np.ones((3, 3)))) == [] and "too many to look for" in told()


@pytest.mark.parametrize("column", ["guide", "target_gene", "batch"])
def test_what_is_missing_is_no_category(samples, column):
    table = samples.assign(target_gene="t")
    table[column] = [np.nan, *table[column].iloc[1:]]
    with pytest.raises(ValueError, match=f"'{column}'.* 1 "): formula_design(f"~ {column}", table)


def test_controls_need_no_target(samples):
    table = samples.assign(target_gene=np.where(samples["if_control"], None, samples["guide"].str[0]))
    assert list(formula_design("~ target_gene", table).terms.index) == ["intercept", "target_gene[b]", "target_gene[a]"]


def test_one_warning_for_all(samples, told):
    rows = [(f"{b}{k}", b, False) for b in "mnopq" for k in "12"]
    other = pd.DataFrame(rows, columns=["guide", "batch", "if_control"], index=[f"{g}|{b}" for g, b, _ in rows])
    assert len(check_identified(screen_design(pd.concat([samples, other])))) == 5
    assert told().count("cannot tell apart") == 1 and "and 2 more such sets" in told()
