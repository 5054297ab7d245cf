"What all tests share: where things are, and whether the real data can be had."
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("MPLBACKEND", "Agg")
if os.environ.get("PERTURBNB_DATA_DIR"):            # notebooks run in nbs/, so a relative path must not be left to them
    os.environ["PERTURBNB_DATA_DIR"] = str(Path(os.environ["PERTURBNB_DATA_DIR"]).resolve())


def pytest_configure(config):
    config.option.reportchars += "s"                # a skipped test says why
    config.addinivalue_line("markers", "slow: takes more than ten seconds")
    config.addinivalue_line("markers", "data: needs the published data")


@pytest.fixture(scope="session")
def root(): return ROOT


@pytest.fixture(scope="session")
def published_data():
    "Skips where the published files are neither in PERTURBNB_DATA_DIR nor within reach"
    from perturbnb import datasets
    pytest.importorskip("rdata", reason="reading the published data needs the package rdata")
    try: return {name: datasets.fetch(name) for name in datasets._FILES}
    except FileNotFoundError: pytest.skip("the published data is neither in PERTURBNB_DATA_DIR nor within reach")


@pytest.fixture(scope="session")
def expected_data():
    "Skips where nobody put independent conversions"
    folder = os.environ.get("PERTURBNB_EXPECTED_DIR")
    if not folder: pytest.skip("PERTURBNB_EXPECTED_DIR is not set: no independent conversion to compare with")
    return Path(folder)
