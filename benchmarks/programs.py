"""Gene programs: perturbnb against dspin's multiplicative updates and scikit-learn's NMF, on planted programs and a real screen"""

import argparse
import functools
import tempfile
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import anndata as ad
import numpy as np
from scipy import sparse
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score

import perturbnb as pnb

from .common import NO_PEER, Section, apart, peak, peer, ratio, seconds, spread

ITERATIONS = 500  # of multiplicative updates, the peer's default


class Matrix(NamedTuple):
    """Scaled expression, and what was planted in it."""

    X: sparse.csr_matrix  # (n_cells, n_genes) float32
    n_programs: int
    truth: np.ndarray | None  # (n_genes,) program of each gene, None: not known


def planted(n_cells: int, n_genes: int, n_programs: int, depth: float = 0.09, seed: int = 0) -> Matrix:
    """Log-normalised counts, each gene divided by its standard deviation (not below the 20th percentile), and the program of each gene."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(n_programs, n_genes, p=rng.dirichlet(np.full(n_programs, 5.0)))
    usage = rng.gamma(0.5, 2.0, (n_cells, n_programs)) + 0.15
    level, library = depth * rng.lognormal(0, 1, n_genes), rng.lognormal(0, 0.3, (n_cells, 1))
    counts = sparse.vstack([sparse.csr_matrix(rng.poisson(level * usage[rows][:, truth] * library[rows]).astype(np.float32))
                            for rows in np.array_split(np.arange(n_cells), max(1, n_cells // 1000))], format="csr")
    totals = np.asarray(counts.sum(1)).ravel()
    if totals.min() == 0 or (counts.getnnz(0) < 2).any(): raise ValueError("planted counts leave a cell or a gene empty: ask for more cells or genes")
    return Matrix(_scaled((sparse.diags(np.median(totals) / totals) @ counts).tocsr().log1p()), n_programs, truth)


def papalexi(n_programs: int) -> Matrix:
    """The real screen, prepared and scaled in the same way."""
    data = pnb.datasets.papalexi()
    screen = pnb.prepare_screen(data, guide_key="guide", target_key="gene", control="control", batch_key="batch", size_factor_key="n_umi_total")
    X = screen.X.tocsr()
    return Matrix(_scaled(X[:, X.getnnz(0) > 0.001 * X.shape[0]]), n_programs, None)


def _scaled(X: sparse.csr_matrix) -> sparse.csr_matrix:
    sd = np.sqrt(np.maximum(np.asarray(X.multiply(X).mean(0)) - np.asarray(X.mean(0)) ** 2, 0)).ravel()
    return (X @ sparse.diags(1 / np.maximum(sd, np.percentile(sd, 20)))).tocsr().astype(np.float32)


def unexplained(G: np.ndarray, labels: np.ndarray) -> float:
    """Share of the squared norm that one direction per cluster of genes leaves over; `G` is the genes' Gram matrix."""
    return 1 - sum(np.linalg.eigvalsh(G[np.ix_(genes, genes)])[-1] for genes in (np.flatnonzero(labels == k) for k in np.unique(labels))) / np.trace(G)


def hard_labels(G: np.ndarray, usage_norms: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """Each gene to its largest loading, spectra or usage at unit norm: whichever gives the lower loss."""
    candidates = [(spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-12)).argmax(0), (spectra * usage_norms[:, None]).argmax(0)]
    return min(candidates, key=lambda labels: unexplained(G, labels))


def ours(data: Matrix, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`perturbnb.onmf` as it comes: norms of usage, and spectra."""
    fit = pnb.onmf(data.X, data.n_programs, seed=seed)
    return np.linalg.norm(fit.usage, axis=0), fit.spectra


def dspin_onmf(data: Matrix, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The peer's multiplicative updates; it takes dense float64."""
    np.random.seed(seed)  # noqa: NPY002  dspin draws from the global state
    spectra, usage = peer().onmf(data.X.toarray().astype(np.float64), data.n_programs, ITERATIONS)
    return np.linalg.norm(usage, axis=0), spectra.T


def scikit(data: Matrix, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Plain NMF by coordinate descent."""
    model = NMF(data.n_programs, random_state=seed, max_iter=ITERATIONS)
    usage = model.fit_transform(data.X)
    return np.linalg.norm(usage, axis=0), model.components_


def in_halves(method, data: Matrix, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The method on two halves of the cells."""
    half = np.random.default_rng(seed).permutation(data.X.shape[0]) % 2
    return tuple(method(data._replace(X=data.X[half == side]), seed) for side in (0, 1))


METHODS = {"perturbnb.onmf": ours, f"dspin onmf, {ITERATIONS} iterations": dspin_onmf, "scikit-learn NMF": scikit}


def factorisation(title: str, prepare: tuple, n_rounds: int, peer_rounds: int, halves: bool) -> Section:
    """Table: time, memory, loss, recovery, agreement between seeds and between halves of the cells."""
    methods = {name: method for name, method in METHODS.items() if method is not dspin_onmf or peer()}
    slow = {name: peer_rounds for name, method in methods.items() if method is dspin_onmf}
    runs = apart(methods, prepare, (planted, 300, 60, 3, 1.0), n_rounds, rounds=slow)
    split = apart({name: functools.partial(in_halves, method) for name, method in methods.items()}, prepare, (planted, 300, 60, 3, 1.0), 1) if halves else {}
    data = prepare[0](*prepare[1:])
    G, reference, rows = (data.X.T @ data.X).toarray().astype(np.float64), next(iter(runs.values())), []
    for name, these in runs.items():
        labels = [hard_labels(G, *run.result) for run in these]
        row = {"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"), "MB above the data": peak(these),
               "loss": spread([unexplained(G, some) for some in labels], 4)}
        if data.truth is not None: row["adjusted Rand"] = spread([adjusted_rand_score(data.truth, some) for some in labels], 2)
        row["between seeds"] = spread([adjusted_rand_score(a, b) for a, b in combinations(labels, 2)], 2) if len(labels) > 1 else "–"
        row["between halves"] = f"{adjusted_rand_score(*[hard_labels(G, *part) for part in split[name][0].result]):.2f}" if halves else "–"
        rows.append(row | {"s (noisy)": seconds(these)})
    text = f"{data.X.shape[0]:,} cells × {data.X.shape[1]:,} genes, {data.n_programs} programs, {data.X.nnz / np.prod(data.X.shape):.0%} dense, {n_rounds} seeds."
    if data.truth is not None: text += f" Loss of the planted programs themselves: {unexplained(G, data.truth):.4f}."
    return Section(f"### {title}", text, rows, runs)


class Screen(NamedTuple):
    """A screen as both packages take it."""

    adata: ad.AnnData
    n_programs: int
    truth: np.ndarray


def planted_screen(n_cells: int, n_genes: int, n_programs: int, depth: float = 0.09) -> Screen:
    """Planted programs as an AnnData with twenty groups of cells of unequal size."""
    data = planted(n_cells, n_genes, n_programs, depth)
    adata = ad.AnnData(data.X)
    adata.var_names = [f"gene{g}" for g in range(n_genes)]
    adata.obs["target_gene"] = np.random.default_rng(0).choice(20, n_cells, p=np.arange(1, 21) / 210).astype(str)
    return Screen(adata, n_programs, data.truth)


def find(screen: Screen, seed: int) -> np.ndarray:
    """`perturbnb.find_programs` and `discretize`: program of each gene."""
    programs = pnb.find_programs(screen.adata, screen.n_programs, n_repeats=5, seed=seed)
    pnb.discretize(programs.usage)
    return programs.spectra.argmax(0)


def dspin_find(screen: Screen, seed: int) -> np.ndarray:
    """The peer's gene program discovery, which discretises at its end."""
    from dspin.dspin import ProgramDSPIN

    with tempfile.TemporaryDirectory() as folder:
        model = ProgramDSPIN(screen.adata.copy(), folder + "/", screen.n_programs)
        model.fig_folder = folder + "/"
        model.gene_program_discovery(num_repeat=5, seed=seed, cluster_key="target_gene")
        return model.onmf_decomposition.components_.argmax(0)


def discovery(n_cells: int, n_genes: int, n_programs: int) -> Section:
    """Table: the whole of program discovery, five repeats, usage and levels of all cells."""
    methods = {"perturbnb: find_programs, discretize": find} | ({"dspin: gene_program_discovery": dspin_find} if peer() else {})
    runs = apart(methods, (planted_screen, n_cells, n_genes, n_programs), (planted_screen, 600, 60, 3, 1.0), 3,
                 rounds={"dspin: gene_program_discovery": 1})
    truth, reference = planted_screen(n_cells, n_genes, n_programs).truth, next(iter(runs.values()))
    rows = [{"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"), "MB above the data": peak(these),
             "adjusted Rand": spread([adjusted_rand_score(truth, run.result) for run in these], 2), "s (noisy)": seconds(these)} for name, these in runs.items()]
    return Section("### Program discovery from end to end",
                   f"{n_cells:,} cells × {n_genes:,} genes (CSR), {n_programs} programs, 5 repeats balanced over 20 groups of cells, usage and levels of all cells.", rows, runs)


def report(full: bool = False) -> Iterator[Section]:
    """Every table about programs."""
    head = ("Ratios to perturbnb over seeds, median (lowest–highest). Each method has a process of its own and as many threads as it takes by itself. "
            "Loss: share of the squared norm left over when every gene belongs to one program, computed alike for all. "
            "Adjusted Rand index: with the planted programs, between the results of two seeds, and between two halves of the cells.")
    yield Section("## Gene programs", head + ("" if peer() else "\n\n" + NO_PEER), [])
    yield factorisation("Small, dense enough to be easy", (planted, 3000, 800, 16, 0.09), 3, 3, True)
    yield factorisation("Small and shallow", (planted, 3000, 800, 16, 0.02), 3, 3, True)
    yield discovery(*((20_000, 2000, 24) if full else (3000, 500, 8)))
    if not full: return
    yield factorisation("The usual size", (planted, 10_000, 2000, 24, 0.06), 3, 3, True)
    yield factorisation("Large", (planted, 50_000, 2000, 24, 0.07), 2, 1, False)
    try: yield factorisation("Papalexi: 25 genes knocked out in THP-1 cells", (papalexi, 12), 3, 3, True)
    except (FileNotFoundError, ImportError) as error: yield Section("### Papalexi", f"Left out: {error}", [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="larger sizes and the real screen")
    print("\n\n".join(section.markdown() for section in report(parser.parse_args().full)))
