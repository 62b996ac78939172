"""The answers of the benchmark as tables and pictures."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TITLES = {
    "loss": "DistributedLoss in a loop, against compute_average_loss by hand",
    "fit": "fit of a prepared model, against that of plain Keras",
    "own_step": "fit of a prepared model with a step of its own, against the plain one",
    "optimizer": "DistributedOptimizer, against the bare one",
    "microbatches": "A batch in 4 parts, against the whole batch",
    "sums": "A prepared model that checks its sums, against one that does not",
    "growth": "fit of a prepared model on more replicas, against plain Keras",
    "horovod": "Horovod, against its tape with losses scaled by hand",
    "messages": "An all-reduce of Horovod on this machine",
    "wire": "Two processes with a wire between, against the plain way",
    "start": "Seconds to start, one run each",
    "larger": "Expected cost of a denominator that is waited for",
}


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
    """One picture per question."""
    others = {"larger": _predicted, "messages": _messages, "start": _start}
    for question, rows in results.items():
        draw = others.get(question, _ratios_of)
        if question != "versions" and rows:
            figure = draw(rows)
            figure.axes[0].set_title(TITLES[question])
            figure.tight_layout()
            figure.savefig(folder / f"{question}.png", dpi=120)
            plt.close(figure)


def _ratios(row):
    return {k: v for k, v in row.items() if isinstance(v, dict) and "ratio" in v}


def _words(row):
    """What was measured: model, replicas, and so on."""
    for name, value in row.items():
        if value is True:
            yield name
        elif isinstance(value, int) and value is not False:
            yield f"{value} {name.removesuffix('s') if value == 1 else name}"
        elif isinstance(value, str):
            yield value.replace("_", " ")


def _ratios_of(rows):
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
    axes.legend(frameon=False)
    return figure


def _messages(rows):
    figure, axes = plt.subplots(figsize=(7, 4))
    for count in sorted({row["processes"] for row in rows}):
        own = [row for row in rows if row["processes"] == count]
        sizes = [row["bytes"] for row in own]
        measured = [row["measured_ms"] for row in own]
        predicted = [row["predicted_ms"] for row in own]
        (line,) = axes.plot(sizes, predicted, lw=1, label=f"{count} processes: a + b n")
        axes.plot(sizes, measured, "o", color=line.get_color(), label="measured")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bytes")
    axes.set_ylabel("ms")
    axes.legend(frameon=False)
    return figure


def _start(rows):
    figure, axes = plt.subplots(figsize=(7, 3))
    names = [f"{row['command']} ({row['peak_mb']} MB)" for row in rows]
    bars = axes.barh(names, [row["seconds"] for row in rows])
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds (in brackets: peak memory of the largest process)")
    return figure


def _predicted(rows):
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
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return figure
