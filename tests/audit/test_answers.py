"""Three answers, and how sure a cause is, in every format."""

import argparse
import dataclasses
import json

import pytest
from test_diagnosis import diagnosed, global_mean, ratio, world

from distloss._audit import command
from distloss._audit.checks.compare import NotRun
from distloss._audit.checks.table import CAUSES
from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import Finding, Report, Skipped
from distloss._audit.report.render import FORMATS, rendered

UNSEEN = Skipped("uneven on 2 replicas", "the process ended", unseen=True)
NOTE = Skipped("randomness", "pinned")
FOUND = Finding("sum-of-means", 2, 2.0, 0.0, (), "It is twice.", "Mend it.")
LIKELY = dataclasses.replace(FOUND, cause="not-decomposable", certainty="likely")


def report(*findings, skipped=(NOTE,)):
    return Report("train.py", "strategy", (1, 2), findings, skipped)


UNKNOWN = report(skipped=(UNSEEN, NOTE))


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (report(), "agrees"),
        (report(FOUND), "differs"),
        (report(FOUND, skipped=(UNSEEN,)), "differs"),
        (UNKNOWN, "cannot tell"),
    ],
)
def test_there_are_three_answers(told, answer):
    assert told.answer == answer
    assert told.agrees == told.passes == (answer == "agrees")
    assert json.loads(told.to_json())["answer"] == answer


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_says_what_was_not_seen(form):
    text = " ".join(rendered(UNKNOWN, form).split())
    assert "the process ended" in text
    assert "agree: one batch" not in text
    words = {"json": '"cannot tell"'}.get(form, "annot tell whether")
    assert words in text


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_says_how_sure_a_cause_is(form):
    assert "ikely" in rendered(report(LIKELY), form)
    assert "ikely" not in rendered(report(FOUND), form)


def test_what_cannot_be_told_is_a_failure_of_its_own():
    sarif = json.loads(rendered(UNKNOWN, "sarif"))["runs"][0]["invocations"][0]
    assert not sarif["executionSuccessful"]
    assert rendered(UNKNOWN, "github").startswith("::error ")
    several = Audits((UNKNOWN, report(), report(FOUND)), several=True)
    assert "1 agree, 1 differ, 1 cannot be told" in rendered(several, "plain")


@pytest.mark.parametrize(("told", "code"), [(report(), 0), (UNKNOWN, 2)])
def test_nothing_passes_in_silence(told, code, monkeypatch, capsys):
    monkeypatch.setattr(command, "_report", lambda *_: told)
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers())
    arguments = parser.parse_args(["audit", "train.py", "--quiet"])
    arguments.of_script = []
    assert command.run(arguments) == code
    assert bool(capsys.readouterr().out) == bool(code)


def test_a_split_that_does_not_run_leaves_it_open():
    right = world(global_mean)

    def look(count, probe):
        if count > 1 and len({stop - start for start, stop in probe.micro[0]}) > 1:
            raise NotRun("it ended")
        return right(count, probe)

    found = diagnosed(look)
    assert not found.findings
    open_ones = {s.check for s in found.skipped if s.unseen}
    assert open_ones == {"uneven on 4 replicas", "empty on 4 replicas"}
    assert not [s for s in diagnosed(right).skipped if s.unseen]


def test_what_is_not_explained_is_never_certain():
    assert CAUSES["unexplained"].finding(2, 1.0).certainty == "likely"
    some = CAUSES["no-update"].finding(1, 1.0, case="some")
    assert some.certainty == "likely"
    assert CAUSES["no-update"].finding(1, 1.0).certainty == "certain"
    assert {f.certainty for f in diagnosed(world(ratio)).findings} == {"likely"}
