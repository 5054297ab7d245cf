"The panels: their slider objects, and the same sliders in a real browser"
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import perturbnb as pnb

# a small screen made of arrays, for the tests and for the notebooks that they serve
SCREEN = """import anndata as ad
import numpy as np
import pandas as pd
import perturbnb as pnb
rng = np.random.default_rng(0)
J = rng.normal(0, .3, (8, 8))
J = J + J.T
umap, usage = rng.normal(0, 3, (400, 2)), rng.gamma(2, 1, (400, 8))
levels, positions = pnb.fit_levels(usage), pnb.embedding.program_positions(umap, usage)
target = np.repeat([f"gene {i}" for i in range(12)], 2)
effect = np.repeat(rng.normal(0, 1, (12, 8)) * (np.arange(12) < 8)[:, None], 2, axis=0)
response = pnb.combine_guides(effect + rng.normal(0, .2, (24, 8)), np.tile(np.eye(8) * .05, (24, 1, 1)), 0.01 * np.eye(8), target)
groups = np.arange(12) // 4
choice = pnb.ProgramChoice(pd.DataFrame({"n_programs": [4, 6, 8, 10], "error": [.5, .4, .3, .29], "stability": [.9, .8, .95, .6]}), 8, "its error is lowest")
guide = rng.integers(0, 10, 400)
screen = ad.AnnData(obs=pd.DataFrame({"guide": [f"g{i}" for i in guide], "target_gene": [f"gene {i // 2}" for i in guide], "if_control": guide < 2,
    "total_counts": rng.integers(500, 5000, 400), "n_genes_by_counts": rng.integers(100, 900, 400), "pct_counts_mt": rng.uniform(0, 30, 400)}, index=[f"c{i}" for i in range(400)]))
"""
PANELS = {"qc": "pnb.qc_panel(screen, min_genes=300)", "number": "pnb.number_panel(choice)", "levels": "pnb.levels_panel(usage, levels)", "network": "pnb.network_panel(J)",
          "response": "pnb.response_panel(response, groups=groups)", "positions": "pnb.positions_panel(umap, usage)", "fan": "pnb.fan_panel(umap, positions, response, groups)"}
MOVES = {"qc": ("min_genes", 500), "number": ("n_programs", 6), "levels": ("cuts_0", (1.0, 4.0)), "network": ("threshold", 0.5), "response": ("threshold", 0.8),
         "positions": ("repulsion", 9.0), "fan": ("threshold", 0.4)}
SECOND = {"qc": ("min_cells_per_guide", 30), "levels": ("program", 2), "network": ("resolution", 6.0), "response": ("q", 0.001), "positions": ("top", 0.1), "fan": ("radius", 1.7)}
HOLD = {"network": "pnb.network_plots.network_diagram", "response": "pnb.plots.plot_response", "fan": "pnb.network_plots.perturbation_fan"}


@pytest.fixture(scope="module")
def world():
    "The screen's variables"
    names = {}
    exec(SCREEN, names)
    return names


def made(name, world): return eval(PANELS[name], dict(world))


@pytest.mark.parametrize("name", PANELS)
def test_slider_changes_counts_picture_and_code(name, world):
    panel = made(name, world)
    slider, value = MOVES[name]
    before = panel.counts.value, panel.image.value, panel.code
    panel.sliders[slider].value = value
    assert panel.value[slider] == value
    for old, new in zip(before, (panel.counts.value, panel.image.value, panel.code)): assert new != old
    assert panel.image.value[:8] == b"\x89PNG\r\n\x1a\n" and f"{value[1] if name == 'levels' else value:g}" in panel.code_box.value
    panel.reset_button.click()
    assert (panel.counts.value, panel.image.value, panel.code) == before
    panel.sliders[slider].value = value
    assert panel.value[slider] == value and panel.counts.value != before[0], "the slider lives on after a reset"


@pytest.mark.parametrize("name", SECOND)
def test_second_slider_changes_something_to_see(name, world):
    panel = made(name, world)
    picture = panel.image.value
    slider, value = SECOND[name]
    panel.sliders[slider].value = value
    assert panel.value[slider] == value and panel.image.value != picture


@pytest.mark.parametrize("name", PANELS)
def test_code_runs_and_gives_what_the_panel_shows(name, world, monkeypatch):
    panel = made(name, world)
    for slider, value in (MOVES[name], *([SECOND[name]] if name in SECOND else [])): panel.sliders[slider].value = value
    cell, code = {key: world[key] for key in ("pnb", "J", "umap", "usage", "levels", "positions", "response", "groups")}, panel.code
    if name in ("qc", "number"):                # these need a screen of counts: see the notebooks; here, what they are called with
        called = {}
        monkeypatch.setattr(pnb, {"qc": "prepare_screen", "number": "find_programs"}[name], lambda data, **values: called.update(values))
        exec(code, {"pnb": pnb, "raw": None, "adata": None})
        assert called == panel.value
        return
    if name in HOLD: code = code.replace(HOLD[name], f"ax = {HOLD[name]}")
    exec(code, cell)
    plt.close("all")
    lines = [] if "ax" not in cell else [c for c in cell["ax"].collections if isinstance(c, matplotlib.collections.LineCollection)]
    if name == "levels": np.testing.assert_allclose([(cell["spins"] == level).mean(0) for level in (-1, 0, 1)], panel.result.shares.T)
    if name == "network": assert len(lines[0].get_segments()) == panel.result.n_edges and (cell["modules"].labels == panel.result.modules.labels).all()
    if name == "response": np.testing.assert_array_equal(cell["shown"], panel.result.values)
    if name == "positions": np.testing.assert_array_equal(cell["positions"], panel.result.positions)
    if name == "fan": assert len(lines[0].get_segments()) == panel.result.n_lines


def test_pictures_leave_nothing_in_matplotlib(world):
    before = dict(plt.rcParams)
    for name in PANELS: made(name, world)
    assert plt.get_fignums() == [] and dict(plt.rcParams) == before


def test_same_values_same_picture(world):
    panel = made("response", world)
    picture = panel.image.value
    for value in (0.9, 0.1): panel.sliders["threshold"].value = value
    assert panel.image.value == picture
    assert made("response", world).image.value == picture


def test_lines_of_the_fan_are_those_of_a_new_drawing(world):
    panel, strong = made("fan", world), pnb.fan_panel(world["umap"], world["positions"], world["response"], world["groups"], threshold=0.5)
    panel.sliders["threshold"].value = 0.5
    assert panel.image.value == strong.image.value


def test_a_burst_of_moves_is_one_redraw(world):
    panel = made("network", world)
    drawn = panel.n_redraws

    async def drag():
        for threshold in np.linspace(0.1, 0.5, 20): panel.sliders["threshold"].value = threshold
        assert panel.n_redraws == drawn
        await asyncio.sleep(1)

    asyncio.run(drag())
    assert panel.n_redraws == drawn + 1 and "threshold=0.5" in panel._code_box.value


def test_who_asks_while_a_redraw_is_due_gets_the_new_result(world):
    panel = made("network", world)

    async def ask():
        panel.sliders["threshold"].value = 0.5
        edges, drawn = panel.result.n_edges, panel.n_redraws
        await asyncio.sleep(0.5)
        return edges, panel.n_redraws - drawn

    edges, later = asyncio.run(ask())
    assert edges == (np.abs(world["J"][np.tril_indices(8, -1)]) >= 0.5).sum() and later == 0


def test_a_slider_can_stand_at_its_start(world):
    "Browsers move a handle that stands between two steps, and would change the value unasked"
    for panel in (pnb.network_panel(world["J"], threshold=0.1234, resolution=1.77), pnb.positions_panel(world["umap"], world["usage"], repulsion=0.3), made("levels", world)):
        for slider in panel.sliders.values():
            if not hasattr(slider, "step"): continue
            steps = (np.atleast_1d(slider.value) - slider.min) / slider.step
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    np.testing.assert_array_equal(panel.result.levels.thresholds, world["levels"].thresholds)


def test_no_edges_at_all():
    panel = pnb.network_panel(np.diag([1.0, 2.0, 3.0]))
    assert panel.result.n_edges == 0 and panel.result.n_alone == 3


def test_one_program(world):
    one, umap = world["usage"][:, :1], world["umap"]
    assert pnb.network_panel(np.ones((1, 1))).result.n_edges == 0
    assert pnb.levels_panel(one, pnb.fit_levels(one)).result.shares.sum() == pytest.approx(1)
    panel = pnb.positions_panel(umap, one)
    assert panel.result.closest is None and "closest" not in panel.counts.value
    assert pnb.response_panel(np.array([[1.0]])).result.n_responses == 1
    assert pnb.fan_panel(umap, panel.result.positions, np.array([[1.0]]), [0]).result.n_lines == 1
    assert pnb.number_panel(pnb.ProgramChoice(pd.DataFrame({"n_programs": [3], "error": [.5], "stability": [np.nan]}), 3, "the only one")).result.n_programs == 3


def test_constant_program_has_a_slider_all_the_same():
    usage = np.c_[np.ones(50), np.arange(50.0)]
    panel = pnb.levels_panel(usage, pnb.fit_levels(usage))
    assert panel.result.shares.sum(axis=1) == pytest.approx([1, 1])


def test_unknown_responses_are_neither_counted_nor_drawn(world):
    values = np.array([[1.0, np.nan], [np.nan, np.nan]])
    view = pnb.response_panel(values, threshold=0).result
    assert view.n_responses == 1 and np.isnan(view.values).sum() == 3
    assert pnb.fan_panel(world["umap"], world["positions"][:2], values, [0, 1]).result.n_lines == 1
    assert pnb.response_panel(np.full((2, 2), np.nan)).result.n_responses == 0


def test_names_are_shown_as_they_are(world):
    names = ["Interféron γ", "<b>bold</b>", "a & b", "it's \"so\"\nlong", "e", "f", "g", "h"]
    panel = pnb.positions_panel(world["umap"], world["usage"], names=names)
    assert "<b>bold" not in panel.counts.value
    levels = pnb.fit_levels(world["usage"], names=names)
    for program in (1, 3):
        panel = pnb.levels_panel(world["usage"], levels)
        panel.sliders["program"].value, panel.sliders[f"cuts_{program}"].value = program, (1.0, 4.0)
        cell = {"levels": levels, "usage": world["usage"]}
        exec(panel.code, cell)
        assert "<b>bold" not in panel.counts.value and (cell["levels"].thresholds[program] == (1, 4)).all()
    for panel in (pnb.network_panel(world["J"], names=names), pnb.response_panel(world["response"], names=names, targets=[f"γ{i}" for i in range(12)]),
                  pnb.fan_panel(world["umap"], world["positions"], world["response"], world["groups"], names=names, targets=[f"γ{i}" for i in range(12)])):
        cell = {**world, "names": names, "targets": [f"γ{i}" for i in range(12)]}
        exec(panel.code, cell)
        plt.close("all")


BAD = {
    "qc_text": (lambda w: pnb.qc_panel("screen.h5ad"), "screen must be an AnnData"),
    "qc_raw": (lambda w: pnb.qc_panel(w["ad"].AnnData(np.ones((3, 3)))), "screen must be prepared"),
    "qc_empty": (lambda w: pnb.qc_panel(w["screen"][:0]), "at least one cell"),
    "qc_float": (lambda w: pnb.qc_panel(w["screen"], min_genes=2.5), "min_genes must be a whole number"),
    "qc_percent": (lambda w: pnb.qc_panel(w["screen"], max_mito_percent=120), "max_mito_percent must be a number from 0 to 100"),
    "number_table": (lambda w: pnb.number_panel(w["choice"].table), "choice must be a ProgramChoice"),
    "number_untried": (lambda w: pnb.number_panel(w["choice"], n_programs=5), "n_programs must be one that was tried, 4, 6, 8, 10"),
    "number_truth": (lambda w: pnb.number_panel(w["choice"], n_programs=True), "n_programs must be one that was tried"),
    "levels_nan": (lambda w: pnb.levels_panel(np.full((5, 8), np.nan), w["levels"]), "programs must be finite"),
    "levels_few": (lambda w: pnb.levels_panel(w["usage"][:, :3], w["levels"]), "programs must have 8 columns"),
    "levels_array": (lambda w: pnb.levels_panel(w["usage"], w["levels"].thresholds), "levels must be Levels"),
    "levels_empty": (lambda w: pnb.levels_panel(w["usage"][:0], w["levels"]), "programs must not be empty"),
    "network_nan": (lambda w: pnb.network_panel(np.full((3, 3), np.nan)), "network must be finite"),
    "network_shape": (lambda w: pnb.network_panel(np.ones((3, 2))), "network must be square"),
    "network_empty": (lambda w: pnb.network_panel(np.empty((0, 0))), "network must not be empty"),
    "network_text": (lambda w: pnb.network_panel("network"), "network must be"),
    "network_names": (lambda w: pnb.network_panel(w["J"], names=["A"]), "names must have one name per column"),
    "network_threshold": (lambda w: pnb.network_panel(w["J"], threshold=np.nan), "threshold must be a number"),
    "network_truth": (lambda w: pnb.network_panel(w["J"], threshold=True), "threshold must be a number"),
    "network_resolution": (lambda w: pnb.network_panel(w["J"], resolution="2"), "resolution must be a number"),
    "response_text": (lambda w: pnb.response_panel(np.array([["a"]])), "response must be numeric"),
    "response_infinite": (lambda w: pnb.response_panel(np.array([[np.inf]])), "response must be finite"),
    "response_none": (lambda w: pnb.response_panel(np.empty((0, 3))), "response must not be empty"),
    "response_targets": (lambda w: pnb.response_panel(w["response"], targets=["a"]), "targets must have one name per row"),
    "response_groups": (lambda w: pnb.response_panel(w["response"], groups=[0, 1]), "groups must have one label"),
    "response_q": (lambda w: pnb.response_panel(w["response"], q=5), "q must be a number from 0 to 1"),
    "positions_map": (lambda w: pnb.positions_panel(w["umap"][:, :1], w["usage"]), "umap must have shape"),
    "positions_nan": (lambda w: pnb.positions_panel(np.full((400, 2), np.nan), w["usage"]), "umap must be finite"),
    "positions_repulsion": (lambda w: pnb.positions_panel(w["umap"], w["usage"], repulsion=-1), "repulsion must be a number of at least 0"),
    "positions_top": (lambda w: pnb.positions_panel(w["umap"], w["usage"], top=0), "top must be a share"),
    "fan_groups": (lambda w: pnb.fan_panel(w["umap"], w["positions"], w["response"], None), "groups must be Groups"),
    "fan_labels": (lambda w: pnb.fan_panel(w["umap"], w["positions"], w["response"], [0]), "groups must have one label"),
    "fan_positions": (lambda w: pnb.fan_panel(w["umap"], w["positions"][:2], w["response"], w["groups"]), "positions must have shape"),
    "fan_none": (lambda w: pnb.fan_panel(w["umap"], w["positions"], np.empty((0, 8)), []), "response must not be empty"),
    "fan_map": (lambda w: pnb.fan_panel(w["umap"][:0], w["positions"], w["response"], w["groups"]), "umap must have shape"),
    "fan_clip": (lambda w: pnb.fan_panel(w["umap"], w["positions"], w["response"], w["groups"], clip=0), "clip must be a number of at least 0.1"),
    "fan_gap": (lambda w: pnb.fan_panel(w["umap"], w["positions"], w["response"], w["groups"], gap=1.5), "gap must be a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, world):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message): call(world)


def test_importing_the_package_leaves_ipywidgets_alone():
    code = "import sys, perturbnb; assert 'ipywidgets' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# in a browser

def notebook(path, names):
    "A notebook that shows panels"
    cells = [SCREEN, *(PANELS[name] for name in names)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "execution_count": None, "id": f"cell{i}", "metadata": {}, "outputs": [], "source": source} for i, source in enumerate(cells)],
                                "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    "Starts servers, waits until they listen, and ends them"
    running = []

    def start(*command):
        folder = tmp_path_factory.mktemp("server")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = open(folder / "log", "w")
        server = subprocess.Popen([sys.executable, "-m", *(part.format(port=port) for part in command)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                                  env={**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)})
        running.append((server, log))
        deadline = time.monotonic() + 60
        while True:
            if server.poll() is not None: pytest.fail(f"{command[0]} ended: {(folder / 'log').read_text()[-2000:]}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0: return f"http://127.0.0.1:{port}/"
            if time.monotonic() > deadline: pytest.fail(f"{command[0]} did not open its port within 60 s")
            time.sleep(0.2)

    yield start
    for server, log in running:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    "Headless Chromium"
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None: pytest.skip("no browser: chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
                 "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "--window-size=1200,900"]: options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


class Shown:
    "A panel in a page"
    def __init__(self, browser, at):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait
        self.browser, self.at, self.css = browser, at, By.CSS_SELECTOR
        self.wait = WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException, IndexError])      # drawn anew meanwhile, or not yet

    def find(self, css): return [each for each in self.browser.find_elements(self.css, ".perturbnb-panel")[self.at].find_elements(self.css, css) if each.is_displayed()]
    def counts(self): return self.find(".widget-html-content")[0].text
    def code(self): return self.find("pre")[0].text
    def picture(self): return self.find("img")[0].get_attribute("src")
    def width(self): return self.browser.execute_script("return arguments[0].complete ? arguments[0].naturalWidth : 0", self.find("img")[0])

    def state(self): return self.wait.until(lambda _: (self.counts(), self.picture(), self.code()))

    def at_rest(self):
        "Nothing has changed for a second: ipywidgets sends the last of many moves late, and a Reset could overtake it"
        before = self.state()
        time.sleep(1)
        return self.state() == before

    def move(self, presses):
        from selenium.webdriver.common.keys import Keys
        handle = self.find(".noUi-handle")[0]
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
        handle.send_keys((Keys.ARROW_RIGHT if presses > 0 else Keys.ARROW_LEFT) * abs(presses))

    def reset(self):
        button = next(each for each in self.find("button") if each.text == "Reset")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def check(self, presses):
        "Move a slider, see number, picture and code change, and press Reset"
        before = self.state()
        assert self.wait.until(lambda _: self.width()) > 300
        self.move(presses)
        self.wait.until(lambda _: all(new != old for new, old in zip(self.state(), before)))
        assert self.wait.until(lambda _: self.width()) > 300
        self.wait.until(lambda _: self.at_rest())
        self.reset()
        self.wait.until(lambda _: (self.counts(), self.code()) == (before[0], before[2]))


def shown(browser, n, seconds=120):
    "Wait until a page has its panels"
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(browser, seconds).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".perturbnb-panel img")) >= n)
    return [Shown(browser, at) for at in range(n)]


PRESSES = {"qc": 40, "number": -1, "levels": 40, "network": 30, "response": 12, "positions": 6, "fan": 10}


def test_all_panels_in_voila(serve, browser, tmp_path, world):
    pytest.importorskip("voila", reason="Voila is not installed")
    address = serve("voila", str(notebook(tmp_path / "panels.ipynb", PANELS)), "--no-browser", "--port={port}", "--Voila.ip=127.0.0.1")
    browser.get(address)
    panels = shown(browser, len(PANELS))
    for name, panel in zip(PANELS, panels): assert panel.state()[2] == made(name, world).code, "a page starts with the values of the panel"
    for name, panel in zip(PANELS, panels): panel.check(PRESSES[name])
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "nothing runs out of the page"


def test_a_panel_in_jupyterlab(serve, browser, tmp_path):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    notebook(tmp_path / "panel.ipynb", ["network"])
    address = serve("jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}",
                    "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate")
    from selenium.webdriver.support.ui import WebDriverWait
    browser.get(f"{address}lab/tree/panel.ipynb")
    WebDriverWait(browser, 90).until(lambda b: b.execute_script(
        "const app = window.jupyterapp, shown = app && app.shell.currentWidget; return Boolean(shown && shown.context && shown.context.isReady && shown.sessionContext.session)"))
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    shown(browser, 1)[0].check(30)
