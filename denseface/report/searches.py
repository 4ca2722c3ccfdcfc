"""Charts of identification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from denseface.report.charts import draw_det, lay_out, set_det_axes
from denseface.report.plotting import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from denseface.evaluation.identification import OpenSet, Searches


def draw_searches(searches: Searches, open_set: OpenSet | None) -> Figure:
    """Draw the cumulative match characteristic, and FNIR against FPIR.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    figure = lay_out(10, 4.5)
    cmc, det = figure.subplots(1, 2)
    hits = searches.cmc()
    cmc.plot(np.arange(1, len(hits) + 1), hits, color=COLORS[0], marker=".", drawstyle="steps-post")
    cmc.set(xscale="log", xlabel="rank (logarithmic)", ylabel="mated searches within the rank")
    cmc.set_title(f"CMC: {searches.num_people} people enrolled", fontsize=10, loc="left")
    set_det_axes(det, "FPIR", "FNIR")
    if open_set:
        draw_det(det, open_set.result, COLORS[0])
        det.set_title("DET: FNIR against FPIR, on axes of normal scores", fontsize=10, loc="left")
    else:
        det.set_title("no searches of both kinds: nothing to draw", fontsize=10, loc="left")
    for axes in (cmc, det):
        axes.grid(color="#dddddd", linewidth=0.6)
    return figure
