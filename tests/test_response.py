"What would bore a reader of 03_response: references by hand, odd samples tables, files."
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbnb.model import gibbs_sample
from perturbnb.network import infer_network
from perturbnb.response import Response, guide_concordance, relative_response

GUIDES = {"a_g1": "A", "a_g2": "A", "b_g1": "B", "nt_1": "control", "nt_2": "control"}


def free_network(batches=("x", "y"), seed=0, **changes):
    "A network with a free field per sample, guides × batches"
    rng = np.random.default_rng(seed)
    rows = [(f"{g}|{b}", g, t, b, t == "control", int(rng.integers(5, 50))) for g, t in GUIDES.items() for b in batches]
    samples = pd.DataFrame(rows, columns=["sample_id", "guide", "target_gene", "batch", "if_control", "n_cells"]).set_index("sample_id")
    h = rng.normal(size=(len(rows), 4))
    terms = pd.DataFrame({"kind": ["sample"] * len(rows), "guide": samples.guide.to_numpy()})
    return SimpleNamespace(**(dict(h=h, coefficients=h, design=np.eye(len(rows)), samples=samples, terms=terms, names=list("WXYZ")) | changes))


def subset(network, keep):
    at = np.arange(len(network.h))[np.asarray(keep)]
    return SimpleNamespace(**(vars(network) | dict(h=network.h[at], coefficients=network.h[at], samples=network.samples.iloc[at])))


def by_hand(network, guide, controls_of):
    total, cells = 0, 0
    for sample, row in network.samples.iterrows():
        if row.guide != guide: continue
        zero = weight = 0
        for other, (_, c) in enumerate(network.samples.iterrows()):
            if controls_of(c, row): zero, weight = zero + c.n_cells * network.h[other], weight + c.n_cells
        total, cells = total + row.n_cells * (network.h[network.samples.index.get_loc(sample)] - zero / weight), cells + row.n_cells
    return total / cells


def targets(values, guides, **columns):
    table = pd.DataFrame({"target_gene": [g.split("_")[0].upper() for g in guides], "n_cells": 10, "reference": "own batch"}, index=pd.Index(guides, name="guide"))
    return Response(np.asarray(values, float), table.assign(**columns), [f"P{i}" for i in range(np.shape(values)[1])], "guide")


@pytest.mark.parametrize("reference,controls_of,recorded", [
    ("auto", lambda c, row: c.if_control and c.batch == row.batch, "own batch"),
    ("own batch", lambda c, row: c.if_control and c.batch == row.batch, "own batch"),
    ("all controls", lambda c, row: c.if_control, "all controls")])
def test_subtraction_agrees_with_a_loop(reference, controls_of, recorded):
    network = free_network()
    response = relative_response(network, reference=reference)
    assert response.rows == ["a_g1", "a_g2", "b_g1"]
    assert set(response.table.reference) == {recorded}
    for guide, values in zip(response.rows, response.values): np.testing.assert_allclose(values, by_hand(network, guide, controls_of))
    assert response.table.n_cells["a_g1"] == network.samples.n_cells[network.samples.guide == "a_g1"].sum()


def test_batch_without_controls_takes_all_of_them(caplog):
    network = free_network()
    network = subset(network, ~(network.samples.if_control & (network.samples.batch == "y")))
    network = subset(network, ~((network.samples.guide == "b_g1") & (network.samples.batch == "y")))
    response = relative_response(network)
    assert response.table.reference.to_dict() == {"a_g1": "all controls", "a_g2": "all controls", "b_g1": "own batch"}
    assert "no controls in batch y" in caplog.text
    assert response.by_target().table.reference.to_dict() == {"A": "all controls", "B": "own batch"}
    np.testing.assert_allclose(response.values[0], by_hand(network, "a_g1", lambda c, row: c.if_control))     # what controls there are lie in x


def test_no_controls_at_all(caplog):
    network = free_network()
    network = subset(network, ~network.samples.if_control)
    response = relative_response(network)
    assert set(response.table.reference) == {"all samples"} and "no control samples" in caplog.text
    np.testing.assert_allclose(np.average(response.values, axis=0, weights=response.table.n_cells), 0, atol=1e-12)


def test_one_control_sample_warns(caplog):
    network = free_network(batches=("x",))
    network = subset(network, network.samples.guide != "nt_2")
    response = relative_response(network)
    assert "one control sample, 'nt_1|x'" in caplog.text
    np.testing.assert_allclose(response.values[0], network.h[0] - network.h[-1])


def test_without_a_batch_column_all_controls_are_the_reference():
    network = free_network(batches=("x",))
    network.samples = network.samples.drop(columns="batch")
    assert set(relative_response(network).table.reference) == {"all controls"}


def test_order_of_samples_does_not_matter():
    network = free_network()
    at = np.random.default_rng(1).permutation(len(network.h))
    a, b = relative_response(network), relative_response(subset(network, at)).select(relative_response(network).rows)
    np.testing.assert_allclose(a.values, b.values)
    pd.testing.assert_frame_equal(a.table, b.table)


@pytest.mark.parametrize("dtype", [bool, int, float, object])
def test_if_control_of_any_truthful_dtype(dtype):
    network = free_network()
    expected = relative_response(network).values
    network.samples["if_control"] = network.samples["if_control"].astype(dtype)
    np.testing.assert_array_equal(relative_response(network).values, expected)


def test_categorical_columns():
    network = free_network()
    expected = relative_response(network)
    network.samples = network.samples.astype({"guide": "category", "target_gene": "category", "batch": "category"})
    response = relative_response(network)
    np.testing.assert_array_equal(response.values, expected.values)
    assert response.by_target().rows == ["A", "B"]


@pytest.mark.parametrize("change,message", [
    (dict(if_control="False"), "must be True or False, got \\['False'\\]"),
    (dict(if_control=np.nan), "must be True or False"),
    (dict(if_control=True), "must leave some samples"),
    (dict(n_cells=0), "n_cells'\\] must be positive, got 0"),
    (dict(target_gene=None), "target_gene'\\] must be known"),
    (dict(target_gene=list("AB") * 5), "one target_gene, got 2 for guide 'a_g1'")])
def test_samples_that_are_refused(change, message):
    network = free_network()
    network.samples = network.samples.assign(**change)
    with pytest.raises(ValueError, match=message): relative_response(network)


def test_other_refusals():
    network = free_network()
    with pytest.raises(ValueError, match="reference must be"): relative_response(network, reference="batch")
    with pytest.raises(ValueError, match="network.coefficients must be finite, got 40"): relative_response(SimpleNamespace(**(vars(network) | dict(coefficients=network.h * np.inf))))
    network.samples = network.samples.rename(columns={"n_cells": "ncells"})
    with pytest.raises(ValueError, match="'n_cells'; did you mean 'ncells'"): relative_response(network)


def test_without_targets_every_guide_is_its_own(caplog):
    network = free_network()
    network.samples = network.samples.drop(columns="target_gene")
    assert relative_response(network).table.target_gene.tolist() == ["a_g1", "a_g2", "b_g1"]
    assert "no column 'target_gene'" in caplog.text


def test_cells_with_two_guides_count_for_both():
    samples = pd.DataFrame({"guide": ["a_g1", "b_g1", "a_g1+b_g1", "nt_1", "nt_2"], "target_gene": ["A", "B", "A+B", "control", "control"],
                            "if_control": [False] * 3 + [True] * 2, "n_cells": [10, 20, 5, 40, 40]}, index=[f"s{i}" for i in range(5)])
    design = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]])
    terms = pd.DataFrame({"kind": ["intercept", "guide", "guide"], "guide": ["", "a_g1", "b_g1"]})
    coefficients = np.arange(9.).reshape(3, 3)
    response = relative_response(SimpleNamespace(h=design @ coefficients, coefficients=coefficients, design=design, terms=terms, samples=samples, names=list("XYZ")))
    np.testing.assert_array_equal(response.values, coefficients[1:])
    assert response.table.n_cells.tolist() == [15, 25] and response.table.target_gene.tolist() == ["A", "B"]


def test_a_fit_without_a_samples_table(caplog):
    h = np.repeat([[.5, 0, 0], [0, -.8, 0], [-.5, .4, .9]], 300, axis=0)
    response = relative_response(infer_network(gibbs_sample(np.zeros((3, 3)), h), np.repeat(["a", "b", "c"], 300)))
    assert response.rows == ["a", "b", "c"] and set(response.table.reference) == {"all samples"}


def test_inputs_stay_as_they_are():
    network = free_network()
    h, samples = network.h.copy(), network.samples.copy()
    relative_response(network).by_target()
    np.testing.assert_array_equal(network.h, h)
    pd.testing.assert_frame_equal(network.samples, samples)


def test_by_target_combinations():
    response = targets([[1, 0, 2], [5, 5, 5], [3, 4, 2]], ["b_1", "a_1", "b_2"], n_cells=[30, 7, 10])
    mean, cells = response.by_target(), response.by_target("cells")
    assert mean.rows == ["B", "A"] and mean.table.n_guides.tolist() == [2, 1] and mean.table.n_cells.tolist() == [40, 7]
    np.testing.assert_allclose(mean.values[0], [2, 2, 2])
    np.testing.assert_allclose(cells.values[0], [1.5, 1, 2])
    np.testing.assert_allclose(mean.spread[0], [np.sqrt(2), np.sqrt(8), 0])
    assert np.isnan(mean.spread[1]).all()
    with pytest.raises(ValueError, match="combine must be"): response.by_target("median")


def test_concordance_cases():
    profile = np.array([1., -1, 2, 0])
    values = [profile, 2 * profile, profile[::-1], profile, -profile, profile, 0 * profile, profile]
    table = guide_concordance(targets(values, ["a_1", "a_2", "a_3", "b_1", "b_2", "c_1", "c_2", "d_1"]))
    assert table.odd_guide.to_dict() == {"A": "a_3", "B": "", "C": "", "D": ""}
    np.testing.assert_allclose(table.correlation["B"], -1)
    assert np.isnan(table.correlation[["C", "D"]]).all()                    # a silent guide, a lone guide
    np.testing.assert_allclose(table.correlation["A"], (1 + 2 * np.corrcoef(profile, profile[::-1])[0, 1]) / 3)
    assert table.lowest["A"] <= table.correlation["A"]
    np.testing.assert_allclose(table.strength["D"], np.sqrt((profile ** 2).mean()))
    assert guide_concordance(targets(np.zeros((2, 4)), ["a_1", "a_2"])).correlation.isna().all()
    assert guide_concordance(targets(np.ones((2, 2)) * [1, 2], ["a_1", "a_2"])).correlation.isna().all()   # two programs say nothing
    with pytest.raises(ValueError, match="must be one of guides"): guide_concordance(targets(values, list("abcdefgh")).by_target())


def test_to_frame_columns():
    response = targets(np.arange(6.).reshape(2, 3), ["a_1", "a_2"])
    assert list(response.to_frame()) == ["guide", "target_gene", "program", "response", "n_cells", "reference"]
    assert list(response.by_target().to_frame()) == ["target_gene", "program", "response", "spread", "n_guides", "n_cells", "reference"]
    assert response.to_frame().response.tolist() == list(range(6))
    assert response.to_frame().program.tolist() == ["P0", "P1", "P2"] * 2


def test_round_trip_of_guides(tmp_path):
    response = relative_response(free_network())
    response.save(tmp_path / "r.h5ad")
    again = Response.load(tmp_path / "r.h5ad")
    np.testing.assert_array_equal(again.values, response.values)
    pd.testing.assert_frame_equal(again.table, response.table)
    pd.testing.assert_frame_equal(again.to_frame(), response.to_frame())
    assert again.spread is None and again.parameters == response.parameters
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5ad"]


def test_files_that_are_refused(tmp_path):
    ad.AnnData(np.ones((2, 2))).write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(ValueError, match="must hold a saved response"): Response.load(tmp_path / "other.h5ad")
    (tmp_path / "broken.h5ad").write_bytes(b"not a file")
    with pytest.raises(ValueError, match="must be a readable .h5ad"): Response.load(tmp_path / "broken.h5ad")
    with pytest.raises(ValueError, match="there is no file"): Response.load(tmp_path / "none.h5ad")
    response = targets(np.ones((1, 2)), ["a_1"])
    with pytest.raises(ValueError, match="existing folder"): response.save(tmp_path / "nowhere" / "r.h5ad")
    response.save(tmp_path / "new.h5ad")
    newer = ad.read_h5ad(tmp_path / "new.h5ad")
    newer.uns["perturbnb"]["format_version"] = 99
    newer.write_h5ad(tmp_path / "new.h5ad")
    with pytest.raises(ValueError, match="format_version 99"): Response.load(tmp_path / "new.h5ad")


@pytest.mark.parametrize("change,message", [
    (dict(values=np.ones((2, 2))), "values must have one row"), (dict(values=np.full((2, 3), np.nan)), "values must be finite, got 6"),
    (dict(names=["P", "P", "Q"]), "names must not repeat 'P'"), (dict(level="cell"), "level must be"), (dict(spread=np.ones(3)), "spread must have the shape"),
    (dict(table=pd.DataFrame({"target_gene": "A", "n_cells": 1}, index=["g", "h"])), "column 'reference'"),
    (dict(table=pd.DataFrame({"target_gene": "A", "n_cells": 1, "reference": "own batch"}, index=["g", "g"])), "table must not repeat 'g'")])
def test_a_response_must_be_whole(change, message):
    table = pd.DataFrame({"target_gene": "A", "n_cells": 1, "reference": "own batch"}, index=["g", "h"])
    with pytest.raises(ValueError, match=message): Response(**(dict(values=np.ones((2, 3)), table=table, names=list("PQR"), level="guide") | change))


def test_select_unknown_and_nothing():
    response = relative_response(free_network())
    assert response.select(["b_g1"]).rows == ["b_g1"]
    with pytest.raises(ValueError, match="got 'b_g3'; did you mean 'b_g1'"): response.select(["a_g1", "b_g3"])
    with pytest.raises(ValueError, match="at least one row"): response.select([])
