"""Write the card of one model.

Reads   an ONNX file; the JSONs of its evaluation, and of the robustness and the latencies of all
        models
Writes  a Markdown page
Params  card.*  (see CardParams)
Raises  InputError when a file is missing, lacks the model or speaks of another one
"""

import argparse
from pathlib import Path

from stages.card.pages.card import Sources, read_card
from stages.card.pages.card_page import card_page
from stages.card.params import CardParams
from stages.common.core.cli import run
from stages.common.core.files import write_text
from stages.common.core.params import load_params


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the model, in the JSONs")
    parser.add_argument("--onnx", type=Path, required=True, help="the model")
    parser.add_argument("--evaluation", type=Path, required=True, help="JSON of this model")
    parser.add_argument("--robustness", type=Path, required=True, help="JSON of all models")
    parser.add_argument("--benchmark", type=Path, required=True, help="JSON of all models")
    parser.add_argument("--card", type=Path, required=True, help="Markdown to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    licences = load_params(CardParams, args.params, section="card")
    sources = Sources(args.name, args.onnx, args.evaluation, args.robustness, args.benchmark)
    write_text(args.card, card_page(read_card(sources, licences), files=[]))
    print(f"{args.card}: the card of {args.onnx}")


if __name__ == "__main__":
    run(main)
