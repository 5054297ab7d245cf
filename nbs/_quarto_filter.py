"Quarto's notebook filter: nbdev's processing of directives, exports and links, without a front matter of its own."
import json
import os
import sys
from contextlib import redirect_stdout

from execnb.nbio import dict2nb, nb2str
from nbdev.processors import FilterDefaults


class SiteFilter(FilterDefaults):
    "Quarto takes the title from the first heading, so nothing may stand before it"
    def base_procs(self): return [proc for proc in super().base_procs() if proc.__name__ not in ("FrontmatterProc", "insert_warning")]


if __name__ == "__main__":
    os.environ["IN_TEST"] = "1"                     # nbdev's own sign that nothing may be exported
    notebook = dict2nb(json.loads(sys.stdin.read()))
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere): SiteFilter()(notebook)
    print(nb2str(notebook), flush=True)
