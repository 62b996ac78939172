"""`[tool.distloss]`: what is audited by default, and what a project accepts."""

import dataclasses
import pathlib
import sys

import pytest

import distloss
from distloss._audit import acceptances, run
from distloss._audit.report.findings import Finding, Report
from distloss._errors import ArgumentError
from distloss._settings import Acceptance, Run, Settings, settings_for

WHOLE = """
[tool.distloss]
ignore = ["batch-statistics"]
exclude = ["third_party/*"]
hints = false
targets = ["train.py", {target = "a/b.py:build"}, {target = "c.py", args = ["-n", "3"]}]
replicas = [1, 3]

[[tool.distloss.accept]]
cause = "clip-before-sum"
reason = "Its norm is small."

[[tool.distloss.accept]]
cause = "batch-statistics"
target = "train.py"
reason = "Batches are large."
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "pyproject.toml").write_text(text)
        return tmp_path

    return write


def accepting(**keys):
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f"[[tool.distloss.accept]]\n{lines}"


def test_all_that_a_project_may_say(project):
    folder = project(WHOLE)
    assert settings_for(folder) == Settings(
        ("batch-statistics",),
        ("third_party/*",),
        False,
        (Run("train.py"), Run("a/b.py:build"), Run("c.py", ("-n", "3"))),
        (1, 3),
        (
            Acceptance("clip-before-sum", "Its norm is small."),
            Acceptance("batch-statistics", "Batches are large.", "train.py"),
        ),
        folder / "pyproject.toml",
    )


def test_the_nearest_file_with_our_table_counts(project):
    folder = project("[tool.distloss]\nreplicas = [1, 3]\n")
    inner = folder / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    found = settings_for(inner)
    assert (found.replicas, found.folder) == ((1, 3), folder)
    (inner / "pyproject.toml").write_text("[tool.distloss]\nreplicas = [1, 2]\n")
    assert settings_for(inner).replicas == (1, 2)
    (folder / "pyproject.toml").unlink()
    assert settings_for(folder) == Settings()
    assert Settings().folder == folder  # where we are


REASON = '"Its norm is small."'
CLIP = '"clip-before-sum"'
WRONG = [
    accepting(cause=CLIP),
    accepting(reason=REASON),
    accepting(cause=CLIP, reason='"  "'),
    accepting(cause=CLIP, reason="3"),
    accepting(cause=CLIP, reason=REASON, why=REASON),
    accepting(cause='["clip-before-sum"]', reason=REASON),
    accepting(cause=CLIP, reason=REASON, target="1"),
    accepting(cause='"clip"', reason=REASON),
    "[tool.distloss]\naccept = true\n",
    f"[tool.distloss.accept]\ncause = {CLIP}\nreason = {REASON}\n",
    "[tool.distloss]\naccept = ['clip-before-sum']\n",
    "[tool.distloss]\nreplicas = 4\n",
    "[tool.distloss]\nreplicas = [1, true]\n",
    "[tool.distloss]\nreplicas = ['2']\n",
    "[tool.distloss]\nreplicas = [1]\n",
    "[tool.distloss]\nreplicas = [0, 2]\n",
    "[tool.distloss]\ntargets = 'train.py'\n",
    "[tool.distloss]\ntargets = [3]\n",
    "[tool.distloss]\ntargets = ['']\n",
    "[tool.distloss]\ntargets = [{args = ['-n']}]\n",
    "[tool.distloss]\ntargets = [{target = 'a.py', args = '-n'}]\n",
    "[tool.distloss]\ntarget = ['train.py']\n",
    "[tool]\ndistloss = 3\n",
    "[tool.distloss\n",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_one_sentence_before_anything_runs(project, monkeypatch, text):
    project(text)
    monkeypatch.setattr(run.processes, "folder", None)
    with pytest.raises(ArgumentError, match=r"^Expected [^\n]* Got [^\n]*$") as error:
        distloss.audit("train.py")
    message = str(error.value)
    assert "pyproject.toml" in message or "replicas" in message


FOUND = Report(
    "train.py",
    "strategy",
    (1, 2),
    tuple(
        Finding(cause, 2, 2.0, 0.0, (), "So.", "Mend it.")
        for cause in ("clip-before-sum", "batch-statistics")
    ),
    (),
)


@pytest.fixture
def audit(monkeypatch):
    """`distloss.audit` without the minutes of work; and the replicas that it ran on."""
    asked = []

    def report(_, counts):
        asked.append(counts)
        return FOUND

    monkeypatch.setattr(run._Run, "report", report)

    def audit(target, **options):
        found = distloss.audit(target, **options)
        return {f.cause: f.accepted for f in found.findings}, asked[-1]

    return audit


def test_the_report_says_what_is_accepted_and_why(project, audit):
    folder = project(WHOLE)
    for name in ("train.py", "c.py"):
        (folder / name).write_text("")
    both = {
        "clip-before-sum": "Its norm is small.",
        "batch-statistics": "Batches are large.",
    }
    assert audit("train.py") == (both, [1, 3])
    assert distloss.audit("train.py").passes
    assert not distloss.audit("train.py").agrees
    one = {"clip-before-sum": "Its norm is small.", "batch-statistics": ""}
    assert audit("c.py", replicas=(2,)) == (one, [1, 2])
    assert not distloss.audit("c.py").passes
    (folder / "pyproject.toml").unlink()
    assert audit("train.py") == (dict.fromkeys(one, ""), [1, 2, 4])


def test_settings_are_those_of_the_project_of_the_file(project, audit, monkeypatch):
    folder = project(WHOLE)
    (folder / "train.py").write_text("")
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.chdir(elsewhere)
    found, counts = audit(f"../{folder.name}/train.py")
    assert (found["batch-statistics"], counts) == ("Batches are large.", [1, 3])
    assert audit(build)[1] == [1, 2, 4]


def build():
    """A function, which is in the project that we are in."""


def test_a_target_is_the_same_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.py").symlink_to("train.py")
    written = {
        "train.py": ["./train.py", str(tmp_path / "train.py"), "link.py"],
        "train.py:build": ["./train.py:build"],
        f"{__name__}:build": [f"{__name__}:build", build],
    }
    for target, all_ways in written.items():
        wanted = Acceptance("unexplained", "So.", target)
        settings = Settings(
            accept=(wanted,), path=pathlib.Path.cwd() / "pyproject.toml"
        )
        for way in (target, *all_ways):
            assert acceptances.reasons(settings, way) == {"unexplained": "So."}
        others = [w for other in written if other != target for w in written[other]]
        for other in (*others, "x.py", "train", lambda: None):
            assert acceptances.reasons(settings, other) == {}


def test_the_first_of_two_reasons_counts():
    two = tuple(Acceptance("unexplained", reason) for reason in ("One.", "Two."))
    assert acceptances.reasons(Settings(accept=two), "a.py") == {"unexplained": "One."}


def test_python_310_without_tomli_refuses_only_what_may_be_ours(project, monkeypatch):
    folder = project("[tool.other]\n")
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    assert settings_for(folder) == Settings()
    project(WHOLE)
    with pytest.raises(ArgumentError, match="pip install tomli"):
        settings_for(folder)


def test_a_report_of_an_audit_without_settings_is_as_it_was():
    assert acceptances.accepted(FOUND, {}) == FOUND
    again = acceptances.accepted(FOUND, {"clip-before-sum": "So."})
    first = dataclasses.replace(FOUND.findings[0], accepted="So.")
    assert again.findings == (first, FOUND.findings[1])
