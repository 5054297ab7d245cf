"""The page `21_bad_input` is a table of malformed input with what each gets; here it is run as it stands, and its reach is checked."""
import re

import nbformat
import pytest

import perturbnb as pnb


@pytest.fixture(scope="module")
def page(root):
    "What the page defines, its cells having been run: the table checks itself there"
    import matplotlib.pyplot as plt
    before, space = pnb.common.logger.level, {}
    cells = [cell.source for cell in nbformat.read(root / "nbs" / "21_bad_input.ipynb", 4).cells if cell.cell_type == "code"]
    for source in cells: exec(compile(source, "21_bad_input", "exec"), space)
    plt.close("all")
    pnb.common.logger.setLevel(before)
    return space


def test_the_table_is_large_and_has_no_row_twice(page):
    rows = page["TABLE"]
    assert len(rows) >= 200 and len({row[:2] for row in rows}) == len(rows)


def test_no_public_function_is_left_out(page):
    public = {name for name in pnb.__all__ if callable(getattr(pnb, name)) and name[0].islower() and not name.endswith("_panel")}
    assert not public - {row[0] for row in page["TABLE"]}, "a public function needs a row in nbs/21_bad_input.ipynb"


def test_a_row_that_does_not_hold_is_seen(page):
    "The table can fail: a call that is not refused, a rule that is broken, an error of another kind"
    with pytest.raises(AssertionError, match="was not refused"): page["table"](("moments", "spins", lambda: pnb.moments(page["spins"]), "spins must"))
    assert page["answer"](lambda: 1, page["rule"]("it is two", lambda x: x == 2)) == "the rule is broken"
    with pytest.raises(TypeError): page["answer"](lambda: len(3), "x must")


def test_the_page_shows_what_is_answered(page, root):
    "The outputs on the page are those of the calls: every expected message is found in them"
    outputs = " ".join(str(output.get("data", {}).get("text/html", "")) for cell in nbformat.read(root / "nbs" / "21_bad_input.ipynb", 4).cells for output in cell.get("outputs", []))
    assert outputs.count("<tr") >= len(page["TABLE"]) and "the rule is broken" not in outputs
    shown = outputs.replace("&#x27;", "'").replace("&lt;", "<").replace("&gt;", ">")
    unseen = [row[:2] for row in page["TABLE"] if isinstance(row[3], str) and not re.search(row[3], shown)]
    assert len(unseen) <= 10, unseen        # messages that are cut on the page
