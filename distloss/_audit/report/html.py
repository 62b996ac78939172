"""A report as one HTML page that needs nothing else, all text of users escaped."""

from __future__ import annotations

import base64
import io
from typing import Any

from distloss._audit.report import wording
from distloss._audit.report.findings import Report
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.printable import printable

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>distloss audit: {{ report.target }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #1c1e21; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.verdict { padding: .8rem 1rem; border-radius: .4rem; font-weight: 600; }
.good { background: #e3f4e6; color: #11532a; } .bad { background: #fde7e5; color: #8a1c12; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd;
         overflow-wrap: anywhere; vertical-align: top; }
th { white-space: nowrap; }
td.bad, td.good { background: none; } td.bad { font-weight: 600; }
section.cause { border-left: .3rem solid #c0392b; padding-left: 1rem; margin: 1.5rem 0; }
code { background: #f2f3f5; padding: .1rem .3rem; border-radius: .2rem; }
img { max-width: 100%; } .small { color: #5a5f66; font-size: .9rem; }
</style></head><body>
<h1>distloss audit</h1>
<p><code>{{ report.target }}</code> on {{ report.replicas|join(", ") }} replicas
({{ report.engine }}), {{ "%.0f"|format(report.seconds) }} s</p>
<p class="verdict {{ 'good' if report.agrees else 'bad' }}">{{ headline }}</p>
{% for group in causes %}{% set first = group[0] %}
<section class="cause"><h2>{{ first.cause }}</h2>
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
<p><b>To mend it:</b> {{ first.remedy }}</p></section>
{% endfor %}
{% if table %}<h2>What each probe said</h2>
<table><tr><th>probe{% for n in counts %}<th>{{ n }} replicas{% endfor %}</tr>
{% for name, row in table.items() %}<tr><td>{{ name }}
{% for n in counts %}{% set one = row.get(n) %}
<td class="{{ 'good' if not one or one.agrees else 'bad' }}">{{ verdict(one) if one else "-" }}
{% endfor %}</tr>{% endfor %}</table>
<img alt="Scale of each variable's gradient against the number of replicas; relative
difference of each probe" src="data:image/png;base64,{{ plot }}">
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
</body></html>
"""


def page(report: Report, _terminal: Terminal) -> str:
    """The whole page."""
    import jinja2

    counts, table = wording.probes(report)
    even = {n: one.variables for n, one in table.get("even split", {}).items()}
    names = list(dict.fromkeys(name for row in even.values() for name in row))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_seen
    )
    shown = environment.from_string(_PAGE).render(
        report=report,
        headline=wording.headline(report),
        causes=wording.causes(report),
        counts=counts,
        table=table,
        even=even,
        variables=names[:200],
        verdict=wording.verdict,
        place=wording.place,
        lines_around=wording.lines_around,
        short=wording.short,
        number=wording.number,
        plot=_plot(counts, table, even) if counts else "",
    )
    # The same page whatever coding a terminal, a file or a server gives it.
    return shown.encode("ascii", "xmlcharrefreplace").decode("ascii")


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
