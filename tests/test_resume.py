"Results are replaced as a whole, whatever happens; and what a run finished, the next need not do again"
import errno
import os
import shutil

import pytest

from perturbnb import results
from perturbnb.results import _finish_swap, _locked, _staging

# putting results in place

FIRST, SECOND = ("figures/a.png", "figures/b.png", "one.csv", "two.csv", "run.json"), ("figures/a.png", "figures/c.png", "one.csv", "two.csv", "run.json")


def written(out, word, names):
    with _staging(out) as part:
        (part / "figures").mkdir()
        for name in names: (part / name).write_text(word)


def visible(out):
    "Text of each file that is not hidden"
    return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(out)}"}


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
        if self.left == -1: raise OSError(errno.EIO, "the disk is on fire")
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
                assert "out must have room and stay writable" in str(error) and "on fire" in str(error)
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
