"What would bore a reader of 02c_gene_networks: matrices of any kind, tables with repeats and gaps, a thousand genes"
import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbnb.gene_networks import gene_spins, infer_gene_network, known_interventions, prior_network
from perturbnb.levels import discretize
from perturbnb.model import gibbs_sample


def screen_of(n_cells=600, n_genes=8, seed=0):
    "Expression of a chain of genes under four guides, half of them knock-outs of its first genes"
    rng = np.random.default_rng(seed)
    J = np.diag(np.full(n_genes, -0.3)) + np.diag(np.full(n_genes - 1, 0.8), -1) + np.diag(np.full(n_genes - 1, 0.8), 1)
    target = np.array(["control", "G0", "G1", "other"])[np.arange(n_cells) % 4]
    h = np.where(target[:, None] == np.array([f"G{i}" for i in range(n_genes)]), -6., 0.)
    X = np.log1p(rng.poisson(np.array([0.2, 3, 10])[gibbs_sample(J, h, seed=seed) + 1])).astype(np.float32)
    guides = ["control", "G0", "G1", "other"]
    table = pd.DataFrame({"guide": guides, "target_gene": guides, "if_control": [True, False, False, False]}, index=guides)
    obs, var = pd.DataFrame({"sample_id": target}, index=[f"c{i}" for i in range(n_cells)]), pd.DataFrame(index=[f"G{i}" for i in range(n_genes)])
    return ad.AnnData(X, obs=obs, var=var, uns={"perturbnb": {"samples": table}}), J


@pytest.fixture(scope="module")
def screen(): return screen_of()[0]


@pytest.mark.parametrize("kind", ["csr", "csc", "float64", "layer"])
def test_matrices_of_any_kind(screen, kind):
    expected, other = gene_spins(screen), screen.copy()
    if kind == "layer": other.layers["log"], other.X = other.X, np.zeros(other.shape)
    else: other.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "float64": lambda X: X.astype(np.float64)}[kind](screen.X)
    found = gene_spins(other, layer="log" if kind == "layer" else None)
    np.testing.assert_array_equal(found.spins, expected.spins)
    assert found.spins.dtype == np.int8 and found.names == list(screen.var_names)


def test_levels_are_those_of_the_optimal_cuts(screen):
    found = gene_spins(screen)
    np.testing.assert_array_equal(found.spins, discretize(screen.X.astype(float)))
    np.testing.assert_allclose(found.table[["low", "middle", "high"]].sum(axis=1), 1)
    np.testing.assert_array_equal(found.levels.apply(screen.X), found.spins)


def test_genes_that_cannot_be_spins():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.random(400) < 0.5, rng.random(400) < 0.01, np.zeros(400), np.full(400, 2.), rng.random(400)])
    found = gene_spins(ad.AnnData(X, var=pd.DataFrame(index=list("abcde"))), min_cell_fraction=0.05)
    assert found.names == ["a", "e"] and list(found.table["reason"]) == ["", "seen in under 5.0% of cells", "never varies", "never varies", ""]
    assert set(np.unique(found.spins[:, 0])) == {-1, 1} and found.table.loc["b", "low":].isna().all()
    assert gene_spins(ad.AnnData(X, var=pd.DataFrame(index=list("abcde"))), min_cell_fraction=0).names == ["a", "b", "e"]
    negative = gene_spins(ad.AnnData(X - X.mean(0), var=pd.DataFrame(index=list("abcde"))), ["a", "e"])
    np.testing.assert_array_equal(negative.spins[:, 0], found.spins[:, 0])


@pytest.mark.parametrize("changes,message", [(dict(genes=["G0", "g1"]), "did you mean 'G1'"), (dict(layer="logs"), "layer must name a layer"),
                                             (dict(min_cell_fraction=1), "min_cell_fraction must lie"), (dict(genes=["G0", "G0"]), "got one twice")])
def test_expression_that_is_refused(screen, changes, message):
    with pytest.raises(ValueError, match=message): gene_spins(screen, **changes)
    broken = screen.copy()
    broken.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="adata.X must be finite"): gene_spins(broken)


def test_inputs_stay_as_they_are(screen):
    before = screen.copy()
    infer_gene_network(screen, prior=pd.DataFrame({"regulator": ["G0"], "regulated": ["G1"]}))
    np.testing.assert_array_equal(screen.X, before.X)
    assert list(screen.uns["perturbnb"]) == ["samples"] and screen.obs.equals(before.obs)


def test_priors_with_repeats_and_gaps():
    edges = pd.DataFrame({"regulator": ["a", "a", "b", "x", "c"], "regulated": ["b", "b", "c", "a", "c"], "weight": [1., -0.5, 2., 1., 1.]})
    prior = prior_network(edges, list("abc"), weight="weight", size=0.1)
    assert prior.mask.to_numpy().sum() == 2 and prior.values.loc["b", "a"] == pytest.approx(0.025) and prior.values.loc["c", "b"] == pytest.approx(0.2)
    assert prior.values.notna().to_numpy().sum() == 2 and np.isnan(prior.values.loc["c", "c"])
    both = prior_network(pd.concat([edges, pd.DataFrame({"regulator": ["b"], "regulated": ["a"], "weight": [1.]})]), list("abc"), weight="weight", directed=False)
    np.testing.assert_array_equal(both.mask, both.mask.T)
    np.testing.assert_array_equal(both.values, both.values.T)
    assert both.values.loc["a", "b"] == pytest.approx((0.25 + 1) / 2) and both.values.loc["b", "c"] == 2
    assert prior_network(edges, list("abc")).values.isna().to_numpy().all()
    shuffled = prior_network(edges, list("cba"), weight="weight", size=0.1)
    pd.testing.assert_frame_equal(shuffled.values.loc[list("abc"), list("abc")], prior.values)


@pytest.mark.parametrize("edges,options,message", [
    ({"regulator": ["x"], "regulated": ["y"]}, {}, "none of 1 does"), ({"regulator": [], "regulated": []}, {}, "none of 0 does"),
    ({"regulator": ["a"], "target": ["b"]}, {}, "column 'regulated'"), ({"regulator": ["a"], "regulated": ["b"], "sign": [np.nan]}, {"weight": "sign"}, "must be finite")])
def test_priors_that_are_refused(edges, options, message):
    with pytest.raises(ValueError, match=message): prior_network(pd.DataFrame(edges), ["a", "b"], **options)


def test_interventions_from_the_table(screen):
    samples = screen.uns["perturbnb"]["samples"]
    assert known_interventions(samples, screen.var_names) == {"G0": {"G0": -1}, "G1": {"G1": -1}}
    assert known_interventions(samples, ["G1"], sign=1) == {"G1": {"G1": 1}}
    assert known_interventions(samples.assign(if_control=[True, True, False, False]), ["G0", "G1"]) == {"G1": {"G1": -1}}
    with pytest.raises(ValueError, match="column 'what'"): known_interventions(samples, ["G1"], sign="what")


@pytest.mark.parametrize("directed", [False, True])
def test_a_chain_is_found(directed):
    screen, J = screen_of(3000)
    network, levels = infer_gene_network(screen, directed=directed)
    edge, off = (J != 0), ~np.eye(8, dtype=bool)
    strength = np.minimum(np.abs(network.J), np.abs(network.J.T))
    assert network.names == levels.names and network.converged and strength[edge & off].min() > 2 * np.abs(network.J)[~edge & off].max() and (network.J[edge & off] > 0).all()


def test_what_a_prior_does():
    screen, J = screen_of(400)
    right = pd.DataFrame({"regulator": [f"G{i}" for i in range(7)], "regulated": [f"G{i + 1}" for i in range(7)]})
    plain, masked = infer_gene_network(screen, l1_J=0)[0], infer_gene_network(screen, prior=right, l1_J=0)[0]
    outside = (J == 0)
    assert np.abs(masked.J[outside]).max() < 0.5 * np.abs(plain.J[outside]).max()
    zero = infer_gene_network(screen, prior=right, l1_off_mask=1e4, l2_off_mask=0.)[0]
    assert not zero.J[outside].any() and (np.abs(np.diag(zero.J, 1)) > 0.1).all()
    against = infer_gene_network(screen, prior=right.assign(sign=-1.), weight="sign", l2_J_prior=1e6)[0]
    np.testing.assert_allclose(np.diag(against.J, 1), -1, atol=0.01)
    with pytest.raises(ValueError, match="there is no prior"): infer_gene_network(screen, weight="sign")
    with pytest.raises(TypeError): infer_gene_network(screen, no_such_option=1)


def test_hundreds_of_genes():
    "Three edges each, fitted in one go, and the network found"
    rng, n = np.random.default_rng(0), 300
    J = sparse.triu(sparse.random(n, n, 3 / n, random_state=1, data_rvs=lambda k: rng.choice([-1, 1], k) * rng.uniform(0.4, 0.8, k)), 1).toarray()
    J = J + J.T - 0.3 * np.eye(n)
    sample = np.arange(3000) % 20
    X = gibbs_sample(J, rng.normal(0, 0.2, (20, n))[sample], n_sweeps=30, seed=0) + 1.
    adata = ad.AnnData(X, obs=pd.DataFrame({"sample_id": sample.astype(str)}, index=[f"c{i}" for i in range(3000)]), var=pd.DataFrame(index=[f"G{i}" for i in range(n)]))
    network, _ = infer_gene_network(adata, l2_response=20., tol=1e-3)
    strength, pairs = np.abs(network.J), np.tril_indices(n, -1)
    top = np.argsort(-strength[pairs])[:np.count_nonzero(J[pairs])]
    assert (J[pairs][top] != 0).mean() > 0.95 and network.converged


def test_arguments_of_another_kind(screen):
    "The argument that was given is the one that is named"
    edges = pd.DataFrame({"regulator": ["G0"], "regulated": ["G1"]})
    for call, message in ((lambda: infer_gene_network(screen.X), "adata must be an AnnData, .* got ndarray"), (lambda: gene_spins(screen.X), "adata must be an AnnData, .* got ndarray"),
                          (lambda: infer_gene_network(screen, prior={}), "prior must be a DataFrame .* got dict"), (lambda: prior_network({}, ["G0"]), "edges must be a DataFrame .* got dict"),
                          (lambda: infer_gene_network(screen, prior=edges.rename(columns={"regulated": "target"})), "prior must have a column 'regulated'"),
                          (lambda: infer_gene_network(screen, prior=edges.replace("G1", "Q")), "prior must join genes of the network"),
                          (lambda: infer_gene_network(screen, names=["G0"]), "choose them with genes="),
                          (lambda: prior_network(edges, ["G0", "G1", "G0"]), "names must be different, got 'G0' twice"),
                          (lambda: prior_network(edges, ["G0", "G1"], size=np.nan), "size must be a finite number, got nan")):
        with pytest.raises(ValueError, match=message): call()


def test_controls_are_true_or_false(screen):
    table = screen.uns["perturbnb"]["samples"]
    with pytest.raises(ValueError, match="must be bool, got .'False'"): known_interventions(table.assign(if_control="False"), ["G0"])
    assert known_interventions(table.assign(if_control=table["if_control"].astype(int)), ["G0"]) == {"G0": {"G0": -1}}
    with pytest.raises(ValueError, match="sign must be -1 or 1 .* got 0$"): known_interventions(table, ["G0"], sign=0)
