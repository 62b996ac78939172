"""The code of README and guides runs, and their reports are what commands print."""

import os
import pathlib
import re
import shlex
import shutil
import sys

import pytest
import tensorflow as tf
from forked import Program
from pages import GUIDES, README, ROOT, blocks
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from distloss import cli

PROGRAMS = pathlib.Path(__file__).parent / "programs"
ALONE = GUIDES / "horovod.md"  # starts Horovod, of which a process has one
PAGES = [README, *sorted(GUIDES.glob("*.md"))]
WITH_CODE = [
    page
    for page in PAGES
    if page != ALONE and any(block.language == "python" for block in blocks(page))
]
# What differs from run to run and from machine to machine: rounding, and seconds.
ROUNDING = re.compile(r"\d+(\.\d+)?e-\d+ *")
SECONDS = re.compile(r"\d+ s")


def run(page):
    """Runs the code of a page from top to bottom, what is invisible in it, too."""
    document = Document.parse(str(page), PythonCodeBlockParser())
    examples = list(document.examples())
    assert examples, f"{page} has no code"
    for example in examples:
        example.evaluate()


@pytest.fixture
def readers_folder(tmp_path, monkeypatch):
    """What the pages have in mind: a folder with a `train.py`, and four devices."""
    shutil.copy(ROOT / "examples" / "audit_example.py", tmp_path / "train.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "train", raising=False)
    yield tmp_path
    sys.modules.pop("train", None)


class OnFour(tf.distribute.MirroredStrategy):
    """Over all devices, as without arguments, but with sums on one device.

    The ring of several strategies over the same devices in one process collides.
    """

    def __init__(self):
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
        to_one_device = tf.distribute.ReductionToOneDevice()
        super().__init__(devices, cross_device_ops=to_one_device)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, readers_folder, monkeypatch):
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", OnFour)
    run(page)


def test_the_code_of_the_guide_of_horovod_runs(readers_folder):
    code = f"import pathlib, test_guides; test_guides.run(pathlib.Path({str(ALONE)!r}))"
    paths = [ROOT, ROOT / "tests" / "helpers", pathlib.Path(__file__).parent]
    done = Program("-c", code, PYTHONPATH=os.pathsep.join(map(str, paths))).ended()
    assert done.returncode == 0, done.stderr[-3000:]


def test_code_that_is_wrong_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\n>>> 1 + 1\n3\n\n```\n")
    with pytest.raises(Exception, match="Expected"):
        run(page)
    page.write_text("<!--- invisible-code-block: python\nx = 1\n--->\n")
    run(page)
    page.write_text("```python\nx = missing\n```\n")
    with pytest.raises(NameError):
        run(page)


# -- what commands print

SHOWN = [
    block
    for page in PAGES
    for block in blocks(page)
    if block.language == "text" and block.text.startswith("$ ")
]


def masked(text):
    """Without what differs between runs and processors, and how it is aligned."""
    lines = [line.rstrip() for line in text.splitlines()]
    masked = SECONDS.sub("# s", ROUNDING.sub("# ", "\n".join([*lines, ""])))
    return re.sub(" +", " ", masked)


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_a_report_is_what_the_command_prints(
    block, readers_folder, monkeypatch, capsys, forked
):
    (readers_folder / "examples").symlink_to(ROOT / "examples")
    shutil.copy(PROGRAMS / "fit" / "train.py", readers_folder)
    command, _, wanted = block.text.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "distloss"
    assert cli.main(arguments) == cli.DIFFERS
    printed = masked(capsys.readouterr().out)
    if wanted.endswith("\n...\n"):
        assert printed.startswith(masked(wanted.removesuffix("...\n")))
    else:
        assert printed == masked(wanted)


def test_the_finding_of_lint_is_what_it_prints(readers_folder, capsys):
    (block,) = [b for b in blocks(GUIDES / "lint.md") if b.language == "text"]
    shutil.copytree(PROGRAMS / "loop", readers_folder, dirs_exist_ok=True)
    assert cli.main(["lint", "train.py"]) == 1
    assert capsys.readouterr().out.startswith(block.text)
