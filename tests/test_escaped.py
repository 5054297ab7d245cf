"What would bore a reader of 03e: labels, combinations, determinism, above twelve programs, bad input."
import numpy as np
import pandas as pd
import pytest

from perturbnb.escaped import escaped_cells
from perturbnb.model import gibbs_sample
from perturbnb.network import infer_network


def screen(n=5, share=0.3, seed=0):
    "A acts strongly, with escapers; B does nothing"
    rng, effect = np.random.default_rng(seed), np.zeros((3, n))
    effect[0, :3] = (2.5, -2.5, 2)
    guide = np.repeat([0, 1, 2], [600, 300, 900])
    escaped = rng.random(len(guide)) < share
    J = np.zeros((n, n))
    J[0, 3] = J[3, 0] = 0.4
    spins = gibbs_sample(J, np.where(escaped[:, None], 0, effect[guide]), n_sweeps=40, seed=seed)
    samples = pd.DataFrame({"guide": ["A_g1", "B_g1", "nt"], "target_gene": ["A", "B", "control"], "if_control": [False, False, True]}, index=["a", "b", "c"])
    return spins, np.array(["a", "b", "c"])[guide], samples, escaped, effect


def fitted(**options):
    spins, sample_id, samples, escaped, effect = screen(**options)
    network = infer_network(spins, sample_id, samples=samples, names=[f"P{i}" for i in range(spins.shape[1])])
    return network, spins, sample_id, escaped, effect


@pytest.mark.parametrize("n", [5, 14])
def test_recovery(n):
    "Exact partition functions with five programs, drawn ones with fourteen"
    network, spins, sample_id, escaped, effect = fitted(n=n)
    found = escaped_cells(network, spins, sample_id, n_iter=40)
    a = sample_id == "a"
    assert list(found.table.index) == ["A_g1", "B_g1"] and list(found.table["identified"]) == [True, False]
    assert abs(found.table.loc["A_g1", "share"] - escaped[a].mean()) < 0.12 and np.isnan(found.table.loc["B_g1", "share"])
    assert found.posterior[a & escaped].mean() > 0.6 > 0.3 > found.posterior[a & ~escaped].mean()
    assert np.isnan(found.posterior[~a]).all() and ((found.posterior[a] >= 0) & (found.posterior[a] <= 1)).all()
    assert np.abs(found.response[0] - effect[0])[:3].mean() < np.abs(found.before[0] - effect[0])[:3].mean()
    np.testing.assert_array_equal(found.response[1], found.before[1])
    tidy = found.to_frame()
    assert list(tidy.columns) == ["guide", "target_gene", "program", "before", "response", "share", "share_se", "identified"] and len(tidy) == 2 * n


def test_same_for_the_same_cells_in_another_order():
    network, spins, sample_id, *_ = fitted()
    order = np.random.default_rng(1).permutation(len(spins))
    a, b = escaped_cells(network, spins, sample_id, n_iter=10), escaped_cells(network, spins[order], sample_id[order], n_iter=10)
    np.testing.assert_allclose(a.posterior[order], b.posterior, rtol=1e-6)
    np.testing.assert_allclose(a.response, b.response, rtol=1e-6)


def test_bad_input():
    network, spins, sample_id, *_ = fitted()
    with pytest.raises(ValueError, match="control samples"): escaped_cells(infer_network(spins, sample_id), spins, sample_id)
    with pytest.raises(ValueError, match="guide terms"): escaped_cells(infer_network(spins, sample_id, samples=network.samples, design="free"), spins, sample_id)
    with pytest.raises(ValueError, match="undirected"): escaped_cells(infer_network(spins, sample_id, samples=network.samples, directed=True), spins, sample_id)
    with pytest.raises(ValueError, match="sample_id must be in the network"): escaped_cells(network, spins, np.where(sample_id == "a", "z", sample_id))
    with pytest.raises(ValueError, match="5 columns"): escaped_cells(network, spins[:, :3], sample_id)
    with pytest.raises(ValueError, match="max_se"): escaped_cells(network, spins, sample_id, max_se=0)
    with pytest.raises(ValueError, match="n_iter"): escaped_cells(network, spins, sample_id, n_iter=1)
