"""Private names of others are in one table, and where it says."""

import ast
import importlib
import importlib.util
import pathlib
import re

import keras
import pytest
from test_floors import SOURCES, imports, names_of_ours, within

from distloss._keras import (
    optimizer_state,
)
from distloss._keras.private_names import (
    of_layers_and_losses,
    of_models,
)
from distloss._keras.private_names.examples import example_of
from distloss._keras.private_names.groups import HOROVOD
from distloss._keras.private_names.table import TABLE, looked_for

TESTS = pathlib.Path(__file__).parent
HERE = [
    name
    for name in TABLE
    if importlib.util.find_spec(name.group.package.module) and name.is_due
]
NEEDED = [name for name in HERE if not name.is_optional]


def each(names):
    return pytest.mark.parametrize("name", names, ids=lambda name: name.address)


# -- the table and the installed releases


@each(NEEDED)
def test_a_name_is_where_the_table_says(name):
    """This fails when Keras, tf-keras, TensorFlow or Horovod moves it."""
    name.check(example_of(name.owner) if name.is_of_instances else None)


def test_horovod_has_its_private_names():
    pytest.importorskip("horovod.tensorflow")
    for name in TABLE:
        if name.group.package is HOROVOD and not name.is_optional:
            name.check(example_of(name.owner) if name.is_of_instances else None)


def test_the_doctor_finds_all_of_them():
    found = looked_for()
    assert sum(one.due for one in found) == len(NEEDED)
    assert [one.missing for one in found if one.missing] == []


@each(TABLE)
def test_a_name_has_a_test_that_is_there(name):
    file, function = name.test.split("::")
    tree = ast.parse((TESTS / file).read_text())
    assert function in [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]


def test_names_and_addresses_are_given_once():
    addresses = [(name.group.package.said, name.address) for name in TABLE]
    assert sorted(addresses) == sorted(set(addresses))


def test_which_releases_need_a_name(monkeypatch):
    found = []
    for version in ("3.4.1", "3.5.0", "3.9.2", "3.10.0", "3.16.0.dev2026102704"):
        monkeypatch.setattr(keras, "__version__", version)
        names = (of_models.MAYBE_SYMBOLIC_BUILD, of_layers_and_losses.VARIABLE_VALUE)
        found.append([name.is_due for name in names])
    assert found == [[False, True], *[[True, True]] * 2, *[[True, False]] * 2]


# -- the door: nothing passes by it


def private_attributes(source):
    """Attributes with one underscore that a source uses, but for those of `self`."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)]
    return {
        node.attr
        for node in nodes
        if re.match("_[a-z]", node.attr) and ast.unparse(node.value) not in OURS
    }


# Names that begin with one underscore in Python, and in objects of ours.
OURS = {"self", "this", "sys", "_thread", "os", "cls", "denominators", "functools"}
OVERRIDDEN = re.compile(r"super\(\)\.(_\w+)")


def test_a_room_uses_no_private_name_but_by_the_table():
    """Those of `super()` are looked for before the class is made."""
    known = {name.name for name in TABLE}
    passed = {
        (module, attribute)
        for module, source in SOURCES.items()
        if not within(module, {"_audit", "_lint", "_doctor"})
        for attribute in private_attributes(source)
        if attribute in known and f"super().{attribute}" not in source
    }
    assert passed == set()


def test_what_overrides_a_private_name_is_in_the_table():
    known = {
        name.name for name in (*optimizer_state._OF_ALL, *optimizer_state._OF_SCALING)
    }
    assert set(OVERRIDDEN.findall(SOURCES["_keras.optimizer_hooks"])) <= known


def test_a_private_name_in_keras_rooms_is_in_the_table():
    known = {name.name for name in TABLE}
    ours = names_of_ours() | {"_make"}
    for module, source in SOURCES.items():
        if within(module, {"_keras"}):
            assert private_attributes(source) - ours <= known, module


def test_a_private_module_is_imported_by_the_table_alone():
    private = ("keras.src", "tf_keras.src")
    assert {
        (module, address)
        for module, source in SOURCES.items()
        for address in imports(source)
        if address.startswith(private)
    } == set()
