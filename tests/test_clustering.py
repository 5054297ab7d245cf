"What would bore a reader of 04_clustering: exhaustive partitions, shuffles, degenerate networks."
import random
import warnings

import igraph as ig
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from perturbnb.clustering import Modules, network_modules, response_groups, response_order, signed_modularity
from perturbnb.response import Response


def planted(seed, n=16, n_modules=4, directed=False):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_modules)
    same = labels[:, None] == labels
    J = np.where(same, 1, -1) * rng.uniform(.2, .5, (n, n)) * (rng.random((n, n)) < np.where(same, .95, .06))
    if not directed: J = np.triu(J, 1) + np.triu(J, 1).T
    return J + np.diag(rng.normal(size=n)), labels


def a_response(values, names=None, level="target"):
    values = np.asarray(values, float)
    table = pd.DataFrame({"n_guides": 2, "target_gene": "T", "n_cells": 100, "reference": "own batch"}, index=pd.Index([f"T{i:02d}" for i in range(len(values))], name="target_gene"))
    return Response(values, table if level == "target" else table.rename_axis("guide"), names or [f"P{i + 1}" for i in range(values.shape[1])], level)


def families(seed, n_targets=18, n_families=3):
    J, module = planted(seed)
    rng = np.random.default_rng(seed)
    family = rng.permutation(np.arange(n_targets) % n_families)
    push = np.eye(4)[:n_families] - .5 * np.roll(np.eye(4), 1, axis=1)[:n_families]
    return J, module, push[family][:, module] + rng.normal(0, .1, (n_targets, len(J))), family


def partitions(n):
    "All partitions of n nodes, as labels"
    def grow(labels):
        if len(labels) == n: yield labels
        else:
            for c in range(max(labels) + 2): yield from grow(labels + [c])
    return list(grow([0]))


@pytest.mark.parametrize("resolution", [.5, 1, 2])
@pytest.mark.parametrize("directed", [False, True])
def test_modularity_of_positive_networks_is_igraphs(directed, resolution):
    J, labels = planted(0, directed=directed)
    J = np.abs(J) - np.diag(np.diag(np.abs(J)))
    if directed: graph, weights = ig.Graph(n=len(J), edges=np.argwhere(J)[:, ::-1].tolist(), directed=True), J[J != 0]
    else: graph, weights = ig.Graph(n=len(J), edges=np.argwhere(np.triu(J)).tolist()), J[np.triu(J) != 0]
    reference = graph.modularity(labels.tolist(), weights=weights.tolist(), resolution=resolution, directed=directed)
    np.testing.assert_allclose(signed_modularity(J, labels, resolution=resolution), reference)


@pytest.mark.parametrize("resolutions", [(2, None), (1, 0), (1, 1)])
def test_small_networks_against_every_partition(resolutions):
    every, missed = [np.array(p) for p in partitions(6)], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        J = np.triu(rng.normal(size=(6, 6)), 1)
        J += J.T
        quality = dict(resolution=resolutions[0], negative_resolution=resolutions[1])
        found = network_modules(J, **quality).quality
        best = max(signed_modularity(J, labels, **quality) for labels in every)
        assert found <= best + 1e-12
        missed.append(best - found > 1e-9)
    assert np.mean(missed) <= .1


@pytest.mark.parametrize("directed", [False, True])
def test_planted_modules(directed):
    rand = [adjusted_rand_score(labels, network_modules(J).labels) for J, labels in (planted(seed, directed=directed) for seed in range(20))]
    assert np.mean(rand) >= .9


def test_planted_groups():
    rand = []
    for seed in range(10):
        J, module, r, family = families(seed)
        groups = response_groups(J, a_response(r), network_modules(J))
        assert (np.diff(groups.strength) >= 0).all()
        np.testing.assert_allclose(groups.strength, [np.abs(r[groups.labels == g]).mean() for g in range(groups.n_groups)])
        rand.append(adjusted_rand_score(family, groups.labels))
    assert np.mean(rand) >= .9


def test_modules_stay_fixed_and_the_diagonal_counts_for_nothing():
    J, module, r, _ = families(1)
    fixed = Modules(np.arange(16) % 5, [f"P{i + 1}" for i in range(16)], 0., 2., 2.)
    groups = response_groups(J, a_response(r), fixed)
    assert groups.modules is fixed and (fixed.labels == np.arange(16) % 5).all()
    np.testing.assert_array_equal(network_modules(J).labels, network_modules(J - np.diag(np.diag(J)) * 7).labels)


@pytest.mark.parametrize("directed", [False, True])
def test_shuffled_input_gives_the_same_communities(directed):
    rng = np.random.default_rng(5)
    for seed in range(5):
        J, _ = planted(seed, directed=directed)
        J += np.triu(noise := rng.normal(0, .1, J.shape), 1) + np.triu(noise, 1).T
        r = rng.normal(size=(20, 16))
        p, t = rng.permutation(16), rng.permutation(20)
        modules, shuffled = network_modules(J), network_modules(J[np.ix_(p, p)])
        assert adjusted_rand_score(modules.labels[p], shuffled.labels) == 1
        groups = response_groups(J, a_response(r), modules)
        again = response_groups(J[np.ix_(p, p)], a_response(r[np.ix_(t, p)]), shuffled)
        np.testing.assert_array_equal(groups.labels[t], again.labels)
        np.testing.assert_array_equal(groups.order, t[again.order])
        order, again = response_order(a_response(r)), response_order(a_response(r[np.ix_(t, p)]))
        np.testing.assert_array_equal(order.row_order, t[again.row_order])
        np.testing.assert_array_equal(order.program_order, p[again.program_order])


def test_scale_of_J_does_not_matter():
    J, _ = planted(3)
    for scale in (1e-9, 1e9):
        np.testing.assert_array_equal(network_modules(J * scale).labels, network_modules(J).labels)
        np.testing.assert_allclose(network_modules(J * scale).quality, network_modules(J).quality)


def test_seeds_and_the_callers_random_numbers():
    J, _, r, _ = families(2)
    random.seed(7), np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    runs = [(network_modules(J, seed=3), response_groups(J, a_response(r), network_modules(J), seed=3), response_order(a_response(r), seed=3)) for _ in range(2)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    np.testing.assert_array_equal(runs[0][0].labels, runs[1][0].labels)
    np.testing.assert_array_equal(runs[0][1].labels, runs[1][1].labels)
    np.testing.assert_array_equal(runs[0][2].row_order, runs[1][2].row_order)


def test_inputs_stay_as_they_are():
    J, _, r, _ = families(0)
    J0, r0 = J.copy(), r.copy()
    response = a_response(r)
    response_groups(J, response, network_modules(J))
    response_order(response)
    np.testing.assert_array_equal(J, J0)
    np.testing.assert_array_equal(response.values, r0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2 ** 16), st.integers(1, 12), st.floats(0, 1), st.booleans())
def test_whatever_the_network(seed, n, density, directed):
    rng = np.random.default_rng(seed)
    J = rng.normal(size=(n, n)) * (rng.random((n, n)) < density)
    J = J if directed else J + J.T
    modules = network_modules(J, seed=seed)
    sizes = np.bincount(modules.labels)
    assert (sizes > 0).all() and (np.diff(sizes) <= 0).all()
    options = dict(resolution=modules.resolution, negative_resolution=modules.negative_resolution)
    assert modules.quality >= signed_modularity(J, np.arange(n), **options) - 1e-12
    np.testing.assert_allclose(modules.quality, signed_modularity(J, modules.labels, **options))
    r = rng.normal(size=(5, n)) * (rng.random((5, 1)) < .6)
    groups = response_groups(J, a_response(r), modules)
    assert sorted(set(groups.labels)) == list(range(groups.n_groups))
    if (silent := ~r.any(1)).any(): assert (groups.labels[silent] == 0).all() and not groups.labels[~silent].tolist().count(0)


@pytest.mark.parametrize("J,labels", [
    (np.zeros((3, 3)), [0, 1, 2]), (np.ones((1, 1)), [0]), (-np.ones((4, 4)), [0, 1, 2, 3]),
    (np.eye(3, dtype=int), [0, 1, 2]), (np.kron(np.eye(3), np.ones((2, 2))), [0, 0, 1, 1, 2, 2]),
    (np.ones((2, 2)), [0, 0])])
def test_networks_at_the_edge(J, labels): np.testing.assert_array_equal(network_modules(J).labels, labels)


def test_numbering_of_modules():
    J = np.zeros((7, 7))
    for a, b in ((0, 1), (2, 3), (4, 5), (5, 6), (4, 6)): J[a, b] = J[b, a] = 1
    modules = network_modules(J, names=list("abcdefg"))
    assert modules.labels.tolist() == [1, 1, 2, 2, 0, 0, 0]
    assert modules.to_frame().program.tolist() == list("efgabcd") and modules.to_frame().module.tolist() == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("arguments,message", [
    (dict(J=np.zeros((2, 3))), "J must be a square matrix .* \\(2, 3\\)"), (dict(J=np.zeros((0, 0))), "J must be a square"), (dict(J=np.zeros(3)), "J must be a square"),
    (dict(J=np.array([[0, np.inf], [0, 0]])), "J must be finite, got 1"), (dict(J=np.array([["a"]])), "J must be numeric"), (dict(J=object()), "J must be numeric"),
    (dict(J=np.eye(2), names=["a", "a"]), "names must not repeat 'a'"), (dict(J=np.eye(2), names=["a"]), "names must have one name"),
    (dict(J=np.eye(2), resolution=-1), "resolution must be"), (dict(J=np.eye(2), resolution="2"), "resolution must be"), (dict(J=np.eye(2), resolution=np.nan), "resolution must be"),
    (dict(J=np.eye(2), negative_resolution=-1), "negative_resolution must be"), (dict(J=np.eye(2), seed=-1), "seed must be"), (dict(J=np.eye(2), seed=.5), "seed must be")])
def test_modules_refuse(arguments, message):
    with pytest.raises(ValueError, match=message): network_modules(**arguments)


def test_groups_refuse():
    J, _, r, _ = families(0)
    modules, response = network_modules(J), a_response(r)
    named = a_response(r, names=[f"prog{i:02d}" for i in range(16)])
    response_groups(J, named, modules)                                      # modules without names fit by position
    for arguments, message in [
        ((J, r, modules), "response must be a Response .* ndarray"), ((J, response, modules.labels), "modules must be Modules .* ndarray"),
        ((J[:3, :3], response, modules), "response must have one program per row of J, 3, got 16"),
        ((J, response, network_modules(J[:3, :3])), "modules must have one program per row of J, 16, got 3"),
        ((J, named, network_modules(J, names=named.names[:-1] + ["prog_15"])), "got 'prog_15'; did you mean 'prog15'"),
        ((J, named, network_modules(J, names=named.names[::-1])), "in the order of response")]:
        with pytest.raises(ValueError, match=message): response_groups(*arguments)


def test_silent_responses(caplog):
    J, _, r, _ = families(0)
    r[:4] = 0
    groups = response_groups(J, a_response(r), network_modules(J))
    assert (groups.labels[:4] == 0).all() and (groups.labels[4:] > 0).all() and groups.strength[0] == 0
    groups = response_groups(J, a_response(0 * r), network_modules(J))
    assert groups.n_groups == 1 and "all zero" in caplog.text
    assert response_groups(np.zeros((16, 16)), a_response(r), network_modules(np.zeros((16, 16)))).n_groups >= 2


def test_groups_of_guides_and_frames():
    J, _, r, _ = families(0)
    frame = response_groups(J, a_response(r, level="guide"), network_modules(J)).to_frame()
    assert list(frame) == ["guide", "group"] and frame.group.is_monotonic_increasing


def test_order_is_by_coarse_then_fine():
    r = np.random.default_rng(0).normal(size=(60, 8))
    order = response_order(a_response(r))
    assert [labels.max() + 1 for labels in order.row_labels] == [30, 7, 3] and order.program_labels.max() + 1 == 4
    keys = list(zip(order.row_labels[2][order.row_order], order.row_labels[1][order.row_order], order.row_labels[0][order.row_order]))
    assert keys == sorted(keys)
    assert sorted(order.row_order) == list(range(60)) and sorted(order.program_order) == list(range(8))
    for labels in order.row_labels: assert (np.diff([np.abs(r[labels == c]).mean() for c in range(labels.max() + 1)]) >= 0).all()
    assert list(order.to_frame()) == ["clusters_30", "clusters_7", "clusters_3"]


@pytest.mark.parametrize("values,counts", [(np.ones((5, 4)), (1, 1, 1)), (np.zeros((1, 1)), (1, 1, 1)), (np.repeat(np.eye(4), 10, axis=0), (4, 4, 3)), (np.arange(10.).reshape(5, 2), (5, 5, 3))])
def test_never_more_clusters_than_different_rows(values, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        order = response_order(a_response(values))
    assert tuple(labels.max() + 1 for labels in order.row_labels) == counts


@pytest.mark.parametrize("arguments,message", [
    (dict(n_groups=5), "n_groups must be a sequence"), (dict(n_groups=()), "n_groups must be a sequence"),
    (dict(n_groups=(3, 0)), "n_groups must be a whole"), (dict(n_program_groups=0), "n_program_groups"), (dict(seed=-1), "seed")])
def test_order_refuses(arguments, message):
    with pytest.raises(ValueError, match=message): response_order(a_response(np.eye(3)), **arguments)
    with pytest.raises(ValueError, match="response must be a Response"): response_order(np.eye(3))


def test_one_edge_is_a_module_at_a_lower_resolution(): assert network_modules(np.ones((2, 2)), resolution=1).labels.tolist() == [0, 0]
