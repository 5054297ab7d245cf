"Predicted combinations: names, batches, directions, determinism, and interactions of measured doubles."
import logging

import numpy as np
import pandas as pd
import pytest

from perturbnb.combinations import interaction_table, plot_combination, predict_combination
from perturbnb.designs import cell_design
from perturbnb.model import exact_moments, gibbs_sample
from perturbnb.network import infer_network
from perturbnb.response import relative_response
from perturbnb.uncertainty import network_uncertainty


@pytest.fixture(scope="module")
def fitted():
    "Network, response of targets and uncertainty of a small screen: two batches, two guides a target"
    rng = np.random.default_rng(3)
    J = np.array([[0.2, 0.8, 0.], [0.8, -0.1, -0.6], [0., -0.6, 0.]])
    names = [f"{guide} {batch}" for guide in ("nt", "A1", "A2", "B1", "B2") for batch in "12"]
    samples = pd.DataFrame({"guide": [n[:-2] for n in names], "target_gene": ["control"] * 2 + ["A"] * 4 + ["B"] * 4, "batch": list("12") * 5,
                            "if_control": [True] * 2 + [False] * 8}, index=names)
    response = {"control": np.zeros(3), "A": np.array([1., 0, 0]), "B": np.array([0, 0, -1.])}
    h = np.array([response[target] + (0.5 if batch == "2" else 0.) for target, batch in zip(samples["target_gene"], samples["batch"])])
    sample_id = np.repeat(names, 120)
    spins = gibbs_sample(J, np.repeat(h, 120, axis=0), seed=int(rng.integers(100)))
    network = infer_network(spins, sample_id, samples=samples)
    return network, relative_response(network).by_target(), network_uncertainty(network, spins, sample_id)


def test_fields_add_and_means_are_those_of_the_model(fitted):
    network, response, _ = fitted
    both = predict_combination(network, response, ["A", "B"], batch="1")
    control = network.h[network.samples.index.get_loc("nt 1")]
    np.testing.assert_allclose(both.field, control + response.values.sum(0))
    np.testing.assert_allclose(both.mean, exact_moments(network.J, both.field).mean, atol=1e-12)
    np.testing.assert_allclose(both.control, exact_moments(network.J, control).mean, atol=1e-12)
    assert (np.abs(both.additive) <= 1).all() and np.isnan(both.se).all()


def test_batches_start_from_their_own_controls(fitted):
    network, response, _ = fitted
    one, two, both = (predict_combination(network, response, ["A"], batch=batch) for batch in ("1", 2, None))
    assert (two.field > one.field).all()
    np.testing.assert_allclose(both.field, (one.field + two.field) / 2)


def test_errors_shrink_with_the_slope(fitted):
    network, response, uncertainty = fitted
    both = predict_combination(network, response, ["A", "B"], uncertainty=uncertainty)
    alone = predict_combination(network, response, ["A"], uncertainty=uncertainty)
    assert (both.se > 0).all() and (both.se < 0.2).all() and (alone.se > 0).all()


def test_guides_and_targets_agree_where_a_target_is_the_mean_of_its_guides(fitted):
    network, response, uncertainty = fitted
    guides = relative_response(network)
    mean = guides.select(["A1", "A2"]).values.mean(0)
    np.testing.assert_allclose(response.select(["A"]).values[0], mean)
    assert predict_combination(network, guides, ["A1", "B2"], uncertainty=uncertainty).perturbations == ["A1", "B2"]


def test_drawn_means_depend_on_the_seed_alone(fitted):
    from dataclasses import replace
    network, response, _ = fitted
    J = np.kron(np.eye(4), network.J)
    names = [f"P{i}" for i in range(12)]
    wide = replace(network, J=J, coefficients=np.tile(network.coefficients, 4), names=names)
    response = replace(response, values=np.tile(response.values, 4), names=names, spread=None)
    a, b, c = (predict_combination(wide, response, ["A", "B"], n_cells=3000, seed=seed) for seed in (0, 0, 1))
    assert (a.mean == b.mean).all() and (a.mean != c.mean).any()
    small = predict_combination(network, fitted[1], ["A", "B"]).mean
    np.testing.assert_allclose(a.mean, np.tile(small, 4), atol=0.05)
    directed = replace(wide, J=np.tril(J), directed=True)
    assert np.isfinite(predict_combination(directed, response, ["A"], n_cells=500).mean).all()


def test_without_controls_it_starts_from_all_samples_and_says_so(fitted, caplog):
    from dataclasses import replace
    network, response, _ = fitted
    logger = logging.getLogger("perturbnb")
    before, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.WARNING, logger="perturbnb"):
            guess = predict_combination(replace(network, samples=network.samples.assign(if_control=False)), response, ["A"])
    finally: logger.propagate = before
    assert "no control samples" in caplog.text
    np.testing.assert_allclose(guess.field - response.select(["A"]).values[0], np.average(network.h, axis=0, weights=network.samples["n_cells"]))


@pytest.mark.parametrize(("names", "options", "told"), [
    (["A", "C"], {}, "perturbations must be targets of the response, got 'C'"), ([], {}, "perturbations must be a list"), ("A", {}, "perturbations must be a list"),
    (["A", "A"], {}, "perturbations must differ"), (["A"], {"batch": "3"}, "batch must be one of the network's, got '3'"), (["A"], {"n_cells": 0}, "n_cells"), (["A"], {"n_cells": 2.5}, "n_cells")])
def test_refusals(fitted, names, options, told):
    with pytest.raises(ValueError, match=told): predict_combination(*fitted[:2], names, **options)


def test_programs_must_be_those_of_the_network(fitted):
    from dataclasses import replace
    network, response, uncertainty = fitted
    with pytest.raises(ValueError, match="programs of the network"): predict_combination(network, replace(response, names=["x", "y", "z"]), ["A"])
    with pytest.raises(ValueError, match="interaction terms"): interaction_table(uncertainty)


def test_interactions_of_measured_doubles():
    rng = np.random.default_rng(0)
    labels = np.repeat(["nt", "A", "B", "A+B"], 400)
    single = {"nt": [0, 0], "A": [0.8, 0], "B": [0, 0.8], "A+B": [0.8, 0.8 - 1.2]}
    spins = gibbs_sample(np.array([[0, 0.3], [0.3, 0]]), np.array([single[label] for label in labels], float), seed=int(rng.integers(100)))
    design = cell_design(labels, control=["nt"], interactions=True)
    network = infer_network(spins, labels, design=design)
    table = interaction_table(network_uncertainty(network, spins, labels, design=design)).set_index("program")
    assert list(table["perturbations"].unique()) == ["A+B"]
    assert abs(table.loc["P2", "estimate"] + 1.2) < 3 * table.loc["P2", "se"] and table.loc["P2", "q"] < 0.01 and table.loc["P1", "q"] > 0.01


def test_plot(fitted):
    import matplotlib.pyplot as plt
    ax = plot_combination(predict_combination(*fitted[:2], ["A", "B"]))
    assert ax.get_title() == "A + B" and [label.get_text() for label in ax.get_xticklabels()] == fitted[0].names
    plt.close("all")
