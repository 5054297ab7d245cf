"""Standard errors: the time of the sandwich beside that of the fit it belongs to"""

from collections.abc import Iterator

import perturbnb as pnb

from .common import Section, interleaved, ratio, seconds
from .network import equal, screen


def sandwich(n_spins: int, n_samples: int, n_cells: int, n_rounds: int) -> Section:
    """Table: time of fit and sandwich, taking turns in one process on one thread."""
    planted = equal(n_spins, n_samples, n_cells)
    sample_id, samples = screen(planted)
    def fit(_: int) -> pnb.SpinNetwork: return pnb.infer_network(planted.spins, sample_id, samples=samples, method="pseudo_likelihood")
    network = fit(0)
    def errors(_: int) -> pnb.Uncertainty: return pnb.network_uncertainty(network, planted.spins, sample_id)
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
