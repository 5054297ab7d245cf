"The command as a user types it: help, mistakes, files, interruption"
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from inspect import signature

import anndata as ad
import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

import perturbnb as pnb
from perturbnb.network import SpinNetwork
from perturbnb.pipeline import STAGES, analyse_screen, compare_with_truth, main, run
from perturbnb.preprocess import prepare_screen
from perturbnb.results import SCHEMA, result_tables
from perturbnb.simulate import simulate_screen

KEYS = ["--guide-key", "guide", "--target-key", "gene", "--control", "control", "--batch-key", "batch"]
OPTIONS = [*KEYS, "--n-programs", "7", "--n-repeats", "3", "--seed", "5"]
FILES = {f"{name}.csv" for name in SCHEMA} | {"schema.json", "screen.h5ad", "responses.h5ad", "targets.h5ad", "program_umap_pos.npy", "figures", "report.ipynb", "report.html", "run.json"}
HIDDEN = {".perturbnb.lock", ".stages"}


def started(*arguments, cwd):
    environment = {**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
    return subprocess.Popen([sys.executable, "-m", "perturbnb", *map(str, arguments)], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command(*arguments, cwd):
    process = started(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def contents(folder):
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a small screen in it"
    folder = tmp_path_factory.mktemp("run")
    screen = simulate_screen(1200, 300, n_programs=6, n_targets=8, guides_per_target=3, n_control_guides=3, seed=1)
    screen.obsm["X_umap"] = np.random.default_rng(0).normal(0, 3, (1200, 2))       # a map of one's own, which saves the time of making one
    screen.write_h5ad(folder / "tiny.h5ad")
    return folder


@pytest.fixture
def told(caplog):
    "Let caplog hear the package's logger whatever its handlers"
    logger = logging.getLogger("perturbnb")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


@pytest.fixture(scope="module")
def finished(place):
    "A run that went well"
    done = command("run", "tiny.h5ad", "--out", "results", *OPTIONS, cwd=place)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def results(place, finished): return place / "results"


@pytest.fixture(scope="module")
def tables(results): return {name: pd.read_csv(results / f"{name}.csv") for name in SCHEMA}


@pytest.fixture(scope="module")
def record(results): return json.loads((results / "run.json").read_text())


# help

def test_help_names_the_command_and_every_option(place):
    top = command("--help", cwd=place)
    assert top.returncode == 0 and "run" in top.stdout and "perturbnb" in top.stdout
    text = command("run", "--help", cwd=place).stdout
    for name, parameter in signature(run).parameters.items():
        assert (f"--{name.replace('_', '-')}" if name != "screen" else "[SCREEN]") in text.replace("[screen]", "[SCREEN]"), name
        words = parameter.annotation.__metadata__[0].help.split()
        assert all(word in text for word in words), name
    assert command("--version", cwd=place).stdout.strip().split()[0] == "perturbnb"


def test_options_bear_the_names_of_the_functions_parameters():
    known = {**signature(prepare_screen).parameters, **signature(analyse_screen).parameters}
    for name, parameter in signature(run).parameters.items():
        if name in ("out", "restart", "dask"): continue
        assert name in known, name
        if name != "screen": assert parameter.default == known[name].default, name


# mistakes

@pytest.fixture(scope="module")
def damaged(place):
    whole = (place / "tiny.h5ad").read_bytes()
    (place / "empty.h5ad").write_bytes(b"")
    (place / "cut.h5ad").write_bytes(whole[:len(whole) // 2])
    (place / "file").write_text("")
    (place / "spaces.gmt").write_text("cycle mine PCNA TOP2A\n")
    log = ad.read_h5ad(place / "tiny.h5ad")
    log.X.data = np.log1p(log.X.data)
    log.write_h5ad(place / "log.h5ad")


MISTAKES = {
    "unknown option": (["tiny.h5ad", "--guidekey", "guide"], "No such option: --guidekey"),
    "missing file": (["nowhere.h5ad", *KEYS], "there is no file 'nowhere.h5ad'"),
    "missing zarr": (["nowhere.zarr", *KEYS], "screen must be an .h5ad file or a .zarr folder, there is no folder 'nowhere.zarr'"),
    "a folder": ([".", *KEYS], "screen must be an .h5ad file, '.' is a folder"),
    "wrong column": (["tiny.h5ad", "--guide-key", "guides", "--control", "control"], "--guide-key='guides' is not a column of obs: did you mean 'guide'?"),
    "number expected": (["tiny.h5ad", *KEYS, "--n-programs", "many"], "'--n-programs': "),
    "no column": (["tiny.h5ad"], "Is it --guide-key='guide'?"),
    "wrong target": (["tiny.h5ad", "--guide-key", "guide", "--target-key", "genes"], "did you mean 'gene'?"),
    "absent control": (["tiny.h5ad", "--guide-key", "guide", "--target-key", "gene", "--control", "contrl"], "--control='contrl' is neither a target nor a guide: did you mean 'control'?"),
    "absent layer": (["tiny.h5ad", *KEYS, "--layer", "counts"], "--layer='counts' is not a layer"),
    "log-normalised": (["log.h5ad", *KEYS], "it looks log-normalised"),
    "empty file": (["empty.h5ad", *KEYS], "'empty.h5ad' is empty"),
    "truncated file": (["cut.h5ad", *KEYS], "may be truncated or damaged"),
    "too many programs": (["tiny.h5ad", *KEYS, "--n-programs", "2000"], "--n-programs must not exceed"),
    "no programs": (["tiny.h5ad", *KEYS, "--n-programs", "0"], "--n-programs must be a whole number of at least 1"),
    "unknown word": (["tiny.h5ad", *KEYS, "--balance", "all"], "--balance must be one of sqrt, equal"),
    "negative seed": (["tiny.h5ad", *KEYS, "--seed", "-1"], "--seed must be a whole number"),
    "negative repulsion": (["tiny.h5ad", *KEYS, "--repulsion", "-4"], "--repulsion must be"),
    "no resolution": (["tiny.h5ad", *KEYS, "--resolution", "0"], "--resolution must be"),
    "a number of given programs": (["tiny.h5ad", *KEYS, "--programs", "tiny.h5ad", "--n-programs", "5"], "--n-programs must be left out when programs are given"),
    "signs of given programs": (["tiny.h5ad", *KEYS, "--programs", "tiny.h5ad", "--signed"], "--signed must be left out when programs are given"),
    "absent programs": (["tiny.h5ad", *KEYS, "--programs", "none.csv"], "programs: there is no file 'none.csv'"),
    "another file for programs": (["tiny.h5ad", *KEYS, "--programs", "tiny.h5ad"], "saved Programs"),
    "absent gene sets": (["tiny.h5ad", *KEYS, "--gene-sets", "none.gmt"], "there is no file 'none.gmt'"),
    "malformed gene sets": (["tiny.h5ad", *KEYS, "--gene-sets", "spaces.gmt"], "line 1 of 'spaces.gmt' must hold a name, a description and genes, separated by tabs"),
    "no overlap": (["tiny.h5ad", *KEYS, "--overlap", "0"], "--overlap must be a whole number of at least 1"),
    "no processes": (["tiny.h5ad", *KEYS, "--n-jobs", "0"], "--n-jobs must be"),
    "a file for a folder": (["tiny.h5ad", *KEYS, "--out", "file"], "--out must be a folder that can be written, got 'file'"),
    "a file for a parent": (["tiny.h5ad", *KEYS, "--out", "file/results"], "out must be a folder that can be written, got 'file/results'"),
    "a system folder": (["tiny.h5ad", *KEYS, "--out", "/proc/results"], "out must be a folder that can be written, got '/proc/results'"),
}
KNOWN_AT_ONCE = {"negative repulsion", "no resolution", "no processes", "unknown word", "negative seed", "no programs", "missing file", "no overlap",
                 "a number of given programs", "signs of given programs", "absent programs", "another file for programs", "absent gene sets", "malformed gene sets"}


def is_one_clear_line(done, message):
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert message in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    if "Usage:" not in done.stderr: assert len([line for line in done.stderr.splitlines() if line.startswith("perturbnb: ")]) == 1 and done.stderr.splitlines()[-1].startswith("perturbnb: ")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(place, damaged, name, monkeypatch, capsys):
    "In this process, but for the entry point's own exit"
    arguments, message = MISTAKES[name]
    if "/proc/results" in arguments and not os.path.isdir("/proc/self"): pytest.skip("no /proc, where nobody may write")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["perturbnb", "run", *arguments, *([] if "--out" in arguments else ["--out", f"out {name}"])])
    with pytest.raises(SystemExit) as stopped: main()
    printed = capsys.readouterr()
    is_one_clear_line(subprocess.CompletedProcess(arguments, stopped.value.code, printed.out, printed.err), message)
    if name in KNOWN_AT_ONCE: assert not printed.err.startswith("max_mito_percent"), "known before any work"
    assert not [path for path in place.glob(f"out {name}/*") if path.name not in HIDDEN] and (place / "file").read_text() == ""


@pytest.mark.parametrize("name", ["unknown option", "missing file", "wrong column"])
def test_a_mistake_on_a_real_command_line(place, damaged, name):
    is_one_clear_line(command("run", *MISTAKES[name][0], "--out", f"out {name}", cwd=place), MISTAKES[name][1])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything may be written by this user")
def test_output_that_cannot_be_written_by_this_user(place):
    (place / "locked").mkdir(mode=0o500)
    is_one_clear_line(command("run", "tiny.h5ad", "--out", "locked", *OPTIONS, cwd=place), "out must be a folder that can be written, got 'locked'")


# results

def test_files(results):
    assert {path.name for path in results.iterdir()} - HIDDEN == FILES
    figures = sorted(path.stem for path in (results / "figures").glob("*.png"))
    assert figures == sorted(path.stem for path in (results / "figures").glob("*.pdf"))
    assert figures == sorted("qc usage_umap top_genes levels network network_diagram network_umap qq responses evidence groups fan".split())
    for path in (results / "figures").glob("*.pdf"): assert path.read_bytes()[:5] == b"%PDF-" and b"/Type3" not in path.read_bytes(), path.name


def test_nothing_but_news_is_said(finished):
    assert finished.stdout == "" and "Done: results/report.html" in finished.stderr
    assert "Warning" not in finished.stderr and "%|" not in finished.stderr and "\r" not in finished.stderr


def test_columns_of_the_tables(tables):
    for name, columns in SCHEMA.items(): assert list(tables[name]) == list(columns), name
    programs, network, responses, modules, groups = (tables[name] for name in ("programs", "network", "responses", "modules", "groups"))
    names, targets = [f"P{k + 1}" for k in range(7)], [f"TF{i:02d}" for i in range(1, 9)]
    assert list(programs["program"].unique()) == names and programs["gene"].is_unique and (programs["weight"] > 0).all()
    for _, table in programs.groupby("program"): assert list(table["rank"]) == list(range(1, len(table) + 1)) and table["weight"].is_monotonic_decreasing
    assert len(network) == 21 and network["z"].abs().is_monotonic_decreasing and (network["regulator"] != network["regulated"]).all()
    assert sorted(modules["program"]) == names and modules["module"].is_monotonic_increasing
    assert sorted(groups["target_gene"]) == targets and groups["group"].is_monotonic_increasing
    assert len(responses) == 8 * 7 and set(responses["n_guides"]) == {3} and set(responses["reference"]) == {"own batch"} and responses.drop(columns="caution").notna().all(axis=None)
    assert (tables["removed"]["removed"] >= 0).all()
    known = tables["annotation"].set_index("program")
    assert list(known.index) == names and known["kept"].all() and known["label"].is_unique and (known["flagged"] == known["reasons"].notna()).all()
    for table in (programs, modules, responses): assert (table["label"] == table["program"].map(known["label"])).all()
    assert (network["regulated_label"] == network["regulated"].map(known["label"])).all() and (tables["gene_sets"]["q"] <= 0.05).all()
    assert list(known["heaviest"].str.split(", ").str[0]) == list(programs.query("rank == 1")["gene"])


def test_h5ad_files_agree_with_the_tables(results, tables):
    screen = ad.read_h5ad(results / "screen.h5ad")
    assert {"sample_id", "guide", "target_gene", "if_control", "batch"} <= set(screen.obs) and {"X_onmf", "spins", "X_umap"} <= set(screen.obsm) and "onmf" in screen.varm and "counts" in screen.layers
    assert screen.obsm["spins"].dtype == np.int8 and screen.obsm["X_umap"].shape == (screen.n_obs, 2) and {"parameters", "versions", "samples", "J", "programs"} <= set(screen.uns["perturbnb"])
    weights = tables["programs"].pivot(index="gene", columns="program", values="weight").reindex(index=screen.var_names, columns=[f"P{k + 1}" for k in range(7)]).fillna(0)
    np.testing.assert_allclose(screen.varm["onmf"], weights, rtol=1e-4, atol=1e-6)
    network, stored = SpinNetwork.load(results / "responses.h5ad"), ad.read_h5ad(results / "responses.h5ad")
    np.testing.assert_allclose(screen.uns["perturbnb"]["J"], network.J)
    pairs = tables["network"].set_index(["regulator", "regulated"])["J"]
    np.testing.assert_allclose(network.to_frame().set_index(["regulator", "regulated"])["J"].loc[pairs.index], pairs, rtol=1e-5)
    own = stored.obs["target_gene"] == "TF01"
    guides = stored[own].to_df(layer="response").groupby(stored.obs["guide"][own], observed=True).first()
    expected = tables["responses"].query("target_gene == 'TF01'").set_index("program")["response"]
    np.testing.assert_allclose(guides.mean()[expected.index], expected, atol=1e-6)
    control = stored.obs["if_control"].to_numpy()
    assert not stored[control].layers["response"].any() and all(np.isnan(stored[control].layers[name]).all() and np.isfinite(stored[~control].layers[name]).all() for name in ("estimate", "se", "q"))
    targets, rows = ad.read_h5ad(results / "targets.h5ad"), tables["targets"]
    assert list(targets.obs_names) == list(rows["target_gene"]) and list(targets.obs) == list(rows)[1:] and not targets.uns["perturbnb"]["approximate"]
    for name in ("response", "estimate", "se", "p", "q", "total_effect", "total_se", "total_q"):
        wide = tables["responses"].pivot(index="target_gene", columns="program", values=name).loc[targets.obs_names, targets.var_names]
        np.testing.assert_allclose(targets.layers[name], wide, rtol=1e-4, atol=1e-6, err_msg=name)
    assert np.load(results / "program_umap_pos.npy").shape == (7, 2)


def test_account_of_the_run(record, place):
    assert {"format_version", "started", "seed", "parameters", "versions", "summary", "converged", "fit", "stages", "warnings"} <= set(record)
    assert record["seed"] == 5 and record["converged"] is True and record["parameters"]["guide_key"] == "guide" and record["parameters"]["n_programs"] == 7
    assert set(signature(run).parameters) <= set(record["parameters"])
    assert [stage["stage"] for stage in record["stages"]] == ["prepare", *STAGES, "figures", "tables", "report"]
    assert all(stage["seconds"] >= 0 and 50 < stage["peak_memory_mb"] < 2000 for stage in record["stages"])
    assert {"perturbnb", "numpy", "scanpy", "anndata", "python"} <= set(record["versions"]) and isinstance(record["warnings"], list)


class Links(HTMLParser):
    "Addresses that a browser would fetch"
    def __init__(self):
        super().__init__()
        self.fetched, self.files, self.images = [], [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "img": self.images += 1
        if tag == "a" and re.fullmatch(r"[\w.]+", given.get("href", "")): self.files.append(given["href"])
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address and not address.startswith("data:"): self.fetched.append(address)


def test_report_is_complete_in_itself(results, tables):
    html = (results / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    assert not links.fetched and links.images == len(list((results / "figures").glob("*.png"))) - 1 and not re.search(r"@import|url\(\s*['\"]?https?:", html), "all but the levels"
    text = re.sub(r"<[^>]+>", "", re.sub(r"<style.*?</style>", "", html, flags=re.S))
    found = tables["responses"].query("q < 0.05").sort_values("p")
    if len(found): assert f"{found.target_gene.iloc[0]} {'raises' if found.estimate.iloc[0] > 0 else 'lowers'} {found.program.iloc[0]}" in text
    else: assert "No single response stands out" in text
    assert f"{(tables['targets']['q'] < 0.05).sum()} of 8 targets act" in text and "pseudo-targets" in text and "no p-values" not in text
    assert all((results / name).is_file() for name in links.files) and {f"{name}.csv" for name in SCHEMA} <= set(links.files)
    assert str(results.parent) not in html and "Traceback" not in text and "Warning" not in text
    notebook = nbformat.read(results / "report.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


# evidence

def test_schema_is_that_of_the_run(results):
    written = json.loads((results / "schema.json").read_text())
    assert written == SCHEMA and all(meaning for columns in written.values() for meaning in columns.values())


def test_evidence_is_consistent(tables):
    responses, targets, network = (tables[name] for name in ("responses", "targets", "network"))
    np.testing.assert_allclose(responses["t"], responses["estimate"] / responses["se"], rtol=1e-4)
    np.testing.assert_allclose(network["z"], network["estimate"] / network["se"], rtol=1e-4)
    for table, columns in ((responses, ("", "total_")), (targets, ("", "total_", "energy_")), (network, ("",))):
        for prefix in columns: np.testing.assert_allclose(table[f"{prefix}q"], false_discovery_control(table[f"{prefix}p"]), rtol=1e-4)
    assert list(targets["target_gene"]) == list(responses["target_gene"].unique()) and (targets["df1"] == 7).all()
    guides, modules, groups = (tables[name] for name in ("guides", "modules", "groups"))
    assert guides["guide"].is_unique and len(guides) == 24 and set(guides["verdict"]) <= {"works", "no effect", "disagrees", "unclear"} and guides["escaped_share"].dropna().between(0, 1).all()
    for table in (modules, groups): assert table["stability"].between(0, 1).all()
    own = guides.groupby("target_gene")["log2_fold_change"].mean()
    np.testing.assert_allclose(targets.set_index("target_gene")["log2_fold_change"], own.loc[targets["target_gene"]], rtol=1e-4)


def test_inert_targets_form_a_declared_group(prepared, usual):
    found, tables = evidence_of(prepared, usual.programs, null_rounds=0, declare_inert=True)
    inert = tables["targets"].set_index("target_gene")["q"] >= 0.05
    groups = tables["groups"].set_index("target_gene").loc[inert.index]
    assert found.groups.declared == inert.any() and (not inert.any() or ((groups["group"] == 0) == inert).all())
    assert groups["stability"][inert].isna().all() and groups["stability"][~inert].notna().all()


# what may be done with programs, in this process

@pytest.fixture(scope="module")
def prepared(place): return prepare_screen(place / "tiny.h5ad", guide_key="guide", target_key="gene", control="control", batch_key="batch")


def few(screen, until="response", **options): return analyse_screen(screen, until=until, n_programs=6, n_repeats=2, **options)


@pytest.fixture(scope="module")
def usual(prepared): return few(prepared)


def with_depth(screen, programs, k, noise=0.1):
    "The screen as if the cells' totals followed a program"
    changed = screen.copy()
    changed.obs["total_counts"] = programs.usage[:, k] + noise * np.random.default_rng(0).random(screen.n_obs)
    return changed


def test_flagged_programs_are_told_and_kept(prepared, usual, told):
    changed = with_depth(prepared, usual.programs, 2)
    found = few(changed)
    assert found.programs.names == usual.programs.names and found.annotation["kept"].all()
    flagged = found.annotation.set_index("program")["flagged"]
    assert flagged["P3"] and "P3 with depth (ρ = " in told.text and "were kept (drop_technical leaves them out)" in told.text
    np.testing.assert_array_equal(found.network.J, usual.network.J)


def test_flagged_programs_are_left_out_on_request(prepared, usual, told):
    changed = with_depth(prepared, usual.programs, 2)
    found = few(changed, drop_technical=True)
    known = found.annotation.set_index("program")
    assert found.programs.names == list(known.index[~known["flagged"]]) == found.network.names == found.targets.names and "P3" not in found.programs.names
    assert list(known.index) == usual.programs.names and (known["kept"] == ~known["flagged"]).all() and "left out (drop_technical)" in told.text
    assert found.spins.shape == (prepared.n_obs, len(found.programs.names)) and found.labels == list(known.loc[found.programs.names, "label"])
    with pytest.raises(ValueError, match="drop_technical would leave no program"):
        analyse_screen(with_depth(prepared, analyse_screen(prepared, until="programs", n_programs=1, n_repeats=1).programs, 0), n_programs=1, n_repeats=1, until="programs", drop_technical=True)


def test_names_of_the_users_gene_sets(prepared, usual, tmp_path):
    own = usual.programs.to_frame().query("program == 'P4'")["gene"]
    (tmp_path / "mine.gmt").write_text("\t".join(["mine", "", *own]) + "\n")
    by_path, by_dict = (few(prepared, gene_sets=sets) for sets in (tmp_path / "mine.gmt", {"mine": list(own)}))
    pd.testing.assert_frame_equal(by_path.annotation, by_dict.annotation)
    known = by_path.annotation.set_index("program")
    assert known.loc["P4", ["label", "gene_set"]].tolist() == ["mine", "mine"] and known.loc["P4", "share"] == pytest.approx(1) and by_path.programs.names == usual.programs.names
    renamed = few(prepared, gene_sets={"mine": list(own)}, name_programs=True)
    assert renamed.programs.names == renamed.network.names == list(known["label"]) == list(renamed.annotation["program"]) == renamed.labels
    assert set(renamed.gene_sets["program"]) <= set(renamed.programs.names)
    np.testing.assert_array_equal(renamed.network.J, usual.network.J)
    with pytest.raises(ValueError, match="gene_sets must be a dict"): few(prepared, gene_sets={})


def test_programs_from_elsewhere(prepared, usual, tmp_path):
    usual.programs.save(tmp_path / "programs.h5ad")
    pd.DataFrame(usual.programs.spectra, usual.programs.names, usual.programs.genes).to_csv(tmp_path / "weights.csv")
    for given in (usual.programs, tmp_path / "programs.h5ad", str(tmp_path / "weights.csv")):
        again = analyse_screen(prepared, until="network", programs=given)
        assert (again.spins == usual.spins).mean() > 0.999 and again.choice is None
        np.testing.assert_allclose(again.network.J, usual.network.J, atol=0.01)
    for option in (dict(n_programs=6), dict(signed=True), dict(overlap=2)):
        with pytest.raises(ValueError, match="must be left out when programs are given"): analyse_screen(prepared, programs=usual.programs, **option)


def test_a_truth_of_another_kind_is_refused(usual):
    "A screen may bring an uns['truth'] of its own, or targets that were never planted"
    planted = usual.screen.uns["truth"]
    for truth, message in (({"source": "lab book"}, "of that kind"), ("true", "of that kind"), ({**planted, "response": planted["response"].iloc[:0]}, "targets that were planted")):
        other = replace(usual, screen=usual.screen.copy())
        other.screen.uns["truth"] = truth
        with pytest.raises(ValueError, match=message): compare_with_truth(other)


def test_options_reach_the_programs(prepared, usual, monkeypatch):
    signed, shared, thick = few(prepared, signed=True), few(prepared, overlap=2), few(prepared, min_cell_fraction=0.5, balance="none")
    assert (signed.programs.usage < 0).any() and signed.network.converged and set(np.unique(signed.spins)) == {-1, 0, 1}
    assert (shared.programs.spectra != 0).sum(0).max() == 2 and shared.network.converged
    assert len(thick.programs.genes) < len(usual.programs.genes) and thick.programs.parameters["balance"] == "none"
    for found in (usual, signed, shared): assert compare_with_truth(found)["programs_adjusted_rand"] > 0.8
    monkeypatch.setattr(pnb, "choose_n_programs", partial(pnb.choose_n_programs, candidates=[5, 6], n_repeats=1))
    chosen = analyse_screen(prepared, until="programs", signed=True, n_repeats=1)
    assert chosen.choice.best == len(chosen.annotation) and chosen.programs.parameters["signed"]


# what cannot be known

def without(screen, left_out):
    "The screen without some cells, prepared anew"
    obs = screen.obs[["guide", "target_gene", "batch"]]
    cells = ad.AnnData(screen.layers["counts"], obs, screen.var[[]], obsm={"X_umap": screen.obsm["X_umap"]})[~left_out].copy()
    return prepare_screen(cells, guide_key="guide", target_key="target_gene", control="control", batch_key="batch")


def evidence_of(screen, programs, **options):
    found = analyse_screen(screen, until="clustering", programs=programs, **options)
    return found, result_tables(found)


def test_no_null_on_request_and_with_too_few_controls(prepared, usual):
    assert evidence_of(prepared, usual.programs, null_rounds=0)[0].null is None
    control = prepared.obs["if_control"].to_numpy()
    few_controls, tables = evidence_of(without(prepared, control & (np.cumsum(control) > 12)), usual.programs)
    assert few_controls.null is None and tables["targets"]["calibrated_p"].isna().all() and tables["targets"]["q"].notna().all()


def test_one_guide_is_marked(prepared, usual):
    guide, target = prepared.obs["guide"].astype(str), prepared.obs["target_gene"].astype(str)
    found, tables = evidence_of(without(prepared, ((target == "TF01") & (guide != "TF01_g1")).to_numpy()), usual.programs, null_rounds=0)
    for name in ("responses", "targets"):
        table = tables[name].set_index("target_gene")
        assert table.loc[["TF01"], "caution"].str.contains("one guide").all() and not table.drop("TF01")["caution"].str.contains("one guide").any() and table["q"].notna().all()
    assert tables["responses"].set_index("target_gene").loc["TF01", ["Q_p", "I2"]].isna().all(axis=None)


# again, with other processes, and after a kill

@pytest.fixture(scope="module")
def killed(place, results):
    "A copy of the results, over which a run was killed while it wrote"
    shutil.copytree(results, place / "again")
    before = contents(place / "again")
    process = started("run", "tiny.h5ad", "--out", "again", *OPTIONS, "--n-jobs", "2", "--restart", cwd=place)
    for _ in range(3000):
        if list((place / "again").glob(".partial-*/figures/*.pdf")) or process.poll() is not None: break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode, before, contents(place / "again")


@pytest.fixture(scope="module")
def rerun(place, killed): return command("run", "tiny.h5ad", "--out", "again", *OPTIONS, "--n-jobs", "2", cwd=place)


def test_a_kill_leaves_the_old_results_whole(killed):
    returncode, before, after = killed
    assert returncode == -signal.SIGKILL and any(name.startswith(".partial") for name in after)
    assert {name: at for name, at in after.items() if not name.startswith(".")} == {name: at for name, at in before.items() if not name.startswith(".")}


def test_the_next_run_works_and_cleans_up(place, killed, rerun):
    assert rerun.returncode == 0, rerun.stderr
    assert {path.name for path in (place / "again").iterdir()} - HIDDEN == FILES
    new, old = contents(place / "again"), killed[1]
    assert all(new[name][0] > old[name][0] for name in new if not name.startswith("."))


def test_same_seed_same_results_whatever_the_processes(place, tables, rerun):
    for name, table in tables.items():
        again = pd.read_csv(place / "again" / f"{name}.csv")
        assert list(again) == list(table) and len(again) == len(table)
        for column in table:
            if table[column].dtype.kind == "f": np.testing.assert_allclose(again[column], table[column], rtol=1e-5, atol=1e-7, err_msg=f"{name}: {column}")
            else: assert list(again[column]) == list(table[column]), (name, column)
    one, other = ad.read_h5ad(place / "results" / "screen.h5ad"), ad.read_h5ad(place / "again" / "screen.h5ad")
    np.testing.assert_array_equal(one.obsm["spins"], other.obsm["spins"])


def test_two_runs_into_one_folder(place, rerun):
    "The second is refused while the first works, which goes on undisturbed until it is stopped"
    first = started("run", "tiny.h5ad", "--out", "shared", *OPTIONS, cwd=place)
    for _ in range(3000):
        if list((place / "shared").glob(".partial-*")) or first.poll() is not None: break
        time.sleep(0.02)
    try:
        is_one_clear_line(command("run", "tiny.h5ad", "--out", "shared", *OPTIONS, cwd=place), "out must not be in use by another run")
        assert list((place / "shared").glob(".partial-*"))
    finally:
        for _ in range(60):             # an import may swallow a Ctrl-C; one presses it again
            if first.poll() is not None: break
            first.send_signal(signal.SIGINT)
            time.sleep(1)
        first.communicate(timeout=60)
    assert first.returncode != 0
    assert {path.name for path in (place / "shared").iterdir()} <= HIDDEN


def test_genes_of_no_known_set():
    "Programs of genes that no built-in gene set knows are analysed like others, without names"
    unknown = pnb.prepare_screen(pnb.simulate_screen(400, 250, n_programs=4, n_targets=4, seed=0), guide_key="guide", target_key="gene", control="control", min_genes=20)
    unknown.var_names = [f"unknown{i}" for i in range(unknown.n_vars)]
    analysis = pnb.analyse_screen(unknown, until="programs", n_programs=4, n_repeats=1)
    assert analysis.gene_sets.empty and len(analysis.labels) == 4
