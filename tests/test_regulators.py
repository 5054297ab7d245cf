"Regulators of programs: recovery, own genes, what never varies, too few cells, refusals."
import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from perturbnb import regulators as module
from perturbnb.gene_networks import GeneSpins
from perturbnb.regulators import fit_regulators, plot_regulators, program_regulators


def plant(seed=0, n_cells=1500, n_genes=12):
    "One gene that raises the first program, one that lowers the second"
    rng = np.random.default_rng(seed)
    X, sample = rng.integers(-1, 2, (n_cells, n_genes)).astype(np.int8), rng.integers(8, size=n_cells)
    f = np.stack([0.8 * X[:, 3], -0.8 * X[:, 7]], axis=1) + rng.normal(0, 0.5, (8, 2))[sample]
    low, high = np.exp(-f), np.exp(f)
    u = rng.random(f.shape) * (1 + low + high)
    spins = np.where(u < low, -1, np.where(u < low + high, 1, 0)).astype(np.int8)
    names = [f"g{i}" for i in range(n_genes)]
    return spins, GeneSpins(X, names, None, pd.DataFrame({"kept": True}, index=names)), sample


@pytest.fixture(scope="module")
def driven(): return plant()


def test_planted_genes_are_found_with_their_sign(driven):
    found = fit_regulators(*driven)
    assert found.converged.all() and found.weight[0, 3] > 0.4 and found.weight[1, 7] < -0.4
    table = found.to_frame()
    assert list(table.loc[table["q"] < 1e-6, "regulator"]) == ["g3", "g7"]
    assert (np.abs(found.estimate[[0, 1], [3, 7]] - [0.8, -0.8]) < 4 * found.se[[0, 1], [3, 7]]).all()
    assert np.count_nonzero(found.weight) <= 3


def test_the_fit_without_a_threshold_is_the_optimum(driven):
    spins, genes, sample = driven
    s, X = spins[:, 0].astype(float), genes.spins.astype(float)
    def loss(w): return module._nuisance(s, X @ w, sample, 8, 0., np.zeros(8))[2]
    other = optimize.minimize(loss, np.zeros(12), method="BFGS", options={"gtol": 1e-3}).x
    np.testing.assert_allclose(fit_regulators(*driven).estimate[0], other, atol=2e-3)


def test_order_of_cells_and_names_of_samples_do_not_matter(driven):
    spins, genes, sample = driven
    order = np.random.default_rng(1).permutation(len(spins))
    shuffled = GeneSpins(genes.spins[order], genes.names, None, genes.table)
    a, b = fit_regulators(spins, genes, sample), fit_regulators(spins[order], shuffled, [f"s{k}" for k in sample[order]])
    np.testing.assert_allclose(a.weight, b.weight, atol=1e-4)
    np.testing.assert_allclose(a.se, b.se, rtol=1e-3)


def test_excluded_genes_are_left_out(driven):
    excluded = np.zeros((2, 12), bool)
    excluded[0, 3] = True
    found = fit_regulators(*driven, excluded=excluded)
    assert np.isnan(found.weight[0, 3]) and np.isnan(found.estimate[0, 3]) and found.weight[1, 7] < -0.4
    assert len(found.to_frame()) == 23


def test_a_program_and_a_gene_that_never_vary(driven):
    spins, genes, sample = driven
    constant, X = spins.copy(), genes.spins.copy()
    constant[:, 1], X[:, 0] = 1, 0
    found = fit_regulators(constant, GeneSpins(X, genes.names, None, genes.table), sample)
    assert (found.weight[1] == 0).all() and np.isnan(found.estimate[1]).all()
    assert found.weight[0, 0] == 0 and np.isfinite(found.weight[0]).all() and found.weight[0, 3] > 0.4
    assert not (found.to_frame().query("regulator == 'g0'")["q"] < 0.05).any()


def test_a_sample_in_which_the_program_is_always_up(driven):
    spins, genes, sample = driven
    spins = spins.copy()
    spins[sample == 0] = 1
    found = fit_regulators(spins, genes, sample)
    assert np.isfinite(found.estimate).all() and abs(found.estimate[0, 3] - 0.8) < 4 * found.se[0, 3] and found.weight[0, 3] > 0


def test_too_few_cells_give_weights_only(caplog):
    logger = logging.getLogger("perturbnb")
    before, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.WARNING, logger="perturbnb"): found = fit_regulators(*plant(n_cells=110))
    finally: logger.propagate = before
    assert "too few for evidence" in caplog.text and np.isnan(found.estimate).all() and found.to_frame()["q"].isna().all()


def test_no_evidence_where_a_gene_tells_the_program_without_fail(driven):
    spins, genes, sample = driven
    same = spins.copy()
    same[:, 0] = genes.spins[:, 5]
    found = fit_regulators(same, genes, sample)
    assert np.isnan(found.estimate[0]).all() and found.weight[0, 5] > 1 and np.isfinite(found.estimate[1]).all()


def test_no_evidence_where_samples_are_small(driven):
    spins, genes, _ = driven
    assert np.isnan(fit_regulators(spins, genes, np.arange(len(spins)) // 10).estimate).all()


@pytest.fixture(scope="module")
def screen(screen, programs):
    "Prepared screen, programs, their spins"
    from perturbnb.levels import discretize
    screen = screen.copy()
    screen.obs["sample_id"] = np.arange(screen.n_obs) % 5
    return screen, programs, discretize(programs.usage)


def test_on_a_screen_own_genes_are_no_candidates(screen):
    adata, programs, spins = screen
    some = list(adata.var_names[:40])
    found = program_regulators(adata, programs, spins, candidates=some)
    own = pd.DataFrame(programs.spectra, columns=programs.genes).reindex(columns=found.genes, fill_value=0).to_numpy() != 0
    assert (np.isnan(found.weight) == own).all() and own.any()
    assert not np.isnan(program_regulators(adata, programs, spins, candidates=some, own_genes=True).weight).any()


def test_refusals(screen, driven):
    adata, programs, spins = screen
    for options, told in [(dict(candidates=["nonsense"]), "candidates must be measured genes, got 'nonsense'"), (dict(candidates="g1"), "candidates must be a list"),
                          (dict(sample_key="batches"), "sample_key must be a column of obs"), (dict(layer="raw"), "layer must name a layer")]:
        with pytest.raises(ValueError, match=told): program_regulators(adata, programs, spins, **options)
    with pytest.raises(ValueError, match="programs must be Programs"): program_regulators(adata, programs.spectra, spins)
    broken = ad.AnnData(np.full(adata.shape, np.nan), obs=adata.obs, var=adata.var)
    with pytest.raises(ValueError, match="must be finite"): program_regulators(broken, programs, spins)
    spins, genes, sample = driven
    for arguments, options, told in [((spins[:5], genes, sample), {}, "genes must have one row per cell"), ((spins, genes, sample[:3]), {}, "sample_id must have one entry per cell"),
                                     ((spins, genes, sample), dict(names=["a"]), "names must have one name per program"),
                                     ((spins, genes, sample), dict(excluded=np.ones((2, 12))), "leave every program a candidate"),
                                     ((spins + 0.5, genes, sample), {}, "spins"), ((spins, genes.spins, sample), {}, "genes must be GeneSpins"),
                                     ((spins, genes, np.where(sample == 0, np.nan, sample)), {}, "sample_id must not be missing"),
                                     ((spins, genes, sample), dict(names=["a", "a"]), "names must have one name")]:
        with pytest.raises(ValueError, match=told): fit_regulators(*arguments, **options)


def test_plot(driven):
    import matplotlib.pyplot as plt
    ax = plot_regulators(fit_regulators(*driven), "P1", n_genes=5)
    assert ax.get_title() == "Regulators of P1" and ax.get_yticklabels()[-1].get_text() == "g3" and len(ax.get_yticklabels()) == 5
    plt.close("all")
