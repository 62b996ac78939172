"""Writes examples/guides/causes.md from the audit's table of causes and the zoo.

    python scripts/causes_guide.py            # writes it
    python scripts/causes_guide.py --check    # 1 if what is there is another text

Words are those of the report, before and after are `wrong` and `mended` of an entry of
the zoo, which the tests audit. So nothing is said twice, and nothing can differ.
"""

import argparse
import ast
import difflib
import sys

from zoo_table import ROOT, ZOO, Entry, entries, links

from distloss._audit.checks.cause import Cause
from distloss._audit.checks.table import CAUSES
from distloss._lint.rules import RULES

GUIDE = ROOT / "examples" / "guides" / "causes.md"
# The one of several entries that shows a cause best: the simplest, in what most write.
SHOWN = {
    "sum-of-means": "a02_sum_of_local_means",
    "divided-twice": "a09_keras_scales_too",
    "accumulation-not-averaged": "c03_parts_not_averaged",
    "not-reduced": "b04_keras_3_fit",
}
OPENING = """\
# Causes

<!-- written by scripts/causes_guide.py from the table of the audit: do not edit -->

What [`distloss audit`](audit.md) can name, in the order in which it looks. Before and
after are entries of the [zoo](../zoo/README.md), small programs that the tests audit;
`Loop` is the body of a custom loop, called in `strategy.run`, and N the number of
replicas.
`distloss audit --explain CAUSE` says the same in the terminal.
"""


def documentation(name: str) -> str:
    """The text at the top of an entry."""
    tree = ast.parse((ZOO / f"{name}.py").read_text())
    return ast.get_docstring(tree) or ""


def symptom(name: str) -> str:
    """What somebody sees who has the bug: the end of that text."""
    words = documentation(name).partition("Symptom: ")[2].split()
    return f"{words[0][:1].upper()}{' '.join(words)[1:]}" if words else ""


def function(name: str, which: str) -> list[str]:
    """The lines of a function of an entry, without its name."""
    source = (ZOO / f"{name}.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == which:
            return source.splitlines()[node.lineno : node.end_lineno]
    raise LookupError(f"{name}.py has no function {which}")


def change(name: str) -> list[str]:
    """From `wrong` to `mended`, as a diff."""
    before, after = (function(name, which) for which in ("wrong", "mended"))
    lines = difflib.unified_diff(before, after, lineterm="", n=99)
    return ["```diff", *list(lines)[3:], "```"]


def shown(cause: str, known: dict[str, Entry]) -> str | None:
    """The entry that shows a cause, if there is one."""
    names = [name for name, entry in known.items() if entry.cause == cause]
    return SHOWN.get(cause, names[0] if names else None)


def paragraphs(cause: Cause, known: dict[str, Entry]) -> list[str]:
    """What is said of one cause."""
    found = [f"## {cause.slug}", cause.explanation]
    found += [what for what, _ in cause.cases.values()]
    name = shown(cause.slug, known)
    if name is not None:
        found.append(f"**Looks like.** {symptom(name)}")
    found += [f"**To mend it.** {text}" for text in dict.fromkeys(remedies(cause))]
    if name is not None:
        entry = known[name]
        where = ", ".join(links(entry.reported))
        found.append(
            f"**Before and after:** {entry.title} ([{name}](../zoo/{name}.py), "
            f"reported in {where})."
        )
        found.append("\n".join(change(name)))
    if any(rule.name == cause.slug for rule in RULES):
        found.append("[`distloss lint`](lint.md) sees it in source.")
    return found


def remedies(cause: Cause) -> list[str]:
    """What to change, for a model of which nothing is known."""
    return [str(remedy) for remedy in cause.remedies()]


def guide() -> str:
    """The whole page."""
    known = entries()
    parts = [OPENING.strip()]
    for cause in CAUSES.values():
        parts += paragraphs(cause, known)
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="writes nothing")
    options = parser.parse_args()
    if options.check:
        return int(GUIDE.read_text() != guide())
    GUIDE.write_text(guide())
    return 0


if __name__ == "__main__":
    sys.exit(main())
