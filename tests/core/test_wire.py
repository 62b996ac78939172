"""The benchmark of a wire: what it needs, what it leaves, what it predicts."""

import importlib
import os
import pathlib
import subprocess
import types

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def link(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("_bench.link")


@pytest.fixture
def wire(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("_bench.wire")


def test_without_tools_it_says_which(link, wire, monkeypatch, capsys):
    monkeypatch.setattr(link.shutil, "which", lambda _tool: None)
    assert wire.rows_of_wire(types.SimpleNamespace()) == []
    assert "bench: wire needs ip and tc" in capsys.readouterr().err


def test_without_root_it_says_so(link, monkeypatch):
    monkeypatch.setattr(link.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(link.os, "geteuid", lambda: 1000)
    assert link.problem_here().startswith("needs root")


def test_only_namespaces_of_runs_that_have_ended_are_left_over(link, monkeypatch):
    ended = 2**22 + 1  # no process has this number
    listed = f"distloss-{ended}-a (id: 3)\ndistloss-{os.getpid()}-b\nother-{ended}-a\n"
    done = types.SimpleNamespace(stdout=listed)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    removed = []
    monkeypatch.setattr(link, "_remove", removed.append)
    link._remove_left_over()
    assert removed == [f"distloss-{ended}-a"]


def test_what_is_exposed_and_predicted(wire):
    found = {"computed": {"ms": 300.0}, "plain": {"ms": 450.0}}
    found |= {way: {"ms": 400.0} for way in ("optimizer", "together", "prepare")}
    limits = wire.limits(found, 50_000_000, 1000)
    assert limits["wire_ms"] == limits["limit_ms"] == 400.0
    assert limits["exposed_ms"]["plain"] == 150.0
    assert limits["exposed_ms"]["prepare"] == 100.0
    assert limits["predicted_ms"] == {"together": 700.0, "in buckets": 500.0}
    assert wire.limits(found, 50_000_000, 0)["limit_ms"] == 300.0


@pytest.mark.parametrize(
    ("given", "words"),
    [(("--millions", "7"), "expected 1, 6, 24. Got 7"), (("--engines", "mpi"), "mpi")],
)
def test_what_is_unknown_is_an_error(wire, capsys, given, words):
    parser = wire.argparse.ArgumentParser()
    wire.add_arguments_of_wire(parser)
    assert parser.parse_args(["--millions", "6,1"]).millions == [6, 1]
    with pytest.raises(SystemExit):
        parser.parse_args(given)
    assert words in capsys.readouterr().err
