"""How time and memory of each stage grow with cells, samples and genes; `dspin` beside it as far as it goes"""

import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

import perturbnb as pnb
from perturbnb.model import gibbs_sample

from .common import Run, Section, _memory, apart, peak, peer, quiet, ratio, seconds, timed

N_BATCHES, N_PROGRAMS = 2, 24


def planted_network(n_programs: int, rng: np.random.Generator) -> np.ndarray:
    """A sparse symmetric J with some three couplings per program."""
    J = np.triu(np.where(rng.random((n_programs, n_programs)) < 3 / n_programs, rng.normal(0, 0.4, (n_programs, n_programs)), 0), 1)
    return J + J.T + np.diag(rng.uniform(-0.6, 0.2, n_programs))


def _gene_names(n_genes: int, n_targets: int) -> list[str]:
    """Names of genes; some forty targets are measured."""
    return [f"T{i}" if i < min(n_targets, n_genes // 50) else f"G{i:05d}" for i in range(n_genes)]


def write_counts(path: Path, n_cells: int, n_genes: int = 2000, n_samples: int = 1000, n_programs: int = N_PROGRAMS, molecules: float = 200., chunk: int = 10_000, seed: int = 0) -> None:
    """Write a screen with planted programs, network and responses to `path`, chunk by chunk, and what was planted beside it; about a tenth of the entries are not zero at 2,000 genes."""
    rng = np.random.default_rng(seed)
    guides = [f"control_g{i}" if i < max(2, n_samples // 40) else f"T{i // 4}_g{i % 4}" for i in range(n_samples // N_BATCHES)]
    control = np.array([guide.startswith("control") for guide in guides])
    program, level = rng.integers(0, n_programs, n_genes), rng.lognormal(0, 1, n_genes)
    level, weight = level / level.sum(), rng.uniform(0.5, 1.2, n_genes)
    J, shifts = planted_network(n_programs, rng), rng.normal(0, 0.3, (N_BATCHES, n_programs))
    np.savez(path.with_name("truth.npz"), program=program, J=J)
    target = pd.factorize(np.array([guide.split("_")[0] for guide in guides]))[0]
    effects = rng.normal(0, 0.8, (target.max() + 1, n_programs)) * (rng.random((target.max() + 1, n_programs)) < 0.15)
    fields = np.where(control[:, None], 0, effects[target])
    guide, batch = rng.integers(0, len(guides), n_cells), rng.integers(0, N_BATCHES, n_cells)
    guide = np.where(rng.random(n_cells) < 0.08, rng.choice(np.flatnonzero(control), n_cells), guide)     # more cells with controls
    obs = pd.DataFrame({"guide": np.array(guides)[guide], "gene": np.where(control, "control", np.char.partition(np.array(guides), "_")[:, 0])[guide],
                        "batch": np.array([str(b + 1) for b in range(N_BATCHES)])[batch]}, index=[f"c{i:07d}" for i in range(n_cells)]).astype("category")
    with h5py.File(path, "w") as file:
        ad.io.write_elem(file, "/", ad.AnnData(obs=obs, var=pd.DataFrame(index=_gene_names(n_genes, target.max()))))
        for begin in range(0, n_cells, chunk):
            cells = slice(begin, min(begin + chunk, n_cells))
            spins = gibbs_sample(J, fields[guide[cells]] + shifts[batch[cells]], n_sweeps=30, seed=int(rng.integers(2**31)))
            usage = np.array([np.log(1 / 3), 0, np.log(2.5)])[spins + 1] + rng.normal(0, 0.2, spins.shape)
            rate = (level * np.exp(usage[:, program] * weight)).astype(np.float32) * rng.lognormal(np.log(molecules), 0.35, (len(spins), 1)).astype(np.float32)
            counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
            if begin == 0:
                if "X" in file: del file["X"]
                ad.io.write_elem(file, "X", counts)
            else: ad.io.sparse_dataset(file["X"]).append(counts)


# --- stages, each a function of a folder; each runs in a process of its own, so that its peak memory is its own

KEYS = dict(guide_key="guide", target_key="gene", control="control", batch_key="batch", min_genes=20, cell_cycle=False)


def prepare(folder: Path) -> None:
    """Quality control, normalisation and labels, from disk to disk."""
    pnb.write_screen(pnb.prepare_screen(pnb.open_screen(folder / "counts.h5ad"), **KEYS), folder / "prepared.h5ad")


def programs(folder: Path) -> None:
    """Programs by five resamplings, and the usage of all cells."""
    pnb.find_programs(pnb.open_screen(folder / "prepared.h5ad"), N_PROGRAMS, n_repeats=5).save(folder / "programs.h5ad")


def network(folder: Path) -> None:
    """Levels, and the network of all samples."""
    screen, found = pnb.open_screen(folder / "prepared.h5ad"), pnb.Programs.load(folder / "programs.h5ad")
    pnb.infer_network(pnb.discretize(found.usage), screen.obs["sample_id"], samples=screen.uns["perturbnb"]["samples"], names=found.names).save(folder / "network.h5ad")


def responses(folder: Path) -> None:
    """Responses of all targets with standard errors and tests."""
    screen, found, fitted = pnb.open_screen(folder / "prepared.h5ad"), pnb.Programs.load(folder / "programs.h5ad"), pnb.SpinNetwork.load(folder / "network.h5ad")
    pnb.target_responses(fitted, pnb.network_uncertainty(fitted, pnb.discretize(found.usage), screen.obs["sample_id"]))


def groups(folder: Path) -> None:
    """Modules of programs and groups of targets."""
    fitted = pnb.SpinNetwork.load(folder / "network.h5ad")
    pnb.response_groups(fitted.J, pnb.relative_response(fitted).by_target(), pnb.network_modules(fitted.J, names=fitted.names))


STAGES = {stage.__name__: stage for stage in (prepare, programs, network, responses, groups)}


# --- the chain from a prepared screen, beside the peer's; each returns the program of each gene, and the network

Found = tuple[np.ndarray, np.ndarray]


def chain(screen: ad.AnnData) -> Found:
    """Programs, levels, network, responses with standard errors and tests, modules and groups."""
    found = pnb.find_programs(screen, N_PROGRAMS, n_repeats=5)
    spins, sample = pnb.discretize(found.usage), screen.obs["sample_id"]
    fitted = pnb.infer_network(spins, sample, samples=screen.uns["perturbnb"]["samples"], names=found.names)
    pnb.target_responses(fitted, pnb.network_uncertainty(fitted, spins, sample))
    pnb.response_groups(fitted.J, pnb.relative_response(fitted).by_target(), pnb.network_modules(fitted.J, names=fitted.names))
    labels = pd.Series(found.spectra.argmax(0), found.genes).reindex(screen.var_names, fill_value=-1)
    return labels.to_numpy(), fitted.J


def in_memory(folder: Path, _round: int) -> Found:
    """The chain on a screen that is read, without the counts, for which nothing here asks."""
    with h5py.File(folder / "prepared.h5ad") as file: return chain(ad.AnnData(**{key: ad.io.read_elem(file[key]) for key in ("X", "obs", "var", "uns")}))


def from_disk(folder: Path, _round: int) -> Found: return chain(pnb.open_screen(folder / "prepared.h5ad"))


def dspin_chain(folder: Path, _round: int) -> Found:
    """The peer's programs, pseudo-likelihood and relative responses, from the same prepared file."""
    from dspin.dspin import ProgramDSPIN

    screen = ad.read_h5ad(folder / "prepared.h5ad")
    screen.X = screen.X.astype(np.float64)
    with tempfile.TemporaryDirectory() as place:
        model = ProgramDSPIN(screen, place + "/", N_PROGRAMS)
        model.fig_folder = place + "/"
        model.gene_program_discovery(num_repeat=5, seed=0, cluster_key="target_gene")
        model.network_inference(sample_id_key="sample_id", method="pseudo_likelihood", if_control_key="if_control", batch_key="batch")
        model.response_relative_to_control(if_control_key="if_control", batch_key="batch")
    return model._onmf_summary.components_.argmax(0), np.asarray(model.network)


def quality(found: Found, folder: Path) -> dict[str, str]:
    """How much of what was planted is found again: programs, and couplings between the programs that match."""
    labels, J = found
    with np.load(folder / "truth.npz") as truth: program, planted = truth["program"], truth["J"]
    common = np.zeros((len(J), len(planted)))
    np.add.at(common, (labels[labels >= 0], program[labels >= 0]), 1)
    mine, theirs = linear_sum_assignment(-common)
    pairs = np.triu_indices(len(mine), 1)
    r = np.corrcoef(J[np.ix_(mine, mine)][pairs], planted[np.ix_(theirs, theirs)][pairs])[0, 1]
    return {"programs, adjusted Rand": f"{adjusted_rand_score(program, labels):.3f}", "couplings, r": f"{r:.3f}"}


def measured(stage: Callable[[Path], None], folder: Path) -> Run:
    """A stage in a fresh process that has compiled everything on a small screen; `peak` is all it holds, the interpreter included."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process: return process.submit(_measured, stage, folder).result()


def _measured(stage: Callable[[Path], None], folder: Path) -> Run:
    with quiet():
        logging.getLogger("perturbnb").setLevel(logging.ERROR)
        stage(folder.with_name("small"))
    return replace(timed(lambda: stage(folder), None), peak=_memory("VmHWM"))


def grown(folder: Path, sizes: list[tuple[int, int, int]]) -> dict[tuple[int, int, int], dict[str, Run]]:
    """Each stage at each size (cells, genes, samples); files are made, used and removed one size after the other."""
    found = {}
    for cells, genes, samples in sizes:
        place = folder / "size"
        place.mkdir()
        write_counts(place / "counts.h5ad", cells, genes, samples)
        found[cells, genes, samples] = {name: measured(stage, place) for name, stage in STAGES.items()}
        shutil.rmtree(place)
    return found


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def growth_section(folder: Path, what: str, sizes: list[tuple[int, int, int]], text: str) -> Section:
    """Table: every stage at every size, and the exponents of its CPU time."""
    found, axis = grown(folder, sizes), ["cells", "genes", "samples"].index(what)
    def row(size, stages): return {what: f"{size[axis]:,}"} | {name: f"{run.seconds:.3g} s, {run.peak:.0f} MB" for name, run in stages.items()} | {
        "all": f"{sum(run.seconds for run in stages.values()):.3g} s, {max(run.peak for run in stages.values()):.0f} MB"}
    rows = [row(size, stages) for size, stages in found.items()]
    upper = list(found)[len(found) // 2 - 1:]       # where a constant share no longer matters
    cpu = {name: [found[size][name].cpu for size in upper] for name in STAGES}
    slopes = {name: exponent([size[axis] for size in upper], values) for name, values in (cpu | {"all": [sum(each) for each in zip(*cpu.values())]}).items()}
    rows.append({what: "exponent"} | {name: f"{slope:.2f}" for name, slope in slopes.items()})
    runs = {name: [stages[name] for stages in found.values()] for name in STAGES}
    return Section(f"### Growth with {what}", text + f" The exponent is that of CPU time, from {upper[0][axis]:,} {what} upwards.", rows, runs)


CHAINS = {"perturbnb, in memory": in_memory, "perturbnb, from disk": from_disk, "dspin": dspin_chain}


def beside_peer(folder: Path, n_cells: int, n_rounds: int = 3) -> Section:
    """Table: the whole chain beside the peer's, on the same prepared file."""
    place = folder / "size"
    place.mkdir()
    write_counts(place / "counts.h5ad", n_cells)
    with quiet(): prepare(place)
    runs, rows = apart(CHAINS, (Path, str(place)), (Path, str(folder / "small")), n_rounds), []
    ours = runs["perturbnb, in memory"]
    for name, these in runs.items():
        rows.append({"chain": name, "time ratio": ratio(these, ours), "CPU ratio": ratio(these, ours, "cpu")} | quality(these[0].result, place)
                    | {"MB above the start": peak(these), "s (noisy)": seconds(these)})
    shutil.rmtree(place)
    return Section(f"### From programs to groups, {n_cells:,} cells", f"The same prepared file, 2,000 genes, 1,000 samples, {N_PROGRAMS} programs, 5 repeats, {n_rounds} rounds; reading is timed too. "
                   "perturbnb: programs, levels, network, responses with standard errors and tests, modules and groups. "
                   "dspin: programs (from a subsample of the cells, as it does), network by 400 epochs of pseudo-likelihood, relative responses.", rows, runs)


def report(full: bool = False) -> Iterator[Section]:
    """All tables of this part."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("PERTURBNB_BENCHMARK_DIR")) as name:
        folder = Path(name)
        (folder / "small").mkdir()
        write_counts(folder / "small/counts.h5ad", 1000, 300, 60)
        with quiet():
            for stage in STAGES.values(): stage(folder / "small")
        yield Section("## Growth", "Time and memory of each stage as the screen grows: a simulated screen is written to disk in chunks and read in blocks, "
                      "nothing is held that grows with cells × genes. Each stage runs in a process of its own; memory is all that it holds, 300 MB of interpreter and libraries included.", [])
        cells = [10_000, 30_000, 100_000, 300_000, 1_000_000] if full else [5_000, 10_000, 20_000]
        yield growth_section(folder, "cells", [(n, 2000, 1000) for n in cells], f"2,000 genes (a tenth of the entries not zero), 1,000 samples, {N_PROGRAMS} programs, 5 repeats.")
        if peer(): yield from (beside_peer(folder, n) for n in ([10_000, 100_000] if full else [5_000]))
        base = 100_000 if full else 10_000
        yield growth_section(folder, "samples", [(base, 2000, n) for n in ((50, 200, 1000, 2000) if full else (50, 200, 400))], f"{base:,} cells, 2,000 genes.")
        yield growth_section(folder, "genes", [(base, n, 1000) for n in ((500, 1000, 2000, 5000) if full else (500, 1000, 2000))], f"{base:,} cells, 1,000 samples.")


if __name__ == "__main__":
    for section in report(): print("\n" + section.markdown(), flush=True)
