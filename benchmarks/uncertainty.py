"""Standard errors: the time of the sandwich beside that of the fit it belongs to"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

import perturbnb as pnb

from .common import Section, interleaved, ratio, seconds
from .network import N_CONTROLS, equal


def sandwich(n_spins: int, n_samples: int, n_cells: int, n_rounds: int) -> Section:
    """Table: time of fit and sandwich, taking turns in one process on one thread."""
    planted = equal(n_spins, n_samples, n_cells)
    names = np.array([f"{c:05d}" for c in range(n_samples)])
    samples = pd.DataFrame({"guide": names, "if_control": np.arange(n_samples) < N_CONTROLS}, index=names)
    def fit(_: int) -> pnb.SpinNetwork: return pnb.infer_network(planted.spins, names[planted.sample], samples=samples, method="pseudo_likelihood")
    network = fit(0)
    def errors(_: int) -> pnb.Uncertainty: return pnb.network_uncertainty(network, planted.spins, names[planted.sample])
    errors(0)
    runs = interleaved({"fit": fit, "sandwich": errors}, n_rounds)
    rows = [{"step": name, "CPU time / fit": ratio(these, runs["fit"], "cpu"), "time / fit": ratio(these, runs["fit"]), "seconds": seconds(these)} for name, these in runs.items()]
    return Section(f"### {n_spins} spins, {n_samples} samples of {n_cells} cells", f"Median of {n_rounds} rounds.", rows, runs)


def report(full: bool = False) -> Iterator[Section]:
    """Every table about standard errors."""
    head = ("Fit of the network by pseudo-likelihood, and sandwich standard errors of all its couplings and coefficients, one thread each. "
            "There is no peer: `dspin` gives none.")
    yield Section("## Standard errors", head, [])
    yield sandwich(24, 200, 200, 3)
    if full: yield sandwich(100, 100, 200, 2)
