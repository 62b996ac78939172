"""The scripts of examples/upstream for Horovod: all in one launch of two processes."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "hvd" / "programs" / "upstream_scripts.py"
sys.path.insert(0, str(ROOT / "scripts"))
import upstream_table as table  # noqa: E402

SCRIPTS = [script for script in table.scripts() if table.is_of_horovod(script)]


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """How each script has ended, and what it printed."""
    path = tmp_path_factory.mktemp("upstream") / "endings.json"
    launch = [sys.executable, ROOT / "scripts" / "launch_horovod", "-np", "2"]
    helpers = str(ROOT / "tests" / "helpers")
    paths = [helpers, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [*map(str, [*launch, "--stall-warning", "1", PROGRAM, path, *SCRIPTS])],
        capture_output=True,
        text=True,
        timeout=250,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(zip(SCRIPTS, json.loads(path.read_text()), strict=True))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_of_horovod_fails_where_the_defect_is(script, endings):
    horovod = table.versions(sys.executable)["horovod"]
    here = f"{horovod} (Keras {keras.__version__}, TensorFlow {tf.__version__})"
    seen = json.loads(table.SEEN.read_text())[script.stem]["ended"]
    code, output, errors = endings[script]
    got = table.ended(code, output, errors)
    wanted = seen.get(f"Horovod {here}", 1)
    assert got == wanted, table.news(script, here, got) + output + errors
