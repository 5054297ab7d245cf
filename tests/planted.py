"Counts around planted programs, and a screen of them, for several tests."
import anndata as ad
import numpy as np
import pandas as pd


def plant(n_cells=1500, n_genes=240, n_programs=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n_genes) % n_programs)
    usage = rng.gamma(0.6, 1, (n_cells, n_programs))
    rate = 0.3 * rng.lognormal(0, 0.5, n_genes) * (usage[:, truth] + 0.2)
    return rng.poisson(rate), truth


def plant_signed(n_cells=2000, n_genes=240, n_programs=6, seed=0, level=0.3):
    "Programs in which four genes of ten go down: counts, program and sign of each gene"
    rng = np.random.default_rng(seed)
    truth, sign = rng.permutation(np.arange(n_genes) % n_programs), np.where(rng.random(n_genes) < 0.4, -1, 1)
    rate = level * rng.lognormal(0, 0.5, n_genes) * np.exp(0.7 * rng.normal(size=(n_cells, n_programs))[:, truth] * sign)
    return rng.poisson(rate), truth, sign


def plant_shared(n_cells=3000, n_genes=240, n_programs=6, seed=0):
    "Programs that share 15 % of the genes: counts, program and second program (-1: none) of each gene"
    rng = np.random.default_rng(seed)
    truth, usage = rng.permutation(np.arange(n_genes) % n_programs), rng.gamma(0.6, 1, (n_cells, n_programs))
    other, share = (truth + rng.integers(1, n_programs, n_genes)) % n_programs, np.where(rng.random(n_genes) < 0.15, rng.uniform(0.3, 0.5, n_genes), 0)
    rate = 0.3 * rng.lognormal(0, 0.5, n_genes) * ((1 - share) * usage[:, truth] + share * usage[:, other] + 0.2)
    return rng.poisson(rate), truth, np.where(share > 0, other, -1)


def as_screen(X, targets=("control", "g1", "TF1"), seed=0):
    labels = np.random.default_rng(seed).choice(list(targets), X.shape[0])
    return ad.AnnData(X, obs=pd.DataFrame({"target_gene": labels}, index=[f"c{i}" for i in range(X.shape[0])]),
                      var=pd.DataFrame(index=[f"g{i}" for i in range(X.shape[1])]))
