"""Charts: networks side by side, a training run, and verification."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError
from denseface.evaluation.influence import tar_intervals
from denseface.report.plotting import COLORS, MUTED, new_figure, shortened
from denseface.training.log import TRAINING_COLUMNS, VERIFICATION_COLUMNS, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from denseface.evaluation.groups import Group
    from denseface.evaluation.intervals import SharedPeople
    from denseface.evaluation.metrics import VerificationResult
    from denseface.report.comparison import Measured
    from denseface.verification.verify import VerificationReport

_BINS = 50
_BAND = 30  # points of the band about a ROC curve
_DET_POINTS = 300
_DET_TICKS = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.8)
_DET_LABELS = ("0.01 %", "0.1 %", "1 %", "5 %", "20 %", "50 %", "80 %")
_GUESSING = 0.5


def draw_comparison(networks: Sequence[Measured]) -> Figure:
    """Draw a panel of bars for every measurement of some networks.

    Accuracies are drawn from 0.5, the accuracy of guessing between two equally likely answers.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    panels: list[tuple[str, Callable[[Measured], float | None]]] = [
        ("parameters, millions", lambda row: row.costs.parameters / 1e6),
        ("GMACs per picture", lambda row: row.costs.macs / 1e9),
        ("activations per picture, MiB", lambda row: row.costs.memory / 2**20),
        ("latency of one picture, ms", lambda row: row.latency),
        ("embeddings per second, batches of 8", lambda row: row.throughput),
        ("pictures per second in training, batches of 8", lambda row: row.training),
    ]
    for name in dict.fromkeys(key for row in networks for key in row.accuracies):
        panels.append((f"accuracy on {shortened(name)}", partial(_accuracy, name)))
    panels = [(title, value) for title, value in panels if any(value(row) is not None for row in networks)]

    names = [shortened(row.name) for row in networks]
    rows = math.ceil(len(panels) / 3)
    figure = lay_out(12, rows * (1.1 + 0.36 * len(networks)))
    grid = figure.subplots(rows, 3, squeeze=False, sharey=True).flatten()
    for axes, (title, value) in zip(grid, panels):
        values = [value(row) for row in networks]
        bars = axes.barh(range(len(names)), [number or 0 for number in values], color=COLORS[0], height=0.6)
        axes.bar_label(bars, [_three_digits(number) for number in values], padding=3, fontsize=9)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_yticks(range(len(names)), names)
        low = _GUESSING if title.startswith("accuracy") else 0
        axes.set_xlim(low, low + 1.25 * (max(number or 0 for number in values) - low) or 1)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.axis("off")
    figure.axes[0].invert_yaxis()
    figure.suptitle("Networks side by side", fontsize=11)
    return figure


def draw_run(folder: str | Path) -> Figure:
    """Draw the curves of a training run against the step: loss, accuracy, rate, gradient and verification.

    Parameters
    ----------
    folder : path-like
        Contains ``PREFIX-training.csv`` and ``PREFIX-verification.csv``, as :mod:`denseface.training.log` writes them.

    Raises
    ------
    InputError
        If they are missing, of several runs, or damaged; or matplotlib is not installed.
    """
    prefix = _run_prefix(Path(folder))
    training = read_rows(Path(f"{prefix}-training.csv"), TRAINING_COLUMNS)
    verification_path = Path(f"{prefix}-verification.csv")
    verification = read_rows(verification_path, VERIFICATION_COLUMNS) if verification_path.exists() else []
    figure = lay_out(10, 9)
    figure.suptitle(shortened(prefix, 80), fontsize=11)
    curves = ("loss", "accuracy", "learning_rate", "gradient_norm")
    panels = figure.subplot_mosaic([[*curves[:2]], [*curves[2:]], ["verified"] * 2], sharex=True)
    for column in curves:
        steps, values = _line(training, column)
        panels[column].plot(steps, values, color=COLORS[0], linewidth=1.2)
        title = {"accuracy": "accuracy in training"}.get(column, column.replace("_", " "))
        panels[column].set_title(title, fontsize=10, loc="left")
        if not np.isfinite(values).any():
            _say(panels[column], "not in the log")
    verified = panels["verified"]
    verified.set_title("accuracy in verification", fontsize=10, loc="left")
    names = dict.fromkeys(str(row["set"]) for row in verification)
    for name, color in zip(names, _cycled(len(names))):
        steps, values = _line([row for row in verification if row["set"] == name], "accuracy")
        verified.plot(steps, values, color=color, marker="o", markersize=3, linewidth=1.2)
    if names:
        legend = verified.legend(verified.lines, map(str, range(len(names))), fontsize=8, frameon=False)
        for label, name in zip(legend.get_texts(), names):
            label.set_text(shortened(name))  # here, since matplotlib leaves out names that start with an underscore
    else:
        _say(verified, "none yet")
    panels["accuracy"].set_ylim(-0.02, 1.02)
    panels["learning_rate"].set_ylim(bottom=0)
    for axes in figure.axes:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    verified.set_xlabel("step")
    return figure


def _accuracy(name: str, row: Measured) -> float | None:
    return row.accuracies.get(name)


def draw_verification(reports: dict[str, VerificationReport]) -> Figure:
    """Draw ROC and DET curves of some measurements, the scores of each, and how true their probabilities are.

    The false accept rate of the ROC curve has a logarithmic axis, which starts at the rate of half an impostor pair,
    drawn for none. The point of each curve is its threshold of best accuracy, and the band about it the 95 % interval
    of the true accept rate at each false accept rate. On the axes of the DET curve, normal scores are a straight line
    (Martin et al., "The DET Curve in Assessment of Detection Task Performance", 1997).

    Parameters
    ----------
    reports : dict of str to VerificationReport
        By title; the title of a panel has the color of its curve. With mirror images where there are any.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    rows = len(reports) + 1
    figure = lay_out(12.5, max(4.6, 1.6 * rows + 0.4))
    grid = figure.add_gridspec(rows, 3, width_ratios=(1.15, 1.15, 1))
    roc, det = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])
    reliability = figure.add_subplot(grid[-1, 2])
    first = None
    for row, ((name, report), color) in enumerate(zip(reports.items(), _cycled(len(reports)))):
        result, check = report.result, report.checks[report.way]
        _draw_roc(roc, result, report.shared, color)
        draw_det(det, result, color)
        if check:
            reliability.plot(check.predicted, check.observed, "o-", color=color, markersize=3)
        first = _draw_scores(figure.add_subplot(grid[row, 2], sharex=first), name, result, color)
    roc.set(xscale="log", xlabel="false accept rate (logarithmic)", ylabel="true accept rate", ylim=(0, 1.02))
    roc.xaxis.set_major_formatter("{x:g}")
    roc.set_title("ROC, with 95 % intervals", fontsize=10, loc="left")
    roc.legend(fontsize=8, frameon=False, loc="lower right")
    det.set_title("DET, on axes of normal scores", fontsize=10, loc="left")
    set_det_axes(det, "false match rate", "false non-match rate")
    reliability.set(xlabel="stated probability of one person", ylabel="share of genuine pairs")
    reliability.set_title("reliability, on people left out of the fit", fontsize=9, loc="left")
    reliability.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
    for axes in (roc, det, reliability):
        axes.grid(color="#dddddd", linewidth=0.6)
    if first:
        first.set_xlabel("score: cosine similarity")
    return figure


def draw_groups(groups: Mapping[str, Group], column: str) -> Figure:
    """Draw the error rates of groups of people with their 95 % intervals, one panel per kind of error.

    Parameters
    ----------
    groups : mapping of str to Group
        As from :func:`denseface.verification.groups.measure_groups`.
    column : str
        What groups them, for the axis.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    titles = list(next(iter(groups.values())).rates)
    names = [f"{shortened(name, 24)}\n{group.people} people" for name, group in groups.items()]
    figure = lay_out(9, 3.6)
    for axes, kind, label in zip(figure.subplots(1, 2), ("fmr", "fnmr"), ("false match rate", "false non-match rate")):
        for index, (title, color) in enumerate(zip(titles, _cycled(len(titles)))):
            measured = [
                (position + 0.8 * (index + 0.5) / len(titles) - 0.4, getattr(group.rates[title], kind))
                for position, group in enumerate(groups.values())
            ]
            known = [(at, rate.value, *rate.interval) for at, rate in measured if rate]
            if known:
                at, values, low, high = np.array(known).T
                axes.bar(at, values, 0.8 / len(titles), color=color, label=f"threshold of {title}")
                spread = np.clip([values - low, high - values], 0, None)
                axes.errorbar(at, values, spread, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set(ylabel=label, ylim=(0, None), xlabel=shortened(column))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(fontsize=8, frameon=False)
    return figure


def _draw_roc(axes: Axes, result: VerificationResult, shared: SharedPeople, color: str) -> None:
    none = 0.5 / result.n_impostor
    axes.plot(np.maximum(result.roc.far, none), result.roc.tar, color=color, drawstyle="steps-post", linewidth=1.5)
    band = np.geomspace(1 / result.n_impostor, 1, _BAND)
    low, high = zip(*tar_intervals(result, band.tolist(), shared).values())
    axes.fill_between(band, low, high, color=color, alpha=0.15, linewidth=0)
    at_threshold = f"threshold {result.threshold:.3f}"
    axes.plot(max(result.fmr, none), 1 - result.fnmr, "o", color=color, label=at_threshold)


def set_det_axes(axes: Axes, across: str, up: str) -> None:
    """Name the axes of a DET curve, and mark rates on them."""
    axes.set(xlabel=across, ylabel=up)
    axes.set_xticks(_probit(_DET_TICKS), _DET_LABELS, fontsize=8)
    axes.set_yticks(_probit(_DET_TICKS), _DET_LABELS, fontsize=8)


def draw_det(axes: Axes, result: VerificationResult, color: str) -> None:
    """Draw a DET curve by some hundred points; rates of 0 and 1 are outside of its axes."""
    sampled = np.geomspace(1 / result.n_impostor, 1, _DET_POINTS)
    misses = 1 - result.roc.tar[np.searchsorted(result.roc.far, sampled, side="right") - 1]
    inner = (misses > 0) & (misses < 1) & (sampled < 1)
    axes.plot(_probit(sampled[inner]), _probit(misses[inner]), color=color, linewidth=1.5)


def _probit(rates: Iterable[float]) -> list[float]:
    return [NormalDist().inv_cdf(float(rate)) for rate in rates]


def lay_out(width: float, height: float) -> Figure:
    """Make a figure that fits its panels; width and height in inches."""
    figure = new_figure(width, height)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def _draw_scores(axes: Axes, name: str, result: VerificationResult, color: str) -> Axes:
    bins = np.linspace(min(map(np.min, result.scores)), max(map(np.max, result.scores)), _BINS)
    for scores, kind, fill in zip(result.scores, ("genuine: one person", "impostor: two people"), (color, "#bbbbbb")):
        axes.hist(scores, bins, density=True, color=fill, alpha=0.7, label=kind)
    axes.axvline(result.threshold, color="black", linewidth=1, linestyle="--", label="threshold")
    axes.set_title(f"{shortened(name, 28)}: AUC {result.auc:.4f}", fontsize=9, loc="left", color=color)
    axes.locator_params(axis="x", nbins=6)  # more of them would touch
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    return axes


def _run_prefix(folder: Path) -> str:
    found = sorted(folder.glob("*-training.csv"))
    if not found:
        raise InputError("no training run here (no file PREFIX-training.csv)", path=folder)
    if len(found) > 1:
        raise InputError(
            f"several runs here ({', '.join(path.name for path in found)}); keep one per folder", path=folder
        )
    return str(found[0])[: -len("-training.csv")]


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, color=MUTED, ha="center", transform=axes.transAxes)


def _line(rows: Sequence[dict], column: str) -> tuple[list[float], list[float]]:
    return [row["step"] for row in rows], [row[column] for row in rows]


def _cycled(count: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(count)]


def _three_digits(number: float | None) -> str:
    return "-" if number is None else f"{number:#.3g}".rstrip(".") if number < 1000 else f"{number:.0f}"
