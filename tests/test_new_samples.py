"What would bore a reader of 02b_new_samples: designs, orders, left-over samples, files, edges"
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from perturbnb.model import conditional_probabilities, exact_moments, gibbs_sample
from perturbnb.network import SpinNetwork, infer_network
from perturbnb.new_samples import infer_fields, representative_samples
from perturbnb.response import relative_response


def planted(seed=0, n=6, per_sample=60):
    "Four targets with two guides, two control guides, two batches"
    rng = np.random.default_rng(seed)
    guides = ["nt_1", "nt_2", *(f"{target}_{k}" for target in "abcd" for k in (1, 2))]
    samples = pd.DataFrame([(f"{g}|{b}", g, g[:-2], b, g.startswith("nt")) for g in guides for b in "xy"],
                           columns=["sample_id", "guide", "target_gene", "batch", "if_control"]).set_index("sample_id")
    effect = {target: rng.normal(0, 0.7, n) * (target != "nt") for target in ("nt", *"abcd")}
    shift = {"x": np.zeros(n), "y": rng.normal(0, 0.4, n)}
    h = np.array([effect[row.target_gene] + shift[row.batch] for row in samples.itertuples()])
    J = np.triu(rng.normal(0, 0.4, (n, n)), 1)
    J = J + J.T - 0.2 * np.eye(n)
    at = rng.permutation(np.repeat(np.arange(len(samples)), per_sample))
    return gibbs_sample(J, h[at], seed=seed), samples.index.to_numpy()[at], samples, h


@pytest.fixture(scope="module")
def screen(): return planted()


@pytest.fixture(scope="module")
def network(screen):
    spins, sample_id, samples, _ = screen
    return infer_network(spins, sample_id, samples=samples, method="pseudo_likelihood")


@pytest.mark.parametrize("design", ["auto", "free", "~ batch + guide", "table"])
def test_every_design(screen, network, design):
    spins, sample_id, samples, h = screen
    given = pd.DataFrame({"intercept": 1., "y": (samples["batch"] == "y").astype(float)}, index=samples.index) if design == "table" else design
    fitted = infer_fields(network, spins, sample_id, samples=samples, design=given)
    assert fitted.converged and fitted.history["residual"].iloc[-1] <= 1e-6
    np.testing.assert_array_equal(fitted.J, network.J)
    np.testing.assert_allclose(fitted.h, fitted.design @ fitted.coefficients)
    if design in ("auto", "free"): assert np.corrcoef(fitted.h.ravel(), h.ravel())[0, 1] > 0.85
    if design == "~ batch + guide": np.testing.assert_allclose(fitted.h, infer_fields(network, spins, sample_id, samples=samples).h, atol=1e-6)


def test_a_joint_optimum_is_one_in_its_part(screen, network):
    spins, sample_id, samples, _ = screen
    again = infer_fields(network, spins, sample_id, samples=samples, l2_response=network.l2_response)
    np.testing.assert_allclose(again.h, network.h, atol=2e-3)
    np.testing.assert_allclose(again.coefficient_sd, network.coefficient_sd, rtol=0.02)


def test_a_default_network_gives_its_samples_back(screen):
    "Up to ten spins the default is the exact likelihood, and so are the fields"
    spins, sample_id, samples, _ = screen
    network = infer_network(spins, sample_id, samples=samples)
    again = infer_fields(network, spins, sample_id, samples=samples, l2_response=network.l2_response)
    assert network.method == again.method == again.parameters["method"] == "exact" and again.converged
    np.testing.assert_allclose(again.h, network.h, atol=1e-3)
    np.testing.assert_allclose(again.coefficient_sd, network.coefficient_sd, rtol=1e-3)
    assert np.abs(infer_fields(replace(network, method="pseudo_likelihood"), spins, sample_id, samples=samples, l2_response=network.l2_response).h - network.h).max() > 0.01


def test_exact_fields_reproduce_the_means(screen):
    "A field per sample, nearly free: its mean spins are those seen, also where a program is always up"
    spins, sample_id, samples, _ = screen
    network, spins = infer_network(spins, sample_id, samples=samples), spins.copy()
    spins[sample_id == "a_1|x", 0] = 1
    fitted = infer_fields(network, spins, sample_id, samples=samples, design="free")
    seen = np.array([spins[sample_id == name].mean(0) for name in fitted.samples.index])
    np.testing.assert_allclose([exact_moments(network.J, field).mean for field in fitted.h], seen, atol=1e-3)
    assert fitted.converged and np.abs(fitted.h).max() < 20


def test_sampled_networks_say_which_fields_they_get(screen, network, caplog):
    spins, sample_id, samples, _ = screen
    sampled = replace(network, method="mcmc")
    assert infer_fields(sampled, spins, sample_id, samples=samples).method == "exact"
    large = np.kron(np.eye(3), network.J)[:13, :13]
    many = replace(sampled, J=large, names=[f"p{i}" for i in range(13)])
    with caplog.at_level("INFO", logger="perturbnb"): fitted = infer_fields(many, np.hstack([spins, spins, spins[:, :1]]), sample_id, samples=samples, design="free")
    assert fitted.method == "pseudo_likelihood" and "13 spins are too many" in caplog.text


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 99))
def test_against_scipy(n, n_cells, seed):
    "One sample, by another optimiser"
    rng = np.random.default_rng(seed)
    spins, J = rng.integers(-1, 2, (n_cells, n)).astype(np.int8), rng.normal(0, 0.5, (n, n))
    base = planted_network(J + J.T)
    fitted = infer_fields(base, spins, np.zeros(n_cells, int), design=pd.DataFrame({"a": [1.]}, index=["0"]), tol=1e-9)

    def loss(field):
        seen = np.take_along_axis(conditional_probabilities(spins, base.J, field), (spins[..., None] + 1).astype(int), axis=2)
        return -np.log(np.maximum(seen, 1e-300)).sum() + 0.5 * 1e-3 * (field**2).sum()      # the pull on terms that are otherwise free

    np.testing.assert_allclose(loss(fitted.h[0]), minimize(loss, np.zeros(n), method="BFGS", options=dict(gtol=1e-7)).fun, rtol=1e-5, atol=1e-6)


def planted_network(J):
    "A network with given couplings"
    rng = np.random.default_rng(0)
    return replace(infer_network(rng.integers(-1, 2, (60, len(J))), np.zeros(60, int), method="pseudo_likelihood"), J=J)


def test_directed_couplings_are_taken_as_they_are(screen, network):
    spins, sample_id, samples, _ = screen
    J = np.triu(network.J)
    fitted = infer_fields(replace(network, J=J), spins, sample_id, samples=samples, design="free", tol=1e-8)
    at = fitted.samples.index.get_indexer(sample_id)
    expected = conditional_probabilities(spins, J, fitted.h[at]) @ [-1, 0, 1]
    for k in range(3): np.testing.assert_allclose(expected[at == k].mean(0), spins[at == k].mean(0), atol=1e-3)


def test_results_are_like_any_network(screen, network, tmp_path):
    spins, sample_id, samples, _ = screen
    fitted = infer_fields(network, spins, sample_id, samples=samples)
    fitted.save(tmp_path / "n.h5ad")
    again = SpinNetwork.load(tmp_path / "n.h5ad")
    np.testing.assert_array_equal(again.h, fitted.h)
    assert relative_response(again).by_target().rows == list("abcd")


def test_order_of_cells_does_not_matter(screen, network):
    spins, sample_id, samples, _ = screen
    order = np.random.default_rng(0).permutation(len(spins))
    np.testing.assert_allclose(infer_fields(network, spins[order], sample_id[order], samples=samples).h, infer_fields(network, spins, sample_id, samples=samples).h, atol=1e-6)


def test_strong_fields_and_single_cells(network):
    "Separation in every sample, and samples of one cell: finite and converged"
    fitted = infer_fields(network, np.ones((30, 6), int), np.arange(30) % 7, design="free")
    assert fitted.converged and (fitted.h > 1).all() and np.isfinite(fitted.h).all()
    fitted = infer_fields(network, np.eye(6, dtype=int), np.arange(6))
    assert fitted.converged and np.isfinite(fitted.coefficient_sd).all()


def test_not_converged_is_said(screen, network):
    spins, sample_id, samples, _ = screen
    with pytest.warns(ConvergenceWarning, match="raise max_iter"): fitted = infer_fields(network, spins, sample_id, samples=samples, l2_response=1., max_iter=1)
    assert not fitted.converged


@pytest.mark.parametrize("changes,message", [(dict(design="fre"), "design must be 'auto', 'free'"), (dict(l2_response="Auto"), "l2_response must be"), (dict(l2_response=True), "l2_response must be"),
                                             (dict(tol=0), "tol must lie"), (dict(max_iter=0), "max_iter must be")])
def test_options_that_are_refused(screen, network, changes, message):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match=message): infer_fields(network, spins, sample_id, samples=samples, **changes)


def test_designs_that_are_refused(screen, network):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match="design must be one of samples"): infer_fields(network, spins, sample_id, samples=samples, design=np.ones((len(spins), 1)))
    with pytest.raises(ValueError, match="cannot tell these terms apart"):
        infer_fields(network, spins, sample_id, samples=samples, design=pd.DataFrame({"one": 1., "two": 2.}, index=samples.index))
    with pytest.raises(ValueError, match="must have a row for every sample, 'a_1|x' has none"):
        infer_fields(network, spins, sample_id, samples=samples, design=pd.DataFrame({"one": 1.}, index=samples.index.drop("a_1|x")))


def test_inputs_stay_as_they_are(screen, network):
    spins, sample_id, samples, _ = screen
    before = spins.copy(), samples.copy(), network.coefficients.copy()
    infer_fields(network, spins, sample_id, samples=samples)
    assert (spins == before[0]).all() and (network.coefficients == before[2]).all()
    pd.testing.assert_frame_equal(samples, before[1])


def test_representatives_are_unlike_each_other():
    "Five kinds of samples, eight each: one representative per kind"
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(5), 8))
    fields = rng.normal(0, 1.2, (5, 8))[kinds]
    at = np.repeat(np.arange(40), rng.integers(40, 200, 40))
    spins = gibbs_sample(-0.2 * np.eye(8), fields[at], seed=0)
    stands_for = representative_samples(spins, at, 5)
    kind_of = pd.Series(kinds, index=np.arange(40).astype(str))
    assert sorted(kind_of[stands_for.unique()]) == [0, 1, 2, 3, 4]
    assert (kind_of[stands_for.index].to_numpy() == kind_of[stands_for].to_numpy()).all()
    kept = representative_samples(spins, at, 6, keep=["0", "1"])
    assert {"0", "1"} <= set(kept) and kept.nunique() == 6 and kept["0"] == "0"


def test_representatives_of_copies(caplog):
    "Samples that do not differ: as many as there are different ones"
    spins = np.tile(np.array([[1, 0], [0, 1], [-1, 1]]), (8, 1))
    stands_for = representative_samples(spins, np.repeat(np.arange(8), 3), 4)
    assert stands_for.nunique() == 1 and len(stands_for) == 8


def test_small_samples_are_not_chosen():
    "Of equal samples the large one stands for the others"
    rng = np.random.default_rng(1)
    sizes = np.array([10, 10, 300, 10, 10, 300])
    at = np.repeat(np.arange(6), sizes)
    spins = gibbs_sample(np.zeros((5, 5)), np.where(at[:, None] < 3, 1., -1.) * np.ones(5) + 0 * rng.random((len(at), 1)), seed=1)
    assert set(representative_samples(spins, at, 2)) == {"2", "5"}


def test_missing_samples_and_networks_are_refused(screen):
    spins, sample_id, _, _ = screen
    gap = sample_id.astype(object)
    gap[3] = np.nan
    for missing in (gap, list(gap)):
        with pytest.raises(ValueError, match="must not be missing, got 1 NaN"): representative_samples(spins, missing, 3)
    with pytest.raises(ValueError, match="network must be a SpinNetwork, .* got NoneType"): infer_fields(None, spins, sample_id)
