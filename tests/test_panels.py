"The network panel: its slider object, and the same slider in a real browser"
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from perturbnb.panels import network_panel

CELL = """import numpy as np
from perturbnb.panels import network_panel
rng = np.random.default_rng(0)
J = rng.normal(0, .3, (8, 8))
network_panel(J + J.T, threshold=0.1)"""


@pytest.fixture
def panel():
    rng = np.random.default_rng(0)
    J = rng.normal(0, .3, (8, 8))
    return network_panel(J + J.T, threshold=0.1)


def test_slider_changes_count_figure_and_code(panel):
    edges, picture, code = panel.result.n_edges, panel.image.value, panel.code
    panel.sliders["threshold"].value = 0.5
    assert panel.value["threshold"] == 0.5
    assert panel.result.n_edges < edges and f"<b>{panel.result.n_edges}</b> edges" in panel.counts.value
    assert panel.image.value[:8] == b"\x89PNG\r\n\x1a\n" and panel.image.value != picture
    assert panel.code != code and "threshold=0.5" in panel.code_box.value


def test_resolution_changes_modules(panel):
    found = []
    for resolution in (0.2, 6.0):
        panel.sliders["resolution"].value = resolution
        found.append(panel.result.n_modules)
    assert found[0] < found[1]


def test_reset_brings_back_the_start(panel):
    start, picture = panel.value, panel.image.value
    panel.sliders["threshold"].value = 0.5
    panel.sliders["resolution"].value = 5.0
    panel.reset_button.click()
    assert panel.value == start and panel.image.value == picture
    panel.sliders["threshold"].value = 0.3
    assert "threshold=0.3" in panel.code_box.value


def test_same_values_same_picture(panel):
    picture = panel.image.value
    panel.sliders["threshold"].value = 0.6
    panel.sliders["threshold"].value = 0.1
    assert panel.image.value == picture


def test_no_edges_at_all():
    panel = network_panel(np.diag([1.0, 2.0, 3.0]))
    assert panel.result.n_edges == 0 and panel.result.n_alone == 3


def test_importing_the_package_leaves_ipywidgets_alone():
    code = "import sys, perturbnb; assert 'ipywidgets' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def served(tmp_path):
    "Address of a notebook with a panel, served by Voila"
    pytest.importorskip("voila", reason="Voila is not installed")
    notebook = {"cells": [{"cell_type": "code", "execution_count": None, "id": "panel", "metadata": {}, "outputs": [], "source": CELL}],
                "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "panel.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(tmp_path / "voila.log", "w")
    server = subprocess.Popen([sys.executable, "-m", "voila", str(tmp_path / "panel.ipynb"), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"],
                              stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"})
    try:
        deadline = time.monotonic() + 60
        while True:
            if server.poll() is not None: pytest.fail(f"Voila ended: {(tmp_path / 'voila.log').read_text()[-2000:]}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0: break
            if time.monotonic() > deadline: pytest.fail("Voila did not open its port within 60 s")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
        log.close()


PICTURE = "img.widget-image, .widget-image img, img.jupyter-widgets"


@pytest.fixture
def browser(tmp_path):
    "Headless Chromium"
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None: pytest.skip("no browser: chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
                 "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,900"]: options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def test_slider_in_a_browser(served, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 90)
    browser.get(served)

    def edges(_=None):
        found = re.search(r"(\d+) edges", browser.find_element(By.TAG_NAME, "body").text)
        return int(found[1]) if found else None

    before = wait.until(edges)
    picture = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, PICTURE)).get_attribute("src")
    handle = browser.find_elements(By.CSS_SELECTOR, ".noUi-handle")[0]
    for _ in range(30): handle.send_keys(Keys.ARROW_RIGHT)
    wait.until(lambda _: edges() < before)
    wait.until(lambda b: b.find_element(By.CSS_SELECTOR, PICTURE).get_attribute("src") != picture)
    wait.until(lambda b: "threshold=0.4" in b.find_element(By.TAG_NAME, "pre").text)
    browser.save_screenshot(str(tmp_path / "panel.png"))
    button = next(b for b in browser.find_elements(By.TAG_NAME, "button") if b.text == "Reset")
    button.click()
    wait.until(lambda _: edges() == before)
