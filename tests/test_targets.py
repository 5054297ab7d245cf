"What would bore a reader of 03a: order and labels, guides in different batches, references by hand, seeds."
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturbnb.network import infer_network
from perturbnb.response import relative_response
from perturbnb.targets import combine_guides, target_responses
from perturbnb.uncertainty import network_uncertainty
from perturbnb.usage_effects import energy_test, total_effects


def guides(n_targets=6, n_guides=3, n=4, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(n_targets * n_guides, n, n))
    own = 0.01 * (mix @ mix.transpose(0, 2, 1) + 2 * np.eye(n))
    shared = 0.02 * (np.eye(n) + 0.3)
    return rng.normal(0, 0.5, (n_targets * n_guides, n)), own + shared, shared, np.repeat([f"T{t}" for t in range(n_targets)], n_guides)


def same(a, b, rows=slice(None), columns=slice(None)):
    for name in ("estimate", "se", "df", "p", "Q"): np.testing.assert_allclose(getattr(a, name)[rows][:, columns], getattr(b, name), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(a.table.p.to_numpy()[rows], b.table.p, rtol=1e-6)


@pytest.mark.parametrize("method", ["random", "mean", "fixed"])
def test_order_of_guides_does_not_matter(method):
    estimate, covariance, shared, target = guides()
    order = np.random.default_rng(1).permutation(len(target))
    a = combine_guides(estimate, covariance, shared, target, method=method)
    b = combine_guides(estimate[order], covariance[order], shared, target[order], method=method)
    same(a, b, a.table.index.get_indexer(b.table.index))
    np.testing.assert_allclose(a.weight[order], b.weight, rtol=1e-6)


def test_order_and_unit_of_programs_do_not_matter():
    estimate, covariance, shared, target = guides()
    a, order = combine_guides(estimate, covariance, shared, target), [2, 0, 3, 1]
    same(a, combine_guides(estimate[:, order], covariance[:, order][:, :, order], shared[order][:, order], target), columns=order)
    b = combine_guides(10 * estimate, 100 * covariance, 100 * shared, target)
    np.testing.assert_allclose(b.p, a.p, rtol=1e-6)
    np.testing.assert_allclose(b.table.p, a.table.p, rtol=1e-6)
    np.testing.assert_allclose(b.between_sd, 10 * a.between_sd, rtol=1e-6)


def test_shared_as_function_of_two_guides():
    "Guides in two batches, of which each has controls of its own: the mean of a target has the variance written out by hand"
    estimate, covariance, shared, target = guides()
    batch = np.array([0, 0, 1] * 6)
    result = combine_guides(estimate, covariance, lambda g, h: shared * (batch[g] == batch[h]), target, method="mean")
    fixed = combine_guides(estimate, covariance, lambda g, h: shared * (batch[g] == batch[h]), target, method="fixed")
    np.testing.assert_allclose(result.estimate, estimate.reshape(6, 3, 4).mean(1))
    weights = fixed.weight.reshape(6, 3, 4)
    pair = 2 * weights[:, 0] * weights[:, 1] * np.diag(shared)
    own = (weights**2 * np.einsum("gpp->gp", covariance).reshape(6, 3, 4)).sum(1)
    np.testing.assert_allclose(fixed.se**2, own + pair, rtol=1e-6)


def test_cochran_by_hand():
    estimate, covariance, _, target = guides()
    result = combine_guides(estimate, covariance, np.zeros((4, 4)), target)
    y, w = estimate.reshape(6, 3, 4), 1 / np.einsum("gpp->gp", covariance).reshape(6, 3, 4)
    Q = (w * (y - (w * y).sum(1, keepdims=True) / w.sum(1, keepdims=True)) ** 2).sum(1)
    np.testing.assert_allclose(result.Q, Q)
    np.testing.assert_allclose(result.Q_p, stats.chi2.sf(Q, 2))
    np.testing.assert_allclose(result.I2, np.maximum(0, 1 - 2 / Q))


def test_fixed_omnibus_is_wald():
    estimate, covariance, shared, target = guides(n_guides=1)
    result = combine_guides(estimate, covariance, shared, target, method="fixed")
    wald = np.einsum("gp,gpq,gq->g", estimate, np.linalg.inv(covariance), estimate)
    np.testing.assert_allclose(result.table.p, stats.chi2.sf(wald, 4), rtol=1e-6)
    np.testing.assert_allclose(result.se, np.sqrt(np.einsum("gpp->gp", covariance)))


def test_one_guide_each_says_so(caplog):
    result = combine_guides(*guides(n_guides=1))
    assert "every target has one guide" in caplog.text
    assert np.isinf(result.df).all() and np.isnan(result.Q_p).all() and (result.table.n_guides == 1).all()


def test_tidy_table_has_one_row_per_fact():
    result = combine_guides(*guides(), names=list("WXYZ"))
    frame = result.to_frame()
    assert list(frame.columns) == ["target_gene", "program", "estimate", "se", "df", "t", "p", "q", "n_guides", "Q", "Q_p", "I2"]
    assert len(frame) == 24 and not frame.duplicated(["target_gene", "program"]).any()
    np.testing.assert_array_equal(frame.pivot(index="target_gene", columns="program", values="q").to_numpy(), result.q)


def test_missing_equals_absent():
    "A guide that tells nothing of any program changes nothing but the count of guides"
    estimate, covariance, shared, target = guides()
    holes = estimate.copy()
    holes[4] = np.nan
    a, b = combine_guides(holes, covariance, shared, target), combine_guides(np.delete(estimate, 4, 0), np.delete(covariance, 4, 0), shared, np.delete(target, 4))
    for name in ("estimate", "se", "df", "p"): np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6)
    np.testing.assert_allclose(a.table.p, b.table.p, rtol=1e-4)


def screen(seed=0, batches=("x", "y"), n=30):
    rng = np.random.default_rng(seed)
    rows = [(f"{g}|{b}", g, t, b, t == "control") for g, t in (("a1", "A"), ("a2", "A"), ("b1", "B"), ("nt", "control")) for b in batches]
    samples = pd.DataFrame(rows, columns=["sample_id", "guide", "target_gene", "batch", "if_control"]).set_index("sample_id")
    sample_id = np.repeat(samples.index, n)
    return rng.integers(-1, 2, (len(sample_id), 3)), sample_id, samples


def test_total_effects_without_controls_have_no_p(caplog):
    spins, sample_id, samples = screen()
    result = total_effects(spins, sample_id, samples.assign(if_control=False))
    assert np.isfinite(result.estimate).all() and np.isnan(result.p).all() and result.table.q.isna().all()
    assert "no control samples" in caplog.text and set(result.to_frame()["reference"]) == {"all samples"}


def test_batch_without_controls_takes_all_of_them():
    spins, sample_id, samples = screen()
    keep = sample_id != "nt|y"
    result = total_effects(spins[keep], sample_id[keep], samples)
    mean = lambda name: spins[sample_id == name].mean(0)
    np.testing.assert_allclose(result.guide_estimate[0], (mean("a1|x") + mean("a1|y")) / 2 - mean("nt|x"))
    assert set(result.table["reference"]) == {"all controls"} and np.isfinite(result.p).all()
    test = energy_test(spins[keep], sample_id[keep], samples, n_permutations=19)
    assert test.n_cells.to_list() == [60, 30]                                 # only the batch that has controls


@pytest.mark.parametrize("kind", [int, bool])
def test_if_control_may_be_zero_and_one(kind):
    spins, sample_id, samples = screen()
    a, b = (total_effects(spins, sample_id, samples.assign(if_control=samples.if_control.astype(k))) for k in (kind, bool))
    np.testing.assert_array_equal(a.p, b.p)


def test_energy_test_follows_its_seed_and_leaves_no_trace():
    spins, sample_id, samples = screen(n=200)
    before = spins.copy()
    a, b, c = (energy_test(spins, sample_id, samples, n_permutations=49, most_cells=60, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c)
    np.testing.assert_array_equal(spins, before)


def test_energy_test_respects_batches():
    "A batch effect alone, in a target that lies mostly in one batch, is no effect"
    rng, p = np.random.default_rng(0), []
    _, _, samples = screen()
    n = np.array([10, 60, 30, 30, 60, 10, 40, 40])                            # a1|x a1|y ... nt|x nt|y
    for seed in range(40):
        sample_id = np.repeat(samples.index, n)
        x = rng.normal(size=(n.sum(), 2)) + 2 * sample_id.str.endswith("y")[:, None]
        p += energy_test(x, sample_id, samples, n_permutations=39, most_cells=80, seed=seed).p.to_list()
    assert np.mean(np.array(p) <= 0.05) < 0.11 and stats.kstest(p, "uniform").pvalue > 1e-3


def test_network_without_guide_terms():
    spins, sample_id = np.random.default_rng(0).integers(-1, 2, (80, 3)), np.repeat(["a", "b"], 40)
    samples = pd.DataFrame({"guide": ["a", "b"], "target_gene": ["a", "b"], "if_control": [False, True]}, index=["a", "b"])
    network = infer_network(spins, sample_id, samples=samples, design="free")
    errors = network_uncertainty(network, spins, sample_id)
    with pytest.raises(ValueError, match="network must have guide terms"): target_responses(network, errors)


def test_target_responses_of_a_network():
    "Guides and targets in the order of the responses; a control batch missing; a spin that never varies"
    spins, sample_id, samples = screen(n=60)
    spins = np.column_stack([spins, np.zeros(len(spins), int)]).astype(np.int8)
    network = infer_network(spins, sample_id, samples=samples.assign(n_cells=60))
    result = target_responses(network, network_uncertainty(network, spins, sample_id))
    response = relative_response(network)
    assert list(result.guides.index) == response.rows and list(result.table.index) == response.by_target().rows
    assert np.isfinite(result.p[:, :3]).all() and np.isnan(result.p[:, 3]).all() and (result.table.df1 == 3).all()


def test_reference_stands_in_each_row_and_decides_on_p():
    arguments, kinds = guides(), ["own batch"] * 17 + ["all samples"]
    result = combine_guides(*arguments, reference=kinds)
    assert result.table["reference"].tolist() == ["own batch"] * 5 + ["all samples"]
    assert np.isnan(result.p[-1]).all() and np.isnan(result.q[-1]).all() and np.isnan(result.table.q.iloc[-1]) and np.isfinite(result.p[:-1]).all()
    with pytest.raises(ValueError, match="reference must have 18 entries, got 2"): combine_guides(*arguments, reference=kinds[:2])


def test_one_control_sample_and_no_controls_in_a_network(caplog):
    "One control sample: tested, and a warning; none: estimates without p"
    spins, sample_id, samples = screen(n=60, batches=("x",))
    for table, reference in ((samples, "own batch"), (samples.assign(if_control=False), "all samples")):
        network = infer_network(spins.astype(np.int8), sample_id, samples=table.assign(n_cells=60))
        result = target_responses(network, network_uncertainty(network, spins.astype(np.int8), sample_id))
        assert set(result.table["reference"]) == {reference} and np.isfinite(result.estimate).all()
        assert np.isfinite(result.p).all() == (reference == "own batch") and np.isnan(result.q).all() == (reference == "all samples")
    assert "one control sample" in caplog.text


def test_if_control_as_text_is_refused():
    spins, sample_id, samples = screen()
    with pytest.raises(ValueError, match="if_control"): total_effects(spins, sample_id, samples.assign(if_control=samples.if_control.map({True: "yes", False: "no"})))
