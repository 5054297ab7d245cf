"Write README.md from index.ipynb: `python nbs/_readme.py`. Figures go to nbs/images/, links become those of the repository."
import re
from pathlib import Path
from posixpath import normpath

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
IMAGES = "nbs/images"


def shown(cell):
    "A copy of the cell as a reader sees it, None where it is hidden"
    cell = cell.copy()
    directives = set(re.findall(r"^#\|\s*(\S+.*?)\s*$", cell.source, re.M))
    if {"hide", "export"} & directives: return None
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    if "echo: false" in directives: cell.metadata["tags"] = ["no-input"]
    for output in cell.get("outputs", []): output.get("data", {}).pop("text/html", None)      # tables as text
    return cell


def linked_from_root(markdown):
    "Relative links of nbs/ as seen from the top of the repository"
    return re.sub(r"(?<=\]\()(?![a-z]+:|#|/)[^)\s]+", lambda link: normpath(f"nbs/{link[0]}"), markdown)


def readme(notebook=ROOT / "nbs/index.ipynb"):
    "Text of README.md, and its figures by path"
    nb = nbformat.read(notebook, as_version=4)
    nb.metadata["language_info"] = {"name": "python"}       # cleaned notebooks don't say it, code blocks should
    nb.cells = [cell for cell in map(shown, nb.cells) if cell]
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = linked_from_root(cell.source)
    exporter = MarkdownExporter(config=Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": ["no-input"]}}))
    text, resources = exporter.from_notebook_node(nb, {"unique_key": "index", "output_files_dir": IMAGES})
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.splitlines())).strip()
    return f"<!-- written from nbs/index.ipynb by nbs/_readme.py -->\n\n{text}\n", resources["outputs"]


if __name__ == "__main__":
    text, figures = readme()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    for path, content in figures.items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_bytes(content)
