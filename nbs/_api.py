"The pages of the API, made of signatures and docments: used by the site's filter and by the tests."
import ast
import inspect
import re
from dataclasses import is_dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path

import nbformat
from fastcore.docments import docments

NBS = Path(__file__).resolve().parent
PACKAGE = NBS.parent / "perturbnb"
USUAL = {"ax": "Axes to draw into; None: those of a new figure", "seed": "of the random numbers: the same seed, the same result"}


@cache
def notebooks():
    "module -> name of the notebook that defines it"
    found = {}
    for path in sorted(NBS.glob("*.ipynb")):
        source = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        if match := re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M): found[match[1]] = path.name
    return found


def members(module):
    "Public functions and classes that a module defines, by name, in the order of its notebook"
    content = import_module(f"perturbnb.{module}")
    named = {name: getattr(content, name) for name in content.__all__}
    return {name: thing for name, thing in named.items() if callable(thing) and getattr(thing, "__module__", "") == content.__name__ and hasattr(thing, "__qualname__")}


def methods(cls):
    "Public methods and properties of a class, by name"
    return {name: thing for name, thing in vars(cls).items() if not name.startswith("_")
            and (inspect.isfunction(thing) or isinstance(thing, property | cached_property | staticmethod | classmethod))}


def function_of(thing):
    "What holds signature and docments: of a property its getter, of a class its __init__, of a dataclass or named tuple itself"
    if isinstance(thing, property): return thing.fget
    if isinstance(thing, cached_property): return thing.func
    if inspect.isclass(thing) and not is_dataclass(thing) and inspect.isfunction(thing.__init__): return thing.__init__
    return inspect.unwrap(getattr(thing, "__func__", thing))


def as_written(thing):
    "Parameter -> (type, default) as they stand in the source; of a dataclass its fields"
    node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing))).body[0]
    shown = lambda part: "" if part is None else ast.unparse(part)
    if isinstance(node, ast.ClassDef): return {part.target.id: (shown(part.annotation), shown(part.value)) for part in node.body if isinstance(part, ast.AnnAssign)}
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    rows = {part.arg: (shown(part.annotation), shown(default)) for part, default in zip([*plain, *args.kwonlyargs], defaults + args.kw_defaults)}
    for star, part in (("*", args.vararg), ("**", args.kwarg)):
        if part: rows[star + part.arg] = (shown(part.annotation), "")
    if node.returns is not None: rows["return"] = (shown(node.returns), "")
    return {name: row for name, row in rows.items() if name not in ("self", "cls")}


def option(kind):
    "Type and help text of an option of the command line, out of its `Annotated[...]`"
    if not kind.startswith("Annotated["): return kind, ""
    what, *notes = ast.parse(kind).body[0].value.slice.elts
    return ast.unparse(what), next((node.value for note in notes for node in ast.walk(note) if isinstance(node, ast.Constant) and isinstance(node.value, str)), "")


def fields(cls):
    "Field -> comment, of a dataclass or named tuple"
    return dict(re.findall(r"^    (\w+): .*?# (.*)$", inspect.cleandoc("\n" + inspect.getsource(cls)), re.M))


def others(function):
    "`options` -> comment of `**options`, which docments leave out"
    return dict(re.findall(r"^\s*\*+(\w+)\b[^#\n]*# (.*)$", inspect.getsource(function), re.M))


def parameters(thing):
    "Rows (parameter, type, default, meaning); `return` stands last, if something is returned"
    function = function_of(thing)
    if not (inspect.isfunction(function) or inspect.isclass(function)): return []
    comments, rows = fields(function) if inspect.isclass(function) else docments(function, returns=True) | others(function), []
    for name, (kind, default) in as_written(function).items():
        if name == "return" and kind == "None": continue
        kind, told = option(kind)
        rows.append((name, kind, default, " ".join(str(comments.get(name.lstrip("*")) or told or USUAL.get(name, "")).split())))
    return rows


def summary(thing):
    "The docstring's first paragraph in one line"
    return " ".join((inspect.getdoc(function_of(thing) if not inspect.isclass(thing) else thing) or "").split("\n\n")[0].split())


def undocumented(name, thing):
    "What a reader would miss: `name`, or `name: parameter`, one for each docstring and each docment that is not there"
    missing = [] if summary(thing) else [name]
    missing += [f"{name}: {row[0]}" for row in parameters(thing) if not row[3] and row[0] != "return"]
    if inspect.isclass(thing): missing += [gap for own, method in methods(thing).items() for gap in undocumented(f"{name}.{own}", method)]
    return missing


def _cell(text): return text.replace("|", "\\|").replace("$", "\\$").replace("<", "\\<")
def _code(text): return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def table(thing):
    "The docments as a table of markdown, in a div that the style sheet knows"
    rows = [f"| {'*returns*' if name == 'return' else _code(name)} | {_code(kind)} | {_code(default)} | {_cell(meaning)} |" for name, kind, default, meaning in parameters(thing)]
    if not rows: return ""
    return "\n".join(["::: {.parameters}", "| | type | default | meaning |", "|---|---|---|---|", *rows, ":::"])


def entry(module, name, thing, notebook):
    "One name of the API: heading with an anchor, what it does, where it is explained, its table, its methods"
    import perturbnb
    reached = f"pnb.{name}" if getattr(perturbnb, name, None) is thing else f"pnb.{module}.{name}"
    parts = [f"### `{reached}` {{#{anchor(module, name)}}}", f"{_cell(summary(thing))}. Explained in [{Path(notebook).stem}]({notebook}).", table(thing)]
    if inspect.isclass(thing):
        for own, method in methods(thing).items(): parts += [f"**`{own}`**: {_cell(summary(method))}.", table(method)]
    return "\n\n".join(part for part in parts if part)


def anchor(module, name): return f"{module}-{name}"


def reference(*modules):
    "Markdown of all public names of some modules"
    where = notebooks()
    return "\n\n".join(entry(module, name, thing, where[module]) for module in modules for name, thing in members(module).items())


def contents(*modules):
    "Show a table of public names and what they do; on the site the full reference stands in its place"
    import pandas as pd
    from IPython.display import display
    rows = [(module, name, summary(thing), notebooks()[module]) for module in modules for name, thing in members(module).items()]
    table = pd.DataFrame(rows, columns=["module", "name", "what it does", "explained in"]).set_index(["module", "name"])
    with pd.option_context("display.max_colwidth", None): display({"text/html": table.to_html(), "text/plain": ", ".join(row[1] for row in rows)}, raw=True)


def listed(source):
    "Modules that a cell of an API notebook asks for: the texts in its calls of `contents`"
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "contents"]
    return [argument.value for call in calls for argument in call.args]


@cache
def pages():
    "module -> API notebook that has its names"
    return {module: path.name for path in sorted(NBS.glob("09*_api*.ipynb")) for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
            for module in listed(cell.source)}


def defined(module):
    "The names of `members(module)` without importing it, which takes long"
    body = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body
    listed = next(ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__")
    own = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return [name for name in listed if name in own]


@cache
def links():
    "`name`, `pnb.name` and `pnb.module.name` -> the place in the API where a public name stands"
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body
    top = {alias.name: node.module for node in stub if isinstance(node, ast.ImportFrom) and node.module for alias in node.names}
    found = {}
    for module, page in pages().items():
        for name in defined(module):
            target = f"{page}#{anchor(module, name)}"
            if top.get(name) == module: found[name] = found[f"pnb.{name}"] = target
            found[f"pnb.{module}.{name}"] = target
    return found


def linked(markdown):
    "Names of the package in prose lead to the API; not in code blocks, headings, or what is a link already"
    def to_api(match): return f"[{match[0]}]({links()[match[1]]})" if match[1] in links() else match[0]
    parts = re.split(r"(^```.*?^```$|^#.*$|\[[^\]\n]*\]\([^)\n]*\))", markdown, flags=re.M | re.S)
    return "".join(part if i % 2 else re.sub(r"(?<!`)`([\w.]+)`(?!`)", to_api, part) for i, part in enumerate(parts))
