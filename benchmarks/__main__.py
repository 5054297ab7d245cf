"""All comparisons in one process: `python -m benchmarks [--full]` writes results.md"""

import argparse
from pathlib import Path

from . import levels, network, programs, sampler
from .common import circumstances

HEAD = """# Measured side by side

Noisy machine: ratios. Every table comes from one process in which the methods took turns, in another order each round; a ratio is the median over rounds of
"as long as the first row of its table takes", so above 1 is slower, with the lowest and highest round in brackets. CPU ratios depend less on what else is running.
Every method has one thread: waiting threads on a busy machine would count against whoever uses more. Compiling is not timed.
Times in seconds are there to show the order of magnitude and are no claim."""


def main() -> None:
    """Run everything, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="larger sizes too; half an hour instead of a few minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.md"))
    given = parser.parse_args()
    steps = [lambda: levels.report(*((50_000, 24, 2) if given.full else (10_000, 24, 3))),
             lambda: programs.report([(3000, 800, 16, 0.09, 3), (3000, 800, 16, 0.02, 3), *([(10_000, 2000, 24, 0.09, 2)] if given.full else [])]),
             lambda: network.report([(24, 40, 200, 3), *([(24, 200, 200, 2), (100, 100, 200, 2)] if given.full else [])], n_networks=10 if given.full else 5),
             lambda: sampler.report(n_chains=200 if given.full else 100)]
    text = f"{HEAD}\n\n{circumstances()}" + (" Run with `--full`." if given.full else "")
    print(text)
    for step in steps:
        part = step()
        print("\n" + part, flush=True)
        text += "\n\n" + part
    given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
