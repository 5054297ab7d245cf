"""The network: perturbnb.infer_network against dspin's three estimators, on planted networks"""

import argparse
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib.externals.loky import get_reusable_executor
from sklearn.exceptions import ConvergenceWarning

import perturbnb as pnb

from .common import NO_PEER, Run, Section, apart, interleaved, peak, peer, ratio, seconds, spread

L2_H = 0.005  # the peer's default pull of fields to zero
N_CONTROLS = 4  # samples without a perturbation
PEERS_OBJECTIVE = {"design": "free", "sample_weight": "equal", "l2_h": L2_H, "l2_response": 0, "l1_J": 0}


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
    epochs: int = 0  # that were run, where a peer's fit was cut short
    path: pd.DataFrame | None = None  # objective and seconds of every step, where a method tells


def plant(n_spins: int, n_cells: np.ndarray, seed: int = 0) -> Planted:
    """About four couplings per spin, whatever their number; controls share a field, every other sample differs from it."""
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(0, 0.5, (n_spins, n_spins)) * (rng.random((n_spins, n_spins)) < 4 / n_spins), 1)
    J = J + J.T + np.diag(rng.normal(0, 0.3, n_spins))
    h = rng.normal(0, 0.3, n_spins) + rng.normal(0, 0.4, (len(n_cells), n_spins)) * (np.arange(len(n_cells)) >= N_CONTROLS)[:, None]
    sample = np.repeat(np.arange(len(n_cells)), n_cells)
    return Planted(J, h, pnb.gibbs_sample(J, h[sample], n_sweeps=200, seed=seed), sample)


def equal(n_spins: int, n_samples: int, n_cells: int, seed: int = 0) -> Planted:
    """Samples of one size."""
    return plant(n_spins, np.full(n_samples, n_cells), seed)


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


def residual(fit: Fit, planted: Planted, floor: float = 0.0) -> float:
    """Largest gradient of the penalised exact log-likelihood per sample, by enumeration; `floor` is a pull of all to zero."""
    n = len(fit.J)
    states = np.array(list(itertools.product((-1, 0, 1), repeat=n)), dtype=np.int8).astype(float)
    shared = 0.5 * ((states @ fit.J) * states).sum(1) + 0.5 * states**2 @ np.diag(fit.J)
    g_J, g_h = floor * fit.J, np.zeros_like(fit.h)
    for c, h in enumerate(fit.h):
        energy = shared + states @ h
        p = np.exp(energy - energy.max())
        p /= p.sum()
        s = planted.spins[planted.sample == c].astype(float)
        g_h[c] = p @ states - s.mean(0) + (L2_H + floor) * h
        g_J += (states * p[:, None]).T @ states - s.T @ s / len(s)
    return max(np.abs(g_J).max(), np.abs(g_h).max())


def dspin_fit(planted: Planted, seed: int, method: str = "pseudo_likelihood", **options: float) -> Fit:
    """One of the peer's estimators with its own default settings, apart from `options`."""
    from dspin.dspin import AbstractDSPIN

    dspin, spins = peer(), planted.spins.astype(np.float64)
    collect = dspin.sample_states if method == "pseudo_likelihood" else dspin.sample_corr_mean
    data, _ = collect(planted.sample, spins)
    wanting = SimpleNamespace(num_spin=planted.spins.shape[1], _raw_data=data, sample_list_ordered=None, save_path="")
    settings = AbstractDSPIN.default_params(wanting, method)
    assert settings["lambda_l2_h"] == L2_H and settings["num_epoch"] == 400 and set(options) <= set(settings), "dspin's settings have changed"
    J, h, _ = dspin.learn_network_adam(data, method, settings | {"directed": False, "seed": seed} | options)
    if method != "pseudo_likelihood": get_reusable_executor().shutdown(kill_workers=True)      # the peer leaves processes behind that would keep this one from ending
    return Fit(J, h.T, options.get("num_epoch", 400))


def screen(planted: Planted) -> tuple[np.ndarray, pd.DataFrame]:
    """Sample of each cell, and the table of samples, as `infer_network` takes them."""
    names = np.array([f"{c:05d}" for c in range(len(planted.h))])
    return names[planted.sample], pd.DataFrame({"guide": names, "if_control": np.arange(len(names)) < N_CONTROLS}, index=names)


def pnb_fit(planted: Planted, seed: int, **options) -> Fit:
    """`infer_network`, fields in the order of the samples."""
    sample_id, samples = screen(planted)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        network = pnb.infer_network(planted.spins, sample_id, samples=samples, seed=seed, **options)
    return Fit(network.J, pd.DataFrame(network.h, network.samples.index).loc[samples.index].to_numpy(), path=network.history)


def overtaken(runs: list[Run], peers: list[Run], reached: float) -> str:
    """How much sooner the first method was as low as what the peer reached in the end; its last step stands for the rounding and the floor in its objective."""
    path = runs[0].result.path
    level = max(reached, path["objective"].min() + 1e-9 * abs(reached))
    share = path["seconds"][(path["objective"] <= level).idxmax()] / path["seconds"].iloc[-1]
    return f" As low as the peer in the end after {share:.0%} of its time, so {np.median([b.seconds / (share * a.seconds) for a, b in zip(runs, peers)]):.0f} times as fast to there."


def relative(h: np.ndarray) -> np.ndarray: return (h[N_CONTROLS:] - h[:N_CONTROLS].mean(0)).ravel()


def recovery(fit: Fit, planted: Planted) -> tuple[float, float, float]:
    """r(J) off the diagonal; r and root mean square error of the fields relative to the mean of the controls'."""
    pairs, found, truth = np.tril_indices(len(fit.J), -1), relative(fit.h), relative(planted.h)
    return np.corrcoef(fit.J[pairs], planted.J[pairs])[0, 1], np.corrcoef(found, truth)[0, 1], np.sqrt(((found - truth) ** 2).mean())


def methods() -> dict[str, Callable[[Planted, int], Fit]]:
    """Fits at the peer's objective, its own default, and ours."""
    fits = {"perturbnb, the peer's objective": functools.partial(pnb_fit, method="pseudo_likelihood", **PEERS_OBJECTIVE)}
    if peer():
        fits["dspin, 400 epochs, no L1"] = functools.partial(dspin_fit, lambda_l1_j=0)
        fits["dspin, 100 epochs, no L1"] = functools.partial(dspin_fit, lambda_l1_j=0, num_epoch=100)
        fits["dspin, its default (L1 0.01)"] = dspin_fit
    return fits | {"perturbnb, its default": functools.partial(pnb_fit, method="pseudo_likelihood")}


WARM_UP = (equal, 4, 8, 50)


def speed(n_spins: int, n_samples: int, n_cells: int, n_rounds: int, epochs: int = 400) -> Section:
    """Table: time to finish, memory, and objective reached, samples of one size."""
    fits = {name: fit for name, fit in methods().items() if "L1 0.01" not in name and not ("100 epochs" in name and epochs < 400)}
    if epochs < 400: fits = {name: functools.partial(fit, num_epoch=epochs) if "dspin" in name else fit for name, fit in fits.items()}
    runs = apart(fits, (equal, n_spins, n_samples, n_cells), WARM_UP, n_rounds)
    planted, reference = equal(n_spins, n_samples, n_cells), next(iter(runs.values()))
    reached = {name: objective(these[0].result, planted) for name, these in runs.items()}
    if epochs < 400: runs = {name: extrapolated(these, 400) if "dspin" in name else these for name, these in runs.items()}
    lowest, start = min(reached.values()), objective(Fit(np.zeros_like(planted.J), np.zeros_like(planted.h)), planted)
    rows = []
    for name, these in runs.items():
        r_J, r_h, _ = recovery(these[0].result, planted)
        rows.append({"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"), "MB above the data": peak(these),
                     "objective": f"{reached[name]:.4f}", "above the lowest": f"{(reached[name] - lowest) / (start - lowest):.1e}",
                     "r(J)": f"{r_J:.4f}", "r(relative h)": f"{r_h:.4f}", "s (noisy)": seconds(these)})
    text = f"{n_rounds} round{'s' * (n_rounds > 1)}."
    full = "dspin, 400 epochs, no L1"
    if epochs == 400 and full in runs: text += overtaken(runs[next(iter(runs))], runs[full], reached[full])
    if epochs < 400: text += f" The peer's time is extrapolated from {epochs} of its 400 epochs, so what it reached is that of an unfinished fit."
    return Section(f"### {n_spins} spins, {n_samples} samples × {n_cells} cells", text, rows, runs)


def alone(n_spins: int, n_samples: int, n_cells: int) -> Section:
    """Table: our default fit where the peer would need hours."""
    runs = apart({"perturbnb, its default": functools.partial(pnb_fit, method="pseudo_likelihood")}, (equal, n_spins, n_samples, n_cells), WARM_UP, 1)
    planted, (these,) = equal(n_spins, n_samples, n_cells), runs.values()
    r_J, r_h, _ = recovery(these[0].result, planted)
    rows = [{"method": name, "r(J)": f"{r_J:.4f}", "r(relative h)": f"{r_h:.4f}", "MB above the data": peak(these), "s (noisy)": seconds(these)} for name in runs]
    return Section(f"### {n_spins:,} spins, {n_samples:,} samples × {n_cells} cells, alone",
                   "Converged. The peer holds spins² × samples and would need about nine hours (predicted from its smaller sizes).", rows, runs)


def extrapolated(runs: list[Run], epochs: int) -> list[Run]:
    """What `epochs` epochs would take, from the few that were run."""
    return [Run(run.seconds * epochs / run.result.epochs, run.cpu * epochs / run.result.epochs, run.result, run.peak) for run in runs]


def exact(n_spins: int, epochs: int) -> Section:
    """Table: the full likelihood, 40 samples × 200 cells."""
    fits = {"perturbnb, method='exact'": functools.partial(pnb_fit, method="exact", tol=1e-10, **PEERS_OBJECTIVE)}
    if peer(): fits["dspin, maximum_likelihood"] = functools.partial(dspin_fit, method="maximum_likelihood", lambda_l1_j=0, num_epoch=epochs)
    runs = apart(fits, (equal, n_spins, 40, 200), WARM_UP, 1)
    planted = equal(n_spins, 40, 200)
    floor = pnb.conditionals.FLOOR / 200                            # of perturbnb's objective alone: a thousandth of a cell
    left = {name: residual(these[0].result, planted, 0.0 if "dspin" in name else floor) for name, these in runs.items()}
    runs = {name: these if "dspin" not in name else extrapolated(these, 400) for name, these in runs.items()}
    reference = next(iter(runs.values()))
    rows = [{"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"), "largest gradient": f"{left[name]:.1e}",
             "r(J)": f"{recovery(these[0].result, planted)[0]:.4f}", "s (noisy)": seconds(these)} for name, these in runs.items()]
    pull = " perturbnb (tol=1e-10 here) pulls everything to zero by a thousandth of a cell, which is part of its objective."
    short = pull if epochs == 400 else pull + f" The peer's time is extrapolated from {epochs} of its 400 epochs, so its gradient and r(J) are those of an unfinished fit."
    return Section(f"### Exact likelihood, {n_spins} spins, 40 samples × 200 cells", "Largest gradient of the peer's objective per sample, by enumeration of all states." + short, rows, runs)


def sampled(epochs: int = 2) -> Section:
    """Table: Gibbs sampling at the tutorial's settings, extrapolated, against ours."""
    fits = {"perturbnb, method='mcmc'": functools.partial(pnb_fit, method="mcmc", **PEERS_OBJECTIVE)}
    if peer(): fits["dspin, mcmc_maximum_likelihood, 2e6 updates"] = functools.partial(
        dspin_fit, method="mcmc_maximum_likelihood", lambda_l1_j=0, num_epoch=epochs, stepsz=0.01, mcmc_samplingsz=2e6)
    runs = apart(fits, (equal, 24, 40, 200), WARM_UP, 1)
    planted = equal(24, 40, 200)
    best = pnb_fit(planted, 0, method="pseudo_likelihood", **PEERS_OBJECTIVE)
    runs = {name: these if "dspin" not in name else extrapolated(these, 400) for name, these in runs.items()}
    reference, pairs = next(iter(runs.values())), np.tril_indices(24, -1)
    rows = [{"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"),
             "r(J)": "–" if "dspin" in name else f"{recovery(these[0].result, planted)[0]:.4f}",
             "r with J by pseudo-likelihood": "–" if "dspin" in name else f"{np.corrcoef(these[0].result.J[pairs], best.J[pairs])[0, 1]:.4f}", "s (noisy)": seconds(these)}
            for name, these in runs.items()]
    return Section("### Sampled likelihood, 24 spins, 40 samples × 200 cells",
                   f"The peer at its tutorial's settings (2e6 updates per sample and epoch, step size 0.01), 400 epochs extrapolated from {epochs}.", rows, runs)


def unequal(n_spins: int, n_samples: int, n_networks: int, first_seed: int = 100) -> Section:
    """Table: recovery where samples have 5 to 500 cells, and how near each fit came to the lowest value of the peer's objective."""
    fits = methods()
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in fits}
    for seed in range(first_seed, first_seed + n_networks):
        n_cells = np.random.default_rng(seed).permutation(np.geomspace(5, 500, n_samples).round().astype(int))
        planted = plant(n_spins, n_cells, seed)
        results = {name: fit[0].result for name, fit in interleaved({name: lambda i, fit=fit, p=planted: fit(p, i) for name, fit in fits.items()}, 1).items()}
        reached = {name: objective(fit, planted) for name, fit in results.items()}
        for name, fit in results.items(): found[name].append((*recovery(fit, planted), reached[name] - min(reached.values())))
    columns = {"r(J)": 3, "r(relative h)": 3, "RMSE of relative h": 3, "peer's objective above the lowest": 4}
    rows = [{"method": name, **{what: spread([values[j] for values in results], digits) for j, (what, digits) in enumerate(columns.items())}} for name, results in found.items()]
    return Section(f"### {n_spins} spins, {n_samples} samples of 5 to 500 cells", f"{n_networks} planted networks: median (lowest–highest).", rows)


def report(full: bool = False) -> Iterator[Section]:
    """Every table about networks."""
    head = (f"The peer's objective: every sample weighs the same, fields pulled to zero by {L2_H}, no L1; evaluated for every fit by one NumPy function. "
            "Above the lowest: distance from the lowest objective in the table, as a share of what lies between it and the objective of J = h = 0; "
            "fits of another objective cannot be at zero. Ratios to perturbnb at the peer's objective, median over rounds (lowest–highest). "
            "Each method has a process of its own and as many threads as it takes by itself.")
    yield Section("## Network", head + ("" if peer() else "\n\n" + NO_PEER), [])
    yield speed(24, 40, 200, 3)
    if full:
        yield speed(24, 200, 200, 3)
        yield speed(100, 100, 200, 2)
    yield unequal(24, 40, 6)
    yield exact(8, 400)
    if not full: return
    yield exact(10, 40)
    yield exact(12, 2)
    yield sampled()
    yield speed(500, 100, 200, 1)
    yield alone(1000, 1000, 300)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spins", type=int, default=24)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(speed(given.spins, given.samples, given.cells, given.rounds).markdown())
