"What would bore a reader of 02_network: types, orders, weights, threads, files, and fits at the edge"
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from perturbnb.designs import cell_design, given_design, screen_design
from perturbnb.goodness import fit_quality
from perturbnb.model import conditional_probabilities, gibbs_sample
from perturbnb.network import SpinNetwork, infer_network


def planted(n_spins=6, n_per_sample=60, seed=0):
    "Spins of a small screen: three targets with two guides each, two control guides, two batches"
    rng = np.random.default_rng(seed)
    rows = [(f"{g}|{b}", g, g.split("_")[0], b, g.startswith("nt")) for g in ("a_1", "a_2", "b_1", "b_2", "c_1", "c_2", "nt_1", "nt_2") for b in "xy"]
    samples = pd.DataFrame(rows, columns=["sample_id", "guide", "target_gene", "batch", "if_control"]).set_index("sample_id")
    effects = {name: rng.normal(0, 0.8, n_spins) for name in "abc"} | {"nt": np.zeros(n_spins)}
    shift = {"x": np.zeros(n_spins), "y": rng.normal(0, 0.5, n_spins)}
    h = np.array([effects[row.target_gene] + shift[row.batch] for row in samples.itertuples()])
    J = np.triu(rng.normal(0, 0.4, (n_spins, n_spins)), 1)
    J = J + J.T - 0.3 * np.eye(n_spins)
    sample = rng.permutation(np.repeat(np.arange(len(samples)), n_per_sample))
    return gibbs_sample(J, h[sample], seed=seed), samples.index.to_numpy()[sample], samples, J


@pytest.fixture(scope="module")
def screen(): return planted()


@pytest.fixture(scope="module")
def network(screen):
    spins, sample_id, samples, _ = screen
    return infer_network(spins, sample_id, samples=samples)


def same(a, b, rtol=1e-6):
    np.testing.assert_allclose(a.J, b.J, atol=rtol)
    np.testing.assert_allclose(a.h, b.h, atol=rtol)


def test_symmetric_and_near_the_truth(network, screen):
    assert (network.J == network.J.T).all() and network.converged and network.history["residual"].iloc[-1] <= 1e-5
    off = np.tril_indices(6, -1)
    assert np.corrcoef(network.J[off], screen[3][off])[0, 1] > 0.9
    np.testing.assert_allclose(network.h, network.design @ network.coefficients)
    assert not np.diag(network.couplings).any() and (np.diag(network.J) != 0).all()


def test_controls_are_the_reference(network):
    guides = network.terms.query("kind == 'guide'")
    assert list(guides["guide"]) == ["a_1", "a_2", "b_1", "b_2", "c_1", "c_2"] and guides["shrunk"].all() and not network.terms.query("kind != 'guide'")["shrunk"].any()
    control = network.samples["if_control"].to_numpy()
    assert not network.design[np.ix_(control, (network.terms["kind"] == "guide").to_numpy())].any()
    h = pd.DataFrame(network.h, network.samples.index)
    np.testing.assert_allclose(h.loc["nt_1|x"], h.loc["nt_2|x"])


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32])
def test_type_of_spins_does_not_matter(screen, network, dtype):
    spins, sample_id, samples, _ = screen
    again = infer_network(np.asfortranarray(spins.astype(dtype)), sample_id, samples=samples)
    np.testing.assert_array_equal(again.J, network.J)


def test_order_of_the_samples_table_does_not_matter(screen, network):
    spins, sample_id, samples, _ = screen
    shuffled = samples.sample(frac=1, random_state=0)
    again = infer_network(spins, sample_id, samples=shuffled)
    assert list(again.samples.index) == list(shuffled.index) and list(again.samples["n_cells"]) == [60] * 16
    np.testing.assert_allclose(again.J, network.J, atol=1e-4)
    at = again.samples.index.get_indexer(network.samples.index)
    np.testing.assert_allclose(again.h[at], network.h, atol=2e-3)


def test_order_of_cells_and_spins_does_not_matter(screen, network):
    spins, sample_id, samples, _ = screen
    at = np.random.default_rng(0).permutation(len(spins))
    np.testing.assert_allclose(infer_network(spins[at], sample_id[at], samples=samples).J, network.J, atol=1e-4)
    turned = infer_network(spins[:, ::-1], sample_id, samples=samples, names=network.names[::-1])
    np.testing.assert_allclose(turned.J[::-1, ::-1], network.J, atol=1e-4)
    assert turned.names == network.names[::-1]


@pytest.mark.parametrize("kind", ["category", "list", "series", "int", "int category", "float"])
def test_sample_ids_of_any_type(screen, network, kind):
    spins, sample_id, samples, _ = screen
    codes = samples.index.get_indexer(sample_id)
    if kind in ("category", "list", "series"):
        given_as = {"category": pd.Series(sample_id, dtype="category"), "list": list(sample_id), "series": pd.Series(sample_id, index=np.arange(len(spins))[::-1])}[kind]
        np.testing.assert_array_equal(infer_network(spins, given_as, samples=samples).J, network.J)
        return
    given_as = {"int": codes, "int category": pd.Series(codes, dtype="category"), "float": codes.astype(float)}[kind]
    table = samples.set_axis(np.arange(16) if kind != "float" else np.arange(16.))
    again = infer_network(spins, given_as, samples=table)
    np.testing.assert_allclose(again.J, network.J, atol=1e-6)
    alone = infer_network(spins, given_as)
    assert [float(name) for name in alone.samples.index] == list(range(16)), "numbers in the order of numbers"


def test_samples_without_cells_are_left_out(screen, network):
    spins, sample_id, samples, _ = screen
    more = pd.concat([samples, samples.iloc[:2].rename(index=lambda name: name + "+"),
                      pd.DataFrame({"guide": "d_1", "target_gene": "d", "batch": "z", "if_control": False}, index=["d_1|z"])])
    again = infer_network(spins, sample_id, samples=more)
    np.testing.assert_array_equal(again.J, network.J)
    assert list(again.terms.index) == list(network.terms.index)


def test_sample_weights(screen):
    "A sample's cells twice over changes nothing where samples weigh the same, and much where cells do"
    spins, sample_id, samples, _ = screen
    more = np.r_[np.arange(len(spins)), np.repeat(np.flatnonzero(sample_id == "a_1|x"), 20)]
    options = dict(samples=samples, design="free", l2_h=0.005, l1_J=0)
    equal, twice = (infer_network(spins[at], sample_id[at], sample_weight="equal", **options) for at in (np.arange(len(spins)), more))
    np.testing.assert_allclose(equal.J, twice.J, atol=1e-3)
    cells, more_cells = (infer_network(spins[at], sample_id[at], **options) for at in (np.arange(len(spins)), more))
    assert np.abs(cells.J - more_cells.J).max() > 0.02
    np.testing.assert_allclose(equal.J, cells.J, atol=0.02)      # samples of the same size: nearly the same objective


def test_a_design_of_ones_own(screen, network):
    spins, sample_id, samples, _ = screen
    design = screen_design(samples).to_frame()
    shuffled = design.sample(frac=1, random_state=1)
    own = infer_network(spins, sample_id, samples=samples, design=shuffled)
    auto = infer_network(spins, sample_id, samples=samples, l2_response=0.)
    same(own, auto, 1e-3)
    assert set(own.terms["kind"]) == {"given"} and own.l2_response == 0
    with pytest.raises(ValueError, match="'nt_2|y' has none"): infer_network(spins, sample_id, samples=samples, design=design.drop(index="nt_2|y"))
    with pytest.raises(ValueError, match="design must be finite"): infer_network(spins, sample_id, samples=samples, design=design.replace(1., np.nan))
    with pytest.raises(ValueError, match="design must be 'auto', 'free'"): infer_network(spins, sample_id, samples=samples, design="fre")


def test_free_fields_give_the_mean_of_every_sample(screen):
    "With a field for every sample the optimum makes each mean spin what was observed"
    spins, sample_id, samples, _ = screen
    free = infer_network(spins, sample_id, samples=samples, design="free", method="pseudo_likelihood", tol=1e-7)
    row = free.samples.index.get_indexer(sample_id)
    expected = conditional_probabilities(spins, free.J, free.h[row]) @ [-1, 0, 1]
    for k in range(16): np.testing.assert_allclose(expected[row == k].mean(0), spins[row == k].mean(0), atol=1e-3)


def test_shrinkage_of_guides(screen):
    spins, sample_id, samples, _ = screen
    size = [np.abs(fit.coefficients[(fit.terms["kind"] == "guide").to_numpy()]).mean() for fit in
            (infer_network(spins, sample_id, samples=samples, l2_response=strength) for strength in (0., "auto", 1e3, 1e6))]
    assert size[0] > size[1] > size[2] > size[3] and size[3] < 1e-2


def test_noise_converges_and_shows_nothing():
    rng = np.random.default_rng(0)
    spins, sample = rng.integers(-1, 2, (3000, 8)), rng.integers(0, 40, 3000)
    fit = infer_network(spins, sample)
    assert fit.converged and np.abs(fit.couplings).max() < 0.2
    shrunk = fit.coefficients[fit.terms["shrunk"].to_numpy()]
    assert np.sqrt((shrunk**2).mean()) < 0.08 and fit.l2_response > 100
    quality = fit_quality(fit, spins, sample)
    assert quality["deviance_explained"] < 0.02 and np.isfinite(quality).all()


@pytest.mark.parametrize("strength", [0., 3., 8.])
def test_fits_at_the_edge_stay_finite(strength):
    "Spins that nearly copy each other, and samples of one cell"
    rng = np.random.default_rng(1)
    first = rng.integers(-1, 2, 400)
    spins = np.c_[first, np.where(rng.random(400) < np.exp(-strength), rng.integers(-1, 2, 400), first), rng.integers(-1, 2, 400)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = infer_network(spins, np.r_[np.arange(20), np.full(380, 20)])
    assert np.isfinite(fit.J).all() and np.isfinite(fit.coefficients).all() and np.isfinite(fit.coefficient_sd).all()


def test_not_converged_is_said(screen):
    spins, sample_id, samples, _ = screen
    with pytest.warns(ConvergenceWarning, match="raise max_iter"): fit = infer_network(spins, sample_id, samples=samples, max_iter=1)
    assert not fit.converged and "NOT converged" in repr(fit)


def test_another_optimiser_finds_the_same(screen):
    "The peer's objective, minimised by SciPy without any metric"
    spins, sample_id, samples, _ = screen
    few = np.isin(sample_id, ["a_1|x", "nt_1|y", "b_2|x"])
    fit = infer_network(spins[few][:, :4], sample_id[few], design="free", method="pseudo_likelihood", l2_h=0.5, l2_J=2., l1_J=0, tol=1e-8)
    row, off = fit.samples.index.get_indexer(sample_id[few]), np.tril_indices(4, -1)

    def loss(theta):
        J = np.zeros((4, 4))
        J[off] = theta[:6]
        J, h = J + J.T + np.diag(theta[6:10]), theta[10:].reshape(3, 4)
        seen = np.take_along_axis(conditional_probabilities(spins[few][:, :4], J, h[row]), (spins[few][:, :4, None] + 1).astype(int), 2)
        return -np.log(seen).sum() + 0.25 * (h**2).sum() + 0.5 * 2 * (theta[:6]**2).sum()

    found = minimize(loss, np.zeros(22), method="BFGS", options=dict(gtol=1e-5)).x
    np.testing.assert_allclose(fit.J[off], found[:6], atol=2e-3)
    np.testing.assert_allclose(fit.h.ravel(), found[10:], atol=5e-3)


def test_inputs_stay_as_they_are(screen):
    spins, sample_id, samples, _ = screen
    before = spins.copy(), sample_id.copy(), samples.copy()
    infer_network(spins, sample_id, samples=samples, max_iter=50)
    assert (spins == before[0]).all() and (sample_id == before[1]).all()
    pd.testing.assert_frame_equal(samples, before[2])


@pytest.mark.parametrize("categorical", [False, True])
def test_written_and_read(network, tmp_path, categorical):
    if categorical: network = replace(network, samples=network.samples.astype({"guide": "category", "batch": "category"}))
    network.save(tmp_path / "n.h5ad", layers={"twice": 2 * network.h})
    again = SpinNetwork.load(tmp_path / "n.h5ad")
    for name in ("J", "coefficients", "coefficient_sd", "design"): np.testing.assert_array_equal(getattr(again, name), getattr(network, name))
    plain = network.samples.astype({"guide": str, "batch": str}) if categorical else network.samples
    pd.testing.assert_frame_equal(again.samples, plain)
    pd.testing.assert_frame_equal(again.terms, network.terms)
    pd.testing.assert_frame_equal(again.history, network.history)
    assert (again.names, again.l2_response, again.converged, again.parameters) == (network.names, network.l2_response, network.converged, network.parameters)
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "n.h5ad").layers["twice"], 2 * network.h)
    again.save(tmp_path / "n.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["n.h5ad"]


def test_files_that_are_refused(network, tmp_path):
    ad.AnnData(np.ones((2, 2))).write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(ValueError, match="written by SpinNetwork.save, 'other.h5ad' holds something else"): SpinNetwork.load(tmp_path / "other.h5ad")
    network.save(tmp_path / "n.h5ad")
    (tmp_path / "cut.h5ad").write_bytes((tmp_path / "n.h5ad").read_bytes()[:5000])
    with pytest.raises(ValueError, match="readable .h5ad file, got 'cut.h5ad'"): SpinNetwork.load(tmp_path / "cut.h5ad")
    with pytest.raises(ValueError, match="lead to a saved SpinNetwork, there is no file"): SpinNetwork.load(tmp_path / "none.h5ad")
    with pytest.raises(ValueError, match="existing folder"): network.save(tmp_path / "nowhere" / "n.h5ad")
    newer = ad.read_h5ad(tmp_path / "n.h5ad")
    newer.uns["format_version"] = 99
    newer.write_h5ad(tmp_path / "newer.h5ad")
    with pytest.raises(ValueError, match="newer perturbnb \\(format 99"): SpinNetwork.load(tmp_path / "newer.h5ad")


def test_seeds(network, screen):
    spins, sample_id, _, _ = screen
    np.testing.assert_array_equal(network.sample(5, seed=2)[0], network.sample(5, seed=2)[0])
    assert (network.sample(5, seed=2)[0] != network.sample(5, seed=3)[0]).any()
    drawn, of_sample = network.sample(np.arange(16), seed=0)
    assert drawn.shape == (120, 6) and pd.Series(of_sample).value_counts().get(network.samples.index[15]) == 15
    pd.testing.assert_series_equal(fit_quality(network, spins, sample_id, seed=1), fit_quality(network, spins, sample_id, seed=1))


def test_quality_of_other_cells(network, screen):
    spins, sample_id, _, _ = screen
    some = sample_id == "a_1|x"
    assert np.isfinite(fit_quality(network, spins[some], sample_id[some])[["deviance_explained", "rms_means", "r_covariances"]]).all()
    held_out, at = planted(seed=0, n_per_sample=30)[:2]
    assert fit_quality(network, held_out, at)["deviance_explained"] > 0
    with pytest.raises(ValueError, match="must stand in the index of samples, got 'q'"): fit_quality(network, spins, np.full(len(spins), "q"))
    with pytest.raises(ValueError, match="6 columns"): fit_quality(network, spins[:, :5], sample_id)


@pytest.mark.parametrize("changes,message", [
    (dict(names=["a"] * 6), "names must be 6 different names"), (dict(names=list("abcde")), "names must be 6"), (dict(sample_weight="cell"), "sample_weight must be"),
    (dict(l2_J=-1), "l2_J must be a number"),
    (dict(l2_response="Auto"), "l2_response must be a number of at least 0 or 'auto' or 'held-out', got 'Auto'"), (dict(l1_J="yes"), "l1_J must be"), (dict(l2_J=True), "l2_J must be"),
    (dict(method="pseudolikelihood"), "did you mean 'pseudo_likelihood'"), (dict(method="exact", directed=True), "needs an energy"), (dict(method="mcmc", directed=True), "needs an energy"),
    (dict(method="mcmc", interventions={"a_1|x": {"P1": -1}}), "leave single conditionals out"), (dict(step_size=0.1), "step_size is an option of method='mcmc'"), (dict(seed=-1), "seed must be"),
    (dict(design=np.ones((3, 2))), "a row for each of 16 samples or 960 cells"), (dict(design="~ batch + gide"), "did you mean 'guide'"),
    (dict(l2_response="Auto"), "l2_response must be a number"), (dict(l2_h=np.nan), "l2_h must be"), (dict(tol="small"), "tol must be"), (dict(max_iter=0), "max_iter must be"),
    (dict(directed="no"), "directed must be True or False, got 'no'"), (dict(directed=None), "directed must be True or False, got None"), (dict(names=3), "names must be 6 different names, got 3"),
    (dict(names="abcdef"), "names must be 6 different names, got 'abcdef'"), (dict(n_jobs=0), "n_jobs must be"), (dict(n_jobs="x"), "n_jobs must be"),
    (dict(method="mcmc", step_size="x"), "step_size must be a number"), (dict(method="mcmc", mixing=-1), "mixing must be a whole number"), (dict(design=None), "design must be 'auto'.*got None"),
    (dict(design=np.ones(16)), "got ndarray of shape \\(16,\\)"), (dict(design="~ __import__('os').getcwd()"), "design must be")])
def test_options_that_are_refused(screen, changes, message):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match=message): infer_network(spins, sample_id, samples=samples, **changes)


@pytest.mark.parametrize("change,message", [
    (lambda s: s.drop(columns="guide"), "samples must have a column 'guide'"), (lambda s: s.drop(columns="if_control"), "column 'if_control'"),
    (lambda s: s.assign(if_control="yes"), "must be bool, got \\['yes'\\]"), (lambda s: pd.concat([s, s.iloc[:1]]), "unique index, got 'a_1|x' twice"),
    (lambda s: {}, "samples must be a DataFrame with a row per sample, got dict"),
    (lambda s: s.assign(batch=[np.nan, *s["batch"].iloc[1:]]), "samples\\['batch'\\] must be known for every row, got 1"),
    (lambda s: s.iloc[1:], "'a_1|x'; did you mean")])
def test_samples_that_are_refused(screen, change, message):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match=message): infer_network(spins, sample_id, samples=change(samples))


def test_sample_ids_that_are_refused(screen):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match="one entry per cell"): infer_network(spins, sample_id[1:], samples=samples)
    with pytest.raises(ValueError, match="must not be missing, got 1"): infer_network(spins, [None, *sample_id[1:]], samples=samples)


@pytest.mark.parametrize("dtype", [bool, int, float, "category"])
def test_flags_of_controls_of_any_type(screen, network, dtype):
    spins, sample_id, samples, _ = screen
    again = infer_network(spins, sample_id, samples=samples.assign(if_control=samples["if_control"].astype(dtype), guide=samples["guide"].astype("category")))
    np.testing.assert_array_equal(again.J, network.J)


def test_threads_do_not_matter():
    code = ("import numpy as np, zlib; from perturbnb.network import infer_network; r = np.random.default_rng(0); s = r.integers(-1, 2, (20000, 6)); "
            "n = infer_network(s, r.integers(0, 9, 20000)); print(zlib.crc32(n.J.tobytes()), zlib.crc32(n.coefficients.tobytes()))")
    printed = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_NUM_THREADS": n}).stdout for n in "12"]
    assert printed[0] == printed[1] and printed[0].strip()


# priors and interventions

def test_numeric_prior_of_infinite_strength_is_the_answer(screen, network):
    spins, sample_id, samples, _ = screen
    expected = pd.DataFrame(np.full((6, 6), np.nan), network.names, network.names)
    expected.loc["P2", "P5"] = expected.loc["P5", "P2"] = 0.7
    fit = infer_network(spins, sample_id, samples=samples, J_prior=expected, l2_J_prior=1e7)
    assert fit.J[1, 4] == pytest.approx(0.7, abs=1e-3) and abs(network.J[1, 4] - 0.7) > 0.05
    same(infer_network(spins, sample_id, samples=samples, J_prior=expected, l2_J_prior=0), network, 2e-3)
    same(infer_network(spins, sample_id, samples=samples, J_prior=np.full((6, 6), np.nan), l2_J_prior=1e7), network, 2e-3)


@pytest.mark.parametrize("directed", [False, True])
def test_masked_couplings_are_zero(screen, directed):
    spins, sample_id, samples, _ = screen
    mask = np.zeros((6, 6), bool)
    mask[0, 1] = mask[3, 2] = True
    fit = infer_network(spins, sample_id, samples=samples, J_prior_mask=mask, l1_off_mask=1e6, l2_off_mask=0, method="pseudo_likelihood", directed=directed)
    np.testing.assert_array_equal(fit.couplings != 0, mask if directed else mask | mask.T)


def test_prior_of_responses(screen, network):
    spins, sample_id, samples, _ = screen
    guides = network.terms.query("kind == 'guide'")["guide"]
    array = np.full((len(guides), 6), np.nan)
    array[1, 3] = -2.
    table = pd.DataFrame({"P4": [-2.]}, [guides.iloc[1]])
    one, two = (infer_network(spins, sample_id, samples=samples, response_prior=prior, l2_response_prior=1e7) for prior in (array, table))
    np.testing.assert_array_equal(one.coefficients, two.coefficients)
    assert one.coefficients[list(network.terms["guide"]).index(guides.iloc[1]), 3] == pytest.approx(-2, abs=1e-3)
    same(infer_network(spins, sample_id, samples=samples, response_prior=array, l2_response_prior=0), network, 2e-3)


@pytest.mark.parametrize("options,message", [
    (dict(J_prior=np.zeros((5, 6))), "J_prior must have shape \\(6, 6\\), got \\(5, 6\\)"), (dict(J_prior=np.triu(np.ones((6, 6)))), "must be symmetric for an undirected"),
    (dict(J_prior=np.full((6, 6), np.inf)), "finite, or NaN where nothing is known, got 36"), (dict(J_prior=np.full((6, 6), "a")), "J_prior must be numeric"),
    (dict(J_prior=pd.DataFrame([[1.]], ["P1"], ["Q1"])), "got 'Q1'; did you mean"), (dict(J_prior=pd.DataFrame(np.ones((2, 1)), ["P1", "P1"], ["P1"])), "every label once, got 'P1' twice"),
    (dict(J_prior_mask=np.full((6, 6), np.nan)), "True and False for every pair"), (dict(J_prior_mask=np.full((6, 6), 0.5)), "True and False for every pair, got 0.5"),
    (dict(J_prior_mask=pd.DataFrame([[True]], ["P1"], ["P2"])), "True and False for every pair"), (dict(l2_J_prior=-1), "l2_J_prior must be"), (dict(l1_off_mask=np.inf), "l1_off_mask must be"),
    (dict(response_prior=np.zeros((2, 6))), "response_prior must have shape \\(6, 6\\)"), (dict(response_prior=pd.DataFrame([[1.]], ["a_3"], ["P1"])), "got 'a_3'; did you mean 'a_2'"),
    (dict(response_prior=np.zeros((16, 6)), design="free"), "a term for each guide"),
    (dict(interventions={"a_1|z": {"P1": -1}}), "samples that have cells, got 'a_1.z'; did you mean"), (dict(interventions={"a_1|x": {"P9": -1}}), "spins, got 'P9' in sample 'a_1.x'"),
    (dict(interventions={"a_1|x": {"P1": 0}}), "-1 \\(held down\\) or 1"), (dict(interventions={"a_1|x": "P1"}), "such as {'P1': -1}, got 'P1' for sample 'a_1.x'"),
    (dict(interventions={"a_1|x": -1}), "got -1 for sample"), (dict(J_prior=pd.DataFrame("abc", ["P1"], ["P2"])), "J_prior must be numeric.*got 'abc'"),
    (dict(response_prior=pd.DataFrame({"P1": ["down", None]}, ["a_1", "a_2"])), "response_prior must be numeric.*got 'down'"), (dict(interventions=[("a_1|x", "P1")]), "a dict .* or a DataFrame"),
    (dict(interventions=pd.DataFrame(-1, [f"{g}|{b}" for g in ("a_1", "a_2", "b_1", "b_2", "c_1", "c_2", "nt_1", "nt_2") for b in "xy"], ["P2"])), "in which it is free, 'P2' has none")])
def test_priors_and_interventions_that_are_refused(screen, options, message):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match=message): infer_network(spins, sample_id, samples=samples, **options)


def test_conditionals_left_out_do_not_count(screen):
    "What a held spin did in its sample changes nothing about its own row, when the network is directed and fields are common"
    spins, sample_id, samples, _ = screen
    design, held = pd.DataFrame({"intercept": 1.}, index=samples.index), {"a_1|x": {"P3": -1}, "b_2|y": {"P3": 1}}
    options = dict(samples=samples, design=design, directed=True, l1_J=0)
    table = pd.DataFrame(0, samples.index, ["P3"])
    table.loc["a_1|x"], table.loc["b_2|y"] = -1, 1
    fit, as_table = (infer_network(spins, sample_id, interventions=given, **options) for given in (held, table))
    same(fit, as_table, 1e-8)
    other = spins.copy()
    of_held = np.isin(sample_id, list(held))
    other[of_held, 2] = np.random.default_rng(0).integers(-1, 2, of_held.sum())
    again = infer_network(other, sample_id, interventions=held, **options)
    np.testing.assert_allclose(again.J[2], fit.J[2], atol=1e-3)
    assert np.abs(again.J[:2, 2] - fit.J[:2, 2]).max() > 0.02, "the held spin still acts on others"
    assert fit.parameters["n_interventions"] == 2 and fit.parameters["l2_J"] == 1


def test_couplings_that_separate_stay_bounded():
    "P1 varies only where P2 is held, so nothing but the pull bounds its effect on P2"
    rng = np.random.default_rng(0)
    spins, sample = rng.integers(-1, 2, (400, 3)), np.repeat(["free", "held"], 200)
    spins[:200, 0] = 1
    fit = infer_network(spins, sample, directed=True, interventions={"held": {"P2": -1}})
    assert fit.converged and np.abs(fit.J).max() < 5 and abs(fit.J[1, 0]) < 1.5


def test_an_intervention_without_effect_is_told(screen, caplog, monkeypatch):
    spins, sample_id, samples, _ = screen
    monkeypatch.setattr("perturbnb.common.logger.propagate", True)
    high = int(np.argmax([spins[sample_id == "a_1|x", i].mean() - spins[:, i].mean() for i in range(6)]))
    infer_network(spins, sample_id, samples=samples, interventions={"a_1|x": {f"P{high + 1}": -1}})
    assert f"1 of 1 interventions did not move their spin: 'P{high + 1}' in sample 'a_1|x' is no lower" in caplog.text


# estimators, designs and thresholds

def test_estimators_agree(screen):
    spins, sample_id, samples, J = screen
    pseudo, exact, mcmc = (infer_network(spins, sample_id, samples=samples, method=method, l2_response=5.) for method in ("pseudo_likelihood", "exact", "mcmc"))
    assert [fit.method for fit in (pseudo, exact, mcmc)] == ["pseudo_likelihood", "exact", "mcmc"] and "(mcmc)" in repr(mcmc)
    np.testing.assert_allclose(mcmc.J, exact.J, atol=0.06)
    np.testing.assert_allclose(pseudo.J, exact.J, atol=0.15)
    assert infer_network(spins, sample_id, samples=samples, max_iter=200).method == "exact"
    with pytest.raises(ValueError, match="at most 12 spins, got 13"): infer_network(np.tile(spins, 3)[:, :13], sample_id, method="exact")


def test_directed_rows_are_regressions_of_their_own(screen):
    spins, sample_id, samples, _ = screen
    fit = infer_network(spins, sample_id, samples=samples, directed=True, l2_response=3.)
    assert fit.directed and fit.method == "pseudo_likelihood" and not np.allclose(fit.J, fit.J.T) and len(fit.to_frame()) == 30 and "(directed)" in repr(fit)
    edge = fit.to_frame().iloc[0]
    assert fit.J[fit.names.index(edge["regulated"]), fit.names.index(edge["regulator"])] == edge["J"]
    for call in (lambda: fit.energy(spins, sample_id), lambda: fit.log_likelihood(spins, sample_id)):
        with pytest.raises(ValueError, match="needs an undirected network"): call()
    drawn, _ = fit.sample(3, n_sweeps=5)
    assert drawn.shape == (48, 6)


def test_energy_and_likelihood_are_of_one_model(network, screen):
    spins, sample_id, _, _ = screen
    few = slice(0, 40)
    energy, log_likelihood = network.energy(spins[few], sample_id[few]), network.log_likelihood(spins[few], sample_id[few])
    s, h = spins[few].astype(float), network.h[network.samples.index.get_indexer(sample_id[few])]
    by_hand = -(s * h).sum(1) - np.einsum("ci,ij,cj->c", s, network.couplings, s) / 2 - s**2 @ np.diag(network.J)
    np.testing.assert_allclose(energy, by_hand, atol=1e-12)
    states = np.indices((3,) * 6).reshape(6, -1).T - 1
    assert np.exp(network.log_likelihood(states, "b_1|y")).sum() == pytest.approx(1)
    same_sample = np.unique(sample_id[few], return_inverse=True)[1]
    shift = energy + log_likelihood
    assert max(np.ptp(shift[same_sample == c]) for c in np.unique(same_sample)) < 1e-9
    with pytest.raises(ValueError, match="must be in the network, got 'b_1.z'"): network.energy(spins, "b_1|z")
    with pytest.raises(ValueError, match="6 columns"): network.log_likelihood(spins[:, 1:], sample_id)


def test_strong_fields_do_not_overflow(network):
    strong = replace(network, coefficients=network.coefficients * 0 + 800)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn, of_sample = strong.sample(4)
        assert (drawn[of_sample == "nt_1|x"] == 1).all() and np.isfinite(strong.log_likelihood(drawn, of_sample)).all() and np.isfinite(strong.energy(-drawn, of_sample)).all()


def test_sample_designs_and_cell_designs_agree(screen, network):
    spins, sample_id, samples, _ = screen
    of_cells = samples.loc[sample_id]
    design = cell_design(of_cells["guide"].where(~of_cells["if_control"], "nt"), control=["nt"], batch=of_cells["batch"])
    fit = infer_network(spins, sample_id, samples=samples, design=design, method="pseudo_likelihood")
    plain = infer_network(spins, sample_id, samples=samples, method="pseudo_likelihood")
    np.testing.assert_allclose(fit.J, plain.J, atol=2e-3)
    np.testing.assert_allclose(fit.h, plain.h, atol=5e-3)
    np.testing.assert_allclose(fit.h, fit.design @ fit.coefficients)
    assert fit.design.shape == (16, len(design.terms)) and fit.l2_response == pytest.approx(plain.l2_response, rel=0.02)
    held = infer_network(spins, sample_id, samples=samples, design=design, interventions={"a_1|x": {"P1": -1}})
    as_samples = infer_network(spins, sample_id, samples=samples, interventions={"a_1|x": {"P1": -1}})
    np.testing.assert_allclose(held.J, as_samples.J, atol=2e-3)


def test_tables_of_cells_and_of_samples(screen):
    spins, sample_id, samples, _ = screen
    design = screen_design(samples)
    options = dict(samples=samples, method="pseudo_likelihood", l2_response=4.)
    whole = infer_network(spins, sample_id, design=design, **options)
    table = design.to_frame()
    table.attrs["shrunk"] = list(design.terms.index[design.terms["shrunk"]])
    cells = design.matrix[samples.index.get_indexer(sample_id)]
    numbered = [f"term{j + 1}" for j in np.flatnonzero(design.terms["shrunk"])]
    for other in (table, given_design(table, shrunk=table.attrs["shrunk"]), given_design(cells, shrunk=numbered, of_cells=True), "~ batch + guide"):
        fit = infer_network(spins, sample_id, design=other, **options)
        np.testing.assert_allclose(fit.J, whole.J, atol=2e-3)
        np.testing.assert_allclose(fit.h, whole.h, atol=5e-3)
    assert infer_network(spins, sample_id, design=cells, **options).terms["kind"].eq("given").all()
    with pytest.raises(ValueError, match="a row for each of 960 cells, got 959"): infer_network(spins, sample_id, samples=samples, design=given_design(cells[1:], of_cells=True))


def test_thresholds_give_zeros(screen):
    spins, sample_id, samples, _ = screen
    none = infer_network(spins, sample_id, samples=samples, l1_J=1e9, l1_response=1e9)
    assert not none.couplings.any() and not none.coefficients[none.terms["shrunk"]].any() and none.converged
    some = infer_network(spins, sample_id, samples=samples, l1_J=60., l1_response=20.)
    share = (some.coefficients[some.terms["shrunk"]] == 0).mean()
    assert 0 < (some.couplings != 0).sum() < 30 and 0.05 < share < 0.95
    for rule in ("auto", "sparse"):
        chosen = infer_network(spins, sample_id, samples=samples, l1_J=rule)
        again = infer_network(spins, sample_id, samples=samples, l1_J=chosen.parameters["l1_J"], l2_response=chosen.l2_response)
        np.testing.assert_allclose(chosen.J, again.J, atol=1e-3)


@pytest.mark.parametrize("options", [dict(directed=True), dict(sample_weight="equal"), dict(method="exact"), dict(method="pseudo_likelihood"), dict(l2_response="held-out"), dict(l2_response=5.)])
def test_independent_spins_have_no_couplings_by_default(options):
    "However the network is fitted, the learned threshold leaves hardly any edge where there is none, and stays finite"
    rng = np.random.default_rng(4)
    sample = np.repeat(np.arange(30), rng.permutation(np.geomspace(10, 200, 30).astype(int)))
    fit = infer_network(gibbs_sample(np.zeros((8, 8)), rng.normal(0, 0.4, (30, 8))[sample], seed=4), sample, **options)
    assert 0 < fit.parameters["l1_J"] < np.inf and (fit.couplings == 0).sum() - 8 >= 0.9 * 56


def test_learned_threshold_follows_the_estimator(screen):
    "In cells, whatever a sample weighs; half of it where a pair is counted once; none where Gibbs sampling would decide what is zero"
    spins, sample_id, samples, _ = screen
    fits = {name: infer_network(spins, sample_id, samples=samples, **options) for name, options in
            dict(pseudo=dict(method="pseudo_likelihood"), exact=dict(method="exact"), directed=dict(directed=True), equal=dict(method="pseudo_likelihood", sample_weight="equal")).items()}
    threshold = {name: fit.parameters["l1_J"] for name, fit in fits.items()}
    assert threshold["pseudo"] == pytest.approx(2 * threshold["exact"]) and 0.5 < 2 * threshold["directed"] / threshold["pseudo"] < 2
    assert threshold["equal"] * len(spins) / len(samples) == pytest.approx(threshold["pseudo"], rel=0.3)
    assert infer_network(spins, sample_id, samples=samples, method="mcmc", tol=0.2).parameters["l1_J"] == 0


def test_couplings_with_a_prior_have_no_threshold(screen):
    "A number that is expected is not pulled to zero; one spin has nothing to learn from"
    spins, sample_id, samples, _ = screen
    prior = np.full((6, 6), np.nan)
    prior[0, 1] = prior[1, 0] = 0.8
    fit = infer_network(spins, sample_id, samples=samples, J_prior=prior, l2_J_prior=1e6, l1_J=1e4)
    assert fit.J[0, 1] == pytest.approx(0.8, abs=1e-2) and (fit.couplings != 0).sum() == 2
    assert infer_network(spins[:, :1], sample_id, samples=samples).parameters["l1_J"] == 0


def test_the_threshold_of_two_spins():
    "One coupling, weaker than its error: nothing to learn a spread from, and no edge"
    rng = np.random.default_rng(1)
    for _ in range(3):
        fit = infer_network(rng.integers(-1, 2, (400, 2)), np.repeat(np.arange(4), 100))
        assert np.isfinite(fit.parameters["l1_J"]) and abs(fit.J[0, 1]) < 0.2


def test_strength_by_held_out_cells(screen):
    spins, sample_id, samples, _ = screen
    fit = infer_network(spins, sample_id, samples=samples, l2_response="held-out", method="pseudo_likelihood")
    assert 0.3 <= fit.l2_response <= 100 and set(fit.terms["l2"]) == {0., fit.l2_response} and fit.parameters["l2_response"] == {"guide": fit.l2_response}
    with pytest.raises(ValueError, match="at least 5 cells"): infer_network(spins[:40], np.arange(40), l2_response="held-out")


def test_interactions_have_a_strength_of_their_own(screen):
    spins, sample_id, samples, _ = screen
    fit = infer_network(spins, sample_id, samples=samples, design="~ batch * guide", method="pseudo_likelihood")
    strength = fit.terms.groupby("kind")["l2"].agg(["min", "max"])
    assert (strength.loc[["guide", "interaction"], "min"] == strength.loc[["guide", "interaction"], "max"]).all() and strength.loc["interaction", "max"] > 3 * strength.loc["guide", "max"]
    assert fit.l2_response == strength.loc["guide", "max"] and (strength.loc[["intercept", "batch"]] == 0).all(axis=None)


# files of earlier versions, and the edge

def test_files_of_the_first_format_are_read(network, tmp_path):
    network.save(tmp_path / "n.h5ad")
    old = ad.read_h5ad(tmp_path / "n.h5ad")
    for key in ("directed", "method"): del old.uns[key]
    old.uns["format_version"] = 1
    old.uns["terms"] = old.uns["terms"].drop(columns="l2")
    old.write_h5ad(tmp_path / "old.h5ad")
    again = SpinNetwork.load(tmp_path / "old.h5ad")
    np.testing.assert_array_equal(again.h, network.h)
    assert again.directed is False and again.method == "pseudo_likelihood"


def test_directed_networks_are_written_and_read(screen, tmp_path):
    spins, sample_id, samples, _ = screen
    fit = infer_network(spins, sample_id, samples=samples, directed=True, interventions={"a_1|x": {"P1": -1}})
    fit.save(tmp_path / "n.h5ad")
    again = SpinNetwork.load(tmp_path / "n.h5ad")
    assert again.directed is True and again.parameters == fit.parameters and repr(again) == repr(fit)
    np.testing.assert_array_equal(again.J, fit.J)


def test_networks_without_shrunk_terms_are_written_and_read(screen, tmp_path):
    fit = infer_network(*screen[:2], samples=screen[2], design="free", l1_J=5.)
    fit.save(tmp_path / "n.h5ad")
    again = SpinNetwork.load(tmp_path / "n.h5ad")
    assert again.l2_response == 0 and again.parameters["l1_J"] == 5
    np.testing.assert_array_equal(again.h, fit.h)


@pytest.mark.parametrize("design", ["auto", "free"])
def test_one_sample(screen, design):
    "One sample has one field and no responses"
    spins, _, _, _ = screen
    fit = infer_network(spins, np.zeros(len(spins)), design=design)
    assert fit.converged and fit.h.shape == (1, 6) and np.abs(fit.coefficients[1:]).max(initial=0) < 0.05


def test_confounded_designs_are_named(screen, caplog, monkeypatch):
    spins, sample_id, samples, _ = screen
    monkeypatch.setattr("perturbnb.common.logger.propagate", True)
    alone = samples.assign(batch=np.where(samples["guide"] == "a_1", "z", samples["batch"]))
    fit = infer_network(spins, sample_id, samples=alone)
    assert "cannot tell apart: batch[z], guide[a_1]" in caplog.text and np.isfinite(fit.h).all()
    with pytest.raises(ValueError, match="apart.*batch\\[y\\], day"): infer_network(spins, sample_id, samples=samples.assign(day=(samples["batch"] == "y") * 3.), design="~ batch + day")


def test_tables_that_are_not_spins(screen, network):
    spins, sample_id, _, _ = screen
    with pytest.raises(ValueError, match="got AnnData; give adata.obsm\\['spins'\\]"): infer_network(ad.AnnData(spins.astype(np.float32)), sample_id)
    with pytest.raises(ValueError, match="cells × programs with values -1, 0, 1, got SpinNetwork"): infer_network(network, sample_id)
    with pytest.raises(ValueError, match="spins must be numeric"): infer_network(pd.DataFrame(spins).astype(str), sample_id)
    with pytest.raises(ValueError, match="one entry per cell"): infer_network(spins, "sample_id")


def test_columns_are_names(screen, network):
    spins, sample_id, samples, _ = screen
    table = pd.DataFrame(spins, columns=list("uvwxyz"))
    again = infer_network(table, sample_id, samples=samples)
    assert again.names == list("uvwxyz") and infer_network(table, sample_id, samples=samples, names=network.names).names == network.names
    np.testing.assert_array_equal(again.J, network.J)


def test_words_are_listed_once(screen):
    spins, sample_id, _, _ = screen
    with pytest.raises(ValueError) as error: infer_network(spins, sample_id, sample_weight="cell")
    assert str(error.value).count("'equal'") == 1


def test_flags_of_numpy(screen):
    assert "directed" in repr(infer_network(screen[0], screen[1], design="free", directed=np.True_))


@pytest.mark.parametrize("n_cells", [-1, [1, 2], 1.5, "5"])
def test_numbers_of_cells_that_are_refused(network, n_cells):
    with pytest.raises(ValueError, match="n_cells must be a whole number"): network.sample(n_cells)


@pytest.mark.parametrize("options,reason", [(dict(tol=0), "rounding leaves nothing to improve"), (dict(max_iter=3, l2_response=1.), "; raise max_iter")])
@pytest.mark.parametrize("method", ["pseudo_likelihood", "exact"])
def test_why_a_fit_stopped(screen, options, reason, method):
    spins, sample_id, samples, _ = screen
    with pytest.warns(ConvergenceWarning, match=reason): infer_network(spins[:, :4], sample_id, samples=samples, method=method, **options)


def test_targets_with_guides_are_no_warning(screen, caplog, monkeypatch):
    spins, sample_id, samples, _ = screen
    monkeypatch.setattr("perturbnb.common.logger.propagate", True)
    caplog.set_level("INFO", logger="perturbnb")
    infer_network(spins, sample_id, samples=samples, design="~ batch + target_gene + guide")
    told = [record for record in caplog.records if "guides" in record.getMessage()]
    assert len(told) == 1 and told[0].levelname == "INFO" and "3 targets are the sum of their guides" in told[0].getMessage()


def test_thresholds_are_not_learned_where_that_would_take_too_long(monkeypatch):
    from perturbnb import network as module
    spins = np.random.default_rng(0).integers(-1, 2, (300, 6))
    sample_id = np.arange(300) % 5
    learned = infer_network(spins, sample_id, method="pseudo_likelihood")
    monkeypatch.setattr(module, "_MOST_LEARNED", 5)
    plain = infer_network(spins, sample_id, method="pseudo_likelihood")
    assert learned.parameters["l1_J"] > 0 and plain.parameters["l1_J"] == 0
    assert (learned.couplings == 0).sum() > 6 and (plain.couplings == 0).sum() == 6
    assert infer_network(spins, sample_id, method="pseudo_likelihood", l1_J=5.).parameters["l1_J"] == 5
