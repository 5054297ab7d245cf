"What would bore a reader of 03d: order, lone guides, missing programs, no controls, bad input."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perturbnb.guide_checks import check_guides, plot_guide_checks
from perturbnb.model import gibbs_sample
from perturbnb.network import infer_network
from perturbnb.targets import target_responses
from perturbnb.uncertainty import network_uncertainty


@pytest.fixture(scope="module")
def fitted():
    "A has two good guides and a dud, B one guide, C three that do nothing"
    rng, effect = np.random.default_rng(0), np.array([1.2, -1., 0.])
    rows = [("A_g1", "A", 1), ("A_g2", "A", 1), ("A_g3", "A", 0), ("B_g1", "B", 1), ("C_g1", "C", 0), ("C_g2", "C", 0), ("C_g3", "C", 0), ("nt", "control", 0)]
    samples = pd.DataFrame(rows, columns=["guide", "target_gene", "works"]).assign(n_cells=120)
    samples.loc[7, "n_cells"] = 500
    samples["if_control"] = samples["target_gene"] == "control"
    samples.index = samples["guide"].to_numpy()
    J = np.array([[0, 0.4, 0], [0.4, 0, -0.3], [0, -0.3, 0]])
    row = rng.permutation(np.repeat(np.arange(8), samples["n_cells"]))
    spins = gibbs_sample(J, (samples["works"].to_numpy()[:, None] * effect)[row], n_sweeps=40, seed=1)
    network = infer_network(spins, samples.index.to_numpy()[row], samples=samples.drop(columns="works"))
    return network, network_uncertainty(network, spins, samples.index.to_numpy()[row])


def test_verdicts(fitted):
    table = check_guides(target_responses(*fitted), fitted[1]).set_index("guide")
    assert table["verdict"].to_dict() == {"A_g1": "works", "A_g2": "works", "A_g3": "no effect", "B_g1": "alone", "C_g1": "unclear", "C_g2": "unclear", "C_g3": "unclear"}
    assert np.isfinite(table.loc["B_g1", "effect_p"]) and np.isnan(table.loc["B_g1", "share"]) and table.loc["B_g1", "n_siblings"] == 0
    p = table.filter(like="_p")
    assert (p.isna() | p.ge(0) & p.le(1)).all(axis=None)


def test_two_guides_cannot_say_who_is_right(fitted):
    network, certain = fitted
    samples = network.samples.assign(target_gene=network.samples["target_gene"].where(network.samples["guide"] != "A_g2", "D"))
    table = check_guides(target_responses(replace(network, samples=samples), certain), certain).set_index("guide")
    assert table.loc["A_g1", "verdict"] == "disagrees" and table.loc["A_g3", "verdict"] == "no effect" and table.loc["A_g2", "verdict"] == "alone"


def test_without_controls_nothing_is_said(fitted):
    network, certain = fitted
    samples = network.samples.assign(if_control=False)
    table = check_guides(target_responses(replace(network, samples=samples), certain), certain)
    assert set(table["verdict"]) == {"unclear", "alone"} and table.filter(like="_q").isna().all(axis=None)


def test_a_program_that_a_guide_knows_nothing_of(fitted):
    network, certain = fitted
    estimate = certain.estimate.copy()
    estimate[certain.terms["guide"] == "A_g1", 2] = np.nan
    other = replace(certain, estimate=estimate)
    table = check_guides(target_responses(network, other), other).set_index("guide")
    assert table.loc["A_g3", "verdict"] == "no effect" and np.isfinite(table.loc["A_g1", "share"])
    estimate[certain.terms["guide"] == "A_g1"] = np.nan
    none = replace(certain, estimate=estimate)
    table = check_guides(target_responses(network, none), none).set_index("guide")
    assert table.loc["A_g1", "verdict"] == "unclear" and np.isnan(table.loc["A_g1", "effect_p"])


def test_bad_input(fitted):
    network, certain = fitted
    targets = target_responses(network, certain)
    with pytest.raises(ValueError, match="level must lie"): check_guides(targets, certain, level=1.5)
    terms = certain.terms.assign(guide=certain.terms["guide"].replace("A_g1", "Z_g1"))
    with pytest.raises(ValueError, match="it lacks guide 'A_g1'"): check_guides(targets, replace(certain, terms=terms))
    with pytest.raises(ValueError, match="no column 'guide'"): check_guides(targets, certain, on_target=pd.DataFrame({"q": [1.]}))
    with pytest.raises(ValueError, match="unclear or alone"): plot_guide_checks(check_guides(targets, certain).iloc[3:])
