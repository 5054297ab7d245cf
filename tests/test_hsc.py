"The network of blood stem cells is found again; skips where the published data is out of reach"
import numpy as np
import pandas as pd
import pytest

from perturbnb import datasets
from perturbnb.fit_plots import precision_recall
from perturbnb.levels import discretize
from perturbnb.network import infer_network

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def hsc(published_data): return datasets.hsc()


@pytest.fixture(scope="module")
def cells(hsc):
    return discretize(np.asarray(hsc.X)), hsc.obs["sample_id"], hsc.uns["perturbnb"]["samples"], list(hsc.var_names)


def area(J, hsc, pairs=False):
    true, strength = hsc.varp["reference_network"].T != 0, np.abs(J)
    if pairs: true, strength = true | true.T, np.maximum(strength, strength.T)
    which = np.tril_indices(11, -1) if pairs else np.nonzero(~np.eye(11, dtype=bool))
    return precision_recall(strength[which], true[which])[2]


def test_truth_has_26_edges_among_110(hsc):
    off = ~np.eye(11, dtype=bool)
    assert (hsc.varp["reference_network"][off] != 0).sum() == 26 and off.sum() == 110


def test_directed_defaults_find_the_known_network(hsc, cells):
    spins, sample_id, samples, names = cells
    network = infer_network(spins, sample_id, samples=samples, names=names, directed=True)
    assert network.converged and area(network.J, hsc) >= 0.80 and area(network.J, hsc, pairs=True) > 0.90
    X = pd.DataFrame(np.asarray(hsc.X), columns=names).groupby(np.asarray(sample_id)).mean()
    shift = np.array([(X.loc[f"{gene} activation"] - X.loc[f"{gene} knock-out"]) / np.asarray(hsc.X).std(0) for gene in names]).T
    assert 0.65 < area(shift, hsc) < area(network.J, hsc)


def test_undirected_defaults_find_its_pairs(hsc, cells):
    spins, sample_id, samples, names = cells
    network = infer_network(spins, sample_id, samples=samples, names=names)
    assert network.converged and area(network.J, hsc, pairs=True) > 0.83


def test_interventions_that_do_not_hold_their_gene_cost(hsc, cells):
    "Activations add production and leave the gene to its regulators; knock-outs hold it"
    spins, sample_id, samples, names = cells
    known = {sample: {target: -1 if "knock-out" in sample else 1} for sample, target in samples["target_gene"].items() if target in names}
    for sample, held in known.items():
        (gene, sign), = held.items()
        share = (spins[(sample_id == sample).to_numpy(), names.index(gene)] == sign).mean()
        assert share > 0.98 if sign < 0 else share < 0.97
    every = infer_network(spins, sample_id, samples=samples, names=names, directed=True, design="~ 1", interventions=known)
    elsewhere = pd.DataFrame(0., index=samples.index[~samples["if_control"]], columns=names)
    for name in elsewhere.index: elsewhere.loc[name, samples.loc[name, "target_gene"]] = np.nan
    held = {sample: value for sample, value in known.items() if -1 in value.values()}
    chosen = infer_network(spins, sample_id, samples=samples, names=names, directed=True, interventions=held, response_prior=elsewhere, l2_response_prior=1e5, l2_response=0.1)
    assert area(chosen.J, hsc) > 0.78 and area(chosen.J, hsc) > area(every.J, hsc) + 0.05
