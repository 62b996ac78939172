"""scripts/setup says in one line what is missing; scripts/bench still runs."""

import importlib
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A checkout that was never set up, and a folder at the front of PATH."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def setup(checkout, extra="examples", **environment):
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "scripts" / "setup", extra],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def executable(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def assert_one_line(done, words):
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"setup: {words}"), line


def test_no_python_that_suits(checkout):
    done = setup(checkout, PYTHON="false")
    assert_one_line(done, "no Python 3.10 to 3.13 with venv found (tried false)")


def test_no_compiler(checkout):
    tools = ("bash", "dirname")
    for tool in tools:
        (checkout / "bin" / tool).symlink_to(shutil.which(tool))
    done = setup(checkout, "test", PATH=str(checkout / "bin"))
    assert_one_line(done, "no C++ compiler found")


def test_no_disk(checkout):
    executable(checkout / "bin" / "df", "printf 'h\\nfs 9 9 2048 9%% /\\n'")
    done = setup(checkout)
    assert_one_line(done, "2 MiB of disk are free here")


def install_horovod(path, tools, **environment):
    """scripts/install_horovod where only these tools are on PATH."""
    for tool in tools:
        (path / tool).symlink_to(shutil.which(tool))
    script = ROOT / "scripts" / "install_horovod"
    return subprocess.run(
        [shutil.which("bash"), script, sys.executable],
        env={"PATH": str(path), "HOME": str(path), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ((), "a C++ compiler is missing. Install it, on Debian: apt-get install g++"),
        (("g++",), "make is missing. Install it, on Debian: apt-get install make"),
        (("g++", "make"), "CMake is missing. Install it, on Debian: apt-get install c"),
    ],
)
def test_what_horovod_needs_is_named_with_its_package(tmp_path, there, words):
    done = install_horovod(tmp_path, ("dirname", "basename", *there))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"install_horovod: {words}")


def test_an_old_cmake_is_named(tmp_path):
    executable(tmp_path / "cmake", "echo cmake version 3.5.1")
    done = install_horovod(tmp_path, ("dirname", "basename", "g++", "make"))
    assert "CMake 3.13 or newer is missing" in done.stderr


def test_horovod_needs_a_tensorflow_to_be_built_for(tmp_path):
    executable(tmp_path / "bare", '[ "$2" = "" ] || exit 1')
    script = ROOT / "scripts" / "install_horovod"
    done = subprocess.run([script, tmp_path / "bare"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no TensorFlow in the environment of" in done.stderr


def test_the_benchmark_runs(tmp_path):
    output, pictures = tmp_path / "bench.json", tmp_path / "pictures"
    scripts = ROOT / "scripts"
    command = [sys.executable, scripts / "_quietly.py", scripts / "bench.py", "--toy"]
    command += ["--only", "loss,larger"]
    command += ["--output", output, "--pictures", pictures]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "port.cc" not in done.stderr
    assert "absl::InitializeLog" not in done.stderr
    found = json.loads(output.read_text())
    assert found["loss"][0]["counted"]["ratio"] > 0
    assert found["loss"][0]["A/A"]["ratio"] > 0
    assert {path.name for path in pictures.iterdir()} == {"loss.png", "larger.png"}
    assert "| model | replicas | plain ms | static |" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--traces", "1"), "expected at least 2 rounds. Got 1"),
        (("--models", "bert"), "no such question or model: bert"),
        (("--replicas", "0"), "invalid counts value: '0'"),
        ((), "Got a file that is no JSON"),
    ],
)
def test_the_benchmark_says_what_it_cannot_do(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    output = tmp_path / "bench.json"
    output.write_text("" if arguments else '{"loss": ')
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("bench").parsed([*arguments, "--output", str(output)])
    assert words in capsys.readouterr().err


def test_an_empty_file_holds_no_answers_of_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    (tmp_path / "bench.json").touch()
    parsed = importlib.import_module("bench").parsed
    assert parsed(["--output", str(tmp_path / "bench.json")]).results == {}
    toy = parsed(["--toy", "--replicas", "4", "--output", str(tmp_path / "none")])
    assert (toy.models, toy.replicas, toy.pairs) == (["mlp"], [4], 3)


def versions(path, *arguments):
    """scripts/test_versions where these Pythons, and no others, are to be found."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "test_versions", *arguments],
        env={"PATH": str(path), "PYENV_ROOT": str(path), "DISTLOSS_CACHE": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_versions_says_what_it_would_do(tmp_path):
    for release in ("3.10", "3.11", "3.12", "3.13"):
        executable(tmp_path / f"python{release}", "exit 0")
    done = versions(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    pins = {
        "tensorflow==2.16.2 keras==3.3.3 tf-keras==2.16.0",
        "tensorflow==2.18.1 keras==3.6.0 tf-keras==2.18.0",
        "tensorflow==2.21.0 keras tf-keras==2.21.0",
        "--pre tf-nightly tf-keras-nightly keras-nightly",
    }
    lines = done.stdout.splitlines()
    assert pins <= {pin for pin in pins for line in lines if line.endswith(pin)}
    tested = [line for line in lines if "-m pytest" in line]
    assert sum("tests/core/" in line for line in tested) == 15
    assert sum("tests/hvd/" in line for line in tested) == 2
    assert sum("install_horovod" in line for line in lines) == 2
    assert not (tmp_path / "versions").exists()
    only = versions(tmp_path, "--dry-run", "--only", "keras-3.6").stdout
    assert only.count("pip install") == 1
    assert "keras==3.6.0" in only


def test_versions_names_what_it_does_not_have(tmp_path):
    executable(tmp_path / "python3.11", "exit 1")  # as a shim of pyenv without it
    done = versions(tmp_path, "--only", "keras-3.6")
    assert done.returncode == 1
    assert done.stderr.startswith("test_versions: no Python 3.11 with venv found")
    assert "pyenv install 3.11" in done.stderr
    done = versions(tmp_path, "--only", "keras-2")
    assert done.returncode == 2
    assert "invalid choice: 'keras-2'" in done.stderr


def keras_tests():
    """What scripts/test_keras defines."""
    return runpy.run_path(str(ROOT / "scripts" / "test_keras"))


@pytest.mark.parametrize(
    ("kind", "outcome", "message", "uses", "refused"),
    [
        ("passed", "passed", "", 1, []),
        ("without distloss in it", "passed", "", 0, []),
        ("refused", "passed", "", 1, ["with its own train_step"]),
        ("skipped by Keras", "skipped", "", 0, []),
        ("failed", "failed", "1 != 2", 1, []),
    ],
)
def test_keras_tests_are_counted_by_kind(kind, outcome, message, uses, refused):
    script = keras_tests()
    line = {"test": "losses/a_test.py::test_b", "outcome": outcome}
    line |= {"message": message, "uses": uses, "refused": refused}
    assert script["kind_of"](script["PARTS"][0], line) == kind


def test_an_exception_must_fail_in_its_part_and_as_it_says():
    script = keras_tests()
    losses, optimizers = script["PARTS"][:2]
    line = {"test": "losses/loss_test.py::LossTest::test_mask", "outcome": "failed"}
    line |= {"message": "- float64\n+ float32\n", "uses": 1, "refused": []}
    kind_of = script["kind_of"]
    assert kind_of(losses, line) == "exceptions"
    assert kind_of(losses, {**line, "message": "0.3 != 0.2"}) == "failed"
    assert kind_of(losses, {**line, "outcome": "passed"}) == "failed"
    assert kind_of(optimizers, line) == "failed"
    stale = script["stale_patterns"](losses, [line])
    assert "losses/loss_test.py::LossTest::test_reduction" in stale
    assert "losses/loss_test.py::LossTest::test_mask" not in stale


def test_keras_tests_that_cannot_be_had_are_named(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "test_keras", "--only", "losses"],
        env={**os.environ, "DISTLOSS_CACHE": str(tmp_path), "PIP_NO_INDEX": "1"}
        | {"PIP_FIND_LINKS": str(tmp_path), "PIP_EXTRA_INDEX_URL": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("test_keras: the source package of keras==")
    assert not list(tmp_path.iterdir())
