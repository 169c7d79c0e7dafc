"""Print what browsers measured as tables in Markdown, for a page of results.

Reads   the JSONs that the page's "Save the figures" wrote, one or more
Writes  a table for each on stdout: milliseconds of two machines never share one
Params  none
Raises  InputError for a file that is missing, damaged or not of that page

    python -m stages.tools.web.figures browser_figures.json
"""

import argparse
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import read_metrics
from stages.common.reporting.markdown import as_table, name_and_figures

HEADS = ["model", "precision", "bytes", "median", "5th to 95th percentile", "samples"]


def markdown(figures: dict) -> str:
    """``figures``: what the page saved; see ``saveFigures`` in deploy/web/page.js.

    Raises ``KeyError`` for one that is missing.
    """
    rows = [
        [
            model["model"],
            model["precision"],
            f"{model['size_bytes']:,}",
            f"{model['latency_ms_median']:.2f} ms",
            f"{model['latency_ms_p5']:.2f} to {model['latency_ms_p95']:.2f} ms",
            str(model["samples"]),
        ]
        for model in figures["models"]
    ]
    machine, runtime = figures["machine"], figures["runtime"]
    device = (machine["device"] or {}).get("model") or "unnamed device"
    note = (
        f"{device}, {machine['cores']} cores, {machine['user_agent']}; ONNX Runtime Web "
        f"{runtime['version']}, one thread, batch 1; {figures['date'][:10]}."
    )
    return f"{as_table([HEADS, name_and_figures(HEADS), *rows])}\n\n{note}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        try:
            print(markdown(read_metrics(path, "'Save the figures' of deploy/web")))
        except (KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} lacks figures of deploy/web's page; save them there again"
            ) from None


if __name__ == "__main__":
    run(main)
