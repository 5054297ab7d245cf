"Quarto's notebook filter: directives, folding and links, without a front matter and without executing anything but the API's signatures."
import ast
import json
import os
import re
import sys
from contextlib import redirect_stdout

from execnb.nbio import dict2nb, nb2str
from nbdev.processors import FilterDefaults, hide_, hide_line, populate_language, rm_header_dash, strip_ansi, strip_hidden_metadata

LONG = 10           # lines from which the code of a figure is folded


def _is_check(node):
    "An assertion, or a call of one of fastcore's tests"
    if isinstance(node, ast.Assert): return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "").startswith("test_")


def fold_summary(source, outputs=(), exported=False):
    "What a folded cell is called, None where its code should stand open: definitions and lessons do, imports, checks and long figures do not"
    try: body = ast.parse(source).body
    except SyntaxError: return None
    if body and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body): return "Imports"
    if exported: return None
    if body and all(map(_is_check, body)): return "Checks"
    draws = any("image/png" in output.get("data", {}) for output in outputs)
    return "Code of the figure" if draws and len(source.strip().splitlines()) > LONG else None


def set_up(cell):
    "Cells that serve the notebook and not its reader are left out"
    if cell.cell_type == "code" and ("default_exp" in cell.directives_ or re.search(r"^\s*#?\s*import nbdev; nbdev.nbdev_export\(\)", cell.source, re.M)): del cell["source"]


def fold(cell):
    "Fold what distracts; what a cell says about itself goes first"
    if cell.cell_type != "code" or re.search(r"^#\|\s*(code-fold|echo|include)", cell.source, re.M): return
    name = fold_summary(cell.source, cell.get("outputs", []), bool({"export", "exports"} & set(cell.directives_)))
    if name: cell.source = f"#| code-fold: true\n#| code-summary: \"{name}\"\n{cell.source}"


def magics(cell):
    "`%matplotlib inline` is nothing to read"
    if cell.cell_type == "code": cell.source = re.sub(r"^%.*\n?", "", cell.source, flags=re.M)


def api(cell):
    "Tables of docments where an API notebook asks for them, and links to them elsewhere"
    if cell.cell_type == "markdown" and "`" in cell.source:
        from _api import linked
        cell.source = linked(cell.source)
    if cell.cell_type != "code" or "contents(" not in cell.source: return
    from _api import listed, reference
    modules = listed(cell.source)
    if not modules: return
    cell.cell_type, cell.source = "markdown", reference(*modules)
    for key in ("outputs", "execution_count"): cell.pop(key, None)


class SiteFilter(FilterDefaults):
    "Quarto takes the title from the first heading, so nothing may stand before it. Exported code is shown where it is explained"
    def base_procs(self): return [populate_language, strip_ansi, hide_line, rm_header_dash, hide_, set_up, magics, fold, api, strip_hidden_metadata]


if __name__ == "__main__":
    os.environ["IN_TEST"] = "1"                     # nbdev's own sign that nothing may be exported
    notebook = dict2nb(json.loads(sys.stdin.read()))
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere): SiteFilter()(notebook)
    print(nb2str(notebook), flush=True)
