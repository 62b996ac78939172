"""Imports only point down: each module may import the floors below its own."""

import ast
import pathlib

import pytest

import distloss

PACKAGE = pathlib.Path(distloss.__file__).parent
FLOORS = (
    {"_errors", "_keeper", "_log", "_package", "_printable", "_types"},
    {"_keras_versions", "_sparse"},
    {"replicas"},
    {"_empty", "_horovod", "_model_hooks", "_monitor"},
    {"_denominators"},
    {"_reduce", "_tf_keras"},
    {"_global_loss", "_terms"},
    {"_tf_keras_loss"},
    {"callbacks", "data", "losses", "metrics", "microbatches", "optimizers"},
    {"_layer_hooks"},
    {"_added"},
    {"_scalar_metrics"},
    {"_steps", "_tf_keras_model"},
    {"_steps_in_parts"},
    {"_step_hooks"},
    {"_prepare"},
    {"_built", "_causes", "_float64", "_launch", "_lint", "_place", "_probes"}
    | {"_slices"},
    {"_recorder", "_report", "_switches", "_target"},
    {"_compare", "_compiled", "_dealt", "_pins", "_unbuilt", "_words"},
    {"_tf_keras_switches"},
    {"_clipping", "_html", "_measure", "_text"},
    {"_child", "_diagnosis"},
    {"_one_device", "_output", "_render"},
    {"_audit"},
    {"cli", "pytest_plugin"},
    {"__init__", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def imported_by(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "distloss":
                yield f"{name}.__init__".split(".")[1]


def wrong_imports(name, source):
    return [n for n in imported_by(source) if LEVEL.get(n, len(FLOORS)) >= LEVEL[name]]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem
)
def test_imports_point_down(path):
    assert not wrong_imports(path.stem, path.read_text())


def test_an_upward_and_a_sideways_import_are_found():
    assert wrong_imports("_reduce", "from distloss.losses import DistributedLoss")
    assert wrong_imports("_reduce", "from distloss import losses")
    assert wrong_imports("losses", "import distloss.metrics")
    assert not wrong_imports("losses", "from distloss import _reduce")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem
)
def test_only_replicas_touches_collectives(path):
    code = "".join(ast.unparse(node) for node in ast.parse(path.read_text()).body[1:])
    words = ("tf.distribute.get", ".all_reduce(", ".merge_call(")
    touches = any(word in code for word in words)
    assert touches == (path.stem == "replicas")
