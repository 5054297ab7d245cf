"What a simulated screen promises, counted"
import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbnb.model import conditional_probabilities
from perturbnb.preprocess import G2M_GENES, S_GENES
from perturbnb.simulate import MITOCHONDRIAL, simulate_screen


@pytest.fixture(scope="module")
def screen(): return simulate_screen(6000, 800, n_programs=8, n_targets=10, double_share=0.1, molecules=3000, seed=3)


@pytest.fixture(scope="module")
def truth(screen): return screen.uns["truth"]


def expression(screen):
    return pd.DataFrame(np.log1p(screen.X.toarray() / screen.X.sum(1) * 1e4), screen.obs_names, screen.var_names)


def test_shape_and_names(screen, truth):
    assert sparse.issparse(screen.X) and screen.X.format == "csr" and screen.X.dtype == np.float32 and (screen.X.data % 1 == 0).all() and screen.X.data.min() > 0
    assert screen.var_names.is_unique and screen.obs_names.is_unique and list(screen.obs) == ["guide", "gene", "batch"]
    assert {*MITOCHONDRIAL, *truth["targets"].index} <= set(screen.var_names) and len(set(S_GENES) & set(screen.var_names)) > 30 and len(set(G2M_GENES) & set(screen.var_names)) > 30
    for table, index in (("genes", screen.var_names), ("cells", screen.obs_names), ("spins", screen.obs_names)): assert truth[table].index.equals(index), table
    assert set(truth["genes"]["program"]) == {"", *truth["programs"].index} and ((truth["genes"]["program"] == "") == (truth["genes"]["weight"] == 0)).all()


def test_planted_network_is_sparse_signed_and_modular(truth):
    J, module = truth["J"].to_numpy(), truth["programs"]["module"].to_numpy()
    off, same = ~np.eye(len(J), dtype=bool), module[:, None] == module
    assert (J == J.T).all() and (J[off & same] >= 0).all() and (J[~same] <= 0).all()
    assert (J[off] > 0).any() and (J[off] < 0).any() and (J[off] == 0).mean() > 0.3


def test_every_target_has_a_dud_and_working_guides(screen, truth):
    efficiency = truth["guides"].query("target != 'control'").groupby("target")["efficiency"]
    assert (efficiency.apply(lambda e: (e == 0).sum()) == 1).all() and (efficiency.max() > 0.6).all()
    assert (truth["guides"].query("target == 'control'")["efficiency"] == 0).all()
    assert simulate_screen(300, 400, n_programs=3, n_targets=3, guides_per_target=1, seed=0).uns["truth"]["guides"].query("target != 'control'")["efficiency"].min() > 0


def test_own_transcript_follows_efficiency_and_escape(screen, truth):
    levels, single = expression(screen), ~screen.obs["guide"].str.contains("+", regex=False).to_numpy()
    escaped, control = truth["cells"]["escaped"].to_numpy(), (screen.obs["gene"] == "control").to_numpy()
    ratios = {"working": [], "dud": [], "escaped": []}
    for guide, row in truth["guides"].query("target != 'control'").iterrows():
        carries, mean = single & (screen.obs["guide"] == guide).to_numpy(), np.expm1(levels[row["target"]])
        if row["efficiency"] == 0: ratios["dud"].append(mean[carries].mean() / mean[control].mean())
        else:
            ratios["working"].append(mean[carries & ~escaped].mean() / mean[control].mean())
            ratios["escaped"].append(mean[carries & escaped].mean() / mean[control].mean())
    middle = {name: np.median(values) for name, values in ratios.items()}
    assert middle["working"] < 0.55 and 0.75 < middle["dud"] < 1.3 and 0.6 < middle["escaped"] < 1.5


def test_shares_are_what_was_asked_for(screen, truth):
    n, control = screen.n_obs, (screen.obs["gene"] == "control").to_numpy()
    double = screen.obs["guide"].str.contains("+", regex=False).to_numpy()
    def near(share, wanted, of): return abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / of)
    assert near(control.mean(), 0.15, n) and near(truth["cells"]["escaped"][~control].mean(), 0.1, (~control).sum()) and near(truth["cells"]["low_quality"].mean(), 0.02, n)
    assert not truth["cells"]["escaped"][control].any() and not double[control].any()
    assert 0.07 < double[~control].mean() < 0.1        # some draws hit the same target and are not counted
    assert (screen.obs["guide"].value_counts()[truth["guides"].index] > 0).all()
    targets = screen.obs.loc[double, "gene"].str.split("+")
    assert (targets.str.len() == 2).all() and targets.apply(lambda pair: pair[0] != pair[1]).all()


def test_guide_umis_name_the_cells_guides(screen):
    umis = screen.obsm["guide_counts"]
    for guide, cell in zip(screen.obs["guide"].iloc[:300], screen.obs_names): assert set(guide.split("+")) <= set(umis.columns[umis.loc[cell] >= 3])
    single = ~screen.obs["guide"].str.contains("+", regex=False)
    assert (umis[single].idxmax(axis=1) == screen.obs["guide"][single].astype(str)).mean() > 0.99
    assert 0 < (umis.to_numpy() == 1).mean() < 0.05


def test_dying_cells_have_few_molecules_many_of_them_mitochondrial(screen, truth):
    dying, total = truth["cells"]["low_quality"].to_numpy(), np.asarray(screen.X.sum(1)).ravel()
    mito = np.asarray(screen[:, list(MITOCHONDRIAL)].X.sum(1)).ravel() / total
    assert np.median(total[dying]) < 0.4 * np.median(total[~dying]) and np.median(mito[dying]) > 0.2 > 0.12 > np.median(mito[~dying])
    level_0 = ~dying & (np.abs(truth["spins"]).sum(1) <= 2).to_numpy()
    assert 2500 < np.median(total[level_0]) < 5000


def test_states_follow_the_model(truth, screen):
    "Planted states of control cells agree with the conditionals of planted J and fields"
    J, programs = truth["J"].to_numpy(), truth["J"].index
    control = (screen.obs["gene"] == "control").to_numpy()
    h = truth["fields"].loc["intercept"].to_numpy() + truth["fields"].loc[screen.obs["batch"][control].astype(str)].to_numpy()
    spins = truth["spins"].to_numpy()[control]
    expected = conditional_probabilities(spins, J, h)
    for level in (-1, 0, 1):
        error = ((spins == level) - expected[:, :, level + 1]).mean(0)
        assert np.abs(error).max() < 4 * 0.5 / np.sqrt(control.sum()), (level, list(programs))


def test_genes_follow_their_program(screen, truth):
    levels, genes = expression(screen), truth["genes"]
    r = np.corrcoef(truth["spins"].to_numpy().T, levels.to_numpy().T)[:8, 8:]
    strong = genes["level"] > genes["level"].median()
    own = np.array([r[list(truth["programs"].index).index(p), i] for i, p in enumerate(genes["program"]) if p and strong.iloc[i]])
    assert np.median(own) > 0.25 and (own > 0).mean() > 0.97 and np.abs(np.median(r[:, (genes["program"] == "").to_numpy()])) < 0.1


def test_h5ad_round_trip(screen, tmp_path):
    screen.write_h5ad(tmp_path / "screen.h5ad")
    again = ad.read_h5ad(tmp_path / "screen.h5ad")
    assert (again.X != screen.X).nnz == 0 and set(again.uns["truth"]) == set(screen.uns["truth"])
    for name, table in screen.uns["truth"].items():
        np.testing.assert_array_equal(again.uns["truth"][name].astype(str), table.astype(str))
        assert list(again.uns["truth"][name].index) == list(table.index) and list(again.uns["truth"][name]) == list(table)
    np.testing.assert_array_equal(again.obsm["guide_counts"], screen.obsm["guide_counts"])
    assert (again.obs.astype(str) == screen.obs.astype(str)).all(axis=None)


SMALL = dict(n_cells=400, n_genes=300, n_programs=4, n_targets=4)


def test_seed_decides_everything_and_threads_nothing():
    one, other = simulate_screen(**SMALL, seed=7), simulate_screen(**SMALL, seed=7)
    assert (one.X != other.X).nnz == 0 and one.obs.equals(other.obs)
    for name, table in one.uns["truth"].items(): pd.testing.assert_frame_equal(table, other.uns["truth"][name])
    assert (simulate_screen(**SMALL, seed=8).X != one.X).nnz > 1000
    code = f"from perturbnb import simulate_screen; s = simulate_screen(**{SMALL}, seed=7); print(s.X.sum(), s.X.nnz, int(s.uns['truth']['spins'].to_numpy().sum()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_NUM_THREADS": "1"}).stdout.split()
    assert done == [str(one.X.sum()), str(one.X.nnz), str(int(one.uns["truth"]["spins"].to_numpy().sum()))]


def test_global_random_state_is_left_alone():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    simulate_screen(**SMALL, seed=1)
    assert np.random.random() == expected


@pytest.mark.parametrize("changes,message", [
    (dict(n_cells=10), "n_cells must be a whole number of at least 22"), (dict(n_genes=100), "n_genes must be"), (dict(n_programs=1), "n_programs must be"), (dict(n_targets=0), "n_targets must be"),
    (dict(guides_per_target=0), "guides_per_target"), (dict(n_control_guides=0), "n_control_guides"), (dict(n_batches=0), "n_batches"), (dict(escape_share=1.), "escape_share must be a share"),
    (dict(double_share=-0.1), "double_share must be a share"), (dict(n_cells=400.), "n_cells must be a whole number"), (dict(seed=-1), "seed must be"), (dict(molecules=0), "molecules must be"),
    (dict(molecules=np.nan), "molecules must be")])
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message): simulate_screen(**{**SMALL, **changes})
