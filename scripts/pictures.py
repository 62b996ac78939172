"""Draws the picture of the first page, for light and dark pages, from real gradients.

    python scripts/pictures.py          # writes examples/data/one_batch_*.png

The gradient of one short batch of digits whose rows weigh differently, as the demo
takes it: on one device, and on four in three ways. Each is an arrow: to the right goes
what it has in common with that of one device, upwards what it has not.
"""

import argparse
import math
import pathlib
from dataclasses import dataclass

import demo
import matplotlib.pyplot as plt
import numpy as np
from _virtual import configure, strategy_of
from matplotlib.patches import Rectangle

FOLDER = pathlib.Path(__file__).parent.parent / "examples" / "data"
SIZE = (10, 3.7)
WIDE, HIGH, GAP = 1.0, 0.11, 0.04  # of a row in the picture
NAMES = {
    "1 device": "1 device",
    "4 replicas, local means summed": "4 devices, local means added up",
    "4 replicas, mean of means": "4 devices, mean of means",
    "4 replicas, DistributedLoss": "4 devices, distloss",
}


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    name: str
    page: str
    ink: str
    light_row: str
    heavy_row: str
    arrows: tuple[str, str, str, str]


THEMES = (
    Theme(
        "light",
        "#ffffff",
        "#1f2328",
        "#b6d4ee",
        "#1f6fb2",
        ("#888888", "#c1272d", "#d97a08", "#1b7837"),
    ),
    Theme(
        "dark",
        "#0d1117",
        "#e6edf3",
        "#2b4a66",
        "#58a6ff",
        ("#9aa4af", "#ff6b6b", "#f0a030", "#4cc46a"),
    ),
)


def gradients() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The gradient of the demo's short batch in each way, and its rows' weights."""
    configure(demo.REPLICAS)
    strategies = {count: strategy_of(count) for count in (1, demo.REPLICAS)}
    train, _ = demo.digits()
    demo.CURVE_STEPS = 1
    size = demo.BATCH_SIZES[0]
    found = {
        NAMES[curve.label]: demo.loop(
            strategies[curve.replicas], curve, train, size, lambda: None
        )[0]
        for curve in demo.CURVES
    }
    return found, train.weight[: len(train.x) % size]


def arrow_of(gradient: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """How much of `wanted` is in it, and how much else, in lengths of `wanted`."""
    along = float(gradient @ wanted / (wanted @ wanted))
    beside = gradient - along * wanted
    return along, float(np.linalg.norm(beside) / np.linalg.norm(wanted))


def words(name: str, along: float, beside: float) -> str:
    """What is written beside an arrow."""
    if name == "1 device" or math.hypot(along - 1, beside) < 1e-3:
        return f"{name}: right"
    off = beside / math.hypot(along, beside)
    return f"{name}: {along:.2f} times, {off:.0%} elsewhere"


def draw_batch(axes: plt.Axes, weights: np.ndarray, theme: Theme) -> None:
    """The rows of the batch, on one device and dealt to four."""
    parts = np.array_split(weights, [8, 16, 24])
    stacks = [(0.0, "1 device", weights)]
    stacks += [(1.9 + 1.2 * i, f"{len(p)} rows", p) for i, p in enumerate(parts)]
    for left, title, rows in stacks:
        for index, weight in enumerate(rows):
            colour = theme.heavy_row if weight > 1 else theme.light_row
            bottom = -index * (HIGH + GAP)
            axes.add_patch(Rectangle((left, bottom), WIDE, HIGH, color=colour))
        style = {"color": theme.ink, "ha": "center", "fontsize": 9}
        axes.text(left + WIDE / 2, 0.3, title, **style)
    axes.text(4.2, -1.7, "4 devices", color=theme.ink, ha="center", fontsize=11)
    axes.text(
        4.2,
        -3.4,
        "The same batch of 30 rows.\nDark rows weigh ten times\nas much as light ones.",
        color=theme.ink,
        ha="center",
        va="center",
        fontsize=9,
    )
    axes.set(xlim=(-0.2, 6.7), ylim=(-4.6, 0.9))
    axes.axis("off")


def draw_arrows(axes: plt.Axes, arrows: dict, theme: Theme) -> None:
    """The gradient in each way."""
    for (name, arrow), colour in zip(arrows.items(), theme.arrows, strict=True):
        right = name == "4 devices, distloss"
        axes.annotate(
            "",
            arrow,
            (0, 0),
            arrowprops={
                "arrowstyle": "-|>,head_length=0.6,head_width=0.3",
                "color": colour,
                "lw": 7 if name == "1 device" else 2.2,
                "alpha": 0.55 if name == "1 device" else 1,
                "ls": "--" if right else "-",
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        axes.plot([], [], color=colour, lw=3, label=words(name, *arrow))
    high = max(y for _, y in arrows.values())
    axes.set(xlim=(-0.1, 3.6), ylim=(-0.35 * high, 1.9 * high))
    axes.set_title("Its gradient", color=theme.ink, fontsize=11)
    axes.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=theme.ink)
    axes.set_xlabel("as on 1 device: times its length", color=theme.ink, fontsize=9)
    axes.set_ylabel("in another direction", color=theme.ink, fontsize=9)
    axes.tick_params(colors=theme.ink, labelsize=8)
    axes.set_facecolor(theme.page)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.ink)


def draw(arrows: dict, weights: np.ndarray, theme: Theme, path: pathlib.Path) -> None:
    """One picture."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=SIZE, layout="constrained", width_ratios=(2, 3)
    )
    figure.set_facecolor(theme.page)
    draw_batch(left, weights, theme)
    draw_arrows(right, arrows, theme)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Trains one step in each way, and draws it twice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    options = parser.parse_args()
    found, weights = gradients()
    arrows = {name: arrow_of(g, found["1 device"]) for name, g in found.items()}
    for name, arrow in arrows.items():
        print(words(name, *arrow))
    for theme in THEMES:
        path = options.folder / f"one_batch_{theme.name}.png"
        draw(arrows, weights, theme, path)
        print(path)


if __name__ == "__main__":
    main()
