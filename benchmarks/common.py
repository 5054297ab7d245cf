"""Timing side by side, tables, and the peer where it is installed"""

import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import io
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
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
    peak: float = float("nan")  # megabytes above what the process held before the call; NaN where the system does not tell


@dataclass(frozen=True)
class Section:
    """One table of the results and the numbers behind it."""

    title: str
    text: str  # Markdown above the table
    rows: list[dict[str, str]]  # of the table
    runs: dict[str, list[Run]] = field(default_factory=dict)  # method: its runs

    def markdown(self) -> str:
        """As it stands in results.md."""
        return "\n\n".join(part for part in (self.title, self.text, table(self.rows) if self.rows else "") if part)

    def record(self) -> dict[str, Any]:
        """As it stands in results.json."""
        runs = {name: {what: [round(getattr(run, what), 4) for run in these] for what in ("seconds", "cpu", "peak")} for name, these in self.runs.items()}
        return {"title": self.title, "text": self.text, "rows": self.rows, "runs": runs}


def peer() -> ModuleType | None:
    """`dspin.compute`, or None where it is not installed."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    if importlib.util.find_spec("dspin") is None: return None
    with quiet(): return importlib.import_module("dspin.compute")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow progress bars, prints and warnings."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def timed(function: Callable[[], Any], threads: int | None = 1) -> Run:
    """Call a function without arguments, quietly, and time it; `threads=None` leaves their number to each method."""
    gc.collect()
    if threads: numba.set_num_threads(threads)
    before = _reset_peak()
    with quiet(), threadpool_limits(threads):
        seconds, cpu = time.perf_counter(), time.process_time()
        result = function()
        return Run(time.perf_counter() - seconds, time.process_time() - cpu, result, _memory("VmHWM") - before)


def _memory(what: str) -> float:
    """Resident (`VmRSS`) or highest resident (`VmHWM`) memory of this process in megabytes."""
    status = Path("/proc/self/status")
    if not status.exists(): return float("nan")
    return next(float(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(what))


def _reset_peak() -> float:
    """Forget the highest memory so far, and give back what is free; what is held now, or NaN where that cannot be done."""
    with contextlib.suppress(OSError, AttributeError): ctypes.CDLL("libc.so.6").malloc_trim(0)
    try: Path("/proc/self/clear_refs").write_text("5")
    except OSError: return float("nan")
    return _memory("VmRSS")


@functools.cache
def _prepared(prepare: Callable[..., Any], *arguments: Any) -> Any: return prepare(*arguments)


def _in_child(method: Callable[[Any, int], Any], prepare: tuple, warm_up: tuple, i: int, threads: int | None) -> Run:
    """Prepare the data once, compile on the small ones, then time."""
    with quiet():
        if warm_up not in _warm:
            method(_prepared(*warm_up), 0)
            _warm.add(warm_up)
        data = _prepared(*prepare)
    return timed(lambda: method(data, i), threads)


_warm: set[tuple] = set()


def apart(
    methods: dict[str, Callable[[Any, int], Any]],  # name: top-level function of the data and the round
    prepare: tuple,  # function and arguments that make the data, again in each process
    warm_up: tuple,  # the same, small
    n_rounds: int,  # how often each is called
    threads: int | None = None,  # None: as many as each takes by itself
    rounds: dict[str, int] | None = None,  # name: fewer rounds, for what takes long
) -> dict[str, list[Run]]:  # name: its runs
    """Run every method in a process of its own, one at a time, taking turns; peak memory is its own."""
    runs, context = {name: [] for name in methods}, multiprocessing.get_context("spawn")
    workers = {name: ProcessPoolExecutor(1, mp_context=context) for name in methods}
    try:
        for i in range(n_rounds):
            for name in np.roll(list(methods), -i).tolist():
                if i < (rounds or {}).get(name, n_rounds): runs[name].append(workers[name].submit(_in_child, methods[name], prepare, warm_up, i, threads).result())
    finally:
        for worker in workers.values(): worker.shutdown()
    return runs


def interleaved(
    methods: dict[str, Callable[[int], Any]],  # name: function of the round, which may serve as seed
    n_rounds: int,  # how often each is called
) -> dict[str, list[Run]]:  # name: its runs, one per round
    """Run every method once per round in this process, on one thread, in another order each time, so that a busy machine slows all of them."""
    runs, names = {name: [] for name in methods}, list(methods)
    for i in range(n_rounds):
        for name in np.roll(names, -i).tolist(): runs[name].append(timed(lambda name=name, i=i: methods[name](i)))
    return runs


def seconds(runs: list[Run]) -> str:
    """Median wall time."""
    return f"{np.median([run.seconds for run in runs]):.2g}"


def peak(runs: list[Run]) -> str:
    """Highest memory above the data, in megabytes."""
    return f"{max(run.peak for run in runs):.0f}"


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
