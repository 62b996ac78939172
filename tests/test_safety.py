"""The command harms nothing: files, terminals, processes, memory, its own exit code."""

import html
import json
import os
import shlex
import stat
import subprocess
import sys

import pytest

from distloss import _html, _render, _text, cli
from distloss._report import Finding, Measured, Report, Skipped

# The command as it is, with a report in the place of the minutes of work.
COMMAND = """
import sys
import distloss._audit
from distloss._report import Finding, Measured, Report, Skipped
finding = Finding("sum-of-means", 2, 2.0, 0.0, ("kernel",), "caf\\u00e9", "Mend it.")
measured = Measured("even split", 2, ((4, 4),), 2.0, 0.0, 1.0, False)
differs = Report("x.py:build", "strategy", (1, 2), (finding,), (), (measured,), 3.0)
agrees = Report("caf\\u00e9.py:build", "strategy", (1, 2), (), ())
distloss._audit.audit = lambda *_, **__: VERDICT
from distloss.cli import main
sys.exit(main(["audit", "x.py:build", *sys.argv[1:]]))
"""


def command(verdict, *arguments):
    code = COMMAND.replace("VERDICT", verdict)
    return [sys.executable, "-c", code, *map(str, arguments)]


def run(verdict, *arguments, **options):
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        command(verdict, *arguments),
        stderr=subprocess.PIPE,
        timeout=100,
        check=False,
        **options,
    )


def shell(line, **environment):
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# -- where the report is written


@pytest.fixture
def device(tmp_path):
    """Makes /dev/null (3) or /dev/full (7) again, for what may break it."""

    def make(minor):
        path = tmp_path / "device"
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        return path

    return make


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")


@needs_root
def test_a_device_is_written_to_and_not_replaced(device):
    path = device(3)
    done = run("agrees", "--format", "json", "--output", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.is_char_device()
    assert list(path.parent.iterdir()) == [path]


def test_a_named_pipe_gets_the_report(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        done = run("agrees", "--format", "json", "--output", pipe)
        told, _ = reader.communicate(timeout=60)
    assert done.returncode == 0
    assert json.loads(told)["agrees"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "report.json", tmp_path / "link"
    link.symlink_to(target)
    if exists:
        target.write_text("old")
        target.chmod(0o600)
    done = run("differs", "--format", "json", "--output", link)
    assert done.returncode == 1
    assert link.is_symlink()
    assert not json.loads(target.read_text())["agrees"]
    if exists:
        assert target.stat().st_mode & 0o777 == 0o600  # secrets stay secret
    assert len(list((tmp_path / "there").iterdir())) == 1


def test_a_new_file_is_as_the_umask_says(tmp_path):
    done = run("agrees", "--format", "json", "--output", tmp_path / "r", umask=0o077)
    assert done.returncode == 0
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600


def test_a_name_as_long_as_a_file_system_allows(tmp_path):
    output = tmp_path / ("x" * 255)
    assert run("agrees", "--format", "json", "--output", output).returncode == 0
    assert json.loads(output.read_text())["agrees"]


UNWRITABLE = [
    "/proc/report.json",  # a folder in which nothing can be made
    "no/such/folder",
    ".",
    "loop",
    "socket",
    "build.py",
]


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_cannot_be_written_is_refused_before_the_work(
    monkeypatch, capfd, tmp_path, name
):
    import socket

    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "build.py").write_text("def build(): ...")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        monkeypatch.setattr("distloss._audit.audit", None)
        code = cli.main(["audit", "build.py:build", "--output", name])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("distloss: Expected --output to be")
    assert name in err
    assert (tmp_path / "build.py").read_text() == "def build(): ..."


@needs_root
@pytest.mark.parametrize("form", ["json", "html", "text"])
def test_a_report_that_cannot_be_written_goes_to_the_terminal(form, device):
    path = device(7)
    done = run("differs", "--format", form, "--output", path)
    assert done.returncode == 2
    assert str(path).encode() in done.stderr
    assert b"No space left" in done.stderr
    assert b"please report it" not in done.stderr
    assert b"sum-of-means" in done.stdout
    assert b"<" not in done.stdout
    assert path.is_char_device()


# -- the terminal


def test_an_ascii_terminal_gets_ascii():
    for form, accent in (("text", b"\\xe9"), ("json", b"\\u00e9"), ("html", b"&#233;")):
        done = run(
            "differs",
            "--format",
            form,
            env={**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C"},
        )
        assert (done.returncode, done.stderr) == (1, b""), form
        assert done.stdout.isascii()
        assert accent in done.stdout
        assert b"sum-of-means" in done.stdout
        assert b"u2500" not in done.stdout  # nor frames as numbers


@pytest.mark.parametrize("verdict", ["agrees", "differs"])
def test_a_reader_that_has_enough_is_no_failure(verdict):
    line = shlex.join(command(verdict)) + " | head -c 1; exit ${PIPESTATUS[0]}"
    code, _, err = shell(line)
    assert (code, err) == ({"agrees": 0, "differs": 1}[verdict], b"")
    gone = shlex.join(command(verdict)) + " | true; exit ${PIPESTATUS[0]}"
    code, _, err = shell(gone)
    assert (code, err) == ({"agrees": 0, "differs": 1}[verdict], b"")


def test_a_full_disk_is_told():
    with open("/dev/full", "w") as full:
        done = run("agrees", stdout=full)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("distloss: ")
    assert "No space left" in line
    assert "report it" not in line


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_closed_streams_change_no_verdict(closed):
    code, _, err = shell(f"{shlex.join(command('agrees'))} {closed}")
    assert code == (2 if closed.startswith(">") else 0)
    assert b"Traceback" not in err
    failing = shlex.join([sys.executable, "-m", "distloss", "audit", "no.py:build"])
    code, out, err = shell(f"{failing} {closed}")
    assert (code, out) == (2, b"")
    assert b"Traceback" not in err


@pytest.mark.parametrize("argument", ["--version", "--help", "--nonsense"])
def test_help_to_a_full_disk(argument):
    line = shlex.join([sys.executable, "-m", "distloss", argument])
    code, _, err = shell(f"{line} >/dev/full 2>/dev/full")
    assert (code, err) == (2, b"")


# -- what users name

ESCAPE, OVERRIDE = "\x1b[2J", "\u202e"
HOSTILE = f"a{ESCAPE}b{OVERRIDE}c\ud800\u2066\u200fd\r\n\x00\x9b\u2028"
SHOWN = r"a\x1b[2Jb\u202ec\ud800\u2066\u200fd\r\n\x00\x9b\u2028"


def hostile_report():
    finding = Finding(HOSTILE, 2, 2.0, 0.0, (HOSTILE,), HOSTILE, HOSTILE, (HOSTILE,))
    variables = {HOSTILE: (2.0, 0.0)}
    measured = Measured(HOSTILE, 2, ((4, 4),), 2.0, 0.0, 1.0, False, variables)
    skipped = (Skipped(HOSTILE, HOSTILE),)
    return Report(HOSTILE, HOSTILE, (1, 2), (finding,), skipped, (measured,), 3.0)


def harmless(text):
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("form", ["text", "plain", "html", "json"])
def test_control_characters_are_shown_and_never_sent(form):
    shown = _render.rendered(hostile_report(), form)
    assert harmless(shown)
    shown.encode("utf-8")  # a lone surrogate could not be
    least = {"text": 6, "plain": 6, "html": 10, "json": 0}[form]
    whole = html.unescape(shown) if form == "html" else shown
    assert "".join(whole.split()).count(r"\x1b[2Jb\u202ec") >= least
    if form == "html":
        assert harmless(whole)  # nor as a number, which a browser would undo
        assert SHOWN in whole
    if form == "json":
        assert json.loads(shown)["target"] == HOSTILE


def test_colours_are_the_only_control_characters():
    shown = _text.text(hostile_report(), colours=True, width=4000)
    assert ESCAPE not in shown
    assert OVERRIDE not in shown
    assert SHOWN in shown


def test_letters_of_all_scripts_are_left_alone():
    name = "\u540d\u524d \u05e9\u05dd \U0001f40d e\u0301"
    report = Report(name, "strategy", (1, 2), (), ())
    assert name in _text.text(report)
    assert name in html.unescape(_html.page(report))


@pytest.mark.parametrize("where", ["no{}.py:build", "no{}", "x --{}", "x.py:b{}"])
def test_arguments_are_told_without_control_characters(capfd, where):
    try:
        code = cli.main(
            ["audit", *where.format(HOSTILE.replace("\x00", "")).split(" ")]
        )
    except SystemExit as error:
        code = error.code
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert harmless(err)
    assert r"\x1b[2J" in err
