"""The audit names the bug of a zoo entry, and finds nothing in what is mended.

One entry of each cause and some of those mended; all with DISTLOSS_ZOO=all.
"""

import ast
import importlib.util
import pathlib

import pytest
from chosen import ALL, first_of_each, some

import distloss
from distloss._audit.checks.table import CAUSES

ROOT = pathlib.Path(__file__).parents[2]
ZOO = ROOT / "examples" / "zoo"


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo_table = script("zoo_table")
ENTRIES = zoo_table.entries()
UNDER_STRATEGY = [n for n, entry in ENTRIES.items() if entry.engine == "strategy"]
WITH_HOROVOD = [n for n, entry in ENTRIES.items() if entry.engine == "horovod"]
# They train nothing, so that nothing is compared: refused in a sentence.
CHANGE_NOTHING = ("f07_optimizer_of_a_copy", "f08_update_of_a_name")
has_horovod = importlib.util.find_spec("horovod") is not None


def mended_source(name):
    """What `mended` does: the code of the entry without `wrong` and its texts."""
    tree = ast.parse((ZOO / f"{name}.py").read_text())
    parts = [ast.unparse(node) for node in tree.body]
    skipped = ("ENTRY", "def wrong", '"""', "'''", "from _entry")
    return "\n".join(part for part in parts if not part.startswith(skipped))


def audited(name, build, *, replicas=(1, 2), engine="strategy"):
    address = f"{ZOO / name}.py:{build}"
    return distloss.audit(address, replicas=replicas, engine=engine)


def test_there_are_enough():
    assert len(ENTRIES) >= 28
    known = {*CAUSES, zoo_table.CANNOT_TELL}
    assert {entry.cause for entry in ENTRIES.values()} <= known


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_where_it_was_reported(name):
    entry = ENTRIES[name]
    source = (ZOO / f"{name}.py").read_text()
    assert entry.reported
    assert any(
        f"https://github.com/{r.split('#')[0]}/" in source for r in entry.reported
    )
    assert name[:1].upper() == entry.bug[0] or name == "a05_horovod_average"
    assert f"[{entry.title}]({name}.py)" in zoo_table.README.read_text()


def cause_of(name):
    return name if ALL else ENTRIES[name].cause


@pytest.mark.parametrize("name", some(first_of_each(UNDER_STRATEGY, cause_of), 3))
def test_the_audit_names_the_bug(name, forked):
    if ENTRIES[name].cause == zoo_table.CANNOT_TELL:
        assert names_no_cause(name)
        return
    if name in CHANGE_NOTHING:
        with pytest.raises(distloss.DistlossError, match="Got no change"):
            audited(name, "wrong")
        return
    report = audited(name, "wrong")
    assert ENTRIES[name].cause in {finding.cause for finding in report.findings}


def names_no_cause(name):
    try:
        report = audited(name, "wrong")
    except distloss.DistlossError:
        return True
    return not report.agrees and {f.cause for f in report.findings} <= {"unexplained"}


@pytest.mark.parametrize("name", some(first_of_each(UNDER_STRATEGY, mended_source), 10))
def test_what_is_mended_agrees(name, forked):
    assert audited(name, "mended").findings == ()


@pytest.mark.parametrize(
    ("build", "causes"),
    [
        # which fails where there are no negatives at all
        ("local_negatives", {"not-decomposable", "empty-replica"}),
        ("gathered_negatives", set()),
    ],
)
def test_the_audit_of_two_towers_is_honest(build, causes, forked):
    address = f"{ROOT / 'examples' / 'two_towers.py'}:{build}"
    report = distloss.audit(address, replicas=(1, 2))
    assert {finding.cause for finding in report.findings} == causes


@pytest.mark.slow
@pytest.mark.skipif(not has_horovod, reason="needs Horovod: scripts/install_horovod")
@pytest.mark.parametrize("build", ["wrong", "mended"] if ALL else ["wrong"])
@pytest.mark.parametrize("name", WITH_HOROVOD if ALL else WITH_HOROVOD[:1])
def test_the_audit_judges_horovod(name, build):
    report = audited(name, build, engine="horovod")
    causes = {finding.cause for finding in report.findings}
    cause = ENTRIES[name].cause
    if cause == zoo_table.CANNOT_TELL:
        assert causes == set()
        return
    assert (cause in causes) == (build == "wrong")
    assert report.agrees == (build == "mended")
