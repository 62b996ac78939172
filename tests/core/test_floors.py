"""Imports only point down, from room to room: the map is distloss/README.md."""

import ast
import functools
import graphlib
import pathlib

import pytest

import distloss

PACKAGE = pathlib.Path(distloss.__file__).parent
# Rooms of one floor never import each other; one of them may import all below it.
LIBRARY = (
    {"_errors", "_package", "_types", "_virtual_cpus"},
    {"_keras"},
    {"replicas"},
    {"_formula"},
    {"data", "losses", "metrics", "optimizers"},
    {"_prepare"},
    {"_check"},
    {"callbacks"},
)
AUDIT = (
    {"_audit.keeper", "_audit.log", "_formats", "_settings"},
    {"_audit.report"},
    {"_audit.checks"},
    {"_audit.child", "_audit.conversation", "_audit.target"},
    {"_audit.acceptances", "_audit.answers", "_audit.opening", "_audit.output"},
    {"_audit.processes", "_audit.session", "_audit.step"},
    {"_audit.run"},
    {"_doctor", "_lint"},
    {"_audit.command"},
    {"cli", "pytest_plugin"},
    {"__init__", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LIBRARY + AUDIT) for room in rooms}
OF_LIBRARY = set().union(*LIBRARY)
TOOLS = {"_audit", "_formats", "_lint", "_settings"}


def module_of(path):
    """`_audit.child` for its __init__.py, `cli` for cli.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    is_room = parts[-1] == "__init__" and len(parts) > 1
    return ".".join(parts[:-1] if is_room else parts)


SOURCES = {module_of(path): path.read_text() for path in PACKAGE.rglob("*.py")}


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree):
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if is_for_types(node):
            node = ast.Module(node.orelse, [])
        yield node
        yield from statements(node)


@functools.cache
def imports(source):
    """The addresses that a source imports: `a.b.c` for `from a.b import c`."""
    found = []
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def within(address, rooms):
    """The longest beginning of the address that is one of `rooms`, or None."""
    while address and address not in rooms:
        address = address.rpartition(".")[0]
    return address or None


def imports_of_ours(source):
    for address in imports(source):
        if address.split(".")[0] == "distloss":
            ours = address.partition(".")[2]
            yield within(ours, SOURCES) or "__init__"


def wrong_imports(module, source):
    """Those of rooms that are on the same floor, or above."""
    room = within(module, LEVEL)
    assert room or module == "_audit", f"{module} is in no room: see distloss/README.md"
    return [
        other
        for other in imports_of_ours(source)
        if within(other, LEVEL) != room
        and LEVEL.get(within(other, LEVEL), 99) >= LEVEL.get(room, 0)
    ]


def wrong_anywhere(rule):
    """What a rule finds in all modules, by module."""
    found = {module: rule(module, source) for module, source in SOURCES.items()}
    return {module: wrong for module, wrong in found.items() if wrong}


def test_imports_point_down():
    assert wrong_anywhere(wrong_imports) == {}


def test_an_upward_and_a_sideways_import_are_found():
    upward = "from distloss.losses import DistributedLoss"
    assert wrong_imports("_formula.reduce", upward)
    assert wrong_imports("_formula.reduce", "from distloss import losses")
    assert wrong_imports("losses.keras3", "import distloss.metrics")
    assert wrong_imports("_audit.report.html", "from distloss._audit import run")
    assert wrong_imports("_keras.versions", "import distloss")
    assert not wrong_imports("losses.keras3", "from distloss._formula import reduce")
    assert not wrong_imports("losses.keras3", "from distloss.losses import arguments")
    with pytest.raises(AssertionError, match="no room"):
        wrong_imports("_new", "")


def circle(sources):
    """The modules of a circle of imports, or None."""
    graph = {
        module: {other for other in imports_of_ours(source) if other != module}
        for module, source in sources.items()
        if module != "__init__"
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_imports_go_in_a_circle():
    assert circle(SOURCES) is None
    upward = "from distloss.losses.keras3 import DistributedLoss"
    assert circle(SOURCES | {"losses.arguments": upward})


# -- the library never imports the audit, the linter or their formats


def tools_in_library(module, source):
    if within(module, OF_LIBRARY) is None:
        return []
    return [n for n in imports_of_ours(source) if within(n, TOOLS)]


def test_the_library_does_not_know_the_tools():
    assert wrong_anywhere(tools_in_library) == {}


def test_a_tool_in_the_library_is_found():
    assert tools_in_library("_prepare.steps", "from distloss._audit.log import Log")
    assert tools_in_library("callbacks", "def f():\n    import distloss._audit.run")
    assert tools_in_library("metrics", "from distloss._formats.record import Record")
    assert tools_in_library("data", "from distloss._settings import settings_for")
    assert tools_in_library("losses.keras3", "from distloss._lint import rules")
    assert not tools_in_library("cli", "from distloss._audit.run import audit")


# -- of the tools, only `_audit.child` loads TensorFlow, and nothing outside imports it


HEAVY = {"tensorflow", "keras", "tf_keras", "horovod"}


def heavy_in_judge(module, source):
    """What the tools must not import, but for the half of the audit that runs steps."""
    if within(module, {"_audit.child"}):
        return []
    child = [n for n in imports_of_ours(source) if within(n, {"_audit.child"})]
    if not within(module, TOOLS):
        return child
    ours = [n for n in imports_of_ours(source) if within(n, OF_LIBRARY - LIBRARY[0])]
    return child + ours + [n for n in imports(source) if n.split(".")[0] in HEAVY]


def test_only_the_child_loads_tensorflow():
    assert wrong_anywhere(heavy_in_judge) == {}


def test_what_loads_tensorflow_outside_the_child_is_found():
    assert heavy_in_judge("_audit.session", "import tensorflow as tf")
    assert heavy_in_judge("_audit.checks.compare", "from keras import ops")
    assert heavy_in_judge("_audit.run", "from distloss.replicas import OneDevice")
    assert heavy_in_judge("_formats.sarif", "import keras")
    assert heavy_in_judge("_lint.rules.sum_of_means", "import tensorflow as tf")
    assert heavy_in_judge("cli", "from distloss._audit.child import place")
    assert not heavy_in_judge("_audit.child.place", "import tensorflow as tf")
    assert not heavy_in_judge("_audit.run", "from distloss._errors import AuditError")


# -- private modules of Keras


def private_of_keras(module, source):
    """What a module imports of `keras.src` or `tf_keras.src`."""
    if within(module, {"_keras", "_audit.child"}):
        return set()
    names = set(imports(source))
    for node in ast.walk(ast.parse(source)):  # importlib.import_module("tf_keras.src")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    private = ("keras.src.", "tf_keras.src.")
    return {(module, name) for name in names if name.startswith(private)}


def test_private_modules_of_keras_are_named_in_keras_alone():
    assert wrong_anywhere(private_of_keras) == {}


def test_a_private_module_of_keras_elsewhere_is_found():
    assert private_of_keras("metrics", "from keras.src.metrics import metric")
    assert private_of_keras("callbacks", "f('tf_keras.src.engine.training')")
    assert not private_of_keras("_keras.versions", "from keras.src import losses")


# -- private attributes of Keras, in rooms that ask `_keras` for them


BY_NAME = {"getattr", "hasattr", "setattr"}
ASK = {"_prepare", "callbacks", "losses", "optimizers"}


@functools.cache
def names_of_ours():
    """Attributes, functions and classes that some module of ours defines."""
    found = set()
    for node in (n for source in SOURCES.values() for n in ast.walk(ast.parse(source))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = getattr(node, "targets", None) or [node.target]
            names = [n for target in targets for n in ast.walk(target)]
            found |= {n.id for n in names if isinstance(n, ast.Name)}
            found |= {
                n.attr
                for n in names
                if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"
            }
    return found


def private_attributes(module, source):
    """Those that a room which asks `_keras` uses, and that are not ours."""
    if not within(module, ASK):
        return set()
    nodes = list(ast.walk(ast.parse(source)))
    names = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    calls = [n for n in nodes if isinstance(n, ast.Call) and n.args[1:]]
    asked = [n.args[1] for n in calls if ast.unparse(n.func) in BY_NAME]
    names |= {n.value for n in asked if isinstance(n, ast.Constant)}
    private = {n for n in names if isinstance(n, str) and n.startswith("_")}
    known = names_of_ours() | {"_make"}  # of named tuples
    return {n for n in private if n.isidentifier() and n[:2] != "__"} - known


def test_private_attributes_of_keras_are_asked_for():
    assert wrong_anywhere(private_attributes) == {}


def test_a_private_attribute_of_keras_elsewhere_is_found():
    assert private_attributes("callbacks.new", "model._compile_metrics")
    assert private_attributes("_prepare.new", "model._loss_tracker")
    assert private_attributes("losses.new", "getattr(loss, '_fn_kwargs', {})")
    assert private_attributes("optimizers.new", "hasattr(rule, '_backend_reset')")
    assert not private_attributes("optimizers.new", "self._window._ever_reached")
    assert not private_attributes("_keras.new", "model._compile_metrics")


# -- collectives


def collectives(module, source):
    """What a module says to TensorFlow or Horovod that communicates."""
    if within(module, {"replicas"}):
        return []
    tree = ast.parse(source)
    has_words = ast.get_docstring(tree) is not None  # which may name what it wraps
    code = "".join(ast.unparse(node) for node in tree.body[has_words:])
    words = ("tf.distribute.get", ".all_reduce(", ".merge_call(", ".allreduce(")
    engine = [n for n in imports(source) if n.split(".")[0] == "horovod"]
    return engine + [word for word in words if word in code]


def test_only_replicas_touches_collectives():
    assert wrong_anywhere(collectives) == {}


def test_a_collective_elsewhere_is_found():
    assert collectives("losses.keras3", "'It.'\ncontext.all_reduce('sum', x)")
    assert collectives("callbacks", "import horovod.tensorflow as hvd")
    assert collectives("_prepare.steps", "tf.distribute.get_strategy()")
    assert not collectives("replicas.strategy", "tf.distribute.get_strategy()")
    inside = [name for name in SOURCES if within(name, {"replicas"})]
    assert any(collectives("elsewhere", SOURCES[name]) for name in inside)
