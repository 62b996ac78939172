"""What pages say of files, headings, commands and causes is there."""

import itertools
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from pages import GUIDES, PAGES, README, ROOT, anchors, blocks, project, prose
from test_examples import NAMES

from distloss import cli
from distloss._audit.checks.table import CAUSES
from distloss._lint.rules import RULES

GUIDE_OF_CAUSES = GUIDES / "causes.md"
LANGUAGES = {"python", "bash", "text", "diff", "yaml", "toml", "bibtex"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SOURCE = re.compile(r'(?:src|srcset)="([^"]+)"')
EXTRAS = project()["optional-dependencies"]


def test_readme_is_read_in_five_minutes():
    assert len(README.read_text().splitlines()) <= 220


def test_each_guide_is_listed():
    index = (GUIDES / "README.md").read_text()
    names = {guide.name for guide in GUIDES.glob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()


# -- links


def wrong_links(page):
    """Relative links of a page that lead nowhere."""
    text = prose(page)
    for link in LINK.findall(text) + SOURCE.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(target)):
            yield link


def test_links_lead_somewhere():
    assert {page: found for page in PAGES if (found := list(wrong_links(page)))} == {}


def test_a_wrong_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b's `c`\n[a](#a-bs-c) [b](#b) [c](c.md) [d](page.md#a-bs-c)\n")
    found = list(wrong_links(page))
    assert "c.md" in found
    assert "#b" in found


def test_files_that_are_named_are_there():
    named = set()
    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
        named |= set(
            re.findall(r"`(?:\./)?((?:examples|scripts|tests)/[\w./*-]+)", text)
        )
    assert len(named) > 20
    assert [name for name in named if not list(ROOT.glob(name.rstrip(".")))] == []


def test_numbers_name_the_command_that_prints_them():
    """Where numbers stand in tables, the page names a script or a program."""
    for name in ("cost.md", "what_works.md", "own_steps.md"):
        assert re.search(r"`(scripts|examples)/\w+", (GUIDES / name).read_text())


# -- causes


def written():
    """The page that the script would write."""
    script = ROOT / "scripts" / "causes_guide.py"
    return subprocess.run(
        [sys.executable, script, "--check"], env={"PYTHONPATH": str(ROOT)}, check=False
    )


def test_the_page_of_causes_is_that_of_the_table():
    assert written().returncode == 0, "run python scripts/causes_guide.py"
    headings = re.findall(r"^## (.*)$", GUIDE_OF_CAUSES.read_text(), re.MULTILINE)
    assert headings == list(CAUSES)


def test_another_page_of_causes_is_found(tmp_path):
    code = (
        "import pathlib, sys, causes_guide\n"
        f"causes_guide.GUIDE = pathlib.Path({str(tmp_path / 'causes.md')!r})\n"
        "text = causes_guide.guide().replace('rows', 'row', 1)\n"
        "causes_guide.GUIDE.write_text(text)\n"
        "sys.argv = ['causes_guide', '--check']\n"
        "sys.exit(3 + causes_guide.main())"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    done = subprocess.run([sys.executable, "-c", code], env=paths, check=False)
    assert done.returncode == 3 + 1


def test_rules_and_causes_that_guides_name_exist():
    known = {*CAUSES, *(rule.name for rule in RULES)}
    for page in GUIDES.glob("*.md"):
        named = re.findall(r"\[`([a-z-]+)`\]\(causes\.md#([a-z-]+)\)", page.read_text())
        assert all(name == anchor and name in known for name, anchor in named)


# -- commands

OF_A_CLUSTER = ("hosts=$(scontrol",)


def commands(page):
    """The lines of its blocks for a shell."""
    found = [block for block in blocks(page) if block.language == "bash"]
    lines = "".join(block.text for block in found).splitlines()
    return [line for line in lines if line.strip()]


def problem_with(line):
    """What is wrong with a command of a page, or None."""
    if line.startswith(OF_A_CLUSTER):
        return None
    words = shlex.split(line, comments=True)
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\w+", word)]
    program, arguments = words[0], words[1:]
    if program == "distloss":
        return of_distloss(arguments)
    if program == "pip":
        return of_pip(arguments)
    if program in ("distloss-install-horovod", "distloss-launch-horovod"):
        program = f"scripts/{program.removeprefix('distloss-').replace('-', '_')}"
    if program == "python":
        program = arguments[0]
        name = pathlib.Path(program).stem
        is_run = program.startswith("scripts/") or name in NAMES
        return None if is_run else f"{program} is run by no test"
    if not (ROOT / program).is_file():
        return f"there is no {program}"
    return unknown_option(program, arguments)


def of_distloss(arguments):
    """A command line of distloss: whether it can be parsed."""
    own = itertools.takewhile(lambda one: one != ">", arguments)
    try:
        cli._parser().parse_args(cli._divided(list(own))[0])
    except SystemExit as error:
        return None if not error.code else f"distloss refuses {arguments}"
    return None


def of_pip(arguments):
    """Whether the extras exist."""
    if arguments[0] != "install":
        return f"pip {arguments[0]}"
    extras = re.findall(r"\[(.*)\]", arguments[1])
    named = [name for group in extras for name in group.split(",")]
    missing = [name for name in named if name not in EXTRAS]
    return f"no extra {missing}" if missing else None


def unknown_option(program, arguments):
    """An option that the source of a script does not know."""
    own = [one for one in arguments if one.startswith("-")]
    source = (ROOT / program).read_text()
    missing = [one for one in own if f'"{one}"' not in source]
    return f"{program} knows no {missing}" if missing else None


def test_commands_can_be_run(capsys):
    lines = [(page, line) for page in PAGES for line in commands(page)]
    assert len(lines) > 40
    problems = {f"{page}: {line}": problem_with(line) for page, line in lines}
    assert {line: said for line, said in problems.items() if said} == {}


@pytest.mark.parametrize(
    "line",
    [
        "distloss audit train.py --no-such-option",
        "distloss improve train.py",
        "pip install '.[nothing]'",
        "scripts/nothing",
        "scripts/launch_horovod -np 2 --no-such-option train.py",
        "python examples/nothing.py",
    ],
)
def test_a_command_that_cannot_be_run_is_found(line, capsys):
    assert problem_with(line)


def test_each_block_says_what_it_is():
    assert {block.language for page in PAGES for block in blocks(page)} <= LANGUAGES
