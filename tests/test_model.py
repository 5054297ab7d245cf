"What would bore a reader of 00a_model: odd types, extremes, threads, seeds"
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbnb.model import Chains, all_states, check_spins, conditional_probabilities, energy, exact_moments, gibbs_sample, moments, state_probabilities, third_cumulants


def network(n=5, seed=0, strength=0.6):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(0, strength, (n, n)))
    return J + np.triu(J, 1).T, rng.normal(0, strength, n)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 999), st.floats(0, 3))
def test_conditionals_are_ratios_of_boltzmann_weights(n, seed, strength):
    J, h = network(n, seed, strength)
    spins = np.random.default_rng(seed).integers(-1, 2, (7, n))
    given_rest = conditional_probabilities(spins, J, h)
    for i in range(n):
        weights = []
        for level in (-1, 0, 1):
            changed = spins.copy()
            changed[:, i] = level
            weights.append(np.exp(-energy(changed, J, h)))
        np.testing.assert_allclose(given_rest[:, i], np.transpose(weights) / np.sum(weights, 0)[:, None], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64, object])
def test_type_of_spins_does_not_matter(dtype):
    J, h = network()
    spins = np.random.default_rng(1).integers(-1, 2, (20, 5))
    if dtype is object:
        with pytest.raises(ValueError, match="spins must be numeric"): check_spins(spins.astype(dtype))
        return
    given_as = spins.astype(dtype)
    assert check_spins(given_as).dtype == np.int8 and check_spins(np.asfortranarray(given_as)).flags.c_contiguous
    np.testing.assert_array_equal(energy(given_as, J, h), energy(spins, J, h))
    np.testing.assert_array_equal(moments(given_as).second, moments(spins).second)


@pytest.mark.parametrize("spins,message", [
    (np.full((2, 3), 2), "6 other values such as 2"), (np.full((2, 3), 0.5), "6 other values such as 0.5"), (np.full((2, 3), 257), "6 other values such as 257"),
    (np.full((2, 3), np.nan), "6 NaN"), (np.full((2, 3), np.inf), "6 NaN or infinite"), (np.zeros(3), "two-dimensional"), (np.zeros((0, 3)), "at least one cell"), (np.zeros((3, 0)), "one spin")])
def test_spins_that_are_none(spins, message):
    with pytest.raises(ValueError, match=message): check_spins(spins)


@pytest.mark.parametrize("call,message", [
    (lambda: energy(np.zeros((1, 2)), np.array([[0., 1], [2, 0]]), np.zeros(2)), "J must be symmetric"),
    (lambda: energy(np.zeros((1, 2)), np.zeros((2, 3)), np.zeros(2)), "J must be square"),
    (lambda: energy(np.zeros((1, 2)), np.full((2, 2), np.nan), np.zeros(2)), "J must be finite"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.zeros((3, 4))), "h must have one column per spin"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.zeros(2)), "one row per cell"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.full((1, 2), np.inf)), "h must be finite"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.zeros((3, 2)), n_sweeps=0), "n_sweeps"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.zeros((3, 2)), initial=np.zeros((2, 2))), "initial must have the shape"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.zeros((3, 2)), seed=-1), "seed must be"),
    (lambda: gibbs_sample(np.zeros((2, 2)), np.zeros((3, 2)), seed=0.5), "seed must be"),
    (lambda: all_states(13), "at most 12"),
    (lambda: moments(np.zeros((3, 2)), np.ones(2)), "weights must have one entry per cell"),
    (lambda: moments(np.zeros((3, 2)), np.zeros(3)), "weights must be at least 0, and some above"),
    (lambda: third_cumulants(np.zeros((3, 2)), np.full(3, np.nan)), "weights must be finite")])
def test_refused(call, message):
    with pytest.raises(ValueError, match=message): call()


def test_strong_fields_do_not_overflow():
    J, h = np.array([[1e4, -1e4], [-1e4, 500.]]), np.array([[1e5, -1e5], [0, 0], [-800, 800.]])
    given_rest = conditional_probabilities(np.array([[1, -1], [0, 1], [-1, 1]]), J, h)
    assert np.isfinite(given_rest).all()
    np.testing.assert_allclose(given_rest.sum(2), 1)
    assert set(np.unique(gibbs_sample(J, h, n_sweeps=5))) <= {-1, 0, 1}
    assert np.isfinite(exact_moments(J, h[0]).second).all()


@pytest.mark.parametrize("activity,field", [(-1e4, 1e4 + 2), (-90., 91.), (-200., -200.5), (60., 0.), (-3., 100.), (1e5, 1e5), (2., 1e-20)])
def test_extreme_spins_follow_their_probabilities(activity, field):
    "Numbers that leave float32 when exponentiated, and those whose small difference decides"
    drawn = gibbs_sample(np.array([[activity]]), np.full((20_000, 1), field), n_sweeps=1, seed=1)[:, 0]
    expected = conditional_probabilities(np.zeros((1, 1), int), np.array([[activity]]), np.array([field]))[0, 0]
    np.testing.assert_allclose(np.bincount(drawn + 1, minlength=3) / len(drawn), expected, atol=0.015)


@pytest.mark.parametrize("n_cells", [1, 63, 64, 65, 130])
def test_chains_are_alike_whatever_block_they_are_in(n_cells):
    J, h = network(7)
    np.testing.assert_array_equal(gibbs_sample(J, np.tile(h, (n_cells, 1)), n_sweeps=3, seed=2), gibbs_sample(J, np.tile(h, (200, 1)), n_sweeps=3, seed=2)[:n_cells])


def test_chains_go_on_where_they_stood():
    J, h = network(6)
    rows = np.arange(40) % 2
    fields = np.array([h, -h])
    whole, parts = (Chains.start(np.zeros((40, 6)), rows, seed=3) for _ in range(2))
    whole.advance(J, fields, 9)
    for n_sweeps in (2, 3, 4): parts.advance(J, fields, n_sweeps)
    np.testing.assert_array_equal(whole.spins, parts.spins)
    np.testing.assert_array_equal(whole.spins, gibbs_sample(J, fields[rows], n_sweeps=9, seed=3))
    other = Chains.start(np.zeros((40, 6)), rows, stage="other", seed=3)
    other.advance(J, fields, 9)
    assert (other.spins != whole.spins).any()


def test_moments_and_cumulants_with_weights():
    J, h = network(4, seed=2)
    states, p = all_states(4), state_probabilities(J, h)
    counts = np.random.default_rng(0).multinomial(3000, p)
    by_weight, by_cell = third_cumulants(states, counts), third_cumulants(np.repeat(states, counts, axis=0))
    np.testing.assert_allclose(by_weight, by_cell, atol=1e-12)
    s = np.repeat(states, counts, axis=0) - np.repeat(states, counts, axis=0).mean(0)
    np.testing.assert_allclose(by_cell, np.einsum("ci,cj,ck->ijk", s, s, s) / len(s), atol=1e-12)
    np.testing.assert_allclose(moments(states, 7 * p).second, exact_moments(J, h).second)


def test_sampler_agrees_with_the_sum_over_all_states():
    J, h = network(4, seed=3)
    exact, drawn = exact_moments(J, h), moments(gibbs_sample(J, np.tile(h, (40_000, 1)), n_sweeps=40, seed=1))
    assert np.abs(exact.mean - drawn.mean).max() < 5 / np.sqrt(40_000) and np.abs(exact.second - drawn.second).max() < 5 / np.sqrt(40_000)


def test_every_chain_has_its_own_numbers_whatever_stands_beside_it():
    J, h = network(5)
    together = gibbs_sample(J, np.tile(h, (50, 1)), n_sweeps=7, seed=4)
    np.testing.assert_array_equal(gibbs_sample(J, np.tile(h, (20, 1)), n_sweeps=7, seed=4), together[:20])
    assert len(np.unique(together, axis=0)) > 10 and (gibbs_sample(J, np.tile(h, (50, 1)), n_sweeps=7, seed=5) != together).any()


def test_starting_states_are_left_alone():
    J, h = network(3)
    initial, before = np.ones((6, 3), np.int8), J.copy()
    gibbs_sample(J, np.tile(h, (6, 1)), initial=initial, seed=0)
    assert (initial == 1).all() and (J == before).all()


@pytest.fixture(scope="module")
def with_threads():
    "Runs code with so many numba threads; gives what it printed"
    def run(n, code):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_NUM_THREADS": str(n)}).stdout
    return run


def test_threads_do_not_matter(with_threads):
    code = ("import numpy as np, zlib, numba; from perturbnb.model import gibbs_sample; r = np.random.default_rng(0); J = r.normal(0, .4, (9, 9)); "
            "print(zlib.crc32(gibbs_sample(J + J.T, r.normal(size=(777, 9)), n_sweeps=40, seed=3).tobytes()), numba.get_num_threads())")
    (one, n_one), (two, n_two) = with_threads(1, code).split(), with_threads(2, code).split()
    assert one == two and (n_one, n_two) == ("1", "2")
