"""How scripts/zoo_table.py counts what the audit says of an entry."""

import json

import pytest
from test_zoo import zoo_table

OURS = zoo_table.Entry("A1", "a mean", ("a/b#1",), "sum-of-means", "strategy", "a sum")
OPEN = zoo_table.Entry("D1", "a riddle", ("a/b#2",), "cannot-tell", "strategy", "none")


def report(*causes, answer=None):
    found = [{"cause": c, "replicas": 2, "scale": 2, "residual": 0} for c in causes]
    answer = answer or ("differs" if causes else "agrees")
    return {"answer": answer, "agrees": answer == "agrees", "findings": found}


@pytest.mark.parametrize(
    ("entry", "told", "how"),
    [
        (OURS, report("sum-of-means"), "right cause"),
        (OURS, report("unexplained", "sum-of-means"), "right cause"),
        (OURS, report("unexplained"), "cannot tell"),
        (OURS, report(answer="cannot tell"), "cannot tell"),
        (OURS, None, "cannot tell"),
        (OURS, report("clip-before-sum"), "wrong"),
        (OURS, report(), "called right"),
        (OPEN, report("unexplained"), "right cause"),
        (OPEN, report(answer="cannot tell"), "right cause"),
        (OPEN, None, "cannot tell"),
        (OPEN, report("sum-of-means"), "wrong"),
        (OPEN, report(), "called right"),
    ],
)
def test_an_outcome_is_one_of_four(entry, told, how):
    assert zoo_table.outcome(entry, told) == how


def test_they_are_counted_and_compared_with_those_before(tmp_path):
    chosen = {"a01_ours": OURS, "d01_open": OPEN}
    reports = {
        ("a01_ours", "wrong"): report("sum-of-means"),
        ("a01_ours", "mended"): report(),
        ("d01_open", "wrong"): report("clip-before-sum"),
        ("d01_open", "mended"): report("unexplained"),
    }
    told = zoo_table.counted(chosen, reports)
    assert told.startswith("wrong: 1 right cause, 0 cannot tell, 1 wrong, 0 called")
    assert told.endswith("mended: 1 of 2 agree")
    earlier = tmp_path / "d01_open.wrong.json"
    earlier.write_text(json.dumps(report("unexplained")))
    lines, problems = zoo_table.table(chosen, reports, tmp_path)
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["", "right cause"]
    assert len(problems) == 2
    assert "before" not in zoo_table.table(chosen, reports)[0][0]


@pytest.mark.parametrize("code", [1, 2])
def test_what_could_not_be_checked_is_kept(code, tmp_path, monkeypatch):
    done = zoo_table.subprocess.CompletedProcess([], code, "", "distloss: no step")
    monkeypatch.setattr(zoo_table.subprocess, "run", lambda *_, **__: done)
    found = zoo_table.audit_all({"x": OURS}, tmp_path, jobs=2, kept_only=False)
    assert (found["x", "wrong"] is not None) == (code == 2)
    kept = zoo_table.audit_all({"x": OURS}, tmp_path, jobs=1, kept_only=True)
    assert kept == found
