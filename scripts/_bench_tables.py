"""The answers of the benchmark as tables and pictures."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def table(question, rows):
    """Markdown."""
    if not rows:
        return f"\n{question}\n\nnothing was measured"
    flat = [flattened(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    lines = [f"\n{question}\n", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(str(r.get(n, '')) for n in names)} |" for r in flat]
    return "\n".join(lines)


def flattened(row):
    """`{"a": {"ratio": 1, "middle_half": [0, 2]}}` as `{"a": "1 (0 to 2)"}`.

    Other dicts, as `{"collectives": {"plain": 8, "loop": 9}}`, take one cell.
    """
    found = {}
    for name, value in row.items():
        if not isinstance(value, dict):
            found[name] = value
            continue
        if not {"ratio", "ms"} & set(value):
            found[name] = ", ".join(f"{key}: {number}" for key, number in value.items())
            continue
        rest = dict(value)
        if "ratio" in rest:
            low, high = rest.pop("middle_half")
            found[name] = f"{rest.pop('ratio'):.3f} ({low:.2f} to {high:.2f})"
            rest.pop("ms")
        found |= {f"{name} {key}": number for key, number in rest.items()}
    return found


def pictures(results, folder):
    """One picture per question that has ratios."""
    for question, rows in results.items():
        if question == "larger":
            _predicted(rows, folder / f"{question}.png")
        elif isinstance(rows, list) and any(_ratios(row) for row in rows):
            _ratios_of(question, rows, folder / f"{question}.png")


def _ratios(row):
    return {k: v for k, v in row.items() if isinstance(v, dict) and "ratio" in v}


def _words(row):
    """What was measured: model, replicas, and so on."""
    for name, value in row.items():
        if value is True:
            yield name
        elif isinstance(value, int) and value is not False:
            yield f"{value} {name}"
        elif isinstance(value, str):
            yield value.replace("_", " ")


def _ratios_of(question, rows, path):
    names = [", ".join(_words(row)) for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(rows) + 1.6))
    ways = list(dict.fromkeys(way for row in rows for way in _ratios(row)))
    for shift, way in enumerate(ways):
        at = [i + 0.16 * (shift - (len(ways) - 1) / 2) for i in range(len(rows))]
        found = [_ratios(row)[way] for row in rows]
        middle = [f["ratio"] for f in found]
        spread = [
            [f["ratio"] - f["middle_half"][0] for f in found],
            [f["middle_half"][1] - f["ratio"] for f in found],
        ]
        axes.errorbar(middle, at, xerr=spread, fmt="o", ms=4, lw=1, label=way)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step, relative to the plain way (middle half of pairs)")
    axes.set_title(question)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _predicted(rows, path):
    figure, axes = plt.subplots(figsize=(7, 4))
    for network in ("NCCL", "gloo over TCP"):
        for step_ms, line in (10, "-"), (100, "--"):
            own = [
                r for r in rows if (r["network"], r["step_ms"]) == (network, step_ms)
            ]
            label = f"{network}, a step of {step_ms} ms"
            x, y = ([r[k] for r in own] for k in ("devices", "exposed_percent"))
            axes.plot(x, y, line, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("devices")
    axes.set_ylabel("% of the step")
    axes.set_title("Expected cost of a denominator that is waited for")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
