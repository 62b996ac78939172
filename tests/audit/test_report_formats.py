"""Reports for other tools: GitHub, code scanning, step summaries and notebooks."""

import dataclasses
import datetime
import html
import json
import re
import sys

import pytest
from markdown_it import MarkdownIt
from sarif_kit.validate import validation_errors
from test_render import HOSTILE, Tags
from test_render import report as hostile

from distloss._audit.report import html as html_report
from distloss._audit.report.audits import Audits, Unchecked
from distloss._audit.report.findings import (
    Finding,
    Location,
    Measured,
    Report,
    Skipped,
)
from distloss._audit.report.render import FORMATS, rendered
from distloss._formats.record import Record, in_repository
from distloss._formats.sarif import sarif as write_sarif

SOURCE = "model.compile(loss=mean)\n"
AT = Location("train.py", 1, "compile")
ALPHA = "even split: alpha = {n}, rho = 0 on {n} replicas"


def finding(cause="sum-of-means", replicas=2, **more):
    told = {"location": AT, "evidence": (ALPHA.format(n=replicas),), **more}
    words = "The gradient is N times too large.", "Divide by N."
    return Finding(cause, replicas, float(replicas), 0.0, ("kernel",), *words, **told)


TWICE = finding(), finding(replicas=4)
ACCEPTED = finding("clip-before-sum", accepted="Its norm is small.")
NOWHERE = finding("not-reduced", location=None)
SKIPPED = Skipped("uneven split on 2 replicas", "all batches are full")
PROBED = Measured("even split", 2, ((4, 4),), 2.0, 0.0, 1.0, False)


def report(*findings, target="train.py"):
    return Report(target, "strategy", (1, 2, 4), findings, (SKIPPED,), (PROBED,), 3.0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    for name in ("train.py", "package/steps.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SOURCE)
    return tmp_path


def sarif(told):
    log = json.loads(rendered(told, "sarif"))
    assert validation_errors(log) == []
    (run,) = log["runs"]
    return run


# -- GitHub


def test_a_cause_is_one_annotation_at_its_line():
    shown = rendered(report(*TWICE), "github")
    assert shown == (
        "::error file=train.py,line=1,title=distloss sum-of-means::"
        "The gradient is N times too large. Seen: even split: alpha = 2, rho = 0 on 2 "
        "replicas; even split: alpha = 4, rho = 0 on 4 replicas. Divide by N.\n"
    )


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("train.py", "train.py"),
        ("train.py:build", "train.py"),
        ("package/steps.py:build", "package/steps.py"),
        ("package.steps:build", "package/steps.py"),
        ("elsewhere.steps:build", None),
        ("a_function", None),
    ],
)
def test_what_has_no_line_is_said_of_the_file_of_the_target(target, file):
    shown = rendered(report(NOWHERE, target=target), "github")
    place = f"file={file}," if file else ""
    assert shown.startswith(f"::error {place}title=distloss not-reduced::The")
    (result,) = sarif(report(NOWHERE, target=target))["results"]
    locations = [{"physicalLocation": {"artifactLocation": {"uri": file}}}]
    assert result.get("locations", []) == (locations if file else [])


def test_what_is_accepted_is_a_notice_with_its_reason():
    shown = rendered(report(ACCEPTED), "github")
    assert shown.startswith("::notice file=train.py,line=1,title=distloss clip-before")
    assert "::Accepted: Its norm is small. The gradient is" in shown
    assert "Divide by N" not in shown


# -- SARIF


def test_sarif_has_line_level_rule_and_what_was_left_out():
    run = sarif(report(*TWICE, NOWHERE))
    assert [result["ruleId"] for result in run["results"]] == [
        "sum-of-means",
        "not-reduced",
    ]
    assert {result["level"] for result in run["results"]} == {"error"}
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "train.py"},
        "region": {"startLine": 1},
    }
    assert run["automationDetails"]["id"] == "distloss-audit/"
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"]
    (note,) = invocation["toolExecutionNotifications"]
    assert (note["level"], note["message"]["text"]) == (
        "note",
        "uneven split on 2 replicas: all batches are full",
    )


def test_sarif_suppresses_what_is_accepted():
    first, second = sarif(report(NOWHERE, ACCEPTED))["results"]
    assert "suppressions" not in first
    assert second["level"] == "note"
    assert second["suppressions"] == [
        {"kind": "external", "justification": "Its norm is small."}
    ]


def test_sarif_of_a_target_that_could_not_be_checked():
    run = sarif(Audits((), (Unchecked("train.py", "It raised."),)))
    assert run["results"] == []
    (invocation,) = run["invocations"]
    assert not invocation["executionSuccessful"]
    (note,) = invocation["toolExecutionNotifications"]
    assert (note["level"], note["message"]["text"]) == ("error", "train.py: It raised.")


# -- several targets

SEVERAL = Audits(
    (report(*TWICE), report(target="good.py"), report(ACCEPTED, target="ok.py")),
    (Unchecked("broken.py", "It raised <b>."),),
    several=True,
)
SUMMARY = "Of 4 targets: 1 agree, 1 differ, 1 could not be checked, 1 differ as accept"


@pytest.mark.slow
def test_several_targets_are_one_document_in_each_format():
    shown = {name: rendered(SEVERAL, name) for name in FORMATS}
    assert {"json", "github", "sarif"} < set(shown)
    whole = json.loads(shown["json"])
    assert (whole["schema"], whole["passes"]) == (1, False)
    assert [one["target"] for one in whole["reports"]] == [
        "train.py",
        "good.py",
        "ok.py",
    ]
    assert [one["passes"] for one in whole["reports"]] == [False, True, True]
    assert whole["unchecked"] == [{"target": "broken.py", "why": "It raised <b>."}]
    assert len(sarif(SEVERAL)["results"]) == 2
    assert len(shown["github"].splitlines()) == 3
    page = Tags()
    page.feed(shown["html"])
    tags = [tag for tag, _ in page.tags]
    assert [tags.count(tag) for tag in ("html", "body", "title", "h1")] == [1, 1, 1, 4]
    assert "It raised &lt;b&gt;." in shown["html"]
    for form in ("text", "plain", "html", "markdown"):
        assert SUMMARY in shown[form]
        places = [shown[form].find(name) for name in ("train.py", "good.py", "ok.py")]
        assert -1 not in places
        assert places == sorted(places)


class StandsStill(datetime.datetime):
    @classmethod
    def now(cls, tz):
        return cls(2026, 1, 2, tzinfo=tz)


def test_one_target_is_told_as_ever(monkeypatch):
    monkeypatch.setattr(html_report, "datetime", StandsStill)
    one = report(*TWICE)
    for form in FORMATS:
        assert "targets" not in rendered(one, form)
        assert rendered(Audits((one,)), form) == rendered(one, form)
    assert json.loads(rendered(one, "json"))["target"] == "train.py"


# -- what is accepted


def test_a_report_with_accepted_findings_passes_and_does_not_agree():
    assert (report().agrees, report().passes) == (True, True)
    assert (report(ACCEPTED).agrees, report(ACCEPTED).passes) == (False, True)
    mixed = report(ACCEPTED, NOWHERE)
    assert (mixed.agrees, mixed.passes) == (False, False)
    told = json.loads(rendered(mixed, "json"))
    assert (told["agrees"], told["passes"]) == (False, False)
    assert [one["accepted"] for one in told["findings"]] == ["Its norm is small.", ""]


@pytest.mark.parametrize("form", ["text", "plain", "html", "markdown"])
def test_what_is_accepted_is_shown_with_the_reason_and_no_remedy(form):
    shown = rendered(report(ACCEPTED), form)
    assert "Accepted: Its norm is small." in shown
    assert "Divide by N." not in shown
    assert "clip-before-sum" in shown
    assert "Gradients differ. Accepted: clip-before-sum." in shown
    both = rendered(report(ACCEPTED, NOWHERE), form)
    assert "Gradients differ: not-reduced. Accepted: clip-before-sum." in both
    assert "To mend it: Divide by N." in both
    same = dataclasses.replace(PROBED, agrees=True)
    agrees = dataclasses.replace(report(ACCEPTED), measured=(same,))
    assert "split that ran. Accepted: clip-before-sum." in rendered(agrees, form)


# -- Markdown and notebooks, which are pages of others


def test_markdown_is_read_as_it_is_meant():
    page = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(rendered(report(*TWICE), "markdown"))
    )
    assert "<h3>distloss audit: train.py on 1, 2, 4 replicas (strategy)</h3>" in page
    assert "<strong>Gradients differ: sum-of-means.</strong>" in page
    assert page.count("<table>") == 2
    assert "<td>4</td>" in page
    assert "Look at: train.py:1 (compile)" in page
    assert "To mend it: Divide by N." in page
    assert "Note: uneven split" in page


def test_markdown_has_no_syntax_of_users():
    odd = f"{HOSTILE} | *x* [a](javascript:b) `c` # d\n# e\n\n![f](g) &lt; ~~h~~"
    given = dataclasses.replace(
        hostile(), target=odd, skipped=(Skipped(odd, odd),), engine=odd
    )
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = markdown.render(rendered(given, "markdown"))
    parser = Tags()
    parser.feed(page)
    names = {tag for tag, _ in parser.tags}
    assert not names & {"script", "a", "em", "code", "img", "h1", "s"}
    whole = html.unescape(page)
    assert "<script>alert(1)</script>$\\frac{[bold]\\x1b[2J" in whole
    assert "| *x* [a](javascript:b) `c` # d\\n# e\\n\\n![f](g) &lt; ~~h~~" in whole


@pytest.mark.parametrize("form", ["github", "markdown", "sarif"])
def test_control_characters_are_shown_and_never_sent(form):
    odd = "a\x1b[2Jb\u202ec\ud800\r\n\x00\x9b\u2028"
    place = Location(odd, 2, odd)
    found = Finding(odd, 2, 2.0, 0.0, (odd,), odd, odd, (odd,), place, odd)
    told = Audits((Report(odd, odd, (1,), (found,), ()),), (Unchecked(odd, odd),))
    shown = rendered(told, form)
    assert all(c.isprintable() or c == "\n" for c in shown)
    shown.encode("utf-8")
    assert "x1b" in shown


def test_a_notebook_gets_a_fragment_that_needs_nothing():
    given = hostile(findings=(*hostile().findings, ACCEPTED))
    shown = given._repr_html_()
    page = Tags()
    page.feed(shown)
    names = {tag for tag, _ in page.tags}
    assert "div" in names
    assert not names & {"html", "body", "head", "script", "link", "img", "iframe"}
    assert "http" not in shown
    assert "url(" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "\x1b" not in shown
    assert "Accepted: Its norm is small." in shown


def test_styles_of_a_fragment_reach_nothing_else():
    style = hostile()._repr_html_().partition("<style>")[2].partition("</style>")[0]
    style = re.sub(r"@media [^{]*{", "", style)  # whose rules are for the fragment, too
    selectors = [
        one.strip()
        for rule in style.split("}")
        for one in rule.partition("{")[0].split(",")
    ]
    assert len(selectors) > 10
    assert {one.split(" ")[0] for one in selectors if one} == {".distloss-report"}


def test_a_notebook_without_jinja_shows_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert hostile()._repr_html_() is None


# -- names of files


def test_a_file_whose_name_is_not_utf8_has_an_address():
    name = b"t\xe9.py".decode("utf-8", "surrogateescape")
    log = json.loads(write_sarif([Record("a", "error", "b", file=name)], version="1"))
    (result,) = log["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "t%E9.py"


def test_in_a_workflow_paths_lead_from_the_top_of_the_repository(folder, monkeypatch):
    def addresses():
        told = report(TWICE[0], NOWHERE)
        files = [line.split(",")[0] for line in rendered(told, "github").splitlines()]
        places = [result["locations"][0] for result in sarif(told)["results"]]
        uris = [p["physicalLocation"]["artifactLocation"]["uri"] for p in places]
        return {*uris, *(file.removeprefix("::error file=") for file in files)}

    (folder / "..py").write_text("")  # a name that begins as the folder above does
    assert addresses() == {"train.py"}
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder.parent))
    assert addresses() == {f"{folder.name}/train.py"}
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder))
    assert addresses() == {"train.py"}
    assert in_repository(str(folder / "..py")) == "..py"
    assert in_repository(str(folder / "train.py")) == "train.py"
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder / "package"))
    assert addresses() == {"train.py"}
