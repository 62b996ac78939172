"""What a package index gets: built once, looked into, and installed."""

import email
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from packaging.requirements import Requirement
from pages import README, ROOT, project

PROJECT = project()
SCRIPTS = ("install-horovod", "launch-horovod")


def built(source, folder, *what):
    """The files that `python -m build` makes of a folder."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    done = subprocess.run(
        [*command, *what, source], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist and the wheel."""
    wheel, sdist = built(ROOT, tmp_path_factory.mktemp("dist"))
    assert wheel.name == f"distloss-{PROJECT['version']}-py3-none-any.whl"
    assert sdist.name == f"distloss-{PROJECT['version']}.tar.gz"
    return sdist, wheel


@pytest.fixture(scope="module")
def metadata(dist):
    with zipfile.ZipFile(dist[1]) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_an_index_would_take_them(dist):
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *dist],
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_nothing_else(dist):
    with zipfile.ZipFile(dist[1]) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    about = f"distloss-{PROJECT['version']}"
    assert tops == {"distloss", f"{about}.data", f"{about}.dist-info"}
    ours = {name for name in names if name.startswith("distloss/")}
    sources = (ROOT / "distloss").rglob("*")
    wanted = {
        str(path.relative_to(ROOT))
        for path in sources
        if path.is_file() and path.suffix != ".pyc"
    }
    assert ours == wanted
    assert "distloss/py.typed" in ours
    assert f"{about}.dist-info/licenses/LICENSE" in names
    for script in SCRIPTS:
        assert f"{about}.data/scripts/distloss-{script}" in names


def test_the_sdist_holds_what_the_tests_need(dist, tmp_path):
    """And what the wheel needs, which is built from it."""
    with tarfile.open(dist[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    for name in ("LICENSE", "README.md", "pyproject.toml", "tests"):
        assert (root / name).exists(), name
    assert not list(root.rglob("*.pyc"))
    assert not list(root.rglob(".venv*"))
    assert not (root / "site").exists()


def test_what_goes_to_a_tpu_is_enough_to_install_it(tmp_path):
    launch = runpy.run_path(str(ROOT / "scripts" / "launch_tpu"))
    source = tmp_path / "launched"
    source.mkdir()
    for name in launch["PACKAGE"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    assert len(built(source, tmp_path / "out", "--wheel")) == 1


# -- what the page of the index shows


def test_the_page_of_an_index_has_no_link_that_needs_a_checkout(metadata):
    page = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert [one for one in links if not one.startswith("https://")] == []
    assert "<picture>" not in page
    assert "<!--" not in page
    assert "distloss.prepare(model)" in page
    headings = re.compile(r"^## .*$", re.MULTILINE)
    assert headings.findall(page) == headings.findall(README.read_text())


def test_classifiers_name_each_python(metadata):
    named = re.findall(r"Python :: (3\.\d+)", str(metadata.get_all("Classifier")))
    low, high = re.fullmatch(
        r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]
    ).groups()
    assert named == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_addresses_are_those_that_are_known(metadata):
    assert metadata.get_all("Project-URL") is None


# -- one version


def test_the_version_is_said_once():
    version = PROJECT["version"]
    changes = (ROOT / "distloss" / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changes, re.MULTILINE).group(1) == version
    sources = (ROOT / "distloss").rglob("*.py")
    assert [p for p in sources if f'"{version}"' in p.read_text()] == []
    cited = re.search(r"version = \{(.*)\}", README.read_text()).group(1)
    assert cited == version


# -- extras


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"])))
def test_an_extra_is_made_of_what_can_be_installed(extra):
    for line in PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        if wanted.name == "distloss":
            assert wanted.extras <= set(PROJECT["optional-dependencies"])
        elif extra != "docs":  # scripts/docs installs these, in a place of their own
            there = importlib.metadata.version(wanted.name)
            assert wanted.specifier.contains(there, prereleases=True), line


def test_what_finds_more_with_each_release_is_pinned():
    lines = map(Requirement, PROJECT["optional-dependencies"]["test"])
    pinned = {one.name: str(one.specifier) for one in lines}
    assert all("<" in pinned[name] for name in ("ruff", "mypy"))


# -- the commands that a wheel brings


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Runs a command that pip has installed; what it returned and said."""
    prefix = tmp_path_factory.mktemp("prefix")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-index", "--no-compile", "--ignore-installed", "--prefix", prefix]
    subprocess.run([*command, dist[1]], check=True)
    (package,) = prefix.rglob("distloss/__init__.py")
    path = {"PYTHONPATH": str(package.parents[1])}

    def run(name, *arguments):
        return subprocess.run(
            [prefix / "bin" / name, *arguments],
            env={**os.environ, **path},
            cwd=prefix,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("distloss", "--version"), 0, f"distloss {PROJECT['version']}"),
        (("distloss-launch-horovod", "-np", "2", "no.py"), 2, "no file no.py"),
        (("distloss-install-horovod", "no-python"), 1, "no Python at 'no-python'"),
    ],
)
def test_commands_run_without_a_checkout(installed, command, code, words):
    done = installed(*command)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr


def test_horovod_is_built_for_the_python_of_the_active_environment(tmp_path):
    """Found on PATH, and known by its place: horovodrun lies beside it."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" = "" ] || exit 1\n')  # without TensorFlow
    python.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "install_horovod"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"no TensorFlow in the environment of {python}." in done.stderr


def test_the_command_is_announced(dist):
    with zipfile.ZipFile(dist[1]) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        points = archive.read(name).decode()
    assert "distloss = distloss.cli:main" in points
    assert "distloss.pytest_plugin" in points
