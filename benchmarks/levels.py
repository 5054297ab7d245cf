"""Three levels per program: exact cut points against k-means with ten starts (what dspin uses)"""

import argparse

import numpy as np
from sklearn.cluster import KMeans

import perturbnb as pnb

from .common import interleaved, ratio, seconds, spread, table


def plant(n_cells: int, n_programs: int, zeros: float, seed: int = 0) -> np.ndarray:
    """Usage around three levels, some of it zero; clipped as `discretize` would clip, so that both cut the same values."""
    rng = np.random.default_rng(seed)
    levels = rng.choice(3, size=(n_cells, n_programs), p=[0.4, 0.35, 0.25])
    usage = rng.gamma(np.array([1.5, 4.0, 9.0])[levels], 0.5)
    usage[rng.random(usage.shape) < zeros] = 0
    return np.minimum(usage, pnb.fit_levels(usage).clip)


def k_means(usage: np.ndarray, seed: int) -> np.ndarray:
    """Spins by scikit-learn, column by column."""
    spins = np.empty(usage.shape, np.int8)
    for k, column in enumerate(usage.T):
        fit = KMeans(3, n_init=10, random_state=seed).fit(column[:, None])
        spins[:, k] = fit.cluster_centers_.ravel().argsort().argsort()[fit.labels_] - 1
    return spins


def loss(usage: np.ndarray, spins: np.ndarray) -> float:
    """Squared distance of usage from the mean of its level, summed."""
    total = 0.0
    for level in (-1, 0, 1):
        inside = spins == level
        mean = (usage * inside).sum(0) / np.maximum(inside.sum(0), 1)
        total += (inside * (usage - mean) ** 2).sum()
    return total


def report(n_cells: int = 50_000, n_programs: int = 24, n_rounds: int = 3) -> str:
    """Markdown: time and loss of both."""
    rows = []
    for zeros in (0.0, 0.6):
        usage = plant(n_cells, n_programs, zeros)
        pnb.discretize(usage[:100])
        runs = interleaved({"perturbnb.discretize": lambda i, u=usage: pnb.discretize(u), "KMeans(3, n_init=10)": lambda i, u=usage: k_means(u, i)}, n_rounds)
        ours = runs["perturbnb.discretize"]
        best = loss(usage, ours[0].result)
        for name, these in runs.items():
            rows.append({"zeros": f"{zeros:.0%}", "method": name, "time ratio": ratio(these, ours), "CPU ratio": ratio(these, ours, "cpu"),
                         "loss ratio": spread([loss(usage, run.result) / best for run in these], 7), "s (noisy)": seconds(these)})
    return f"## Levels: {n_cells:,} cells × {n_programs} programs\n\nRatios to perturbnb over {n_rounds} rounds; k-means is what dspin discretises with.\n\n" + table(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--programs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(report(given.cells, given.programs, given.rounds))
