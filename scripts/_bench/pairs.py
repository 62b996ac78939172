"""Ways of doing the same: alternating, the median of paired ratios; their graphs."""

import statistics
import time


def seconds_of(function):
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _seconds_after(before, function):
    before()
    return seconds_of(function)


def compared(plain, others, pairs, before=None):
    """Each of `others` against `plain`, A B C A A B C A ...

    Args:
      plain: function without arguments, which ends when its work is done.
      others: name -> such a function.
      pairs: how many rounds, after one that is not counted.
      before: called before each call, and not timed.

    Returns:
      name -> {"ratio", "middle_half", "ms"}, and "plain" -> {"ms"}. Under "A/A" is the
      plain way against itself: what a ratio is worth on this machine, at this time.
    """
    others = {**others, "A/A": plain}
    functions = {"plain": plain, **others}
    before = before or (lambda: None)
    for function in functions.values():
        function()
    rounds = [
        {name: _seconds_after(before, function) for name, function in functions.items()}
        for _ in range(pairs)
    ]
    found = {"plain": {"ms": _median_ms(rounds, "plain")}}
    for name in others:
        ratios = [each[name] / each["plain"] for each in rounds]
        low, median, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "ratio": round(median, 4),
            "middle_half": [round(low, 4), round(high, 4)],
            "ms": _median_ms(rounds, name),
        }
    return found


def _median_ms(rounds, name):
    return round(1e3 * statistics.median(each[name] for each in rounds), 3)


def operations(graph):
    """Those of a graph and of the functions that it calls."""
    found = list(graph.get_operations())
    for function in graph._functions.values():
        found += operations(function.graph)
    return found
