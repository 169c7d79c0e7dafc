"""Make the notebook open with one click: write where this repository lies into it and the README.

Reads   the address of the git remote `origin`, the notebook, the README
Writes  the address into the notebook's first lines of code; a link into the README, between
        <!-- colab: begin (make colab) --> and <!-- colab: end -->
Params  none
Raises  InputError when origin is not on GitHub, from where alone Colab opens notebooks by address,
        or when the two files lack the places to write to
"""

import argparse
import json
import re
from pathlib import Path

from stages.common.cli import InputError, run
from stages.common.files import write_text
from stages.common.revisions import git

GITHUB = re.compile(
    r"(?:https://|git@|ssh://git@)github\.com[:/](?P<name>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
)
ADDRESS = re.compile(r'^REPOSITORY = "(?P<address>[^"]*)"', re.MULTILINE)
PLACE = re.compile(
    r"(?P<begin><!-- colab: begin \(make colab\) -->\n).*?(?P<end><!-- colab: end -->)", re.DOTALL
)
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
BY_HAND = (
    "In [Google Colab](https://colab.research.google.com): File, Open notebook, GitHub, this\n"
    "repository's address, `colab.ipynb`; the address goes into its first cell, too. `make\n"
    "colab`, in a clone from GitHub, turns this paragraph into a link that does both."
)


def github_name(url: str) -> str:
    """OWNER/NAME of a remote's URL."""
    found = GITHUB.fullmatch(url)
    if not found:
        raise InputError(
            f"the remote origin is '{url}'; Colab opens notebooks from https://github.com/OWNER/NAME"
            " only: push the repository there, then 'git remote set-url origin ...'"
        )
    return found["name"]


def invitation(address: str, notebook: str, branch: str) -> str:
    """The README's paragraph: a badge that opens the notebook; without an address, what to do."""
    if not address:
        return BY_HAND
    name = github_name(address)
    target = f"https://colab.research.google.com/github/{name}/blob/{branch}/{notebook}"
    return f"[![Open in Colab]({BADGE})]({target})"


def address_in(notebook: dict) -> str:
    """The address in the notebook; "" where it names none."""
    [address] = [found["address"] for cell in notebook["cells"] for found in _addresses(cell)]
    return address


def with_address(notebook: dict, address: str) -> dict:
    """The notebook with the address in the one place that has it."""
    line = f'REPOSITORY = "{address}"'
    if sum(len(_addresses(cell)) for cell in notebook["cells"]) != 1:
        raise InputError("the notebook needs one line 'REPOSITORY = \"...\"'; git checkout it")
    cells = [
        {**cell, "source": ADDRESS.sub(line, "".join(cell["source"])).splitlines(keepends=True)}
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def _addresses(cell: dict) -> list[re.Match]:
    return list(ADDRESS.finditer("".join(cell["source"])))


def with_invitation(readme: str, text: str) -> str:
    content, count = PLACE.subn(lambda place: f"{place['begin']}\n{text}\n\n{place['end']}", readme)
    if count != 1:
        raise InputError("the README needs the marks '<!-- colab: begin (make colab) -->' once")
    return content


def origin(root: Path) -> str:
    found = git(root, "remote", "get-url", "origin")
    if found.returncode:
        raise InputError(
            "this clone has no remote origin; 'git remote add origin ...' gives it one"
        )
    return found.stdout.decode().strip()


def main() -> None:
    args = parse_args()
    address = f"https://github.com/{github_name(origin(args.readme.parent))}"
    notebook = with_address(json.loads(args.notebook.read_text()), address)
    text = invitation(address, args.notebook.name, args.branch)
    readme = with_invitation(args.readme.read_text(), text)
    write_text(args.notebook, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    write_text(args.readme, readme)
    print(f"{args.readme}, {args.notebook}: {address}, branch {args.branch}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebook", type=Path, required=True)
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--branch", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
