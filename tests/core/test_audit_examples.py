"""The table of what the audit says of each example has all of them."""

import importlib.util
import pathlib

from distloss._audit.checks.table import CAUSES

ROOT = pathlib.Path(__file__).parents[2]


def test_every_example_has_a_verdict_that_can_be():
    path = ROOT / "scripts" / "audit_examples.py"
    spec = importlib.util.spec_from_file_location("audit_examples", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    examples = {path.stem for path in (ROOT / "examples").glob("[!_]*.py")}
    assert set(script.EXPECTED) == examples
    known = {*CAUSES, script.RIGHT, script.NO_STEP}
    assert all({*causes} <= known for causes, _ in script.EXPECTED.values())
