"""The network: perturbnb.infer_network against dspin's pseudo-likelihood, on planted networks"""

import argparse
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd

import perturbnb as pnb

from .common import NO_PEER, interleaved, peer, ratio, seconds, spread, table

L2_H = 0.005  # the peer's default pull of fields to zero
N_CONTROLS = 4  # samples without a perturbation


class Planted(NamedTuple):
    """Cells drawn from a network that is known."""

    J: np.ndarray  # (n_spins, n_spins)
    h: np.ndarray  # (n_samples, n_spins), the first `N_CONTROLS` are controls
    spins: np.ndarray  # (n_cells, n_spins) int8
    sample: np.ndarray  # (n_cells,) index of the sample


class Fit(NamedTuple):
    """What a method found."""

    J: np.ndarray  # (n_spins, n_spins)
    h: np.ndarray  # (n_samples, n_spins)


def plant(n_spins: int, n_cells: np.ndarray, seed: int = 0) -> Planted:
    """About four couplings per spin; controls share a field, every other sample differs from it."""
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(0, 0.5, (n_spins, n_spins)) * (rng.random((n_spins, n_spins)) < 4 / n_spins), 1)
    J = J + J.T + np.diag(rng.normal(0, 0.3, n_spins))
    h = rng.normal(0, 0.3, n_spins) + rng.normal(0, 0.4, (len(n_cells), n_spins)) * (np.arange(len(n_cells)) >= N_CONTROLS)[:, None]
    sample = np.repeat(np.arange(len(n_cells)), n_cells)
    return Planted(J, h, pnb.gibbs_sample(J, h[sample], n_sweeps=200, seed=seed), sample)


def objective(fit: Fit, planted: Planted) -> float:
    """The peer's objective, written anew: over samples, mean minus log pseudo-likelihood of its cells + L2_H / 2 · |h|²."""
    activity, couplings = np.diag(fit.J), fit.J - np.diag(np.diag(fit.J))
    total = L2_H / 2 * (fit.h**2).sum()
    for c, h in enumerate(fit.h):
        s = planted.spins[planted.sample == c].astype(np.float64)
        f = h + s @ couplings.T
        log_z = np.logaddexp(0, np.logaddexp(activity + f, activity - f))
        total += (log_z - activity * s**2 - f * s).sum(1).mean()
    return total


def dspin_fit(dspin: ModuleType, planted: Planted, **options: float) -> Fit:
    """The peer's pseudo-likelihood with its own default settings, apart from `options`."""
    from dspin.dspin import AbstractDSPIN

    states, _ = dspin.sample_states(planted.sample, planted.spins.astype(np.float64))
    wanting = SimpleNamespace(num_spin=planted.spins.shape[1], _raw_data=states, sample_list_ordered=None, save_path="")
    settings = AbstractDSPIN.default_params(wanting, "pseudo_likelihood")
    assert settings["lambda_l2_h"] == L2_H and settings["num_epoch"] == 400 and set(options) <= set(settings), "dspin's settings have changed"
    J, h, _ = dspin.learn_network_adam(states, "pseudo_likelihood", settings | {"directed": False} | options)
    return Fit(J, h.T)


def pnb_fit(planted: Planted, **options: float | str) -> Fit:
    """`infer_network`, fields in the order of the samples."""
    names = [f"{c:05d}" for c in range(len(planted.h))]
    samples = pd.DataFrame({"guide": names, "if_control": np.arange(len(names)) < N_CONTROLS}, index=names)
    network = pnb.infer_network(planted.spins, np.array(names)[planted.sample], samples=samples, **options)
    return Fit(network.J, pd.DataFrame(network.h, network.samples.index).loc[names].to_numpy())


def recovery(fit: Fit, planted: Planted) -> tuple[float, float, float]:
    """r(J) off the diagonal; r and root mean square error of the fields relative to the mean of the controls'."""
    def relative(h: np.ndarray) -> np.ndarray: return (h[N_CONTROLS:] - h[:N_CONTROLS].mean(0)).ravel()
    pairs, found, truth = np.tril_indices(len(fit.J), -1), relative(fit.h), relative(planted.h)
    return np.corrcoef(fit.J[pairs], planted.J[pairs])[0, 1], np.corrcoef(found, truth)[0, 1], np.sqrt(((found - truth) ** 2).mean())


def methods(dspin: ModuleType | None) -> dict[str, Callable[[Planted], Fit]]:
    """Fits at the peer's objective, its own default, and ours."""
    fits = {"perturbnb, the peer's objective": lambda planted: pnb_fit(planted, design="free", sample_weight="equal", l2_h=L2_H, l2_response=0)}
    if dspin is not None:
        fits["dspin, 400 epochs, no L1"] = lambda planted: dspin_fit(dspin, planted, lambda_l1_j=0)
        fits["dspin, 100 epochs, no L1"] = lambda planted: dspin_fit(dspin, planted, lambda_l1_j=0, num_epoch=100)
        fits["dspin, its default (L1 0.01)"] = lambda planted: dspin_fit(dspin, planted)
    return fits | {"perturbnb, its default": pnb_fit}


def speed(fits: dict[str, Callable[[Planted], Fit]], n_spins: int, n_samples: int, n_cells: int, n_rounds: int) -> str:
    """Table: time to finish and objective reached, samples of one size."""
    planted = plant(n_spins, np.full(n_samples, n_cells))
    runs = interleaved({name: lambda i, fit=fit: fit(planted) for name, fit in fits.items()}, n_rounds)
    reference = next(iter(runs.values()))
    reached = {name: objective(these[0].result, planted) for name, these in runs.items()}
    lowest, start = min(reached.values()), objective(Fit(np.zeros_like(planted.J), np.zeros_like(planted.h)), planted)
    rows = []
    for name, these in runs.items():
        r_J, r_h, _ = recovery(these[0].result, planted)
        rows.append({"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"), "objective": f"{reached[name]:.4f}",
                     "above the lowest": f"{(reached[name] - lowest) / (start - lowest):.1e}", "r(J)": f"{r_J:.4f}", "r(relative h)": f"{r_h:.4f}", "s (noisy)": seconds(these)})
    return f"### {n_spins} spins, {n_samples} samples × {n_cells} cells, {n_rounds} rounds\n\n" + table(rows)


def unequal(fits: dict[str, Callable[[Planted], Fit]], n_spins: int, n_samples: int, n_networks: int) -> str:
    """Table: recovery where samples have 5 to 500 cells, and how near each fit came to the lowest value of the peer's objective."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in fits}
    for seed in range(n_networks):
        n_cells = np.random.default_rng(seed).permutation(np.geomspace(5, 500, n_samples).round().astype(int))
        planted = plant(n_spins, n_cells, seed)
        results = {name: fit[0].result for name, fit in interleaved({name: lambda i, fit=fit, p=planted: fit(p) for name, fit in fits.items()}, 1).items()}
        reached = {name: objective(fit, planted) for name, fit in results.items()}
        for name, fit in results.items(): found[name].append((*recovery(fit, planted), reached[name] - min(reached.values())))
    columns = {"r(J)": 3, "r(relative h)": 3, "RMSE of relative h": 3, "peer's objective above the lowest": 4}
    rows = [{"method": name, **{what: spread([values[j] for values in results], digits) for j, (what, digits) in enumerate(columns.items())}} for name, results in found.items()]
    return f"### {n_spins} spins, {n_samples} samples of 5 to 500 cells, {n_networks} planted networks\n\n" + table(rows)


def report(sizes: list[tuple[int, int, int, int]], n_networks: int = 5) -> str:
    """Markdown: for each (spins, samples, cells, rounds) time and objective; then recovery on unequal samples."""
    warnings.simplefilter("error", pnb.network.ConvergenceWarning)
    dspin = peer()
    fits = methods(dspin)
    small = plant(4, np.full(8, 50))
    interleaved({name: lambda i, fit=fit: fit(small) for name, fit in fits.items()}, 1)  # compile
    head = (f"## Network\n\nThe peer's objective: every sample weighs the same, fields pulled to zero by {L2_H}, no L1; evaluated for every fit by one NumPy function. "
            "Above the lowest: distance from the lowest objective in the table,\nas a share of what lies between it and the objective of J = h = 0; "
            "fits of another objective cannot be at zero. Ratios to perturbnb at the peer's objective, median over rounds (lowest–highest).")
    parts = [speed({name: fit for name, fit in fits.items() if "L1 0.01" not in name}, *size) for size in sizes]
    return "\n\n".join([head, *([NO_PEER] if dspin is None else []), *parts, unequal(fits, 24, 40, n_networks)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spins", type=int, default=24)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(report([(given.spins, given.samples, given.cells, given.rounds)]))
