"""Gibbs sampling: updates of one spin per second"""

import argparse

import numpy as np

import perturbnb as pnb

from .common import NO_PEER, Run, Section, interleaved, peer, ratio
from .network import plant


def numpy_gibbs(J: np.ndarray, h: np.ndarray, n_sweeps: int, seed: int) -> np.ndarray:
    """Ten lines of NumPy, all chains at once."""
    rng, couplings = np.random.default_rng(seed), J - np.diag(np.diag(J))
    s = np.zeros(h.shape)
    for _ in range(n_sweeps):
        for i, activity in enumerate(np.diag(J)):
            f = h[:, i] + s @ couplings[i]
            up, down = np.exp(activity + f), np.exp(activity - f)
            u = rng.random(len(h)) * (up + down + 1)
            s[:, i] = np.where(u < up, 1, np.where(u < up + down, -1, 0))
    return s


def report(full: bool = False) -> list[Section]:
    """Every table about sampling."""
    head = "Updates of one spin per second, all on one thread; ratios to perturbnb, median over rounds (lowest–highest)." + ("" if peer() else "\n\n" + NO_PEER)
    return [Section("## Sampler", head, []), speed(24), *([speed(10), speed(100)] if full else [])]


def speed(n_spins: int, n_samples: int = 40, n_chains: int = 100, n_sweeps: int = 100, n_rounds: int = 3) -> Section:
    """Table: speed of each sampler at the same number of updates, all on one thread, and whether they agree on the mean spins."""
    dspin, planted = peer(), plant(n_spins, np.full(n_samples, 1))
    J, h = planted.J, planted.h
    fields = np.repeat(h, n_chains, axis=0)

    def by_sample(spins: np.ndarray) -> np.ndarray: return spins.reshape(len(h), n_chains, n_spins).mean(1)

    def states(seed: int) -> np.ndarray:
        return np.array([dspin.sample_states_mcmc(J, row, n_chains * n_sweeps, 0, n_spins, seed).mean(1) for row in h])

    def sampled_moments(seed: int) -> np.ndarray:
        return np.array([dspin.samp_moments(J, row, n_chains * n_sweeps * n_spins, 0)[1] for row in h])

    methods = {"perturbnb.gibbs_sample": lambda i: by_sample(pnb.gibbs_sample(J, fields, n_sweeps=n_sweeps, seed=i)),
               "NumPy, ten lines, all chains at once": lambda i: by_sample(numpy_gibbs(J, fields, n_sweeps, i))}
    if dspin is not None: methods |= {"dspin sample_states_mcmc, a state kept per sweep": states, "dspin samp_moments, as in its fit": sampled_moments}
    pnb.gibbs_sample(J, h, n_sweeps=1)
    if dspin is not None: dspin.sample_states_mcmc(J, h[0], 2, 0, n_spins, 0), dspin.samp_moments(J, h[0], 2, 0)
    runs = interleaved(methods, n_rounds)
    updates = len(fields) * n_sweeps * n_spins
    reference = runs["perturbnb.gibbs_sample"]
    best = np.mean([run.result for run in runs[list(methods)[-1]]], axis=0)

    def row(name: str, these: list[Run]) -> dict[str, str]:
        off = np.sqrt(((np.mean([run.result for run in these], axis=0) - best) ** 2).mean())
        return {"method": name, "time ratio": ratio(these, reference), "CPU ratio": ratio(these, reference, "cpu"), "rms difference of means": f"{off:.4f}",
                "million updates per s of CPU (noisy)": f"{updates / np.median([run.cpu for run in these]) / 1e6:.2g}"}

    drawn = pnb.gibbs_sample(J, fields, n_sweeps=n_sweeps, seed=n_rounds).reshape(len(h), n_chains, n_spins)
    expected = np.sqrt(drawn.var(1).mean() / (n_chains * n_rounds))
    text = (f"{n_rounds} rounds. Mean spins per field are compared with those of the last row; "
            f"the ends of {n_chains * n_rounds} chains leave an error of about {expected:.4f} on them.")
    return Section(f"### {n_spins} spins, {len(h)} fields, {updates / 1e6:.0f} million updates", text, [row(name, these) for name, these in runs.items()], runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spins", type=int, default=24)
    parser.add_argument("--chains", type=int, default=100, help="per field")
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(speed(given.spins, n_chains=given.chains, n_sweeps=given.sweeps, n_rounds=given.rounds).markdown())
