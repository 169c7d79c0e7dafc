"""Check that two machines see the same in the same pictures.

Reads   the output of `classify.py --json` on each: python compare_outputs.py pc.jsonl device.jsonl
Writes  one line: how many classes differ, and how far the network's raw outputs (logits) are apart
Exits   0 when every picture has the same class on both; 1 when one has not; 2 when the two files
        are not of the same pictures, or are not what `classify.py --json` prints
"""

import argparse
import codecs
import io
import json
import sys
from pathlib import Path, PureWindowsPath


class InputError(ValueError):
    """Something the user can mend; its text names what is wrong and what was expected."""


def read_results(path: Path) -> list[dict]:
    """The objects of a file of JSON Lines; ``InputError`` when one is not of classify.py."""
    results = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            result = None
        if not is_result(result):
            raise InputError(
                f"{path}, line {number} is not what `classify.py --json` prints; "
                "expected its stdout alone, without stderr"
            )
        results.append(result)
    if not results:
        raise InputError(f"{path} is empty; expected the output of `classify.py --json`")
    return results


def text_of(path: Path) -> str:
    """UTF-8, or what PowerShell makes of it: with a byte order mark, or UTF-16."""
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")


def is_result(value: object) -> bool:
    """Whether it is an object with a source, a class and finite logits."""
    if not (isinstance(value, dict) and {"source", "class", "logits"} <= value.keys()):
        return False
    logits, frame = value["logits"], value.get("frame")
    return (
        isinstance(value["source"], str)
        and (frame is None or type(frame) is int)
        and isinstance(logits, list)
        and len(logits) > 1
        and all(type(each) in (int, float) and abs(each) <= sys.float_info.max for each in logits)
    )


def in_order(results: list[dict]) -> list[dict]:
    """Sorted by file name, then by the folders from the innermost out, then by frame.

    Pictures of the same name are so paired by the folders that both machines have.
    """
    return sorted(results, key=lambda result: (parts(result)[::-1], result.get("frame") or 0))


def parts(result: dict) -> tuple[str, ...]:
    """Folders and file name, with / or with Windows' separator."""
    return PureWindowsPath(result["source"]).parts


def pictures(results: list[dict]) -> list[tuple[str, int | None]]:
    """(file name, frame) of each result; folders differ between machines."""
    return [("".join(parts(result)[-1:]), result.get("frame")) for result in results]


def compare(first: list[dict], second: list[dict]) -> dict:
    """Pictures, those whose class differs, and the largest difference of a logit.

    ``smallest_margin`` is the distance of the two highest logits in the closest decision of
    ``first``: a difference of logits below half of it cannot change a class.
    Raises ``InputError`` when the pictures or the numbers of classes are not the same.
    """
    first, second = in_order(first), in_order(second)
    if pictures(first) != pictures(second):
        alone = sorted(name for name, _ in set(pictures(first)) ^ set(pictures(second)))
        named = f", e.g. {alone[0]!r} in one of them only" if alone else ""
        raise InputError(
            f"the files are of different pictures ({len(first)} and {len(second)}{named}); "
            "run classify.py on the same ones"
        )
    pairs = list(zip(first, second, strict=True))
    if any(len(a["logits"]) != len(b["logits"]) for a, b in pairs):
        raise InputError("the files are of models with different numbers of classes")
    return {
        "pictures": len(pairs),
        "differing": [a["source"] for a, b in pairs if a["class"] != b["class"]],
        "max_logit_difference": max(
            abs(x - y) for a, b in pairs for x, y in zip(a["logits"], b["logits"], strict=True)
        ),
        "smallest_margin": min(margin(a["logits"]) for a in first),
    }


def margin(logits: list[float]) -> float:
    """How far the highest logit is above the next."""
    second, highest = sorted(logits)[-2:]
    return highest - second


def summary(result: dict) -> str:
    count, differing = result["pictures"], result["differing"]
    named = f" ({', '.join(differing[:5])}{', ...' if len(differing) > 5 else ''})"
    return (
        f"{count - len(differing)} of {count} classes the same{named if differing else ''}; "
        f"largest difference of a logit: {result['max_logit_difference']:.2g}"
        f"{'' if result['max_logit_difference'] else ' (bit-identical)'}; "
        f"closest decision: {result['smallest_margin']:.2g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("first", type=Path, help="JSON Lines of one machine")
    parser.add_argument("second", type=Path, help="JSON Lines of the other")
    args = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold stray bytes
    try:
        result = compare(read_results(args.first), read_results(args.second))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary(result))
    return 1 if result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
