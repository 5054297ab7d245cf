"The notebooks run, are clean, and read well."
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
FLAGS = os.environ.get("PERTURBNB_TEST_FLAGS", "")
each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook):
    for cell in nbformat.read(notebook, 4).cells: yield from cell.get("outputs", [])


def test_notebooks_run():
    "`nbdev_test` on all of them, in two workers; cells flagged slow or data only where PERTURBNB_TEST_FLAGS says so"
    code = f"from nbdev.test import nbdev_test; nbdev_test(flags={FLAGS!r}, n_workers=2, timing=True)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "Agg"})
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert "Success" in done.stdout


def test_cleaning_changes_nothing(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "nbs").mkdir()
    for notebook in NOTEBOOKS: shutil.copy(notebook, tmp_path / "nbs")
    done = subprocess.run([sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean()"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dirty = [path.name for path in NOTEBOOKS if path.read_text(encoding="utf-8") != (tmp_path / "nbs" / path.name).read_text(encoding="utf-8")]
    assert not dirty, f"run nbdev_clean: {', '.join(dirty)}"


@each
def test_outputs_are_fit_to_be_read(notebook):
    for output in outputs(notebook):
        assert output.output_type != "error", "the notebook was committed with an error"
        assert output.get("name") != "stderr", f"stderr was committed: {output.get('text', '')[:200]}"
        text = output.get("text", "") + "".join(str(value) for key, value in output.get("data", {}).items() if key.startswith("text/"))
        found = re.search(r"/(?:home|Users|tmp|root|work|opt|usr|var|private|mnt|builds?)/[\w.]+|[A-Z]:\\\\?\w+|ipykernel_\d+| at 0x[0-9a-f]{6,}|\w*Warning:", text)
        assert not found, f"a path, an address or a warning was committed: {text[max(found.start() - 60, 0):found.end() + 60]!r}"
        assert len(text.splitlines()) <= 60 or "text/html" in output.get("data", {}), "an output of more than 60 lines"


@each
def test_it_was_executed(notebook):
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    if len(cells) > 3: assert any(cell.outputs for cell in cells), "committed without outputs"


@each
def test_it_teaches(notebook):
    "The measure of a notebook: not too long, enough prose, small exports (lines of parameters and empty ones are not counted)"
    cells = nbformat.read(notebook, 4).cells
    exported = [re.sub(r"^(\s+\w+\s*(:.*)?,\s*#.*|\s*)\n", "", cell.source, flags=re.M) for cell in cells if re.search(r"^#\|\s*exports?\s*$", cell.source, re.M)]
    assert len(cells) <= 110
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(cells) / 4
    assert sum(len(source.splitlines()) for source in exported) <= 500
    assert all(len(source.splitlines()) <= 60 for source in exported)


@each
def test_no_star_imports_or_magics(notebook):
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type != "code": continue
        assert not re.search(r"^\s*from\s+\S+\s+import\s+\*", cell.source, re.M)
        assert not [line for line in re.findall(r"^\s*[%!].*", cell.source, re.M) if line.strip() != "%matplotlib inline"]


def slug(heading):
    "The anchor that Quarto gives a heading"
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", re.sub(r"`|\*|\$", "", heading).lower()).strip())


@each
def test_internal_links_resolve(notebook):
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type != "markdown": continue
        for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", cell.source):
            file, _, anchor = target.partition("#")
            linked = notebook.parent / file if file else notebook
            assert linked.exists(), f"links to {target}"
            if not anchor or linked.suffix != ".ipynb": continue
            text = "\n".join(c.source for c in nbformat.read(linked, 4).cells if c.cell_type == "markdown")
            assert anchor in {slug(line.lstrip("#").strip()) for line in text.splitlines() if line.startswith("#")}, f"links to {target}"


def test_notebooks_are_json_as_jupyter_writes_it():
    for notebook in NOTEBOOKS:
        nbformat.validate(json.loads(notebook.read_text(encoding="utf-8")))
