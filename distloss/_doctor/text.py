"""What the doctor found, for a terminal."""

from __future__ import annotations

import io
import itertools
from typing import Any

from distloss._audit.report.printable import printable
from distloss._doctor.report import Names, Report, Sum


def written(report: Report) -> str:
    """The report as text."""
    from rich.console import Console

    into = io.StringIO()
    console = Console(file=into, width=100, highlight=False)
    _print_head(console, report)
    _print_sums(console, report)
    _print_speeds(console, report)
    _print_names(console, report)
    for fact in report.known:
        _print(console, f"known: {fact}")
    return into.getvalue()


def _print(console: Any, text: str) -> None:
    from rich.text import Text

    console.print(Text(printable(text)))


def _print_head(console: Any, report: Report) -> None:
    versions = ", ".join(f"{name} {found}" for name, found in report.versions.items())
    _print(console, f"distloss doctor: {versions}")
    devices = ", ".join(report.devices)
    _print(console, f"{len(report.devices)} replicas ({report.engine}): {devices}")
    right = "all sums are right" if report.is_sound else "A SUM IS WRONG"
    _print(console, right if len(report.devices) > 1 else f"{right}, of one replica")


def _print_sums(console: Any, report: Report) -> None:
    def key(one: Sum) -> tuple[tuple[int, ...], str]:
        return one.replicas, one.dtype

    for (replicas, dtype), group in itertools.groupby(report.sums, key):
        sums = list(group)
        where = ", ".join(map(str, replicas))
        kinds = ", ".join(one.of for one in sums)
        state = "right" if not any(one.wrong for one in sums) else "WRONG"
        skipped = next((one.skipped for one in sums if one.skipped), "")
        if skipped:
            state = f"not summed: {skipped}" if state == "right" else state
        _print(console, f"  replicas {where}: {dtype}, {kinds}: {state}")
        for one in sums:
            for sentence in one.wrong[:3]:
                _print(console, f"    {one.of}, {sentence}")


def _print_speeds(console: Any, report: Report) -> None:
    for one in report.speeds:
        share = (
            "" if one.share_of_peak is None else f", {one.share_of_peak:.0%} of peak"
        )
        _print(
            console,
            f"  a sum of {one.megabytes:.3g} MB: {one.microseconds:,.0f} us, "
            f"{one.gigabytes_per_second:.3g} GB/s on each link{share}",
        )


def _print_names(console: Any, report: Report) -> None:
    for package, groups in itertools.groupby(report.names, lambda one: one.package):
        names = list(groups)
        if not names[0].is_tested:
            _print(
                console,
                f"{package} {names[0].version} is newer than what distloss was tested "
                f"with, {names[0].tested}",
            )
        for group in names:
            _print(console, f"  private names of {package}, {_state_of(group)}")
            for sentence in group.missing:
                _print(console, f"    {sentence}")


def _state_of(names: Names) -> str:
    state = f"{len(names.missing)} MISSING" if names.missing else "all there"
    return f"{names.of}: {names.count}, {state}"
