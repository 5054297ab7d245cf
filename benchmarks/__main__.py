"""All comparisons in one run: `python -m benchmarks [--full]` writes results.md and results.json"""

import argparse
import json
from pathlib import Path

from . import growth, levels, network, programs, sampler, uncertainty
from .common import Section, circumstances

HEAD = """# Measured side by side

Noisy machine: ratios. Every table comes from one run in which the methods took turns, in another order each round; a ratio is the median over rounds of
"as long as the first row of its table takes", so above 1 is slower, with the lowest and highest round in brackets. CPU ratios depend less on what else is running.
Compiling is not timed. Times in seconds are there to show the order of magnitude and are no claim."""
PARTS = {"levels": levels.report, "programs": programs.report, "network": network.report, "sampler": sampler.report, "uncertainty": uncertainty.report, "growth": growth.report}


def main() -> None:
    """Run what is asked for, print, and write the results, part by part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="larger sizes too; an hour instead of a few minutes")
    parser.add_argument("--only", choices=list(PARTS), nargs="*", default=list(PARTS), help="these parts; the others stay as they were measured before")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"), help="the table of the same name is written beside it")
    given = parser.parse_args()
    parts = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    for name in given.only:
        parts[name] = {"circumstances": circumstances() + (" Run with `--full`." if given.full else ""), "sections": []}
        for section in PARTS[name](given.full):
            parts[name]["sections"].append(section.record())
            print("\n" + section.markdown(), flush=True)
            given.out.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            given.out.with_suffix(".md").write_text(written(parts), encoding="utf-8")


def written(parts: dict) -> str:
    """Everything measured so far, as Markdown."""
    blocks = [HEAD]
    for name in PARTS:
        if name not in parts: continue
        title, *others = (Section(section["title"], section["text"], section["rows"]) for section in parts[name]["sections"])
        blocks += [title.markdown(), parts[name]["circumstances"], *(section.markdown() for section in others)]
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    main()
