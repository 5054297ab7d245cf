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


@pytest.fixture(scope="module")
def planted():
    "Counts around six planted programs, and the program of each gene"
    from planted import plant
    return plant()


@pytest.fixture(scope="module")
def screen(planted):
    "The same as a log-normalised screen"
    import numpy as np
    from planted import as_screen
    from scipy import sparse
    return as_screen(sparse.csr_matrix(np.log1p(planted[0]).astype(np.float32)))


@pytest.fixture(scope="module")
def programs(screen):
    "The programs found in it"
    from perturbnb.consensus import find_programs
    return find_programs(screen, 6, n_repeats=3)
