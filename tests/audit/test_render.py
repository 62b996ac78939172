"""Reports: every format says the same, and nothing that users name gets out."""

import html.parser
import importlib
import json
import pathlib
import pkgutil
import re
import sys
from importlib import metadata

import pytest

import distloss._audit.report
from distloss import cli
from distloss._audit.report.findings import Finding, Measured, Report, Skipped
from distloss._audit.report.render import (
    FORMATS,
    OFFERED,
    check_installed,
    rendered,
)
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
    page = rendered(report(), "html")
    parser = Tags()
    parser.feed(page)
    names = {tag for tag, _ in parser.tags}
    assert "script" not in names
    assert "&lt;script&gt;alert(1)" in page
    sources = [a["src"][:22] for tag, a in parser.tags if tag == "img"]
    assert sources == ["data:image/png;base64,"]
    assert not {"link", "iframe", "object"} & names
    assert "http" not in page.partition("base64,")[0]


@pytest.mark.parametrize("form", ["text", "plain"])
def test_text_says_cause_scale_and_remedy_without_control_characters(form):
    shown = rendered(report(), form)
    for words in ("sum-of-means", "Mend it.", "<script>", "[bold]", "Note: "):
        assert words in shown
    assert "\x1b" not in shown


def test_text_tells_probes_apart():
    shown = rendered(report(), "text")
    for words in ("2 times", "not finite", "same"):
        assert words in shown


def test_json_has_numbers_that_are_none_as_text():
    plain = json.loads(report().to_json())
    assert plain["schema"] == 1
    assert plain["findings"][0]["variables"] == [HOSTILE]
    assert plain["measured"][1]["scale"] == "nan"
    assert plain["measured"][0]["variables"]["dense/kernel"] == [-1.0, 0.3]


def test_a_page_says_when_and_how_it_was_made(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/distloss", "audit", "a b.py"])
    page = html.unescape(rendered(report(), "html"))
    made = page[page.index("Made ") :]
    assert re.match(r"Made \d{4}-\d\d-\d\d \d\d:\d\d UTC by", made)
    assert "<code>distloss audit 'a b.py'</code>" in made
    for package in ("distloss", "tensorflow", "keras"):
        assert f"{package} {metadata.version(package)}" in made


def test_a_good_report_is_good_in_each_format():
    good = report(findings=(), measured=(), skipped=())
    assert good.agrees
    for form in ("text", "html", "plain"):
        assert "Gradients agree" in rendered(good, form)
    assert json.loads(rendered(good, "json"))["agrees"]


@pytest.mark.parametrize(("form", "missing"), [("text", "rich"), ("html", "jinja2")])
def test_a_missing_package_is_named(monkeypatch, form, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AuditError, match=f"pip install {missing}"):
        check_installed(form)
    check_installed("json")


GUIDE = pathlib.Path(__file__).parents[2] / "examples" / "guides" / "audit.md"
ROOM = distloss._audit.report


def test_each_file_of_a_format_is_in_the_table():
    names = [name for _, name, _ in pkgutil.iter_modules(ROOM.__path__)]
    modules = [importlib.import_module(f"{ROOM.__name__}.{name}") for name in names]
    found = [module.FORMAT for module in modules if hasattr(module, "FORMAT")]
    assert {one.name: one for one in found} == FORMATS


def test_the_command_and_guide_offer_the_formats_of_the_table(capsys):
    parser = cli._parser()
    for name in FORMATS:
        arguments = ["audit", "x.py:build", "--format", name]
        if name in OFFERED:
            assert parser.parse_args(arguments).format == name
        else:
            with pytest.raises(SystemExit):
                parser.parse_args(arguments)
    listed = re.search(r"\*\*Formats\*\*: (.*?) JSON:", GUIDE.read_text(), re.DOTALL)
    assert all(
        f"`{name}`" in listed.group(1).replace("--format ", "") for name in OFFERED
    )
    assert parser.parse_args(["audit", "x.py:build"]).format == OFFERED[0]
