"""Milliseconds predicted from a profile against those that were measured."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from stages.common.reporting.style import GREY, IN_HOUSE_STYLE, MARKERS, colour, new_figure


@IN_HOUSE_STYLE
def profile_chart(rows: list[dict], note: str) -> Figure:
    """A panel for each precision, a mark for each network and engine; on the line all is right."""
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    figure, panels = new_figure(
        "Latency predicted from the profile, and measured", note, columns=len(precisions)
    )
    for panel, precision in zip(panels, precisions, strict=True):
        of_precision = [row for row in rows if row["precision"] == precision]
        engines = list(dict.fromkeys(row["engine"] for row in of_precision))
        for index, engine in enumerate(engines):
            points = [row for row in of_precision if row["engine"] == engine]
            panel.plot(
                [row["measured_ms"] for row in points],
                [row["predicted_ms"] for row in points],
                MARKERS[index], color=colour(index), markersize=5, alpha=0.85, label=engine,
            )  # fmt: skip
        ends = [
            limit(row[key] for row in of_precision for key in ("measured_ms", "predicted_ms"))
            for limit in (min, max)
        ]
        panel.plot(ends, ends, "--", color=GREY, linewidth=1, zorder=1, label="no error")
        panel.set(title=precision.upper(), xlabel="Measured (ms)", xscale="log", yscale="log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        panel.legend()
    panels[0].set(ylabel="Predicted (ms)")
    return figure
