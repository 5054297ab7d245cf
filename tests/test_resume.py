"Results are replaced as a whole, whatever happens; and what a run finished, the next need not do again"
import dataclasses
import errno
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbnb as pnb
from perturbnb import pipeline, results, stages
from perturbnb.pipeline import _CHAIN, Analysis, _prepared, analyse_screen, main, run
from perturbnb.results import SCHEMA, _finish_swap, _locked, _staging
from perturbnb.stages import Stages, _digest, _packed, _read_value, _write_value

# putting results in place

FIRST, SECOND = ("figures/a.png", "figures/b.png", "one.csv", "two.csv", "run.json"), ("figures/a.png", "figures/c.png", "one.csv", "two.csv", "run.json")


def written(out, word, names):
    with _staging(out) as part:
        (part / "figures").mkdir()
        for name in names: (part / name).write_text(word)


def visible(out):
    "Text of each file that is not hidden"
    return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(out)}"}


@pytest.fixture
def told(caplog):
    "Let caplog hear the package's logger whatever its handlers"
    before, stages.logger.propagate = stages.logger.propagate, True
    yield caplog
    stages.logger.propagate = before


def taken_up(out):
    with _locked(out): _finish_swap(out)
    return visible(out)


@pytest.fixture
def out(tmp_path):
    written(tmp_path / "results", "first", FIRST)
    return tmp_path / "results"


class Failing:
    "A function that fails the k-th time it is called"
    def __init__(self, real, k): self.real, self.left = real, k

    def __call__(self, *args, **options):
        self.left -= 1
        if self.left == -1: raise OSError(errno.EIO, "Input/output error")
        return self.real(*args, **options)


@pytest.mark.parametrize("call, steps", {"replace": 6, "unlink": 3, "fsync": 12}.items())
def test_a_fault_at_any_step_of_the_swap(out, monkeypatch, call, steps):
    "Looked at before and after the next run, until it is past the last step"
    first, second, done, k = dict.fromkeys(FIRST, "first"), dict.fromkeys(SECOND, "second"), False, -1
    while not done:
        k += 1
        shutil.rmtree(out)
        written(out, "first", FIRST)
        with monkeypatch.context() as patch:
            try:
                with _staging(out) as part:
                    (part / "figures").mkdir()
                    for name in SECOND: (part / name).write_text("second")
                    patch.setattr(os, call, Failing(getattr(os, call), k))
                done = True
            except ValueError as error:
                assert "out must have room and stay writable" in str(error) and "Input/output error" in str(error)
        now = visible(out)
        assert {"figures/a.png", "one.csv", "two.csv"} <= set(now), "old or new, but there"
        assert now in (first, second) or "run.json" not in now, "it vouches for the rest"
        assert taken_up(out) in (first, second)
    assert k >= steps, "so many steps there are at least"


def test_what_a_kill_left_behind_goes(out):
    for name in (".partial-1", ".partial"): (out / name / "figures").mkdir(parents=True)
    (out / "..swap.json.part").write_text("")
    (out / f".01234567.part.{results._JOURNAL}").write_text("{")
    (out / "mine.txt").write_text("mine")
    written(out, "second", SECOND)
    assert visible(out) == dict.fromkeys(SECOND, "second") | {"mine.txt": "mine"}
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == {".perturbnb.lock", "..swap.json.part"}


def test_what_stands_in_the_way_is_replaced(out):
    shutil.rmtree(out / "figures")
    (out / "figures").write_text("a file")
    (out / "one.csv").unlink()
    (out / "one.csv").mkdir()
    written(out, "second", SECOND)
    assert visible(out) == dict.fromkeys(SECOND, "second")


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda out: out.rename(out.with_name("moved"))], ids=["removed", "moved"])
def test_the_folder_goes_in_the_middle(out, gone):
    "Also where another run has made it anew"
    with pytest.raises(ValueError, match="out must stay where it is while a run works"), _staging(out) as part:
        gone(out)
        written(out, "other", FIRST)
        (part / "run.json").write_text("mine")
    assert visible(out) == dict.fromkeys(FIRST, "other")


def test_errors_that_are_not_the_folders_stay_as_they_are(out):
    with pytest.raises(KeyError), _staging(out): raise KeyError("not mine")
    assert visible(out) == dict.fromkeys(FIRST, "first")


# a result as a file

KEYS = dict(guide_key="guide", target_key="gene", control="control", batch_key="batch")
SMALL = dict(n_programs=5, n_repeats=2, null_rounds=1)
PARTS = [part.__name__[1:] for parts in _CHAIN.values() for part in parts]


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    "A file with a small screen"
    path = tmp_path_factory.mktemp("counts") / "small.h5ad"
    screen = pnb.simulate_screen(800, 200, n_programs=4, n_targets=16, guides_per_target=2, n_control_guides=5, seed=2)
    screen.obsm["X_umap"] = np.random.default_rng(0).normal(0, 3, (800, 2))
    screen.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def analysis(counts):
    choice = pnb.ProgramChoice(pd.DataFrame({"n_programs": [4, 5], "error": [0.2, np.nan]}), 5, "given")
    return dataclasses.replace(analyse_screen(pnb.prepare_screen(counts, **KEYS), **SMALL), choice=choice)


def same(one, other):
    "Equal to the last bit, and of the same kind all the way down"
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for f in dataclasses.fields(one): same(getattr(one, f.name), getattr(other, f.name))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one: same(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other): same(a, b)
    elif isinstance(one, pd.DataFrame): pd.testing.assert_frame_equal(one, other, check_exact=True, check_column_type=True, check_index_type=True, check_freq=True)
    elif isinstance(one, pd.Series): pd.testing.assert_series_equal(one, other, check_exact=True, check_index_type=True)
    elif isinstance(one, pd.Index): pd.testing.assert_index_equal(one, other, exact=True)
    elif sparse.issparse(one):
        for name in ("data", "indices", "indptr"): same(getattr(one, name), getattr(other, name))
        assert one.shape == other.shape
    elif isinstance(one, (np.ndarray, np.generic)):
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype.hasobject: same(one.ravel().tolist(), other.ravel().tolist())
        else: assert one.tobytes() == other.tobytes()
    else: assert one is other or one == other or one != one and other != other


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Analysis) if f.name != "screen"])
def test_every_result_comes_back_as_it_was(analysis, tmp_path, name):
    value = getattr(analysis, name)
    assert value is not None, "something is there to be compared"
    same(_read_value(tmp_path / _write_value(value, tmp_path)), value)


WITH_GAPS = pd.DataFrame({"text": ["a", None, np.nan], "kind": pd.Categorical(["x", None, "y"], ["y", "x", "z"], ordered=True), "whole": pd.array([1, None, 3], "Int64"),
                          "flag": pd.array([True, None, False], "boolean"), "number": [1.5, np.inf, np.nan], "small": np.int8([1, 2, 3])}, index=pd.Index(["ä", "b", "b"], name="row"))
ODD = {"nothing": None, "flag": True, "whole": 2**70, "float": 0.1 + 0.2, "nan": np.nan, "minus zero": -0.0, "text": "naïve\n\x00", "tuple": (1, ("a", None), []), "dict": {1: {"a": (2,)}, "b": None},
       "scalars": [np.float32(0.1), np.int8(-3), np.bool_(True), np.str_("x")], "empty": np.empty((0, 3)), "single": np.array(3.), "columns first": np.asfortranarray(np.eye(3)[:2]),
       "strided": np.arange(10)[::3], "words": np.array(["a", "bc"]), "objects": np.array([["a", None], [1, np.nan]], object), "times": np.array(["2026-01-01"], "datetime64[D]"),
       "frame": WITH_GAPS,
       "no columns": WITH_GAPS[[]], "no rows": WITH_GAPS[:0], "twice": WITH_GAPS[["number", "number"]], "series": WITH_GAPS["kind"].rename(None),
       "range": pd.RangeIndex(2, 9, 3, name="at"),
       "numbers": pd.Index([1.5, 2.5]), "columns with a name": pd.DataFrame(np.eye(2), columns=pd.Index([3, 4], name="c")),
       "csr": sparse.csr_matrix(np.eye(3, dtype=np.float32)), "csc": sparse.csc_array(np.eye(3))}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_come_back_as_they_were(tmp_path, name):
    file = _write_value(ODD[name], tmp_path)
    same(_read_value(tmp_path / file), ODD[name])
    assert _write_value(_read_value(tmp_path / file), tmp_path) == file


@pytest.mark.parametrize("value", [{1, 2}, print, object(), pd.MultiIndex.from_tuples([(1, 2)]), sparse.coo_matrix(np.eye(2)), np.array([print], object)], ids=str)
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(TypeError, match="cannot be kept"): _packed(value, [])


def test_no_two_values_have_one_name():
    values = [*ODD.values(), 1, 1., "1", [1], (1,), {"a": 1}, np.array([1]), np.array([1.]), np.array([[1]]), np.array(["1"]), pd.Series([1]), pd.Series([1], name="a"), pd.Index([1])]
    assert len({_digest(_packed(value, arrays := []), arrays) for value in values}) == len(values)


def test_a_file_cannot_name_other_code(tmp_path):
    told = {"is": "class", "name": "Popen", "fields": {"is": "dict", "of": [["args", "true"]]}}
    path = tmp_path / f"{_digest(told, [])}.npz"
    np.savez(path, told=np.frombuffer(json.dumps(told).encode(), np.uint8))
    with pytest.raises(KeyError, match="Popen"): _read_value(path)


# what is computed again

def computed(folder, counts, preparing=None, restart=False, versions=None, **changed):
    "Parts that were not at hand, and the analysis"
    store = Stages(folder, versions or {"perturbnb": "1"}, restart)
    found = analyse_screen(_prepared(counts, KEYS | (preparing or {}), 0, store), stages=store, **(SMALL | changed))
    return [part for part in ("prepare", *PARTS) if part not in store.kept], found


@pytest.fixture(scope="module")
def store(counts, tmp_path_factory):
    "A folder in which all stages of a run are kept"
    folder = tmp_path_factory.mktemp("store") / ".stages"
    parts, found = computed(folder, counts)
    assert parts == ["prepare", *PARTS]
    return folder, found


AFTER_PROGRAMS = ["network", "response", "evidence", "clustering", "positions"]
CHANGES = {
    "nothing": ({}, []),
    "n_jobs": (dict(n_jobs=2), []),
    "repulsion": (dict(repulsion=1.), ["positions"]),
    "resolution": (dict(resolution=3.), ["clustering"]),
    "group_resolution": (dict(group_resolution=3.), ["clustering"]),
    "declare_inert": (dict(declare_inert=True), ["clustering"]),
    "null_rounds": (dict(null_rounds=2), ["evidence"]),
    "gene_sets": (dict(gene_sets={"mine": ["G0001", "G0002", "G0003"]}), ["programs"]),
    "name_programs": (dict(name_programs=True), ["programs", *AFTER_PROGRAMS]),
    "balance": (dict(balance="none"), ["search", "programs", *AFTER_PROGRAMS]),
    "n_programs": (dict(n_programs=4), ["search", "programs", *AFTER_PROGRAMS]),
    "signed": (dict(signed=True), ["search", "programs", *AFTER_PROGRAMS]),
    "max_mito_percent": (dict(preparing={"max_mito_percent": 19.99}), ["prepare", *PARTS[:-1]]),
    "batch_key": (dict(preparing={"batch_key": None}), ["prepare", *PARTS[:-1]]),
    "versions": (dict(versions={"perturbnb": "2"}), ["prepare", *PARTS]),
    "restart": (dict(restart=True), ["prepare", *PARTS]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_costs(store, counts, tmp_path, name):
    change, expected = CHANGES[name]
    shutil.copytree(store[0], tmp_path / "store")
    parts, found = computed(tmp_path / "store", counts, **change)
    assert parts == expected
    if name in ("nothing", "n_jobs", "restart"):
        for f in dataclasses.fields(Analysis):
            if f.name not in ("screen", "network", "choice"): same(getattr(found, f.name), getattr(store[1], f.name))


def test_files_count_by_their_content(store, counts, tmp_path):
    "Renamed or touched nothing is computed, with one more count everything"
    shutil.copytree(store[0], tmp_path / "store")
    shutil.copy(counts, tmp_path / "renamed.h5ad")
    assert computed(tmp_path / "store", tmp_path / "renamed.h5ad")[0] == []
    sets = tmp_path / "mine.gmt"
    sets.write_text("mine\t\tG0001\tG0002\tG0003\n")
    assert computed(tmp_path / "store", counts, gene_sets=str(sets))[0] == ["programs"]
    sets.touch()
    assert computed(tmp_path / "store", counts, gene_sets=sets)[0] == []
    sets.write_text("mine\t\tG0001\tG0002\tG0004\n")
    assert computed(tmp_path / "store", counts, gene_sets=sets)[0] == ["programs"]
    changed = ad.read_h5ad(counts)
    changed.X.data[0] += 1
    changed.write_h5ad(tmp_path / "renamed.h5ad")
    assert computed(tmp_path / "store", tmp_path / "renamed.h5ad")[0][:2] == ["prepare", "search"]


def test_damage_is_noticed_and_mended(store, counts, tmp_path):
    shutil.copytree(store[0], tmp_path / "store")
    record = json.loads(next((tmp_path / "store").glob("network-*.json")).read_text())
    path = tmp_path / "store" / record["results"]["network"]
    path.write_bytes(path.read_bytes()[:-1000])
    assert "network" in computed(tmp_path / "store", counts)[0]
    next((tmp_path / "store").glob("prepare-*.h5ad")).write_bytes(b"")
    assert computed(tmp_path / "store", counts)[0][0] == "prepare"
    assert computed(tmp_path / "store", counts)[0] == []


def test_stages_must_know_the_screen(analysis, tmp_path):
    with pytest.raises(ValueError, match="stages must have prepared the screen"): analyse_screen(analysis.screen, stages=Stages(tmp_path, {}), **SMALL)


def test_warnings_are_kept_with_the_stage(tmp_path):
    def warns():
        stages.logger.warning("beware")
        return {"value": 1}
    for _ in range(2):
        store = Stages(tmp_path, {})
        with stages._heard() as heard: assert store.through("stage", warns) == {"value": 1}
        assert heard == ["beware"]
    assert store.kept == ["stage"]


# the command, killed in each stage

KILLED = """
import os, signal, sys
from pathlib import Path
import scanpy
from perturbnb import pipeline

def figures(analysis, folder):
    folder.mkdir()
    (folder / "one.png").write_text("a figure")
    return [("one", "One.", 100)]
def report(title, tables, record, figures, folder): (folder / "report.html").write_text(title + str(len(figures)))
pipeline._draw_figures, pipeline._write_report = figures, report

begun, real = [], {name: getattr(pipeline, name) for name in ("_draw_figures", "_write_tables", "_write_report")} | {"prepare_screen": pipeline.pnb.prepare_screen}
real |= {part.__name__: part for parts in pipeline._CHAIN.values() for part in parts}
def watched(name, kill):
    from functools import wraps
    @wraps(real[name])
    def stage(*args, **options):
        begun.append(name)
        if name == kill: os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*args, **options)
    return stage
def once(kill, log, out, **options):
    "A run in a process of its own, killed in a stage; what was begun is noted"
    if os.fork(): return os.wait()[1]
    class Noted(list):
        def append(self, name):
            with open(log, "a") as file: file.write(name + " ")
    globals()["begun"] = Noted()
    pipeline._CHAIN = {stage: [watched(part.__name__, kill) for part in parts] for stage, parts in pipeline._CHAIN.items()}
    for name in ("_draw_figures", "_write_tables", "_write_report"): setattr(pipeline, name, watched(name, kill))
    pipeline.pnb.prepare_screen = watched("prepare_screen", kill)
    pipeline.run(Path(sys.argv[1]), Path(out), guide_key="guide", target_key="gene", control="control", batch_key="batch", n_programs=5, n_repeats=2, null_rounds=1, **options)
    os._exit(0)
order = ["prepare_screen", *[part.__name__ for parts in pipeline._CHAIN.values() for part in parts], "_draw_figures", "_write_tables", "_write_report"]
print(once(None, "whole.log", "whole"))
for name in order: print(once(name, f"{name}.log", "killed"))
print(once(None, "last.log", "killed"))
os.rename("killed", "last")
import shutil
shutil.copytree("last", "restart")
print(once(None, "restart.log", "restart", restart=True))
"""
ORDER = ["prepare_screen", *[f"_{part}" for part in PARTS], "_draw_figures", "_write_tables", "_write_report"]


@pytest.fixture(scope="module")
def killed(counts, tmp_path_factory):
    "A folder with an undisturbed run, one that was killed in each stage in turn and then left in peace, and what each began"
    folder = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(counts)], cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [int(status) for status in done.stdout.split()] == [0, *[int(signal.SIGKILL)] * len(ORDER), 0, 0], done.stderr
    return folder


@pytest.mark.parametrize("at", range(len(ORDER)), ids=ORDER)
def test_finished_stages_are_not_computed_again(killed, at):
    "The run that is killed in a stage begins with the one in which the run before was killed, and finds all others"
    assert (killed / f"{ORDER[at]}.log").read_text().split() == ORDER[max(at - 1, 0):at + 1]


def test_whole_and_last_and_restarted_runs(killed):
    begun = {name: (killed / f"{name}.log").read_text().split() for name in ("whole", "last", "restart")}
    assert begun == {"whole": ORDER, "last": ["_write_report"], "restart": ORDER}


@pytest.mark.parametrize("name", ["last", "restart"])
def test_results_are_those_of_an_undisturbed_run(killed, name):
    whole, other = killed / "whole", killed / name
    files = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(whole)}")
    assert files == sorted(path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(other)}")
    assert {f"{table}.csv" for table in SCHEMA} < set(files)
    for file in files:
        if not file.endswith((".h5ad", "run.json")): assert (whole / file).read_bytes() == (other / file).read_bytes(), file
    for file in ("screen.h5ad", "responses.h5ad", "targets.h5ad"):
        one, two = ad.read_h5ad(whole / file), ad.read_h5ad(other / file)
        pd.testing.assert_frame_equal(one.obs, two.obs, check_exact=True)
        same(one.X, two.X)
        for holder in ("layers", "obsm", "varm", "varp"):
            assert list(getattr(one, holder)) == list(getattr(two, holder))
            for key, value in getattr(one, holder).items(): same(value, getattr(two, holder)[key])


def test_the_account_tells_what_was_kept(killed):
    records = {name: json.loads((killed / name / "run.json").read_text()) for name in ("whole", "last", "restart")}
    kept = {name: [stage["stage"] for stage in record["stages"] if stage["kept"]] for name, record in records.items()}
    everything = ["prepare", *pipeline.STAGES, "figures", "tables"]
    assert kept == {"whole": [], "last": everything, "restart": []} and [stage["stage"] for stage in records["whole"]["stages"]] == [*everything, "report"]
    for name in ("last", "restart"):
        changing = {"started", "stages", "parameters"}
        assert {key: value for key, value in records[name].items() if key not in changing} == {key: value for key, value in records["whole"].items() if key not in changing}
    assert records["whole"]["warnings"], "there is something to be said again"


def test_what_is_not_needed_goes(killed):
    for name in ("whole", "last", "restart"):
        store = killed / name / ".stages"
        records = {path.name.rsplit("-", 1)[0]: json.loads(path.read_text()) for path in store.glob("*.json")}
        assert sorted(records) == sorted(["prepare", *PARTS, "figures", "tables"])
        needed = {file for record in records.values() for file in record["results"].values()}
        assert {path.name for path in store.iterdir() if path.suffix in (".npz", ".h5ad")} == needed
        assert not [path for path in store.iterdir() if path.name.startswith(".")]
        assert os.stat(store.parent / "screen.h5ad").st_nlink == 2, "kept and shown, but there once"


# faults of the command

@pytest.fixture
def ready(counts, killed, tmp_path, monkeypatch):
    "A folder of results, the same input, and a command with quick figures and report"
    shutil.copytree(killed / "whole", tmp_path / "out")
    shutil.copy(counts, tmp_path / "small.h5ad")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "_draw_figures", lambda analysis, folder: folder.mkdir())
    monkeypatch.setattr(pipeline, "_write_report", lambda *given: None)
    monkeypatch.setattr(pipeline.atexit, "register", lambda *given: None)       # this process shall not end as the command would
    arguments = ["--guide-key", "guide", "--target-key", "gene", "--control", "control", "--batch-key", "batch", "--n-programs", "5", "--n-repeats", "2", "--null-rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["perturbnb", "run", "small.h5ad", "--out", "out", *arguments])
    return tmp_path / "out"


def last_line(capsys):
    with pytest.raises(SystemExit) as stopped: main()
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


def bytes_of(out): return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(out)}"}


def then(before, happens):
    "A function after which something happens"
    def both(*args, **options):
        value = before(*args, **options)
        happens()
        return value
    return both


@pytest.mark.parametrize("at", ["prepare", "report"])
@pytest.mark.parametrize("change", ["changed", "removed"])
def test_input_that_changes_is_refused(ready, monkeypatch, capsys, at, change):
    def happens():
        if change == "removed": return os.remove("small.h5ad")
        with open("small.h5ad", "ab") as file: file.write(b"more")
    before, store = bytes_of(ready), ready / ".stages"
    if at == "prepare":
        shutil.rmtree(store)
        monkeypatch.setattr(pipeline.pnb, "prepare_screen", then(pnb.prepare_screen, happens))
    else: monkeypatch.setattr(pipeline, "_write_report", then(lambda *given: None, happens))
    line = last_line(capsys)
    assert line.startswith("perturbnb: 'small.h5ad' must stay as it is while a run reads it") and change in line
    assert bytes_of(ready) == before and not list(ready.glob(".partial*"))
    assert (at == "report") == bool(list(store.glob("prepare-*"))), "what was read belongs to neither version"


@pytest.mark.parametrize("where", ["prepare", "network", "figures"])
def test_a_folder_that_is_removed_is_said_in_one_line(ready, monkeypatch, capsys, where):
    def happens(): shutil.rmtree(ready)
    shutil.rmtree(ready / ".stages")
    if where == "prepare": monkeypatch.setattr(pipeline.pnb, "prepare_screen", then(pnb.prepare_screen, happens))
    if where == "network": monkeypatch.setitem(_CHAIN, "network", [then_named(_CHAIN["network"][0], happens)])
    if where == "figures": monkeypatch.setattr(pipeline, "_draw_figures", then(lambda analysis, folder: folder.mkdir(), happens))
    assert last_line(capsys).startswith("perturbnb: --out must stay where it is while a run works, 'out' was removed or moved")
    assert not ready.exists()


def then_named(part, happens):
    return functools.wraps(part)(then(part, happens))


@pytest.mark.parametrize("limit", [2_000, 60_000, 400_000])
def test_a_full_disk_is_said_in_one_line(ready, limit):
    "No file may grow beyond the limit: the record of a stage, a result, the screen. In a process of its own, since HDF5 does not forgive it"
    shutil.rmtree(ready / ".stages")
    before = bytes_of(ready)
    done = subprocess.run([sys.executable, "-m", "perturbnb", *sys.argv[1:]], capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert line.startswith("perturbnb: --out must have room and stay writable, got 'out'") and line.endswith("results of the run before are untouched")
    assert bytes_of(ready) == before and not list(ready.rglob("*.part.*")) and not list(ready.glob(".partial*"))


@pytest.mark.parametrize("writer", ["savez", "to_csv", "write_text"])
def test_no_space_left_wherever_it_is_noticed(ready, monkeypatch, capsys, writer):
    def full(*args, **options): raise OSError(errno.ENOSPC, "No space left on device")
    before = bytes_of(ready)
    if writer == "savez": shutil.rmtree(ready / ".stages")
    if writer == "to_csv": shutil.rmtree(next((ready / ".stages").glob("tables-*/")))
    owner = {"savez": np, "to_csv": pd.DataFrame, "write_text": type(ready)}[writer]
    monkeypatch.setattr(owner, writer, full)
    assert last_line(capsys) == "perturbnb: --out must have room and stay writable, got 'out': No space left on device; results of the run before are untouched"
    monkeypatch.undo()
    assert bytes_of(ready) == before and not list(ready.rglob("*.part.*"))


def test_an_interruption_says_how_to_go_on(ready, monkeypatch, told):
    def pressed(*given): raise KeyboardInterrupt
    before = bytes_of(ready)
    monkeypatch.setattr(pipeline, "_write_report", pressed)
    with pytest.raises(KeyboardInterrupt): run(pipeline.Path("small.h5ad"), pipeline.Path("out"), **KEYS, **SMALL)
    assert "the same command goes on from the last finished stage" in told.text and bytes_of(ready) == before
