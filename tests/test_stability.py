"What would bore a reader of 04b: determinism, single guides, orders, draws that do not fit"
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from perturbnb.bootstrap import Bootstrap
from perturbnb.clustering import network_modules, response_groups
from perturbnb.response import Response
from perturbnb.stability import Stability, _stays, draw_responses, group_stability, module_stability, plot_resolution_scan, resolution_scan
from perturbnb.targets import combine_guides


def network(seed=0, n=12, n_modules=3):
    rng = np.random.default_rng(seed)
    module = rng.permutation(np.arange(n) % n_modules)
    same = module[:, None] == module
    J = np.triu(np.where(same, 1, -1) * rng.uniform(.2, .5, (n, n)) * (rng.random((n, n)) < np.where(same, .9, .1)), 1)
    return J + J.T, module


def noisy(J, n_draws=12, sd=.05, seed=0):
    noise = np.triu(np.random.default_rng(seed).normal(0, sd, (n_draws, *J.shape)), 1)
    return J + noise + noise.swapaxes(1, 2)


def families(seed=0, n_guides=3, n=12):
    "Targets in four families that ignore modules; the last has one guide"
    rng = np.random.default_rng(seed)
    member = np.arange(16) // 4
    profiles = np.kron(np.eye(4), np.array([1.2, -1.2, 1.2]))
    target = np.repeat([f"T{t:02d}" for t in range(16)], n_guides)[:16 * n_guides - n_guides + 1]
    y = np.repeat(profiles[member], n_guides, axis=0)[:len(target)] * rng.uniform(.7, 1.2, (len(target), 1)) + rng.normal(0, .2, (len(target), n))
    targets = combine_guides(y, np.broadcast_to(.04 * np.eye(n), (len(y), n, n)), np.zeros((n, n)), target, names=[f"P{i + 1}" for i in range(n)])
    table = pd.DataFrame({"n_guides": targets.table["n_guides"], "n_cells": 300, "reference": "own batch"})
    return targets, Response(targets.estimate, table, targets.names, "target"), member


@pytest.mark.parametrize("n,n_modules", [(12, 3), (16, 4), (24, 4), (30, 6)])
def test_planted_modules_are_found_and_hold(n, n_modules):
    found = []
    for seed in range(5):
        J, module = network(seed, n, n_modules)
        modules = network_modules(J)
        found.append((adjusted_rand_score(module, modules.labels), module_stability(modules, noisy(J)).mean_rand))
    assert np.min(np.mean(found, axis=0)) >= .9


def test_families_are_found_and_hold_by_profile():
    found = []
    for seed in range(5):
        targets, response, member = families(seed)
        J = network(seed)[0]
        groups = response_groups(J, response, network_modules(J), by="profiles")
        found.append((adjusted_rand_score(member, groups.labels), group_stability(groups, J, targets, n_draws=20).mean_rand))
    assert np.min(np.mean(found, axis=0)) >= .8


def test_the_same_draws_change_nothing():
    J, _ = network()
    stability = module_stability(network_modules(J), np.repeat(J[None], 3, axis=0))
    assert (stability.share == 1).all() and (stability.rand == 1).all()


def test_results_follow_their_seed_and_the_order_of_targets_does_not_matter():
    targets, response, _ = families()
    J, _ = network()
    modules, shuffled = network_modules(J), response.select(response.rows[::-1])
    one, same, other = (group_stability(response_groups(J, r, modules), J, targets, n_draws=15, seed=s) for r, s in ((response, 0), (shuffled, 0), (response, 1)))
    np.testing.assert_array_equal(one.rand, same.rand)
    np.testing.assert_array_equal(one.share, same.share[::-1])
    assert not np.array_equal(draw_responses(targets, seed=0), draw_responses(targets, seed=1)) and len(other.rand) == 15


def test_a_member_stays_where_more_than_half_overlaps():
    np.testing.assert_array_equal(_stays(np.array([0, 0, 1]), np.array([0, 1, 1])), [False, False, False])
    np.testing.assert_array_equal(_stays(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])), [True, True, False, False])
    np.testing.assert_array_equal(_stays(np.array([0, 1]), np.array([0, 0])), [False, False])


def test_one_guide_gets_deviates_of_its_standard_error():
    targets = families()[0]
    draws = draw_responses(targets, n_draws=2000)
    assert targets.table["n_guides"].iloc[-1] == 1
    np.testing.assert_allclose(draws[:, -1].std(0) / targets.se[-1], 1, atol=.08)
    np.testing.assert_allclose(draws[:, -1].mean(0), targets.estimate[-1], atol=5 * targets.se.max() / 2000**.5)


def test_spread_of_drawn_guides_is_that_of_a_mean():
    "Two guides at -1 and 1: their mean has the standard error 1"
    targets = combine_guides(np.array([[-1.], [1.]]), np.full((2, 1, 1), .01), np.zeros((1, 1)), ["A", "A"], method="mean")
    np.testing.assert_allclose(draw_responses(targets, n_draws=4000).std(), 1, atol=.05)


def test_programs_without_couplings_stay_alone():
    J, _ = network()
    J[3], J[:, 3] = 0, 0
    modules = network_modules(J)
    assert (modules.labels == modules.labels[3]).sum() == 1
    draws = noisy(J)
    draws[:, 3], draws[:, :, 3] = np.nan, np.nan
    bootstrap = Bootstrap(draws, np.zeros((len(draws), 1, 12)), pd.DataFrame(), modules.names, False)
    assert module_stability(modules, bootstrap).share[3] == 1
    with pytest.raises(ValueError, match="draws must be finite"): module_stability(modules, draws)


def test_a_declared_group_is_left_out():
    targets, response, _ = families()
    J, _ = network()
    acting = pd.Series(np.arange(16) >= 4, response.rows)
    groups = response_groups(J, response, network_modules(J), by="profiles", acting=acting)
    stability = group_stability(groups, J, targets, n_draws=5)
    assert groups.declared and (groups.labels[:4] == 0).all() and (groups.labels[4:] > 0).all()
    assert np.isnan(stability.share[:4]).all() and np.isfinite(stability.share[4:]).all()
    nobody = response_groups(J, response, network_modules(J), acting=~acting & False)
    assert nobody.n_groups == 1 and np.isnan(group_stability(nobody, J, targets, n_draws=3).share).all()


def test_frames_and_scan():
    targets, response, _ = families()
    J, _ = network()
    modules = network_modules(J)
    assert list(module_stability(modules, noisy(J, 2)).to_frame()) == ["program", "module", "stability"]
    frame = group_stability(response_groups(J, response, modules), J, targets, n_draws=2).to_frame()
    assert list(frame) == ["target_gene", "group", "stability"] and sorted(frame["target_gene"]) == response.rows
    scan = resolution_scan(J, noisy(J, 3), resolutions=(.5, 1.))
    assert scan["n_modules"].dtype.kind == "i" and scan["stability"].between(-1, 1).all()
    assert plot_resolution_scan(scan).get_xlabel() == "resolution"
    assert "mean adjusted Rand" in repr(Stability(np.zeros(1, int), ["P1"], np.array([np.nan]), np.ones(1), "program"))


def test_what_is_refused():
    targets, response, _ = families()
    J, _ = network()
    modules = network_modules(J)
    groups = response_groups(J, response, modules)
    fewer = combine_guides(targets.guide_estimate[3:], np.broadcast_to(.04 * np.eye(12), (43, 12, 12)), np.zeros((12, 12)), targets.guides["target_gene"][3:], names=targets.names)
    refused = [
        (lambda: module_stability(modules, J), "draws must have shape"), (lambda: module_stability(J, noisy(J)), "modules must be Modules"),
        (lambda: group_stability(groups, J, fewer), "every target of groups, got none for 'T00'"), (lambda: group_stability(modules, J, targets), "groups must be Groups"),
        (lambda: group_stability(groups, J, np.full((2, 16, 12), np.nan)), "draws must be finite"), (lambda: draw_responses(response), "targets must be Targets"),
        (lambda: draw_responses(targets, n_draws=0), "n_draws must be a whole"), (lambda: draw_responses(targets, kind="cells"), "kind must be 'guides' or 'errors'"),
        (lambda: resolution_scan(J, noisy(J), resolutions=1.), "resolutions must be a list"), (lambda: resolution_scan(J, noisy(J), resolutions=(-1.,)), "resolution must be"),
        (lambda: response_groups(J, response, modules, by="both"), "by must be"), (lambda: response_groups(J, response, modules, similarity=2), "similarity must be"),
        (lambda: response_groups(J, response, modules, acting=pd.Series(1, response.rows)), "acting must be a Series of True and False, got int64"),
        (lambda: response_groups(J, response, modules, acting=pd.Series(True, ["T00", "T00"])), "acting must not repeat 'T00'"),
        (lambda: response_groups(J, response, modules, acting=pd.Series(True, ["T00"])), "got none for 'T01'"), (lambda: network_modules(J, n_runs=0), "n_runs must be")]
    for call, message in refused:
        with pytest.raises(ValueError, match=message): call()
