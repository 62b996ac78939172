"""Which of many slow tests are run: some of them, or all with DISTLOSS_ZOO=all.

An audit starts processes of its own, and training on replicas traces a step for each:
both take seconds.
"""

import os

ALL = os.environ.get("DISTLOSS_ZOO") == "all"


def some(names, every):
    """The first of the names, and each `every`-th after it."""
    return dealt(names, 0, every)


def dealt(all_of_them, hand, hands):
    """Those of one of so many hands, which together hold all."""
    all_of_them = list(all_of_them)
    return all_of_them if ALL else all_of_them[hand % hands :: hands]


def first_of_each(names, key):
    """The first of the names that have the same key."""
    return list({key(name): name for name in reversed(names)}.values())[::-1]
