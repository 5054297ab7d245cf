"The repository keeps its promises: generated files, layers, imports, lint, configuration."
import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser

import nbformat
import pytest
import yaml
from conftest import ROOT

PACKAGE = ROOT / "perturbnb"
MODULES = sorted(path for path in PACKAGE.glob("*.py") if not path.name.startswith("_"))
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
# one row of the design's table after another; notebooks that are split slip in by the order of their names
ROWS = ["common", "preprocess", "model", "simulate", "datasets", "programs", "network", "response", "clustering",
        "plots", "network_plots", "panels", "pipeline"]
IMPORTED_AS = {"igraph": "igraph", "sklearn": "scikit-learn"}        # where the name differs from the distribution's


def settings():
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def imports(tree):
    "(level, module, names) of every import, also those inside functions"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom): yield node.level, node.module or "", [alias.name for alias in node.names]


def own_imports(tree):
    "Modules of this package that a module imports"
    for level, module, names in imports(tree):
        parts = ([] if level == 0 else ["perturbnb"]) + [part for part in module.split(".") if part]
        if parts[0] != "perturbnb": continue
        yield from [parts[1]] if len(parts) > 1 else names


def exporting_notebooks():
    "module -> notebook, in the order in which notebooks are read"
    found = {}
    for notebook in NOTEBOOKS:
        match = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(cell.source for cell in nbformat.read(notebook, 4).cells), re.M)
        if match: found[match[1]] = notebook.name
    return found


def run(*command, cwd=ROOT, **environment):
    env = {key: value for key, value in os.environ.items() if key != "IN_TEST"} | environment
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The sources of the repository in another place, without what is generated from the notebooks"
    target = tmp_path_factory.mktemp("copy") / "perturbnb"
    target.mkdir()
    for name in ("settings.ini", "setup.py", "README.md", "_quarto.yml"): shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / "nbs", target / "nbs", ignore=shutil.ignore_patterns(".*", "__pycache__", "nbdev.yml", "sidebar.yml"))
    (target / "perturbnb").mkdir()
    for path in [*PACKAGE.glob("__*.py*"), PACKAGE / "py.typed"]: shutil.copy(path, target / "perturbnb")       # written by hand
    return target


def test_modules_are_what_the_notebooks_export(copy):
    done = run(sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=copy)
    assert done.returncode == 0, done.stderr
    exported = {path.name: path.read_text(encoding="utf-8") for path in (copy / "perturbnb").glob("*.py")}
    committed = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")}
    assert sorted(exported) == sorted(committed), "run nbdev_export, and remove modules that no notebook exports"
    drifted = sorted(name for name in exported if exported[name] != committed[name])
    assert not drifted, f"run nbdev_export: {', '.join(drifted)} differ from what the notebooks export"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem.strip("_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_is_the_index_notebook():
    text, figures = load(ROOT / "nbs/_readme.py").readme()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text, "run python nbs/_readme.py"
    for path, content in figures.items(): assert (ROOT / path).read_bytes() == content, f"run python nbs/_readme.py: {path} differs"
    for target in re.findall(r"\]\((?![a-z]+:|#)([^)\s]+)\)", text): assert (ROOT / target).exists(), f"README.md links to {target}"


def test_readme_is_written_as_a_reader_sees_the_notebook(tmp_path):
    new = nbformat.v4
    figure = new.new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
    table = new.new_output("execute_result", {"text/html": "<table>", "text/plain": "a table"}, execution_count=None)
    nbformat.write(new.new_notebook(cells=[
        new.new_markdown_cell("# Title\n[next](01_onmf.ipynb) [up](../LICENSE) [far](https://example.org)"),
        new.new_code_cell("#| hide\nsecret = 1"),
        new.new_code_cell("#| echo: false\nplot_unseen()", outputs=[figure]),
        new.new_code_cell("seen()", outputs=[table])]), tmp_path / "index.ipynb")
    text, figures = load(ROOT / "nbs/_readme.py").readme(tmp_path / "index.ipynb")
    assert "(nbs/01_onmf.ipynb)" in text and "(LICENSE)" in text and "(https://example.org)" in text
    assert "secret" not in text and "plot_unseen" not in text and "seen()" in text and "a table" in text and "<table>" not in text
    (path, content), = figures.items()
    assert path.startswith("nbs/images/") and f"]({path})" in text and content.startswith(b"\x89PNG")


def test_readme_holds_the_two_commands_in_one_line_each():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = "python3 -m venv .venv && .venv/bin/pip install "
    assert [line for line in lines if line.startswith(start) and line.endswith(".venv/bin/perturbnb run --out results")]
    assert len([line for line in lines if "-m pytest" in line]) == 1, ".ci/run and the workflow look for the one line with -m pytest"
    assert [line for line in lines if line.startswith(start) and line.endswith("-m pytest")]


@pytest.mark.parametrize("folder", [name for name in ("perturbnb", "tests", "benchmarks", "nbs", "setup.py") if (ROOT / name).exists()])
def test_lint(folder):
    done = run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_notebook_in_the_order_of_the_design():
    order = list(exporting_notebooks())
    assert sorted(order) == [path.stem for path in MODULES]
    assert [module for module in order if module in ROWS] == ROWS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_to_rows_above(path):
    order = list(exporting_notebooks())
    above = order[:order.index(path.stem)]
    upwards = [name for name in own_imports(ast.parse(path.read_text(encoding="utf-8"))) if name not in above]
    assert not upwards, f"{path.stem} imports {', '.join(upwards)}, which stand at or below its own row"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_what_is_imported_is_required(path):
    conf = settings()
    required = {re.split(r"[<>=~!\[]", item)[0].lower() for item in " ".join(conf[f"{extra}requirements"] for extra in ("", "data_", "cluster_")).split()}
    used = {module.split(".")[0] for level, module, _ in imports(ast.parse(path.read_text(encoding="utf-8"))) if level == 0}
    missing = {name for name in used - sys.stdlib_module_names - {"perturbnb"} if IMPORTED_AS.get(name, name).lower() not in required}
    assert not missing, f"{path.stem} imports {', '.join(sorted(missing))}, which settings.ini does not require"
    assert not used & {"nbdev", "fastcore", "execnb"}, "the installed package must not need nbdev"
    assert path.stem.startswith("panels") or "ipywidgets" not in used, "only panels import ipywidgets"


def test_import_is_cheap(record_property):
    code = ("import time; start = time.perf_counter(); import sys, perturbnb; seconds = time.perf_counter() - start; "
            "heavy = sorted({'matplotlib', 'scanpy', 'ipywidgets', 'numba', 'anndata', 'sklearn', 'nbdev'} & set(sys.modules)); print(seconds, *heavy)")
    done = [run(sys.executable, "-c", code).stdout.split() for _ in range(3)]
    seconds = min(float(words[0]) for words in done)
    record_property("import_seconds", seconds)
    print(f"import perturbnb: {seconds:.3f} s")
    assert done[0][1:] == [], "import perturbnb must stay lazy"
    assert seconds < 1.5          # some 0.05 s on an idle machine


def test_public_names_exist_and_are_listed():
    import perturbnb
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {alias.asname or alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    listed = next(ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
    assert len(listed) == len(set(listed)) and set(listed) == imported
    for name in sorted(imported): assert getattr(perturbnb, name) is not None
    assert {path.stem for path in MODULES} <= imported, "every module can be reached from the package"
    assert set(dir(perturbnb)) >= imported


def test_one_version():
    import perturbnb
    version = settings()["version"]
    assert perturbnb.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_core_dependency_has_a_tested_lower_bound():
    unbounded = [item for item in settings()["requirements"].split() if ">=" not in item]
    assert not unbounded


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT)) for pattern in ("*.yml", "nbs/*.yml", ".github/workflows/*.yml", ".pre-commit-config.yaml")
                                        for path in ROOT.glob(pattern)))
def test_yaml_parses(name):
    content = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict) and content


def test_workflow_calls_the_command_of_the_readme():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]["test"]
    assert workflow["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert any("-m pytest' README.md" in step.get("run", "") for step in workflow["steps"])


def test_site_lists_every_notebook():
    top = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    site = yaml.safe_load((ROOT / "nbs/_toplevel.yml").read_text(encoding="utf-8"))
    below = yaml.safe_load((ROOT / "nbs/_quarto.yml").read_text(encoding="utf-8"))
    assert top["metadata-files"] == ["nbs/_toplevel.yml"] and below == {"metadata-files": ["../_quarto.yml", "nbdev.yml", "sidebar.yml"]}
    def pages(entry):
        if isinstance(entry, str): return [entry]
        return [page for part in entry["contents"] for page in pages(part)]
    listed = pages(site["website"]["sidebar"])
    assert sorted(listed) == sorted(f"nbs/{path.name}" for path in NOTEBOOKS)
    navbar = {item["text"]: item["href"] for item in site["website"]["navbar"]["left"]}
    assert list(navbar) == ["Tutorial", "Case studies", "API", "Benchmarks"] and set(navbar.values()) <= set(listed)


@pytest.fixture(scope="module")
def site():
    "The filter and the API of the site, which lie beside the notebooks"
    sys.path.insert(0, str(ROOT / "nbs"))
    try: yield load(ROOT / "nbs/_quarto_filter.py"), load(ROOT / "nbs/_api.py")
    finally: sys.path.remove(str(ROOT / "nbs"))


def test_filter_runs_as_quarto_calls_it():
    notebook = ROOT / "nbs/00_common.ipynb"
    done = subprocess.run([sys.executable, "_quarto_filter.py"], input=notebook.read_text(encoding="utf-8"), cwd=ROOT / "nbs",
                          capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert nbformat.reads(done.stdout, 4).cells[0].source.startswith("# ")


@pytest.fixture(scope="module")
def filtered(site):
    "Every notebook as the site shows it"
    def process(path):
        notebook = site[0].dict2nb(json.loads(path.read_text(encoding="utf-8")))
        site[0].SiteFilter()(notebook)
        return nbformat.reads(site[0].nb2str(notebook), 4).cells
    return {path.name: process(path) for path in NOTEBOOKS}


def test_pages_of_the_site_are_whole(filtered):
    quarto = re.compile(r"#\| (echo|output|code-fold|code-summary|include|label|fig-\w+): ")
    for name, cells in filtered.items():
        first = next(cell for cell in cells if cell.source.strip())
        assert first.cell_type == "markdown" and first.source.startswith("# "), f"{name}: Quarto takes the title from the first heading"
        code = [cell.source for cell in cells if cell.cell_type == "code"]
        assert not [line for source in code for line in source.splitlines() if line.startswith("#|") and not quarto.match(line)], f"{name}: a directive is left over"
        assert "nbdev_export()" not in "".join(code), name
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert not re.findall(r"(?<![\w`\[])@(?:fig|tbl|sec|eq)-\w+", text), f"{name}: cross references need labels, which these pages do not have"


def test_links_of_the_site_resolve(filtered):
    anchors = {name: set(re.findall(r"\{#([\w-]+)\}", "".join(cell.source for cell in cells))) for name, cells in filtered.items() if "api" in name}
    found = 0
    for name, cells in filtered.items():
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)\s]+)\)", "".join(cell.source for cell in cells if cell.cell_type == "markdown")):
            file, _, anchor = target.partition("#")
            assert (ROOT / "nbs" / file).exists(), f"{name} links to {target}"
            if file in anchors and anchor: assert anchor in anchors[file], f"{name} links to {target}"
            found += file in anchors
    assert found > 50, "names in prose lead to the API"


def test_code_that_distracts_is_folded(site):
    fold = site[0].fold_summary
    figure, long = {"data": {"image/png": ""}}, "\n".join(f"ax.plot({i})" for i in range(12))
    assert fold("import numpy as np\nfrom a import b") == fold("import numpy", exported=True) == "Imports"
    assert fold("assert x\ntest_eq(x, 1)\ntest_fail(lambda: f())") == "Checks"
    assert fold(long, [figure]) == "Code of the figure" and fold(long) is None and fold("ax.plot(1)", [figure]) is None
    assert fold("def f(x): return x", exported=True) is None and fold("assert x\nx.head()") is None and fold("x = (") is None


def test_api_has_every_public_name_once(site, filtered):
    api, names = site[1], {}
    asked = [module for path in sorted((ROOT / "nbs").glob("09*_api*.ipynb")) for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
             for module in api.listed(cell.source)]
    assert sorted(asked) == sorted(path.stem for path in MODULES), "every module stands in nbs/09_api.ipynb or nbs/09a_api_foundations.ipynb, once"
    for module in asked:
        members = api.members(module)
        assert set(api.defined(module)) >= set(members), module
        names |= {(module, name): thing for name, thing in members.items()}
    text = "\n".join(cell.source for name in ("09_api.ipynb", "09a_api_foundations.ipynb") for cell in filtered[name])
    headings = re.findall(r"^### `pnb\.[\w.]+` \{#([\w-]+)\}$", text, re.M)
    assert sorted(headings) == sorted(api.anchor(*key) for key in names) and len(headings) == len(set(headings))
    import perturbnb
    reached = {id(thing) for thing in names.values()}
    assert not [name for name in perturbnb.__all__ if callable(getattr(perturbnb, name)) and id(getattr(perturbnb, name)) not in reached]


def test_every_parameter_is_explained(site):
    api = site[1]
    users = api.listed("\n".join(cell.source for cell in nbformat.read(ROOT / "nbs/09_api.ipynb", 4).cells if cell.cell_type == "code"))
    gaps = [gap for module in users for name, thing in api.members(module).items() for gap in api.undocumented(f"{module}.{name}", thing)]
    assert not gaps, f"docstrings or docments are missing: {', '.join(gaps)}"


def test_what_is_not_explained_is_found(site, tmp_path, monkeypatch):
    (tmp_path / "sketch.py").write_text("def known(\n    a: int, # a number\n    *,\n    seed: int = 0,\n) -> int: # as well\n    'Says so'\n\ndef bare(a, b=1): pass\n\n"
                                        "class Thing:\n    'A thing'\n    def turn(self, by: int): 'Turn it'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sketch = importlib.import_module("sketch")
    api = site[1]
    assert api.undocumented("known", sketch.known) == []
    assert api.parameters(sketch.known) == [("a", "int", "", "a number"), ("seed", "int", "0", api.USUAL["seed"]), ("return", "int", "", "as well")]
    assert api.undocumented("bare", sketch.bare) == ["bare", "bare: a", "bare: b"]
    assert api.undocumented("Thing", sketch.Thing) == ["Thing.turn: by"]
    assert "| `a` | `int` |  | a number |" in api.table(sketch.known)


def test_footer_and_themes_of_the_site():
    top = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    for styles in top["format"]["html"]["theme"].values():
        for style in styles: assert not style.endswith(".scss") or (ROOT / style).exists()
    assert set(top["format"]["html"]["theme"]) == {"light", "dark"} and top["website"]["search"]
    footer = " ".join(top["website"]["page-footer"].values())
    assert "LICENSE" in footer and "CITATION.cff" in footer
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == settings()["version"] and citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"]
    assert [paper["doi"] for paper in citation["references"]] == ["10.1101/2023.04.19.537364", "10.1101/2025.07.28.667326"]


def test_nbdev_processes_the_notebooks(copy):
    code = ("from nbdev.quarto import refresh_quarto_yml, nbdev_sidebar\nfrom nbdev.serve import proc_nbs\n"
            "refresh_quarto_yml(); nbdev_sidebar(); proc_nbs(n_workers=0)")
    done = run(sys.executable, "-c", code, cwd=copy)
    # nbdev runs exports and every cell that holds an import, and those only: an import shares no cell with a lesson
    assert done.returncode == 0, done.stderr[-1500:]
    for notebook in NOTEBOOKS:
        cells = nbformat.read(copy / "_proc" / notebook.name, 4).cells
        assert cells[0].cell_type == "raw" and "title:" in cells[0].source, notebook.name
        assert not [cell.source for cell in cells if re.search(r"^#\|\s*(export|default_exp)\b", cell.source, re.M)], notebook.name
    sidebar = yaml.safe_load((copy / "nbs/sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    assert sorted(sidebar) == sorted(path.name for path in NOTEBOOKS)
