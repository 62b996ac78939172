"""The command `distloss audit`: targets of a project, and what is told to whom."""

import json
import os
import pty
import subprocess
import sys

import pytest
from sarif_kit.validate import validation_errors

from distloss import cli
from distloss._audit import run
from distloss._audit.conversation import Child, Children
from distloss._audit.report.findings import Finding, Report
from distloss._errors import AuditError

WRONG = Finding("sum-of-means", 2, 2.0, 0.0, (), "It is twice.", "Mend it.")
ACCEPTED = Finding("clip-before-sum", 2, 2, 0, (), "It clips.", "No.", accepted="Fine.")
FOUND = {"good.py": (), "bad.py": (WRONG,), "ok.py": (ACCEPTED,)}
TARGETS = "[tool.distloss]\ntargets = [{}]\n"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks `audit`, which knows what it finds."""
    every = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def audit(target, **options):
        every.append((target, list(options["args"])))
        options["progress"]("working")
        name = os.path.basename(target)
        if name not in FOUND:
            raise AuditError(f"{name} raised.")
        return Report(target, "strategy", (1, 2), FOUND[name], ())

    monkeypatch.setattr(run, "audit", audit)
    return every


@pytest.fixture
def command(asked, capfd):
    """Runs it; the exit code, stdout and stderr."""

    def command(*arguments):
        code = cli.main(["audit", *arguments])
        return code, *capfd.readouterr()

    return command


@pytest.fixture
def targets(tmp_path):
    def write(*names):
        listed = ", ".join(f'"{name}"' for name in names)
        (tmp_path / "pyproject.toml").write_text(TARGETS.format(listed))

    return write


# -- the targets of a project


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["good.py"], 0),
        (["good.py", "ok.py"], 0),
        (["bad.py", "good.py"], 1),
        (["broken.py", "bad.py", "good.py"], 2),
        (["good.py", "broken.py"], 2),
    ],
)
def test_all_are_audited_and_the_worst_is_the_exit_code(
    command, asked, targets, names, code
):
    targets(*names)
    found, out, err = command()
    assert found == code
    assert asked == [(name, []) for name in names]
    broken = "distloss: broken.py: broken.py raised.\n"
    assert err == (broken if "broken.py" in names else "")
    assert f"Of {len(names)} targets: " in out
    for name in set(names) - {"broken.py"}:
        assert f"distloss audit: {name} on 1, 2 replicas" in out


def test_scripts_have_their_arguments_and_paths_lead_from_the_project(
    command, asked, tmp_path, monkeypatch
):
    entry = '{target = "a/good.py", args = ["-n", "3"]}, "b.c:build", "bad.py"'
    (tmp_path / "pyproject.toml").write_text(TARGETS.format(entry))
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir("inner")
    command()
    assert asked == [
        ("../a/good.py", ["-n", "3"]),
        ("b.c:build", []),
        ("../bad.py", []),
    ]


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_several_targets_are_one_document(command, targets, form):
    targets("good.py", "bad.py", "broken.py")
    code, out, _ = command("--format", form)
    whole = json.loads(out)
    assert code == 2
    if form == "sarif":
        assert validation_errors(whole) == []
    else:
        assert [one["target"] for one in whole["unchecked"]] == ["broken.py"]


@pytest.mark.parametrize(
    "arguments", [(), ("--fix",), ("--", "--epochs", "3"), ("--format", "json")]
)
def test_without_a_target_and_without_settings_one_sentence_says_so(
    command, asked, arguments
):
    code, out, err = command(*arguments)
    assert (code, out, asked) == (2, "", [])
    assert err.startswith("distloss: Expected a TARGET")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--fix",), ("--", "--epochs", "3")])
def test_what_is_for_one_target_is_not_for_all(command, asked, targets, arguments):
    targets("good.py")
    assert command(*arguments)[0] == 2
    assert asked == []


def test_a_target_of_ones_own_is_audited_alone(command, asked, targets):
    targets("bad.py")
    assert command("good.py", "--", "-n", "3")[0] == 0
    assert asked == [("good.py", ["-n", "3"])]


def test_a_report_overwrites_nothing_that_is_audited(command, asked, targets, tmp_path):
    """Whether it is a script, has a function, or is one of several."""
    (tmp_path / "good.py").write_text("x = 1")
    for arguments in (["good.py"], ["good.py:build"], []):
        targets("bad.py", "good.py")
        code, out, err = command(*arguments, "--output", "good.py")
        assert (code, out, asked) == (2, "", [])
        assert "it is a file that is audited" in err
    assert (tmp_path / "good.py").read_text() == "x = 1"


# -- what is said, and what is not


def test_quiet_says_nothing_where_gradients_agree(command, tmp_path):
    assert command("good.py", "--quiet") == (0, "", "")
    assert command("ok.py", "--quiet") == (0, "", "")
    code, out, err = command("bad.py", "--quiet")
    assert (code, err) == (1, "")
    assert "sum-of-means" in out
    assert command("broken.py", "--quiet") == (2, "", "distloss: broken.py raised.\n")
    assert json.loads(command("good.py", "--quiet", "--format", "json")[1])["agrees"]
    assert command("good.py", "--quiet", "--output", "report") == (0, "", "")
    assert "Gradients agree" in (tmp_path / "report").read_text()


def test_a_target_that_could_not_be_checked_is_told_to_tools(command):
    code, out, err = command("broken.py", "--format", "github")
    assert (code, err) == (2, "distloss: broken.py raised.\n")
    assert out == "::error title=distloss::broken.py: broken.py raised.\n"
    code, out, _ = command("broken.py", "--format", "sarif")
    assert code == 2
    assert not json.loads(out)["runs"][0]["invocations"][0]["executionSuccessful"]
    for form in ("text", "json", "html", "markdown"):
        assert command("broken.py", "--format", form)[:2] == (2, "")


def test_github_gets_a_summary_of_each_step(command, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, _ = command("bad.py", "--format", "json")
    assert (code, json.loads(out)["agrees"]) == (1, False)
    command("good.py", "--quiet")
    assert command("broken.py")[0] == 2
    before, *headings = summary.read_text().split("### distloss audit: ")
    assert before == "before\n"
    for heading, words in zip(
        headings,
        ("bad.py", "good.py", "broken.py"),
        strict=True,
    ):
        assert heading.startswith(words)
    assert "#### sum-of-means" in headings[0]


@pytest.mark.parametrize("path", ["/proc/none", "."])
def test_a_summary_that_cannot_be_written_is_told_and_no_verdict(
    command, monkeypatch, path
):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", path)
    code, out, err = command("good.py")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"distloss: the summary is not in {path}: ")
    assert "Gradients agree" in out


# -- terminals

ON_A_TERMINAL = """
import sys, time
import distloss._audit.run
from distloss._audit.report.findings import Finding, Report

def audit(target, *, progress, **_):
    progress("tracing the training step")
    time.sleep(0.5)
    found = Finding("sum-of-means", 2, 2.0, 0.0, (), "It is twice.", "Mend it.")
    return Report(target, "strategy", (1, 2), (found,), ())

distloss._audit.run.audit = audit
from distloss.cli import main
sys.exit(main(["audit", "x.py:build", *sys.argv[1:]]))
"""


def on_a_terminal(*arguments, code=ON_A_TERMINAL, **environment):
    """What a terminal gets of stdout and of stderr."""
    master, slave = pty.openpty()
    left = {"NO_COLOR", "FORCE_COLOR", "TERM", "GITHUB_STEP_SUMMARY"}
    kept = {name: value for name, value in os.environ.items() if name not in left}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=slave,
        stderr=slave,
        env={**kept, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # it is closed
            break
        if not data:
            break
        shown += data
    os.close(master)
    assert process.wait(60) == 1
    return shown.decode()


COLOURS = ("\x1b[31m", "\x1b[1;31m", "\x1b[32m", "\x1b[36m")
WAITING = "tracing the training step"


def has_colours(shown):
    return any(colour in shown for colour in COLOURS)


def test_a_terminal_shows_colours_and_what_is_waited_for():
    shown = on_a_terminal()
    assert has_colours(shown)
    assert WAITING in shown


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"script": "train.py"}, "running the script up to its first training step"),
        ({"file": "train.py", "name": "build"}, "calling build()"),
    ],
)
def test_what_is_waited_for_is_what_a_child_does(target, words):
    own = {"log": "log", "first_log": "log", "ended": "ended", "target": target}
    said = []
    children = Children({1: Child(1, None, own, {"log": None})}, said.append)
    children.ask_all("start")
    children.ask_all("build")
    children.ask_all("trace", batch_norm="frozen")
    assert said == ["loading TensorFlow", words, "tracing the training step"]


def test_no_color_is_honoured():
    shown = on_a_terminal(NO_COLOR="1")
    assert not has_colours(shown)
    assert WAITING in shown
    assert has_colours(on_a_terminal(NO_COLOR=""))  # as no-color.org has it


def test_a_dumb_terminal_gets_plain_text():
    shown = on_a_terminal(TERM="dumb")
    assert "\x1b" not in shown
    assert WAITING not in shown
    assert "sum-of-means" in shown


def test_quiet_shows_no_progress():
    assert WAITING not in on_a_terminal("--quiet")


def test_without_rich_there_is_no_progress_and_a_report_all_the_same():
    without = "import sys; sys.modules['rich'] = None\n" + ON_A_TERMINAL
    shown = on_a_terminal("--format", "json", code=without)
    assert WAITING not in shown
    assert json.loads(shown)["findings"][0]["cause"] == "sum-of-means"
