"""Reports as an HTML page that needs nothing else, all text of users escaped."""

from __future__ import annotations

import base64
import importlib.util
import io
import pathlib
import shlex
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from distloss._audit.report import wording
from distloss._audit.report.audits import Audits
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.printable import printable
from distloss._package import versions

if TYPE_CHECKING:
    from distloss._audit.report.findings import Report

_STYLE = """<style>
.distloss-report { --page: #fff; --ink: #1c1e21; --soft: #5a5f66; --line: #ddd;
    --code: #f2f3f5; --good: #11532a; --on-good: #e3f4e6; --bad: #8a1c12;
    --on-bad: #fde7e5; --cause: #c0392b; --accepted: #b8bcc2; --plot: none;
    font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); }
@media (prefers-color-scheme: dark) { .distloss-report { --page: #0d1117; --ink: #e6edf3;
    --soft: #9aa4af; --line: #30363d; --code: #1f252d; --good: #7ee2a0;
    --on-good: #12301d; --bad: #ffb3a9; --on-bad: #43171a; --cause: #f47067;
    --accepted: #59616b; --plot: invert(.93) hue-rotate(180deg); } }
.distloss-report h1 { font-size: 1.5rem; }
.distloss-report h2 { font-size: 1.2rem; margin-top: 2rem; }
.distloss-report .verdict { padding: .8rem 1rem; border-radius: .4rem; font-weight: 600; }
.distloss-report .good { background: var(--on-good); color: var(--good); }
.distloss-report .bad { background: var(--on-bad); color: var(--bad); }
.distloss-report table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
.distloss-report th, .distloss-report td { text-align: left; padding: .3rem .6rem;
    border-bottom: 1px solid var(--line); overflow-wrap: anywhere; vertical-align: top; }
.distloss-report th { white-space: nowrap; }
.distloss-report td.bad, .distloss-report td.good { background: none; }
.distloss-report td.bad { font-weight: 600; }
.distloss-report section { border-left: .3rem solid var(--cause); padding-left: 1rem;
    margin: 1.5rem 0; }
.distloss-report section.accepted { border-color: var(--accepted); }
.distloss-report code { background: var(--code); padding: .1rem .3rem;
    border-radius: .2rem; }
.distloss-report img { max-width: 100%; filter: var(--plot); }
.distloss-report .small { color: var(--soft); font-size: .9rem; }
</style>
"""
_REPORT = """<div class="distloss-report">
<h1>distloss audit</h1>
<p><code>{{ report.target }}</code> on {{ report.replicas|join(", ") }} replicas
({{ report.engine }}), {{ "%.0f"|format(report.seconds) }} s</p>
<p class="verdict {{ 'good' if report.passes else 'bad' }}">{{ headline }}</p>
{% for group in causes %}{% set first = group[0] %}
<section class="{{ 'accepted' if first.accepted else 'cause' }}"><h2>{{ named(first) }}</h2>
<p>{{ first.explanation }}</p>
<table><tr><th>replicas<th>scale &alpha;<th>residual &rho;<th>seen</tr>
{% for f in group %}<tr><td>{{ f.replicas }}<td>{{ number(f.scale, 4) }}
<td>{{ number(f.residual, 2) }}<td>{{ f.evidence|join("; ") }}</tr>{% endfor %}
</table>
{% if first.variables %}<p class="small">Variables: {{ short(first.variables, 12) }}</p>{% endif %}
{% if place(first) %}<p>Look at <code>{{ place(first) }}</code></p>
{% set around = lines_around(first) %}{% if around %}<pre class="small">
{% for line, text in around %}{% if line == first.location.line %}<b>{% endif -%}
{{ "%5d"|format(line) }}  {{ text }}{% if line == first.location.line %}</b>{% endif %}
{% endfor %}</pre>{% endif %}{% endif %}
<p>{{ advice(first) }}</p></section>
{% endfor %}
{% if table %}<h2>What each probe said</h2>
<table><tr><th>probe{% for n in counts %}<th>{{ n }} replicas{% endfor %}</tr>
{% for name, row in table.items() %}<tr><td>{{ name }}
{% for n in counts %}{% set one = row.get(n) %}
<td class="{{ 'good' if not one or one.agrees else 'bad' }}">{{ verdict(one) if one else "-" }}
{% endfor %}</tr>{% endfor %}</table>
{% if plot %}<img alt="Scale of each variable's gradient against the number of replicas; relative
difference of each probe" src="data:image/png;base64,{{ plot }}">{% endif %}
<h2>Each variable, even split</h2>
<table><tr><th>variable{% for n in counts %}<th>&alpha; on {{ n }}<th>&rho; on {{ n }}{% endfor %}</tr>
{% for name in variables %}<tr><td>{{ name }}
{% for n in counts %}{% set pair = even.get(n, {}).get(name) %}
{% if pair %}<td>{{ "%.4g"|format(pair[0]) }}<td>{{ "%.1g"|format(pair[1]) }}
{% else %}<td>-<td>-{% endif %}{% endfor %}</tr>{% endfor %}</table>{% endif %}
{% if report.skipped %}<h2>Not checked, or with a restriction</h2><ul>
{% for s in report.skipped %}<li>{{ s.check }}: {{ s.why }}</li>{% endfor %}</ul>{% endif %}
<p class="small">&alpha; = &lang;g<sub>N</sub>,g<sub>1</sub>&rang; /
&lang;g<sub>1</sub>,g<sub>1</sub>&rang;: how many times too large the gradient on N replicas
is. &rho; = |g<sub>N</sub> &minus; &alpha; g<sub>1</sub>| / |g<sub>N</sub>|: what no scale
explains.</p>
</div>
"""
_UNCHECKED = """<div class="distloss-report"><h1>distloss audit</h1>
<p><code>{{ target }}</code></p>
<p class="verdict bad">It could not be checked. {{ why }}</p></div>
"""
_MADE = """<div class="distloss-report"><p class="small">Made {{ when }} by
<code>{{ command }}</code> with {{ versions|join(", ") }}.</p></div>
"""
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>distloss audit: {{ targets|join(", ") }}</title>
<style>:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3; } }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }</style>
"""


def is_installed() -> bool:
    """Whether there is what a fragment needs."""
    return importlib.util.find_spec("jinja2") is not None


def fragment(report: Report) -> str:
    """The report, without plots, for a page that others make: a notebook."""
    return _ascii(_STYLE + _report(report, plots=False))


def page(audits: Audits, _terminal: Terminal) -> str:
    """The whole page."""
    targets = [report.target for report in audits.reports]
    targets += [one.target for one in audits.unchecked]
    parts = [_filled(_HEAD, targets=targets), _STYLE, "</head><body>\n"]
    parts += [_report(report, plots=True) for report in audits.reports]
    parts += [
        _filled(_UNCHECKED, target=one.target, why=one.why) for one in audits.unchecked
    ]
    if audits.several:
        parts.append(_filled("<p>{{ told }}</p>\n", told=wording.summary(audits)))
    parts.append(_made())
    return _ascii("".join(parts) + "</body></html>\n")


def _made() -> str:
    """When the page was made, by which command, and of which versions it tells."""
    program = pathlib.Path(sys.argv[0]).name
    program = "distloss" if program == "__main__.py" else program
    return _filled(
        _MADE,
        when=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join([program, *sys.argv[1:]]),
        versions=[f"{name} {version}" for name, version in versions().items()],
    )


def _report(report: Report, *, plots: bool) -> str:
    counts, table = wording.probes(report)
    even = {n: one.variables for n, one in table.get("even split", {}).items()}
    names = list(dict.fromkeys(name for row in even.values() for name in row))
    return _filled(
        _REPORT,
        report=report,
        headline=wording.headline(report),
        causes=wording.causes(report),
        counts=counts,
        table=table,
        even=even,
        variables=names[:200],
        verdict=wording.verdict,
        place=wording.place,
        named=wording.named,
        lines_around=wording.lines_around,
        short=wording.short,
        number=wording.number,
        advice=wording.advice,
        plot=_plot(counts, table, even) if counts and plots else "",
    )


def _filled(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_seen
    )
    return environment.from_string(template).render(values)


def _ascii(text: str) -> str:
    """The same whatever coding a terminal, a file or a server gives it."""
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _seen(value: Any) -> Any:
    """What is put into the page: the type says what is escaped already."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def _plot(counts: list[int], table: Any, even: Any) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    _plot_scales(left, counts, even)
    _plot_errors(right, counts, table)
    into = io.BytesIO()
    figure.savefig(into, format="png")
    return base64.b64encode(into.getvalue()).decode("ascii")


def _plot_scales(axes: Any, counts: list[int], even: Any) -> None:
    ends = [1, *counts]
    lines = {"1": ends, "N": ends, "1/N": ends}
    values = {"1": [1.0] * len(ends), "N": ends, "1/N": [1 / n for n in ends]}
    for name, style in zip(lines, ("-", "--", ":"), strict=True):
        axes.plot(ends, values[name], style, color="0.6", label=name)
    names = list(dict.fromkeys(name for row in even.values() for name in row))
    for name in names[:200]:
        pairs = [(n, even[n][name][0]) for n in counts if name in even.get(n, {})]
        above = [(n, alpha) for n, alpha in pairs if alpha > 0]
        axes.plot(*zip((1, 1.0), *above, strict=True), "o-", alpha=0.6, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="replicas N", ylabel="scale")
    axes.set_title("Scale of each variable's gradient, even split", fontsize=10)
    axes.set_xticks(ends, [str(n) for n in ends])
    axes.set_yticks(
        [1 / n for n in counts] + ends,
        [f"1/{n}" for n in counts] + [str(n) for n in ends],
    )
    axes.minorticks_off()
    axes.legend(title="lines", fontsize=8)


def _plot_errors(axes: Any, counts: list[int], table: Any) -> None:
    least = 1e-9
    probes = list(table)
    for count in counts:
        found = [
            (i, table[p][count]) for i, p in enumerate(probes) if count in table[p]
        ]
        errors = [max(m.error, least) if m.error == m.error else 1e3 for _, m in found]
        axes.plot(
            errors, [i for i, _ in found], "o", label=f"{count} replicas", alpha=0.7
        )
    axes.set_xscale("log")
    axes.set_xlim(least / 2, 1e4)
    names = [printable(name) for name in probes]
    axes.set_yticks(range(len(probes)), names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="relative difference from one replica")
    axes.set_title("What each probe said (right end: not finite)", fontsize=10)
    axes.legend(fontsize=8)


FORMAT = Format("html", page, needs=("jinja2", "matplotlib"))
