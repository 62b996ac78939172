"""Reports: every format says the same, and nothing that users name gets out."""

import html.parser
import json
import sys

import pytest

from distloss._audit.report import html as html_format
from distloss._audit.report import text
from distloss._audit.report.findings import Finding, Measured, Report, Skipped
from distloss._audit.report.render import check_installed, rendered
from distloss._errors import AuditError

HOSTILE = "<script>alert(1)</script>$\\frac{[bold]\x1b[2J"
NAN = float("nan")


def report(**changes):
    variables = {HOSTILE: (2.0, 1e-8), "dense/kernel": (-1.0, 0.3)}
    finding = Finding(
        "sum-of-means", 2, 2.0, 1e-8, (HOSTILE,), HOSTILE, "Mend it.", (HOSTILE,)
    )
    measured = (
        Measured("even split", 2, ((4, 4),), 2.0, 1e-8, 1.0, False, variables),
        Measured("empty shard", 2, ((8, 0),), NAN, NAN, NAN, False),
        Measured("uneven split", 2, ((1, 7),), 1.0, 1e-8, 1e-8, True, variables),
    )
    given = {
        "target": HOSTILE,
        "engine": "strategy",
        "replicas": (1, 2),
        "findings": (finding,),
        "skipped": (Skipped(HOSTILE, HOSTILE),),
        "measured": measured,
        "seconds": 3.0,
    }
    return Report(**(given | changes))


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_html_escapes_what_users_name_and_needs_nothing_else():
    page = html_format.page(report())
    parser = Tags()
    parser.feed(page)
    names = {tag for tag, _ in parser.tags}
    assert "script" not in names
    assert "&lt;script&gt;alert(1)" in page
    sources = [a["src"][:22] for tag, a in parser.tags if tag == "img"]
    assert sources == ["data:image/png;base64,"]
    assert not {"link", "iframe", "object"} & names
    assert "http" not in page.partition("base64,")[0]


@pytest.mark.parametrize("render", [text.text, text.plain])
def test_text_says_cause_scale_and_remedy_without_control_characters(render):
    shown = render(report())
    for words in ("sum-of-means", "Mend it.", "<script>", "[bold]", "Note: "):
        assert words in shown
    assert "\x1b" not in shown


def test_text_tells_probes_apart():
    shown = text.text(report())
    for words in ("2 times", "not finite", "same"):
        assert words in shown


def test_json_has_numbers_that_are_none_as_text():
    plain = json.loads(report().to_json())
    assert plain["schema"] == 1
    assert plain["findings"][0]["variables"] == [HOSTILE]
    assert plain["measured"][1]["scale"] == "nan"
    assert plain["measured"][0]["variables"]["dense/kernel"] == [-1.0, 0.3]


def test_a_good_report_is_good_in_each_format():
    good = report(findings=(), measured=(), skipped=())
    assert good.agrees
    for form in ("text", "html", "plain"):
        assert "Gradients agree" in rendered(good, form)
    assert json.loads(rendered(good, "json"))["agrees"]


@pytest.mark.parametrize(("form", "missing"), [("text", "rich"), ("html", "jinja2")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, form, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AuditError, match=r"distloss\[report\]"):
        check_installed(form)
    check_installed("json")
