"What would bore a reader of 02_cells_on_workers and 07d_cluster: shards of any size, all estimators and options on them, workers that die, malformed blocks, addresses without a cluster"
import importlib
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import dask
import dask.array as da
import numpy as np
import pytest

from perturbnb import consensus, workers
from perturbnb.bootstrap import bootstrap_network
from perturbnb.cells import Cells
from perturbnb.cluster import dask_client
from perturbnb.cluster import in_blocks as cut
from perturbnb.conditionals import FLOOR, Penalty, fit_conditionals
from perturbnb.consensus import find_programs
from perturbnb.evidence import cell_losses
from perturbnb.likelihood import sufficient_statistics
from perturbnb.model import gibbs_sample
from perturbnb.network import infer_network
from perturbnb.out_of_core import open_screen, write_screen
from perturbnb.pipeline import run
from perturbnb.preprocess import prepare_screen
from perturbnb.simulate import simulate_screen

distributed = pytest.importorskip("distributed", reason="a cluster needs the package distributed: pip install 'perturbnb[cluster]'")


@contextmanager
def two_workers():
    "Two processes of one thread on the loopback address, which have imported what tasks need"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="CRITICAL") as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            client.run(importlib.import_module, "perturbnb.bootstrap")
            client.run(importlib.import_module, "perturbnb.consensus")
            yield client


@pytest.fixture(scope="module")
def client():
    with two_workers() as client: yield client


@pytest.fixture
def mortal():
    "The same for one test, which may kill a worker"
    with two_workers() as client: yield client


@pytest.fixture(scope="module")
def cells():
    "Spins of a planted network, 18 of them so that equal cells are not merged, and the sample of each cell, in no order"
    rng = np.random.default_rng(0)
    J = np.triu(rng.normal(0, 0.25, (18, 18)) * (rng.random((18, 18)) < 0.4), 1)
    sample = rng.integers(0, 12, 3000)
    return gibbs_sample(J + J.T, rng.normal(0, 0.4, (12, 18))[sample], seed=0), sample


def in_blocks(spins, size): return da.from_array(spins, chunks=(size, -1))


def close(found, expected):
    np.testing.assert_allclose(found.J, expected.J, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.h, expected.h, rtol=1e-5, atol=1e-7)
    assert found.converged and expected.converged


@pytest.mark.parametrize("options", [dict(l1_J=0), dict(), dict(directed=True, sample_weight="equal"), dict(l2_response="held-out", l1_J=0.), dict(l1_J="sparse"),
                                     dict(interventions={"3": {"P2": -1}}, l1_J=0)], ids=str)
def test_a_network_of_shards_is_that_of_the_cells(cells, options):
    spins, sample = cells
    with dask.config.set(scheduler="threads"): apart = infer_network(in_blocks(spins, 700), sample, tol=1e-8, **options)
    close(apart, infer_network(spins, sample, tol=1e-8, **options))


@pytest.mark.parametrize("method", ["exact", "mcmc"])
def test_other_estimators_take_shards_too(cells, method):
    spins, sample = cells[0][:, :5], cells[1]
    options = dict(method=method, tol=1e-7 if method == "exact" else 0.05)
    apart, whole = infer_network(in_blocks(spins, 900), sample, **options), infer_network(spins, sample, **options)
    np.testing.assert_allclose(apart.J, whole.J, rtol=1e-5, atol=1e-6 if method == "exact" else 0.05)


@pytest.mark.parametrize("chunks", [(3000,), (1, 2999), (0, 1000, 0, 2000), (7,) * 428 + (4,)], ids=["one", "one cell", "empty blocks", "many"])
def test_shards_of_any_size(cells, chunks):
    spins, sample = cells
    shards = workers.cells_of(workers.checked_spins(da.from_array(spins, chunks=(chunks, 18))), np.ones(18, bool), sample, np.ones(3000), 12)
    whole = Cells(spins, sample, np.ones(3000), 12)
    for a, b in zip(shards.total(workers._row_sums), whole.total(workers._row_sums)): np.testing.assert_array_equal(a, b)
    assert (shards.n_cells, shards.arranged().n_cells, shards.n_spins) == (3000, 3000, 18) and shards.arranged().arranged() is shards.arranged()


def test_parts_of_shards(cells):
    spins, sample = cells
    weights, varies = np.random.default_rng(1).uniform(0.5, 2, 3000), np.arange(18) != 4
    shards = workers.cells_of(workers.checked_spins(in_blocks(spins, 800)), varies, sample, weights, 12)
    whole = workers.cells_of(spins, varies, sample, weights, 12)
    keep = np.arange(3000) < 1000                               # leaves two of four shards empty
    def losses(cells): return cell_losses(cells, np.zeros((17, 17)), np.zeros((12, 17))).sum(),
    for a, b in ((shards, whole), (shards.kept(keep), whole.kept(keep)), (shards.rescaled(3.), whole.rescaled(3.))):
        assert a.n_cells == b.n_cells
        np.testing.assert_allclose(a.total(losses), b.total(losses), rtol=1e-12)
        for name in ("weight", "mean", "second", "cell_weight"): np.testing.assert_allclose(getattr(sufficient_statistics(a), name), getattr(sufficient_statistics(b), name), rtol=1e-10, atol=1e-12)
    thinned = shards.arranged().every(7)
    assert thinned.n_cells == sum(-(-size // 7) for size in (800, 800, 800, 600))
    np.testing.assert_allclose(thinned.total(losses)[0], whole.total(losses)[0], rtol=0.05)


def test_a_fit_that_begins_on_a_subset(cells, monkeypatch):
    spins, sample = cells
    monkeypatch.setattr("perturbnb.conditionals._ENOUGH", 5)
    shards, penalty = workers.cells_of(workers.checked_spins(in_blocks(spins, 1000)), np.ones(18, bool), sample, np.ones(3000), 12), Penalty(J_l2=FLOOR, B_l2=1.)
    apart, whole = (fit_conditionals(c, np.eye(12), penalty, tol=1e-9) for c in (shards, Cells(spins, sample, np.ones(3000), 12)))
    np.testing.assert_allclose(apart.J, whole.J, rtol=1e-5, atol=1e-7)


def test_two_processes_give_what_one_gives_and_twice_the_same(cells, client):
    (spins, sample), options = cells, dict(tol=1e-8, l1_J=0, l2_response=10.)
    with client.as_current():
        first, second = (infer_network(in_blocks(spins, 700), sample, **options) for _ in range(2))
    here = infer_network(in_blocks(spins, 700), sample, **options)
    close(first, infer_network(spins, sample, **options))
    for other in (second, here):
        np.testing.assert_array_equal(first.J, other.J)
        np.testing.assert_array_equal(first.h, other.h)


def test_a_killed_worker_changes_nothing(cells, mortal, monkeypatch):
    spins, sample = cells
    with mortal.as_current():
        undisturbed, killed, n_sums, plain = infer_network(in_blocks(spins, 700), sample, l1_J=0), [], [], workers._sum_of

        def sum_of(parts):
            n_sums.append(len(parts))
            if len(n_sums) == 8:
                killed.append(next(iter(mortal.run(os.getpid).values())))
                os.kill(killed[-1], signal.SIGKILL)
            return plain(parts)

        monkeypatch.setattr(workers, "_sum_of", sum_of)
        disturbed = infer_network(in_blocks(spins, 700), sample, l1_J=0)
    assert len(killed) == 1 and len(n_sums) > 12
    np.testing.assert_array_equal(disturbed.J, undisturbed.J)
    np.testing.assert_array_equal(disturbed.coefficients, undisturbed.coefficients)
    mortal.wait_for_workers(2, timeout=30)
    assert not set(killed) & set(mortal.run(os.getpid).values())


def test_a_worker_killed_while_it_adds(cells, mortal):
    spins, sample = cells
    with mortal.as_current():
        shards = workers.cells_of(workers.checked_spins(in_blocks(spins, 200)), np.ones(18, bool), sample, np.ones(3000), 12).arranged()
        expected, (pid, *_) = shards.total(slowly), mortal.run(os.getpid).values()
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        found = shards.total(slowly)
        killer.join()
    for a, b in zip(found, expected): np.testing.assert_array_equal(a, b)


def slowly(cells):
    time.sleep(0.05)
    return workers._row_sums(cells)


BAD_BLOCKS = {
    "other levels in one block": (lambda s: da.concatenate([s[:700], s[700:] * 2]), "spins must be -1, 0 or 1, got"),
    "fractions": (lambda s: s * 0.5, "spins must be -1, 0 or 1, got"),
    "NaN": (lambda s: da.where(s == 1, np.nan, s), "spins must be finite, got"),
    "texts": (lambda s: s.astype(str), "spins must be numeric, got dtype"),
    "blocks side by side": (lambda s: s.rechunk({1: 9}), "spins must be in blocks of whole rows, got 2 blocks side by side"),
    "unknown sizes": (lambda s: s[s[:, 0] == 1], "spins must be in blocks of known sizes"),
    "no cells": (lambda s: s[:0], "spins must hold at least one cell"),
    "one dimension": (lambda s: s[:, 0], "spins must be two-dimensional"),
    "three dimensions": (lambda s: s[..., None], "spins must be two-dimensional"),
    "no array": (lambda s: dask.delayed(np.zeros)((3, 3)), "spins must be an array, cells × spins, got a dask"),
    "constant": (lambda s: s * 0, "spins must vary, got only constant columns"),
    "too few": (lambda s: s[:2999], "sample_id must have one entry per cell"),
}


@pytest.mark.parametrize("name", BAD_BLOCKS)
def test_malformed_blocks_are_refused_by_name(cells, name):
    spins, sample = cells
    change, message = BAD_BLOCKS[name]
    with pytest.raises(ValueError, match=message): infer_network(change(in_blocks(spins, 700)), sample)


def test_malformed_blocks_are_refused_by_a_cluster(cells, client):
    spins, sample = cells
    with client.as_current(), pytest.raises(ValueError, match="spins must be -1, 0 or 1, got"): infer_network(in_blocks(spins * 2, 700), sample)


def test_repeats_and_resamplings_go_to_the_cluster(cells, client, screen, programs):
    spins, sample = cells
    network = infer_network(spins, sample, l1_J=0)
    here = bootstrap_network(network, spins, sample, n_resamples=12, seed=1)
    with dask_client(client.scheduler.address, patience=30) as connected:
        there, spread = bootstrap_network(network, spins, sample, n_resamples=12, seed=1), find_programs(screen, 6, n_repeats=3)
        done = connected.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert any("_resampled" in name for name in done) and any("_fit_repeat" in name for name in done), f"the workers did only {done}"
    np.testing.assert_allclose(there.J, here.J, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(spread.spectra > 0, programs.spectra > 0)
    np.testing.assert_allclose(spread.usage, programs.usage, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dask", ["tcp://127.0.0.1:9", "nowhere", "http://127.0.0.1:9", "tcp://", " "])
def test_an_address_without_a_scheduler_is_refused(dask):
    with pytest.raises(ValueError, match="dask must be 'local' or the address of a scheduler that answers"), dask_client(dask, patience=1): pass


@pytest.mark.parametrize("dask", [3, True, "", ["local"], b"local"], ids=repr)
def test_what_is_no_address_is_refused(dask):
    with pytest.raises(ValueError, match="dask must be 'local', the address of a scheduler or None"), dask_client(dask): pass


@pytest.mark.parametrize("options", [dict(n_workers=0), dict(n_workers=1.5), dict(patience=0), dict(patience="5")], ids=str)
def test_options_are_checked_before_a_cluster_starts(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"), dask_client("local", **options): pass


def test_a_scheduler_without_workers_is_refused(client, monkeypatch):
    def nobody(client, n_workers, timeout): raise TimeoutError
    monkeypatch.setattr(distributed.Client, "wait_for_workers", nobody)
    with pytest.raises(ValueError, match="which has none after 30 s"), dask_client(client.scheduler.address, patience=30): pass


def test_a_worker_is_no_scheduler(client):
    address = next(iter(client.scheduler_info()["workers"]))
    with pytest.raises(ValueError, match="a worker answers"), dask_client(address, patience=30): pass


def test_workers_of_another_version_are_refused(client, monkeypatch):
    monkeypatch.setattr("perturbnb.__version__", "9.9")
    with pytest.raises(ValueError, match="dask must lead to workers with perturbnb 9.9, got"), dask_client(client.scheduler.address, patience=30): pass


def test_without_the_package_for_clusters_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="dask needs the package distributed"), dask_client("local"): pass


def test_without_a_cluster_nothing_changes(cells, monkeypatch):
    monkeypatch.setattr("perturbnb.cluster._WORTH_IT", 1)
    with dask_client(None) as nobody: assert nobody is None and cut(cells[0]) is cells[0]


def test_spins_are_cut_by_their_number_alone(cells, client, monkeypatch):
    assert cut(cells[0]) is cells[0]
    monkeypatch.setattr("perturbnb.cluster._WORTH_IT", 1)
    with client.as_current():
        assert cut(cells[0]).chunks == ((375,) * 8, (18,))
        monkeypatch.setattr("perturbnb.cluster._LARGEST", 100)
        assert cut(cells[0]).chunks == ((100,) * 30, (18,))


def test_the_command_refuses_an_address_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="dask must be 'local' or the address of a scheduler that answers"): run(out=tmp_path / "results", dask="nowhere")
    assert not list(tmp_path.iterdir())


def test_a_worker_killed_in_a_pass_over_the_cells(mortal, tmp_path, monkeypatch):
    "Preparation and programs of a screen on disk, whose blocks the workers read: the same as in this process, and the same when one of them dies"
    keys = dict(guide_key="guide", target_key="gene", control="control", batch_key="batch")
    simulate_screen(1200, 250, n_programs=4, n_targets=4, seed=0).write_h5ad(tmp_path / "counts.h5ad")

    def found():
        write_screen(prepare_screen(open_screen(tmp_path / "counts.h5ad", chunk_cells=150), **keys), tmp_path / "prepared.h5ad")
        return find_programs(open_screen(tmp_path / "prepared.h5ad", chunk_cells=150), 5, n_repeats=2)

    here, killed, plain = found(), [], consensus._scaled_grams
    with mortal.as_current():
        undisturbed = found()

        def grams(*arguments):
            pid = next(iter(mortal.run(os.getpid).values()))
            threading.Timer(0.05, lambda: killed.append(pid) or os.kill(pid, signal.SIGKILL)).start()
            yield from plain(*arguments)

        monkeypatch.setattr(consensus, "_scaled_grams", grams)
        disturbed = found()
        for _ in range(50):
            if killed: break
            time.sleep(0.1)
    assert len(killed) == 1
    for other in (here, disturbed):
        np.testing.assert_array_equal(other.usage, undisturbed.usage)
        np.testing.assert_array_equal(other.spectra, undisturbed.spectra)
    mortal.wait_for_workers(2, timeout=30)
