"""Report what a branch changes: results and params side by side, as Markdown.

Reads   the git repository it runs in: dvc.yaml, dvc.lock, metrics, plots of both revisions; no
        data, no models
Writes  a Markdown file and, unless the pictures have addresses (--base-files, --head-files), both
        trade-off pictures beside it
Params  none
Raises  InputError for a revision that does not exist or whose files cannot be read
Exits   1, with the report written, when a stage would have to run again
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.core.accuracy import MOST_DECIMALS, decimals_of
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_bytes, write_text
from stages.common.reporting.markdown import as_table
from stages.common.revisions.git import Revision, Stale, branch_point, read, revision, stale_stages

SUMMARY = "metrics/summary.json"
EVALUATIONS = "metrics/evaluate"  # a JSON a variant, which has the number of test images
PICTURE = "plots/pareto.png"
TO_DO = "dvc repro && make readme publish"
NO_MILLISECONDS = (
    "Latency is the median as a multiple of the variant `base`, timed in the same run. No "
    "milliseconds: the two runs may have had two machines, or one with more or less to do."
)


@dataclass(frozen=True)
class Column:
    """A figure of the summary: where it stands in a variant's block, and how it is written."""

    title: str
    keys: tuple[str, ...]
    form: str

    def value(self, block: dict) -> float | None:
        found: object = block
        for key in self.keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, int | float) else None

    def cell(self, before: dict, after: dict) -> str:
        """Both figures, or one where they read the same or the other is missing."""
        values = (self.value(before), self.value(after))
        texts = [self.form.format(value) for value in values if value is not None]
        return " → ".join(dict.fromkeys(texts)) or "-"


SIZE = Column("size", ("size_bytes",), "{:,} bytes")
MACS = Column("MACs", ("macs",), "{:,}")
RATIOS = (
    Column("OpenCV DNN, × base", ("latency_ratio_to_base", "opencv"), "{:.2f}"),
    Column("ONNX Runtime, × base", ("latency_ratio_to_base", "onnxruntime"), "{:.2f}"),
)


def accuracy_column(decimals: int) -> Column:
    return Column("accuracy", ("accuracy",), f"{{:.{decimals}f}} %")


def read_summary(root: Path, at: Revision) -> dict[str, dict]:
    """The block of each variant; empty for a revision without a summary."""
    summary = read_json(root, at, SUMMARY)
    if not isinstance(summary, dict) or not all(isinstance(b, dict) for b in summary.values()):
        raise InputError(f"{SUMMARY} of {at.title} has no block for each variant; run 'dvc repro'")
    return summary


def read_json(root: Path, at: Revision, path: str) -> Any:
    """The content of the file; an empty dict for a revision without it."""
    content = read(root, at, path)
    if content is None:
        return {}
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(f"{path} of {at.title} is no JSON ({error}); run 'dvc repro'") from None


def images_tested(root: Path, at: Revision, variants: Iterable[str]) -> list[int]:
    """The number of each variant's test images, where the revision says it."""
    evaluations = (read_json(root, at, f"{EVALUATIONS}/{variant}.json") for variant in variants)
    return [each["images"] for each in evaluations if isinstance(each, dict) and "images" in each]


def headlines(before: dict[str, dict], after: dict[str, dict], decimals: int) -> list[str]:
    """A line for each variant that is new, gone, or has another accuracy, size or MACs.

    ``decimals``: of an accuracy in percent.
    """
    lines = []
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            lines.append(f"`{name}` is {'gone' if name in before else 'new'}.")
        elif changes := changes_of(before[name], after[name], decimals):
            lines.append(f"`{name}`: {', '.join(changes)}.")
    return lines or ["No variant's accuracy, bytes or MACs changed."]


def changes_of(before: dict, after: dict, decimals: int) -> list[str]:
    """Accuracy in points, the others in per cent of what they were."""
    changes = []
    accuracy = accuracy_column(decimals)
    for column in (accuracy, SIZE, MACS):
        old, new = column.value(before), column.value(after)
        if old is None or new is None or old == new:
            continue
        if column is accuracy:
            changes.append(f"accuracy {new - old:+.{decimals}f} points")
        elif old:
            changes.append(f"{column.title} {100 * (new - old) / old:+.1f} %")
    return changes


def summary_table(before: dict[str, dict], after: dict[str, dict], decimals: int) -> str:
    columns = (accuracy_column(decimals), SIZE, MACS, *RATIOS)
    rows = [["variant", *(column.title for column in columns)], ["---", *["---:"] * len(columns)]]
    for name in dict.fromkeys([*after, *before]):
        blocks = before.get(name, {}), after.get(name, {})
        rows.append([name, *(column.cell(*blocks) for column in columns)])
    return as_table(rows)


def dvc_diff(root: Path, kind: str, base: Revision, head: Revision) -> list[str]:
    """The lines of `dvc metrics diff --md` or `dvc params diff --md`, without padding."""
    revisions = [commit for commit in (base.commit, head.commit) if commit]
    command = [sys.executable, "-m", "dvc", kind, "diff", *revisions, "--md"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise InputError(f"'dvc {kind} diff' failed: {' '.join(said) or result.stderr.strip()}")
    lines = [re.sub(r" +", " ", line) for line in result.stdout.splitlines() if line.strip()]
    lines = [re.sub(r"-{3,}", "---", line) for line in lines]
    for commit, name in ((base.commit, "before"), (head.commit, "after")):
        lines[:1] = [line.replace(str(commit), name) for line in lines[:1]]
    return lines


def metrics_section(lines: list[str]) -> str:
    changed = len(lines) - 2  # less the two lines of the head
    if changed <= 0:
        return "No metric changed."
    table = "\n".join(lines)
    title = f"{changed} metric{'s' * (changed > 1)} changed (dvc metrics diff)"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def picture_section(root: Path, sides: list[tuple[Revision, str | None]], report: Path) -> str:
    """Both trade-off pictures side by side; one where they are the same.

    ``sides`` are the revision and what its addresses start with (``https://…/OWNER/REPOSITORY``),
    before and after; without an address, the picture is written beside the report.
    """
    present = [
        (at, content, files)
        for at, files in sides
        if (content := read(root, at, PICTURE)) is not None
    ]
    if not present:
        return f"Neither revision has {PICTURE}."
    if len({content for _, content, _ in present}) == 1:
        at, content, files = present[-1]
        which = "The same in both" if len(present) == 2 else f"Only in {at.title}"
        return f"{which}:\n\n{picture(at, content, files, report, 'after')}"
    links = [
        picture(at, content, files, report, side)
        for side, (at, content, files) in zip(("before", "after"), present, strict=True)
    ]
    return as_table([["before", "after"], ["---", "---"], links])


def picture(at: Revision, content: bytes, files: str | None, report: Path, side: str) -> str:
    if files:
        return f"![{side}]({files}/{at.commit}/{PICTURE})"
    path = report.with_name(f"{report.stem}_{side}.png")
    write_bytes(path, content)
    return f"![{side}]({path.name})"


def status_lines(stale: Stale) -> list[str]:
    lines = ["`dvc.lock` is up to date: the results follow from this code and these params."]
    if stale.stages:
        lines = [
            f"**`dvc.lock` is not up to date**: {in_code(stale.stages)} would run again, and the "
            "results below are not this revision's. Run "
            f"`{TO_DO}` (in a fresh clone `dvc repro --pull` first) and commit what it changes."
        ]
    if stale.on_request:
        lines.append(
            f"{in_code(stale.on_request)}, which `dvc repro` does not run, ran on another state "
            "than this; what it found then may not hold now."
        )
    return lines


def in_code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def markdown_report(root: Path, base: Revision, head: Revision, stale: Stale, pictures: str) -> str:
    before, after = read_summary(root, base), read_summary(root, head)
    counts = [*images_tested(root, base, before), *images_tested(root, head, after)]
    decimals = max(map(decimals_of, counts), default=MOST_DECIMALS)
    news = [*status_lines(stale), *headlines(before, after, decimals)]
    params = dvc_diff(root, "params", base, head)
    sections = [
        f"## Results: {base.title} → {head.title}",
        "\n".join(f"- {line}" for line in news),
        summary_table(before, after, decimals),
        NO_MILLISECONDS,
        "### Params",
        "\n".join(params) if len(params) > 2 else "No param changed.",
        "### Metrics",
        metrics_section(dvc_diff(root, "metrics", base, head)),
        "### Trade-off",
        pictures,
    ]
    return "\n\n".join(sections) + "\n"


def main() -> None:
    args = parse_args()
    root = Path()
    head = revision(root, args.head)
    base = branch_point(root, revision(root, args.base), head)
    stale = stale_stages(root, head)
    sides = [(base, args.base_files), (head, args.head_files)]
    pictures = picture_section(root, sides, args.markdown)
    write_text(args.markdown, markdown_report(root, base, head, stale, pictures))
    print(f"{args.markdown}: {base.title} → {head.title}")
    if stale.stages:
        print(
            f"error: dvc.lock is not up to date: {', '.join(stale.stages)} would run again; "
            f"run: {TO_DO}",
            file=sys.stderr,
        )
        sys.exit(1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the branch to compare with, from where head left it")
    parser.add_argument("head", nargs="?", help="a commit; without it, the working tree")
    parser.add_argument("--markdown", type=Path, required=True)
    for side in ("base", "head"):
        parser.add_argument(f"--{side}-files", help="https://... that a commit and a path complete")
    args = parser.parse_args()
    if args.head_files and args.head is None:
        parser.error("--head-files needs HEAD: the working tree has no address")
    return args


if __name__ == "__main__":
    run(main)
