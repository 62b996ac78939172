"""`import distloss`: light, in any order with Keras, honest about the backend."""

import os
import subprocess
import sys

import keras
import pytest

import distloss


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_import_does_not_load_tensorflow():
    code = "import distloss, sys; print(dir(distloss), 'tensorflow' in sys.modules)"
    done = run_python(code)
    assert done.stdout.endswith("False\n"), done.stderr
    assert "DistributedLoss" in done.stdout


def test_every_public_name_is_there():
    for name in distloss.__all__:
        assert getattr(distloss, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'DistributedLos'"):
        distloss.DistributedLos  # noqa: B018


@pytest.mark.parametrize("order", ["import distloss, keras", "import keras, distloss"])
def test_a_saved_model_loads_where_horovod_is_not_installed(tmp_path, order):
    path = str(tmp_path / "model.keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", distloss.DistributedLoss("mse"))
    model.save(path)
    code = (
        f"import sys; sys.modules['horovod'] = None\n{order}\n"
        f"print(type(keras.models.load_model({path!r}).loss).__name__, "
        f"'tf_keras' in sys.modules)"
    )
    done = run_python(code)
    assert done.stdout == "DistributedLoss False\n", done.stderr


def test_another_backend_is_named():
    code = """
import keras
keras.config.backend = lambda: "jax"  # the others need packages of their own
import distloss
for name in distloss.__all__:
    try:
        getattr(distloss, name)
    except distloss.DistlossError as error:
        print(name, isinstance(error, ImportError), error)
"""
    done = run_python(code)
    lines = done.stdout.splitlines()
    # all but three errors, a warning, Report and audit, which need no Keras
    assert len(lines) == len(distloss.__all__) - 6, done
    for line in lines:
        assert "True distloss needs Keras on the TensorFlow backend" in line
        assert "'jax'" in line
        assert "KERAS_BACKEND=tensorflow" in line
