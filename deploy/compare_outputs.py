"""Check that two machines see the same in the same pictures.

Reads   what `classify.py --json` printed on each: python compare_outputs.py pc.jsonl device.jsonl
Writes  one line: how many classes differ, and how far the network's raw outputs (logits) are apart
Exits   0 when every picture has the same class on both; 1 when one has not; 2 when the two files
        are not of the same pictures, or are not what `classify.py --json` prints
"""

import argparse
import json
import sys
from pathlib import Path


class InputError(ValueError):
    """Something the user can mend; its text names what is wrong and what was expected."""


def read_results(path: Path) -> list[dict]:
    """The objects of a file of JSON Lines; ``InputError`` when one is not of classify.py."""
    results = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            result = None
        if not (isinstance(result, dict) and {"source", "class", "logits"} <= result.keys()):
            raise InputError(
                f"{path}, line {number} is not what `classify.py --json` prints; "
                "expected its stdout alone, without stderr"
            )
        results.append(result)
    if not results:
        raise InputError(f"{path} is empty; expected the output of `classify.py --json`")
    return results


def pictures(results: list[dict]) -> list[tuple[str, int | None]]:
    """(file name, frame) of each result; folders differ between machines."""
    return [(Path(result["source"]).name, result.get("frame")) for result in results]


def compare(first: list[dict], second: list[dict]) -> dict:
    """Pictures, those whose class differs, and the largest difference of a logit.

    ``smallest_margin`` is the distance of the two highest logits in the closest decision of
    ``first``: a difference of logits below half of it cannot change a class.
    Raises ``InputError`` when the pictures or the numbers of classes are not the same.
    """
    if pictures(first) != pictures(second):
        raise InputError(
            f"the files tell of other pictures ({len(first)} and {len(second)}); expected the same "
            "ones in the same order"
        )
    if {len(r["logits"]) for r in first} != {len(r["logits"]) for r in second}:
        raise InputError("the files are of models with different numbers of classes")
    pairs = list(zip(first, second, strict=True))
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


def told(result: dict) -> str:
    count, differing = result["pictures"], result["differing"]
    named = f" ({', '.join(differing[:5])}{', ...' if len(differing) > 5 else ''})"
    return (
        f"{count - len(differing)} of {count} classes the same{named if differing else ''}; "
        f"largest difference of a logit: {result['max_logit_difference']:.2g}"
        f"{'' if result['max_logit_difference'] else ' (bit-identical)'}; "
        f"closest decision: {result['smallest_margin']:.2g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="JSON Lines of one machine")
    parser.add_argument("second", type=Path, help="JSON Lines of the other")
    args = parser.parse_args()
    try:
        result = compare(read_results(args.first), read_results(args.second))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(told(result))
    return 1 if result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
