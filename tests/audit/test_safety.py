"""The command harms nothing: files, terminals, processes, memory, its own exit code."""

import contextlib
import html
import json
import os
import pathlib
import secrets
import shlex
import signal
import stat
import subprocess
import sys
import time

import pytest
from chosen import some

from distloss import cli
from distloss._audit import keeper as keeper_module
from distloss._audit.report import render
from distloss._audit.report import text as text_format
from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import Finding, Measured, Report, Skipped
from distloss._audit.report.format import Terminal

# The command as it is, with a report in the place of the minutes of work.
COMMAND = """
import sys
import distloss._audit.run
from distloss._audit.report.findings import Finding, Measured, Report, Skipped
finding = Finding("sum-of-means", 2, 2.0, 0.0, ("kernel",), "caf\\u00e9", "Mend it.")
measured = Measured("even split", 2, ((4, 4),), 2.0, 0.0, 1.0, False)
differs = Report("x.py:build", "strategy", (1, 2), (finding,), (), (measured,), 3.0)
agrees = Report("caf\\u00e9.py:build", "strategy", (1, 2), (), ())
distloss._audit.run.audit = lambda *_, **__: VERDICT
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
        monkeypatch.setattr("distloss._audit.run.audit", None)
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
    shown = render.rendered(hostile_report(), form)
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
    wide = Terminal(colours=True, width=4000)
    shown = text_format.text(Audits((hostile_report(),)), wide)
    assert ESCAPE not in shown
    assert OVERRIDE not in shown
    assert SHOWN in shown


def test_letters_of_all_scripts_are_left_alone():
    name = "\u540d\u524d \u05e9\u05dd \U0001f40d e\u0301"
    report = Report(name, "strategy", (1, 2), (), ())
    assert name in render.rendered(report, "text")
    assert name in html.unescape(render.rendered(report, "html"))


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


# -- processes, and what they leave

KEEPER = pathlib.Path(keeper_module.__file__)

# Leaves its group, its session and its parent, as a daemon does.
DAEMON = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n"
STUCK = "re.match('(a+)+b', 'a' * 100)"  # in C, and holds Python's lock


@pytest.fixture
def marked(monkeypatch):
    """The processes that were started in this test, by their environment."""
    mark = f"DISTLOSS_TEST={secrets.token_hex(8)}"
    monkeypatch.setenv(*mark.split("="))
    found = []

    def processes():
        found.clear()
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    yield processes
    for pid in processes():  # a test that fails leaves nothing, either
        os.kill(pid, signal.SIGKILL)


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


@pytest.fixture
def kept():
    """Starts a keeper of a program; its stdin is closed at the end, at the latest."""
    with contextlib.ExitStack() as stack:

        def start(folder, code, parent=None):
            command = [sys.executable, "-I", "-S", KEEPER, str(parent or os.getpid())]
            command += [folder, sys.executable, "-c", code]
            keeper = subprocess.Popen(command, stdin=subprocess.PIPE)
            return stack.enter_context(keeper)

        yield start


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGKILL of the program"])
def test_a_keeper_ends_daemons_too(tmp_path, marked, kept, how):
    keeper = kept(tmp_path, f"{DAEMON}time.sleep(1000)")
    until(lambda: len(marked()) == 4)  # the keeper, the program and two daemons
    if how == "stdin":
        keeper.stdin.close()
    elif how == "SIGTERM":
        keeper.terminate()
    else:
        children = f"/proc/{keeper.pid}/task/{keeper.pid}/children"
        for pid in pathlib.Path(children).read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    keeper.wait(20)
    assert not marked()
    assert tmp_path.exists()


def test_a_killed_keeper_takes_its_program_along(tmp_path, marked, kept):
    """By Linux alone: nobody is left to do it, and the program listens to nothing."""
    keeper = kept(tmp_path, f"import re; {STUCK}")
    until(lambda: len(marked()) == 2)
    keeper.kill()
    keeper.wait(20)
    until(lambda: not marked(), 20)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -6),
        ("import os; os.killpg(0, 15)", -15),
    ],
)
def test_a_keeper_ends_as_its_program(tmp_path, kept, code, status):
    assert kept(tmp_path, code).wait(20) == status


def test_a_keeper_whose_parent_is_gone_removes_the_folder(tmp_path, marked, kept):
    (tmp_path / "it" / "tmp").mkdir(parents=True)
    keeper = kept(tmp_path / "it", "import time; time.sleep(1000)", parent=2)
    assert keeper.wait(20) == 0
    assert not marked()
    assert not list(tmp_path.iterdir())


BUILD = r"""
import os, re, subprocess, sys, tempfile, time

def stuck():
    code = "import os, time; os.setsid(); os.fork(); time.sleep(1000)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    tempfile.NamedTemporaryFile("w", prefix="__autograph_", delete=False).close()
    open(os.environ["BUILDING"], "w").close()
    re.match('(a+)+b', 'a' * 100)

def prints():
    for _ in range(3000):
        print("x" * 99_999)
    print("usage: train.py --data DATA")
    sys.stderr.write("train.py: error: --data is \x1b[2J required\n")
    sys.exit(2)

def says_too_much():
    class Error(Exception):
        pass
    Error.__name__ = "Error\x1b[2J\u202e"
    raise Error("x" * 100_000_000)

def fails_to_say():
    class Mute(Exception):
        def __str__(self):
            raise KeyError
    raise Mute

def forks():
    if os.fork() == 0:
        return "a child that goes on"
    time.sleep(1)
    raise ValueError("the parent that goes on")
"""


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """Starts the command for a function of BUILD, with a folder for temporary files."""
    path = tmp_path / "builds.py"
    path.write_text(BUILD)
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setenv("BUILDING", str(tmp_path / "building"))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    running = []

    def start(name, *arguments, code="main(sys.argv[1:])"):
        # A test run in the background ignores them, and so would all that it starts.
        heed = "signal(SIGINT, default_int_handler); signal(SIGHUP, SIG_DFL)"
        code = (
            f"from signal import *; {heed}; import re, sys; "
            f"from distloss.cli import main; sys.exit({code})"
        )
        command = [sys.executable, "-c", code, "audit", f"{path}:{name}"]
        running.append(
            subprocess.Popen(
                [*command, "--replicas", "1,2", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


SIGNALS = ("SIGKILL", "SIGHUP", "SIGTERM", "SIGINT")
ENDED = [(number, "strategy") for number in some(SIGNALS, 2)]


@pytest.mark.parametrize(("number", "engine"), [*ENDED, ("SIGKILL", "horovod")])
def test_a_command_that_is_ended_leaves_nothing(
    tmp_path, marked, audit, number, engine
):
    """Though build holds Python's lock, and has started what left its group."""
    process = audit("stuck", "--engine", engine)
    until((tmp_path / "building").exists)
    process.send_signal(getattr(signal, number))
    process.wait(30)
    until(lambda: not marked(), 20)
    until(lambda: not list((tmp_path / "t").iterdir()), 5)
    if number in ("SIGTERM", "SIGINT"):
        out, err = process.communicate()
        assert (process.returncode, out) == (2, "")
        assert err == "distloss: interrupted\n"


def test_a_build_that_takes_too_long_leaves_nothing(tmp_path, marked, audit):
    _, err = audit("stuck", "--timeout", "2").communicate(timeout=100)
    assert "calling build() took longer than the limit of 2 s" in err
    assert not marked()
    assert not list((tmp_path / "t").iterdir())


def test_what_is_printed_fills_no_memory_and_its_end_is_told(tmp_path, audit):
    """300 MB, of which half a kilobyte is wanted: that of argparse, before sys.exit."""
    most = "re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]"
    process = audit("prints", code=f"print(main(sys.argv[1:]), {most})")
    largest = 0
    while process.poll() is None:
        files = [p for p in (tmp_path / "t").rglob("*") if p.is_file()]
        with contextlib.suppress(OSError):
            largest = max([largest, *(p.stat().st_size for p in files)])
        time.sleep(0.02)
    out, err = process.communicate()
    returned, kilobytes = map(int, out.split())
    assert returned == 2
    assert kilobytes < 200_000
    assert largest < 1e6
    assert "called sys.exit(2)" in err
    assert err.endswith(
        "It said last: usage: train.py --data DATA / "
        "train.py: error: --data is \\x1b[2J required\n"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("says_too_much", r"raised Error\x1b[2J\u202e: xxxx"),
        ("fails_to_say", "raised Mute: (its message cannot be had: KeyError)"),
    ],
)
def test_an_error_is_told_whatever_it_is(tmp_path, capfd, forked, name, says):
    path = tmp_path / "builds.py"
    path.write_text(BUILD)
    code = cli.main(["audit", f"{path}:{name}", "--replicas", "1,2"])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert_told(err, says)


def test_an_error_is_told_whoever_goes_on(marked, audit):
    out, err = audit("forks").communicate(timeout=100)
    assert out == ""
    assert_told(err, "raised ValueError: the parent that goes on")
    assert not marked()


def assert_told(err, says):
    assert says in err
    assert len(err) < 1000
    assert harmless(err)
