"""Timing side by side, tables, and the peer where it is installed"""

import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from types import ModuleType
from typing import Any

import numba
import numpy as np
from threadpoolctl import threadpool_limits

PACKAGES = ("perturbnb", "dspin", "numpy", "scipy", "numba", "scikit-learn")
NO_PEER = "`dspin` is not installed (`pip install dspin==1.5.2`): compared with the rest."


@dataclass(frozen=True)
class Run:
    """One timed call."""

    seconds: float  # on the wall
    cpu: float  # of all threads together
    result: Any


def peer() -> ModuleType | None:
    """`dspin.compute`, or None where it is not installed."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    if importlib.util.find_spec("dspin") is None: return None
    with quiet(): return importlib.import_module("dspin.compute")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow progress bars and prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()): yield


def timed(function: Callable[[], Any]) -> Run:
    """Call a function without arguments, quietly and on one thread, and time it."""
    gc.collect()
    numba.set_num_threads(1)
    with quiet(), threadpool_limits(1):
        seconds, cpu = time.perf_counter(), time.process_time()
        result = function()
        return Run(time.perf_counter() - seconds, time.process_time() - cpu, result)


def interleaved(
    methods: dict[str, Callable[[int], Any]],  # name: function of the round, which may serve as seed
    n_rounds: int,  # how often each is called
) -> dict[str, list[Run]]:  # name: its runs, one per round
    """Run every method once per round, in another order each time, so that a busy machine slows all of them."""
    runs, names = {name: [] for name in methods}, list(methods)
    for i in range(n_rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]: runs[name].append(timed(lambda name=name, i=i: methods[name](i)))
    return runs


def seconds(runs: list[Run]) -> str:
    """Median wall time."""
    return f"{np.median([run.seconds for run in runs]):.2g}"


def ratio(runs: list[Run], reference: list[Run], what: str = "seconds") -> str:
    """How many times as long as the reference: median over rounds, lowest and highest round in brackets."""
    ratios = [getattr(run, what) / max(getattr(base, what), 1e-9) for run, base in zip(runs, reference)]
    return f"{np.median(ratios):.2g}" + (f" ({min(ratios):.2g}–{max(ratios):.2g})" if runs is not reference and len(ratios) > 1 else "")


def spread(values: list[float], digits: int = 3) -> str:
    """Median, lowest and highest of some values."""
    middle, low, high = (f"{value:.{digits}f}" for value in (np.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(rows: list[dict[str, str]]) -> str:
    """Markdown table of rows that share their keys."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *[[str(row[column]) for column in columns] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def circumstances() -> str:
    """Date, cores and versions, as one paragraph."""
    def version(name: str) -> str:
        try: return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError: return f"{name} missing"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{date.today():%Y-%m-%d}, {cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, " + ", ".join(map(version, PACKAGES)) + "."
