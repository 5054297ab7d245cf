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


def as_screen(X, targets=("control", "g1", "TF1"), seed=0):
    labels = np.random.default_rng(seed).choice(list(targets), X.shape[0])
    return ad.AnnData(X, obs=pd.DataFrame({"target_gene": labels}, index=[f"c{i}" for i in range(X.shape[0])]),
                      var=pd.DataFrame(index=[f"g{i}" for i in range(X.shape[1])]))
