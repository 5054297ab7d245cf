"""Gene programs: perturbnb.onmf against dspin's multiplicative updates and scikit-learn's NMF, on planted programs"""

import argparse
from itertools import combinations

import numpy as np
from scipy import sparse
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score

import perturbnb as pnb

from .common import NO_PEER, interleaved, peer, ratio, seconds, spread, table


def plant(n_cells: int, n_genes: int, n_programs: int, depth: float = 0.09, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Log-normalised counts, each gene divided by its standard deviation (not below the 20th percentile), and the program of each gene."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(n_programs, n_genes, p=rng.dirichlet(np.full(n_programs, 5.0)))
    usage = rng.gamma(0.5, 2.0, (n_cells, n_programs)) + 0.15
    level, library = depth * rng.lognormal(0, 1, n_genes), rng.lognormal(0, 0.3, (n_cells, 1))
    counts = sparse.vstack([sparse.csr_matrix(rng.poisson(level * usage[rows][:, truth] * library[rows]).astype(np.float32))
                            for rows in np.array_split(np.arange(n_cells), max(1, n_cells // 1000))], format="csr")
    totals = np.asarray(counts.sum(1)).ravel()
    if totals.min() == 0 or (counts.getnnz(0) < 2).any(): raise ValueError("planted counts leave a cell or a gene empty: ask for more cells or genes")
    X = (sparse.diags(np.median(totals) / totals) @ counts).tocsr().log1p()
    sd = np.sqrt(np.maximum(np.asarray(X.multiply(X).mean(0)) - np.asarray(X.mean(0)) ** 2, 0)).ravel()
    return (X @ sparse.diags(1 / np.maximum(sd, np.percentile(sd, 20)))).tocsr().astype(np.float32), truth


def unexplained(G: np.ndarray, labels: np.ndarray) -> float:
    """Share of the squared norm that one direction per cluster of genes leaves over; `G` is the genes' Gram matrix."""
    return 1 - sum(np.linalg.eigvalsh(G[np.ix_(genes, genes)])[-1] for genes in (np.flatnonzero(labels == k) for k in np.unique(labels))) / np.trace(G)


def hard_labels(G: np.ndarray, usage: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """Each gene to its largest loading, spectra or usage at unit norm: whichever gives the lower loss."""
    candidates = [(spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-12)).argmax(0), (spectra * np.linalg.norm(usage, axis=0)[:, None]).argmax(0)]
    return min(candidates, key=lambda labels: unexplained(G, labels))


def report(sizes: list[tuple[int, int, int, float, int]], n_iterations: int = 500) -> str:
    """Markdown: for each (cells, genes, programs, depth, seeds), time, loss, recovery and agreement."""
    dspin, parts = peer(), []
    pnb.onmf(plant(200, 60, 3, depth=1.0)[0], 3)  # import and compile
    for n_cells, n_genes, n_programs, depth, n_rounds in sizes:
        X, truth = plant(n_cells, n_genes, n_programs, depth)
        dense, G = X.toarray().astype(np.float64), (X.T @ X).toarray().astype(np.float64)

        def ours(seed: int, X=X, k=n_programs) -> tuple[np.ndarray, np.ndarray]:
            fit = pnb.onmf(X, k, seed=seed)
            return fit.usage, fit.spectra

        def scikit(seed: int, X=X, k=n_programs) -> tuple[np.ndarray, np.ndarray]:
            model = NMF(k, random_state=seed, max_iter=n_iterations)
            return model.fit_transform(X), model.components_

        def theirs(seed: int, X=dense, k=n_programs) -> tuple[np.ndarray, np.ndarray]:
            np.random.seed(seed)  # noqa: NPY002  dspin draws from the global state
            spectra, usage = dspin.onmf(X, k, n_iterations)
            return usage, spectra.T

        methods = {"perturbnb.onmf": ours, f"dspin onmf, {n_iterations} iterations": theirs, "scikit-learn NMF": scikit}
        if dspin is None: methods = {name: method for name, method in methods.items() if method is not theirs}
        runs = interleaved(methods, n_rounds)
        rows = []
        for name, these in runs.items():
            labels = [hard_labels(G, *run.result) for run in these]
            rows.append({"method": name, "time ratio": ratio(these, runs["perturbnb.onmf"]), "CPU ratio": ratio(these, runs["perturbnb.onmf"], "cpu"),
                         "loss": spread([unexplained(G, some) for some in labels], 4), "adjusted Rand": spread([adjusted_rand_score(truth, some) for some in labels], 2),
                         "between seeds": spread([adjusted_rand_score(a, b) for a, b in combinations(labels, 2)] or [1.0], 2), "s (noisy)": seconds(these)})
        parts.append(f"### {n_cells:,} cells × {n_genes:,} genes, {n_programs} programs, {n_rounds} seeds, {X.nnz / np.prod(X.shape):.0%} dense\n\n"
                     f"Loss of the planted programs themselves: {unexplained(G, truth):.4f}.\n\n" + table(rows))
    head = ("## Gene programs\n\n"
            "Ratios to perturbnb over seeds, median (lowest–highest). "
            "Loss: share of the squared norm left over when every gene belongs to one program, computed alike for all. "
            "Adjusted Rand index: with the planted programs, and between the results of two seeds.")
    return "\n\n".join([head, *([NO_PEER] if dspin is None else []), *parts])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=800)
    parser.add_argument("--programs", type=int, default=16)
    parser.add_argument("--depth", type=float, default=0.09, help="median molecules of a gene per cell, for usage 1")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(report([(given.cells, given.genes, given.programs, given.depth, given.rounds)]))
