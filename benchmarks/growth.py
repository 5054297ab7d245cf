"""How time and memory of each stage grow with cells, samples and genes; `dspin` beside it as far as it goes"""

import argparse
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from perturbnb.model import gibbs_sample

N_BATCHES = 2


def planted_network(n_programs: int, rng: np.random.Generator) -> np.ndarray:
    """A sparse symmetric J with some three couplings per program."""
    J = np.triu(np.where(rng.random((n_programs, n_programs)) < 3 / n_programs, rng.normal(0, 0.4, (n_programs, n_programs)), 0), 1)
    return J + J.T + np.diag(rng.uniform(-0.6, 0.2, n_programs))


def write_counts(path: Path, n_cells: int, n_genes: int = 2000, n_samples: int = 1000, n_programs: int = 24, molecules: float = 200., chunk: int = 10_000, seed: int = 0) -> None:
    """Write a screen with planted programs, network and responses to `path`, chunk by chunk; about a tenth of the entries are not zero at 2,000 genes."""
    rng = np.random.default_rng(seed)
    guides = [f"control_g{i}" if i < max(2, n_samples // 40) else f"T{i // 4}_g{i % 4}" for i in range(n_samples // N_BATCHES)]
    control = np.array([guide.startswith("control") for guide in guides])
    program, level = rng.integers(0, n_programs, n_genes), rng.lognormal(0, 1, n_genes)
    level, weight = level / level.sum(), rng.uniform(0.5, 1.2, n_genes)
    J, shifts = planted_network(n_programs, rng), rng.normal(0, 0.3, (N_BATCHES, n_programs))
    target = pd.factorize(np.array([guide.split("_")[0] for guide in guides]))[0]
    effects = rng.normal(0, 0.8, (target.max() + 1, n_programs)) * (rng.random((target.max() + 1, n_programs)) < 0.15)
    fields = np.where(control[:, None], 0, effects[target])
    guide, batch = rng.integers(0, len(guides), n_cells), rng.integers(0, N_BATCHES, n_cells)
    guide = np.where(rng.random(n_cells) < 0.08, rng.choice(np.flatnonzero(control), n_cells), guide)     # more cells with controls
    obs = pd.DataFrame({"guide": np.array(guides)[guide], "gene": np.where(control, "control", np.char.partition(np.array(guides), "_")[:, 0])[guide],
                        "batch": np.array([str(b + 1) for b in range(N_BATCHES)])[batch]}, index=[f"c{i:07d}" for i in range(n_cells)]).astype("category")
    with h5py.File(path, "w") as file:
        ad.io.write_elem(file, "/", ad.AnnData(obs=obs, var=pd.DataFrame(index=[f"G{i:05d}" for i in range(n_genes)])))
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


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=1000)
    given = parser.parse_args()
    write_counts(given.path, given.cells, given.genes, given.samples)


if __name__ == "__main__":
    main()
