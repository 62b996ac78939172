"""Which tests `scripts/test --fast` runs: each once, of those that start no process."""

import os

FAST = bool(os.environ.get("DISTLOSS_FAST"))
LAUNCHED = ("hvd", "workers")  # folders
STARTS = {"subprocess", "Program"}  # what a file imports to start processes


def starts_processes(item):
    return (
        item.path.parent.name in LAUNCHED
        or "forked" in item.fixturenames
        or bool(STARTS & set(vars(item.module)))
    )


def chosen(items):
    """With its first arguments each test that is quick; no doctest."""
    first = {}
    for item in items:
        function = getattr(item, "function", None)
        is_slow = item.get_closest_marker("slow")
        if function and not is_slow and not starts_processes(item):
            first.setdefault(function, item)
    return list(first.values())


def refuse(command, *_, **__):
    """In the place of a process: what starts one is not among them."""
    raise AssertionError(f"Expected no process. Got {command}. Mark the test as slow.")
