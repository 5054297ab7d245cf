"What would bore a reader of 03f: labels, independence of order and unit, bad input."
import numpy as np
import pandas as pd
import pytest

from perturbnb.explained import explained_responses, usual_covariates
from perturbnb.model import gibbs_sample
from perturbnb.network import infer_network


def screen(seed=0):
    "A acts on the first program, B is shallow, and depth raises the second"
    rng = np.random.default_rng(seed)
    row = np.repeat([0, 1, 2], [300, 300, 600])
    samples = pd.DataFrame({"guide": ["A_g1", "B_g1", "nt"], "target_gene": ["A", "B", "control"], "if_control": [False, False, True]}, index=["a", "b", "c"])
    depth = rng.normal(size=len(row)) - 1.3 * (row == 1)
    spins = gibbs_sample(np.zeros((3, 3)), np.column_stack([1. * (row == 0), 0.8 * depth, 0 * depth]), n_sweeps=20, seed=seed)
    sample_id = np.array(["a", "b", "c"])[row]
    return infer_network(spins, sample_id, samples=samples), spins, sample_id, pd.DataFrame({"depth": depth, "other": rng.normal(size=len(row))})


def test_what_is_flagged():
    table = explained_responses(*screen())
    assert len(table) == 6
    flags = table[table["flagged"]]
    assert flags[["target_gene", "reason"]].to_numpy().tolist() == [["B", "depth"]] and flags["program"].iloc[0] == screen()[0].names[1]
    assert (table.loc[~table["flagged"], "reason"] == "").all() and table.query("target_gene == 'A'")["left"].iloc[0] > 0.8


def test_order_of_cells_and_unit_of_covariates_do_not_matter():
    network, spins, sample_id, covariates = screen()
    order = np.random.default_rng(1).permutation(len(spins))
    a, b = explained_responses(network, spins, sample_id, covariates), explained_responses(network, spins[order], sample_id[order], 5 + 10 * covariates.iloc[order])
    pd.testing.assert_frame_equal(a, b, rtol=1e-5, atol=1e-8)


def test_usual_covariates():
    obs = pd.DataFrame({"total_counts": [10., 20], "S_score": [1., 1], "pct_counts_mt": [0., 5], "phase": ["S", "G1"]})
    assert list(usual_covariates(obs)) == ["depth", "mitochondrial share"]
    np.testing.assert_allclose(usual_covariates(obs)["depth"], np.log1p([10, 20]))
    with pytest.raises(ValueError, match="must have one of the columns"): usual_covariates(obs[["S_score", "phase"]])
    both = usual_covariates(obs.assign(size_factor=[100., 400.]))
    np.testing.assert_allclose(both["depth"], np.log1p([100, 400]))


def test_bad_input():
    network, spins, sample_id, covariates = screen()
    for wrong, message in ((covariates.iloc[:4], "one row per cell"), (covariates.to_numpy(), "must be a DataFrame"), (covariates.assign(depth=np.nan), "must be finite"),
                           (covariates.assign(depth="deep"), "must be numeric"), (covariates.assign(depth=1.), "must vary")):
        with pytest.raises(ValueError, match=message): explained_responses(network, spins, sample_id, wrong)
    with pytest.raises(ValueError, match="control samples"): explained_responses(infer_network(spins, sample_id), spins, sample_id, covariates)
    with pytest.raises(ValueError, match="level"): explained_responses(network, spins, sample_id, covariates, level=2)
    with pytest.raises(ValueError, match="undirected"): explained_responses(infer_network(spins, sample_id, samples=network.samples, directed=True), spins, sample_id, covariates)
