"""The package's names, as Python and as a type checker see them; and its setup."""

import importlib.metadata
import os
import shutil
import subprocess
import sys

import pytest
from chosen import some
from test_import import run_python
from test_scripts import ROOT, checkout, executable  # noqa: F401

MYPY = ("-m", "mypy", "--strict", "--config-file", "", "--follow-imports", "silent")
MODULES = ["callbacks", "data", "losses", "metrics", "optimizers", "replicas"]

REGISTERED = """
from keras.saving import get_registered_object
names = ("DistributedLoss", "GlobalMean", "StrategyReplicas", "HorovodReplicas")
print(sum(get_registered_object(f"distloss>{name}") is not None for name in names))
"""


def test_the_version_is_that_of_the_installed_package():
    code = "import distloss, sys; print(distloss.__version__, 'keras' in sys.modules)"
    wanted = importlib.metadata.version("distloss")
    assert run_python(code).stdout == f"{wanted} False\n"
    done = subprocess.run(
        [sys.executable, "-m", "distloss", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"distloss {wanted}\n",
        "",
    )


def test_a_checkout_that_is_not_installed_says_so(tmp_path):
    shutil.copytree(ROOT / "distloss", tmp_path / "distloss")
    code = (
        f"import sys; sys.path = [{str(tmp_path)!r}] + [p for p in sys.path if p]\n"
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import distloss; print(distloss.__version__)"
    )
    done = run_python(code, PYTHONPATH="")
    assert done.stdout == "0+unknown\n", done.stderr


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_the_version_and_help_load_little(argument):
    code = f"""
import sys
from distloss.cli import main
try:
    main([{argument!r}])
except SystemExit as error:
    heavy = ("tensorflow", "keras", "numpy", "rich", "jinja2", "matplotlib")
    print(error.code, [name for name in heavy if name in sys.modules])
"""
    assert run_python(code).stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("name", some(MODULES, 4))
def test_a_module_is_reached_as_an_attribute_and_registers_all(name):
    """Also where it is what imports Keras, whose import ours wait for."""
    code = f"""
import distloss, sys
print({name!r} in dir(distloss), "tensorflow" in sys.modules)
print(distloss.{name}.__name__)
{REGISTERED}"""
    done = run_python(code)
    assert done.stdout == f"True False\ndistloss.{name}\n4\n", done.stderr


@pytest.mark.parametrize("name", some(["prepare", "mean_share", "HorovodReplicas"], 2))
def test_a_name_that_imports_keras_registers_all(name):
    done = run_python(f"import distloss\ndistloss.{name}\n{REGISTERED}")
    assert done.stdout == "4\n", done.stderr


def test_a_type_checker_knows_which_names_exist(tmp_path):
    names = ["__version__", "audit", "DistributedLoss", "typo", "callback"]
    names += [f"{name}.__name__" for name in MODULES] + ["callbacks.StepSummary"]
    lines = [f"print(distloss.{name})" for name in names]
    path = tmp_path / "theirs.py"
    path.write_text("\n".join(["import distloss", *lines, ""]))
    done = subprocess.run(
        [sys.executable, *MYPY, "--cache-dir", tmp_path / "cache", path],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 2, done.stdout
    for name, line in zip(("typo", "callback"), errors, strict=True):
        assert f'"{name}"' in line
        assert "[attr-defined]" in line


# -- what registers itself with Keras


@pytest.mark.parametrize("seed", some([0, 1, 2], 2))
def test_a_module_that_cannot_be_imported_is_an_error(seed):
    """Not silence that, by the seed of hashes, leaves classes out."""
    broken = "import sys; sys.modules['distloss._formula.denominators'] = None"
    code = f"{broken}\nimport distloss, keras\n{REGISTERED}"
    done = run_python(code, PYTHONHASHSEED=str(seed))
    assert done.returncode == 1
    assert "distloss._formula.denominators" in done.stderr.splitlines()[-1]


def test_another_backend_stops_no_import_of_keras():
    code = """
import sys, types
from keras.src.backend import config
config.backend = lambda: "jax"
import keras
keras.config.backend = lambda: "jax"
import distloss
print("distloss.losses" in sys.modules)
"""
    done = run_python(code)
    assert done.stdout == "False\n", done.stderr


# -- scripts/setup


def test_only_the_tests_need_a_compiler(checkout):  # noqa: F811
    for tool in ("bash", "dirname", "cksum", "awk"):
        (checkout / "bin" / tool).symlink_to(shutil.which(tool))
    executable(checkout / "bin" / "df", "echo; echo fs 9 9 99999999 9% /")
    said = {}
    for extra in ("examples", "test"):
        done = subprocess.run(
            [checkout / "scripts" / "setup", extra],
            env={"PATH": str(checkout / "bin"), "PYTHON": "false"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        (said[extra],) = done.stderr.splitlines()
    assert said["examples"].startswith("setup: no Python 3.10 to 3.13 with venv")
    assert said["test"].startswith("setup: no C++ compiler found")
