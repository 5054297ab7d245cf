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
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from perturbnb.model import conditional_probabilities, gibbs_sample
from perturbnb.network import SpinNetwork, _Cells, _metric, fit_quality, infer_network, screen_design


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
    options = dict(samples=samples, design="free", l2_h=0.005)
    equal, twice = (infer_network(spins[at], sample_id[at], sample_weight="equal", **options) for at in (np.arange(len(spins)), more))
    np.testing.assert_allclose(equal.J, twice.J, atol=1e-3)
    cells, more_cells = (infer_network(spins[at], sample_id[at], **options) for at in (np.arange(len(spins)), more))
    assert np.abs(cells.J - more_cells.J).max() > 0.02
    np.testing.assert_allclose(equal.J, cells.J, atol=0.02)      # samples of the same size: nearly the same objective


def test_a_design_of_ones_own(screen, network):
    spins, sample_id, samples, _ = screen
    design, _ = screen_design(samples)
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
    free = infer_network(spins, sample_id, samples=samples, design="free", tol=1e-7)
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


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 999))
def test_gradient_on_random_problems(n, n_samples, seed):
    rng = np.random.default_rng(seed)
    n_cells = n_samples + int(rng.integers(1, 30))
    sample = np.r_[np.arange(n_samples), rng.integers(0, n_samples, n_cells - n_samples)]
    cells = _Cells(rng.integers(-1, 2, (n_cells, n)).astype(np.int8), sample, rng.uniform(0.1, 3, n_cells), n_samples, block=7)
    J, h = rng.normal(0, 1, (n, n)), rng.normal(0, 1, (n_samples, n))
    _, g_J, g_h, variance = cells.gradient(J, h)
    step, in_J, in_h = 1e-6, rng.normal(size=J.shape), rng.normal(size=h.shape)
    numeric = (cells.gradient(J + step * in_J, h + step * in_h)[0] - cells.gradient(J - step * in_J, h - step * in_h)[0]) / (2 * step)
    np.testing.assert_allclose((g_J * in_J).sum() + (g_h * in_h).sum(), numeric, rtol=1e-5, atol=1e-4)
    assert (variance >= -1e-9).all() and (variance <= np.bincount(sample, cells.weights, n_samples)[:, None] + 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 999))
def test_coordinates_of_the_optimiser(n, seed):
    "There and back gives the same network; directional derivatives agree in both coordinates"
    rng = np.random.default_rng(seed)
    sample = np.r_[np.arange(3), rng.integers(0, 3, 60)]
    cells = _Cells(rng.integers(-1, 2, (63, n)).astype(np.int8), sample, np.ones(63), 3)
    metric = _metric(cells, np.c_[np.ones(3), [0, 1, 0], [0, 0, 1]], np.array([1e-3, 5, 5]), 1e-3)
    J = rng.normal(size=(n, n))
    J, B = J + J.T, rng.normal(size=(3, n))
    theta = metric.pack(J, B)
    for found, expected in zip(metric.unpack(theta), (J, B)): np.testing.assert_allclose(found, expected, atol=1e-8)
    direction, g_J, g_B = rng.normal(size=theta.shape), rng.normal(size=(n, n)), rng.normal(size=(3, n))
    to_J, to_B = metric.unpack(direction)
    np.testing.assert_allclose(metric.pull_back(g_J, g_B) @ direction, (g_J * to_J).sum() + (g_B * to_B).sum(), rtol=1e-7, atol=1e-7)


def test_another_optimiser_finds_the_same(screen):
    "The peer's objective, minimised by SciPy without any metric"
    spins, sample_id, samples, _ = screen
    few = np.isin(sample_id, ["a_1|x", "nt_1|y", "b_2|x"])
    fit = infer_network(spins[few][:, :4], sample_id[few], design="free", l2_h=0.5, l2_J=2., tol=1e-8)
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
    with pytest.raises(FileNotFoundError): SpinNetwork.load(tmp_path / "none.h5ad")
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
    (dict(l2_response="Auto"), "l2_response must be a number"), (dict(l2_h=np.nan), "l2_h must be"), (dict(tol="small"), "tol must be"), (dict(max_iter=0), "max_iter must be")])
def test_options_that_are_refused(screen, changes, message):
    spins, sample_id, samples, _ = screen
    with pytest.raises(ValueError, match=message): infer_network(spins, sample_id, samples=samples, **changes)


@pytest.mark.parametrize("change,message", [
    (lambda s: s.drop(columns="guide"), "samples must have a column 'guide'"), (lambda s: s.drop(columns="if_control"), "column 'if_control'"),
    (lambda s: s.assign(if_control="yes"), "must be bool, got \\['yes'\\]"), (lambda s: pd.concat([s, s.iloc[:1]]), "unique index, got 'a_1|x' twice"),
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
