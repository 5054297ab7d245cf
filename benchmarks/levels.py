"""Three levels per program: exact cut points against k-means with ten starts (what dspin uses)"""

import argparse

import numpy as np
from sklearn.cluster import KMeans

import perturbnb as pnb

from .common import Section, interleaved, ratio, seconds, spread


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


def speed(n_cells: int = 50_000, n_programs: int = 24, n_rounds: int = 3, zeros: float = 0.0) -> Section:
    """Table: time and loss of both."""
    usage, rows = plant(n_cells, n_programs, zeros), []
    pnb.discretize(usage[:100])
    runs = interleaved({"perturbnb.discretize": lambda i: pnb.discretize(usage), "scikit-learn KMeans(3, n_init=10)": lambda i: k_means(usage, i)}, n_rounds)
    ours = next(iter(runs.values()))
    best = loss(usage, ours[0].result)
    for name, these in runs.items():
        rows.append({"method": name, "time ratio": ratio(these, ours), "CPU ratio": ratio(these, ours, "cpu"),
                     "loss ratio": spread([loss(usage, run.result) / best for run in these], 7), "s (noisy)": seconds(these)})
    return Section(f"### {n_cells:,} cells × {n_programs} programs, {zeros:.0%} zeros", f"{n_rounds} rounds.", rows, runs)


def report(full: bool = False) -> list[Section]:
    """Every table about levels."""
    head = "Ratios to perturbnb; k-means with ten starts is what dspin discretises with. All on one thread, in one process."
    return [Section("## Levels", head, []), *(speed(50_000 if full else 10_000, zeros=zeros) for zeros in (0.0, 0.6))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--programs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(speed(given.cells, given.programs, given.rounds).markdown())
