"""The pages: links lead somewhere, commands exist, tables fit a screen, the README stays short."""

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import networkx
import pytest
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from dvc.repo import Repo

from stages.common.core.cli import InputError
from stages.tools.readme import PLACE, short_table, with_tables
from tests.pipelines import ROOT

LONGEST_CELL = 40
README_LINES, README_WORDS = 200, 2000
RUNTIMES = ("opencv", "onnxruntime")

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SHELL = ("", "bash")  # a fence of another kind says which
SILENT = {"cd", "curl", "git", "npm", "pip", "pre-commit", "rm", "scp", "source"}  # not ours
SILENT |= {"export", "ray", "sha256sum", "sudo", "trtexec", "unzip"}
PARAM = re.compile(r"([a-z_]+)\.([a-z0-9_*]+)(: .*|=.*)?")
FILE_ENDINGS = ("csv", "json", "lock", "md", "onnx", "png", "py", "yaml", "pt", "npz")


def tracked(*patterns: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in found.splitlines() if (ROOT / name).exists()]


PAGES = tracked("*.md")
WITH_MARKS = [name for name in PAGES if PLACE.search((ROOT / name).read_text())]


@cache
def repository() -> Repo:
    return Repo(ROOT)


@cache
def known_files() -> set[str]:
    """Every tracked file, every output of a stage, and the folders that hold them."""
    outs = [Path(out.fs_path).relative_to(ROOT) for out in repository().index.outs]
    files = [*map(Path, tracked()), *outs]
    return {str(each) for file in files for each in (file, *file.parents)} - {"."}


@cache
def stage_names() -> set[str]:
    """Of `dvc repro`: `export@base` and `export`; those of another dvc.yaml with its path."""
    names = {stage.addressing for stage in repository().index.stages}
    files = {f"{name.rpartition(':')[0]}" for name in names if ":" in name} | {"dvc.yaml"}
    return names | {name.partition("@")[0] for name in names} | files


@cache
def params() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


# Links


def anchors(text: str) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = HEADING.findall(FENCE.sub("", text))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def broken_links(text: str, folder: Path) -> list[str]:
    """The relative links, of a page in ``folder``, that lead to no committed file or heading."""
    targets = LINK.findall(FENCE.sub("", text))
    return [each for each in targets if not is_address(each) and not leads(each, text, folder)]


def is_address(target: str) -> bool:
    return re.match(r"\w+:", target) is not None


def leads(target: str, text: str, folder: Path) -> bool:
    path, _, anchor = target.partition("#")
    if path:
        file = (folder / path).resolve()
        if not file.is_relative_to(ROOT) or str(file.relative_to(ROOT)) not in known_files():
            return False
        text = file.read_text() if anchor else ""
    return not anchor or anchor in anchors(text)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_committed_file_and_heading(page):
    assert broken_links((ROOT / page).read_text(), (ROOT / page).parent) == []


@pytest.mark.parametrize(
    "link",
    [
        "[a file that is not there](metrics/absent.md)",
        "![a picture that is not there](plots/absent.png)",
        "[a heading that is not there](CONTRIBUTING.md#no-such-heading)",
        "[a heading of this page](#no-such-heading)",
        "[another repository](../elsewhere/README.md)",
    ],
)
def test_a_broken_link_is_found(link):
    assert len(broken_links(f"# Title\n\n{link}\n", ROOT)) == 1


# Commands


def commands(text: str) -> list[list[str]]:
    """Each command of the fenced shell blocks and of the `code` in prose, as its words."""
    lines = []
    for _, kind, body in FENCE.findall(text):
        if kind in SHELL:
            lines += body.replace("\\\n", " ").splitlines()
    prose = FENCE.sub("", text)
    lines += re.findall(r"`((?:make|dvc|python) [^`]+)`", prose.replace("\n", " "))
    return [words for line in lines for words in split(line)]


def split(line: str) -> list[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found, words = [], []
    for token in lexer:
        if set(token) <= set("|&;"):
            found, words = [*found, words], []
        else:
            words.append(token)
    return [each for each in [*found, words] if each]


def problems(words: list[str], folder: Path) -> list[str]:
    """The fault of a command of a page in ``folder``; empty when it can be given."""
    while words and re.fullmatch(r"[A-Z_]+=.*|for|do|done", words[0]):
        words = words[1:]
    if not words:
        return []
    program, *rest = words
    if program == "make":
        found = make_problems(rest)
    elif program == "dvc":
        found = dvc_problems(rest)
    elif Path(program).name in ("python", "python3") or program.endswith(".py"):
        found = python_problems(rest if "python" in program else words, folder)
    elif program in SILENT or program.endswith((".sh", "/pip")):
        found = []
    else:
        found = [f"{program}: a program that this test does not know"]
    return found or [f"{word}: no such file" for word in words if not names_a_path(word)]


def make_problems(words: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    names = {word.partition("=")[0] for word in words if "=" in word}
    unknown = [word for word in words if "=" not in word and word not in targets]
    unknown += [name for name in names if name != "PYTHON" and not used(name, makefile)]
    return [f"make {word}: not in the Makefile" for word in unknown]


def used(variable: str, makefile: str) -> bool:
    return f"$({variable})" in makefile or f"needs,{variable}," in makefile


def dvc_problems(words: list[str]) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dvc", *words])  # DVC's parser looks there while it is built
        try:
            args = get_main_parser().parse_args(words)
        except (DvcParserError, SystemExit):
            return [f"dvc {shlex.join(words)}: not a command of DVC"]
    keys = [each.partition("=")[0] for each in getattr(args, "set_param", None) or []]
    found = [f"{key}: not in params.yaml" for key in keys if not is_param(key)]
    if words[0] in ("repro", "commit") or words[:2] == ["exp", "run"]:
        stages = [name for name in args.targets or [] if name not in stage_names()]
        found += [f"{name}: not a stage" for name in stages]
    return found


def is_param(key: str) -> bool:
    section, _, name = key.partition(".")
    return any(fnmatch(each, name) for each in params().get(section, {}))


def python_problems(words: list[str], folder: Path) -> list[str]:
    if words[0] == "-m" and words[1] in ("pytest", "venv", "pip", "zipfile", "http.server"):
        return []
    if words[0] == "-m":
        file, words = ROOT / (words[1].replace(".", "/") + ".py"), words[1:]
    else:
        places = [folder / words[0], ROOT / words[0], ROOT / "deploy" / words[0]]
        file = next((place for place in places if place.exists()), places[0])
    if not file.exists():
        return [f"{words[0]}: no such module or program"]
    return [] if accepts(file, words[1:]) else [f"{shlex.join(words)}: its arguments are refused"]


def accepts(file: Path, arguments: list[str]) -> bool:
    """Whether the program's own parser takes them; redirections are the shell's."""
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    program = load(file)
    if not hasattr(program, "parse_args"):  # no flags, so no parser: what it takes are paths
        return not any(word.startswith("-") for word in arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(file), *arguments])
        try:
            program.parse_args()
        except (SystemExit, argparse.ArgumentTypeError, InputError):
            return False
    return True


@cache
def load(file: Path):
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    if name.startswith("stages."):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
    return module


def names_a_path(word: str) -> bool:
    return is_known_path(word.partition("=")[2] or word)


def is_known_path(word: str) -> bool:
    """False for what looks like a path into a folder of the repository, and is none."""
    word = re.sub(r"\$\{[^}]*\}|\bNAME\b|\.\.\.|<\w+>", "*", word)
    word = re.sub(r"(\.yaml):.*", r"\1", word).rstrip("/")
    first, slash, _ = word.partition("/")
    if not slash or first in ("", ".", "..", "build", ".venv", ".resume") or ":" in word:
        return True
    folders = {name for name in known_files() if "/" not in name and not (ROOT / name).is_file()}
    if first not in folders or re.fullmatch(r".dvc/(cache|tmp|config.local).*", word):
        return True
    return any(fnmatch(name, word) for name in known_files())


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_can_be_given(page):
    folder = (ROOT / page).parent
    found = commands((ROOT / page).read_text())
    assert [each for words in found for each in problems(words, folder)] == []


@pytest.mark.parametrize(
    "command",
    [
        "make no-such-target",
        "make study NO_SUCH_VARIABLE=sweep",
        "dvc metrics dif",
        "dvc plots show --no-such-flag",
        "dvc repro no_such_stage",
        "dvc exp run -S prune.no_such_key=1",
        "dvc exp run -S no_such_section.amount=1",
        "source .venv/bin/activate && dvc exp run -S prune.no_such_key=1  # a comment",
        "python -m stages.no_such_stage",
        "python -m stages.tools.publish --no-such-flag x",
        "python deploy/no_such_program.py",
        "python deploy/classify.py model.onnx --no-such-flag",
        "no-such-program --version",
        "scp deploy/no_such_file.py pi@raspberrypi:",
    ],
)
def test_a_command_that_cannot_be_given_is_found(command):
    page = f"# Title\n\n```bash\n{command}\n```\n"
    assert len([each for words in commands(page) for each in problems(words, ROOT)]) == 1


def test_commands_are_read_from_blocks_and_prose_and_only_from_shell():
    page = "```bash\nmake a \\\n  b  # c\n```\n```python\nmake()\n```\nGive `dvc repro\n--pull`.\n"
    assert commands(page) == [["make", "a", "b"], ["dvc", "repro", "--pull"]]


# Names in prose


def unknown_names(text: str) -> list[str]:
    """The params and paths that the page's `code` names and that do not exist."""
    spans = re.findall(r"`([^`\s]+(?:: \w+)?)`", FENCE.sub("", text))
    return [span for span in spans if not (is_known_path(span) and is_known_param(span))]


def is_known_param(span: str) -> bool:
    match = PARAM.fullmatch(span)
    if not match or match[1] not in params() or match[2] in FILE_ENDINGS:
        return True
    return is_param(f"{match[1]}.{match[2]}")


@pytest.mark.parametrize("page", PAGES)
def test_every_param_and_path_that_a_page_names_exists(page):
    assert unknown_names((ROOT / page).read_text()) == []


def test_a_name_that_does_not_exist_is_found():
    page = "`prune.amount`, `prune.no_such_key`, `metrics/summary.json`, `metrics/absent.json`\n"
    assert unknown_names(page) == ["prune.no_such_key", "metrics/absent.json"]


# Tables


def long_cells(text: str) -> list[str]:
    """The cells that are longer than a screen's column, as they are read: links by their text."""
    rows = [row for row in FENCE.sub("", text).splitlines() if row.lstrip().startswith("|")]
    cells = [cell for row in rows for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]
    read = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).strip() for cell in cells]
    return [cell for cell in read if len(cell) > LONGEST_CELL]


@pytest.mark.parametrize("page", PAGES)
def test_no_table_of_a_page_has_a_cell_longer_than_a_column(page):
    assert long_cells((ROOT / page).read_text()) == []


def test_a_long_cell_is_found():
    row = f"| short | {'x' * 41} | [{'y' * 40}](a/long/address/that/is/not/read.md) |\n"
    assert long_cells(row) == ["x" * 41]


@pytest.mark.parametrize("page", WITH_MARKS)
def test_every_generated_table_is_the_committed_one(page):
    text = (ROOT / page).read_text()
    assert with_tables(text, ROOT) == text


def test_every_generated_table_stands_on_the_page_of_results_or_is_linked_there():
    page = (ROOT / "metrics" / "README.md").read_text()
    shown = {match["path"] for match in PLACE.finditer(page)}
    shown |= {f"metrics/{link}" for link in LINK.findall(page)}
    assert set(tracked("metrics/*.md")) - {"metrics/README.md"} <= shown


def test_make_readme_fills_every_page_that_has_marks():
    output = subprocess.run(
        ["make", "--dry-run", "--old-file", "install", "readme"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert set(re.findall(r"\S+\.md", output)) == set(WITH_MARKS)


def test_tables_go_between_their_marks_and_nowhere_else(tmp_path):
    (tmp_path / "one.md").write_text("new\n")
    (tmp_path / "two.md").write_text("| 2 |\n")
    begin, end = "<!-- {}: begin (make readme) -->", "<!-- {}: end -->"
    page = "a\n{}\nold\n{}\nb\n{}\n{}\n".format(
        *(mark.format(name) for name in ("one.md", "two.md") for mark in (begin, end))
    )
    expected = "a\n{}\n\nnew\n\n{}\nb\n{}\n\n| 2 |\n\n{}\n".format(
        *(mark.format(name) for name in ("one.md", "two.md") for mark in (begin, end))
    )
    assert with_tables(page, tmp_path) == expected
    assert with_tables(expected, tmp_path) == expected
    with pytest.raises(InputError, match="lacks marks"):
        with_tables("no marks", tmp_path)
    with pytest.raises(InputError, match="three.md is missing"):
        with_tables(f"{begin.format('three.md')}\n{end.format('three.md')}", tmp_path)


def test_the_short_table_has_a_row_for_each_variant_and_six_columns():
    costs = {"size_bytes": 7890713, "macs": 118147360}
    summary = {
        "base": {"accuracy": 94.2, **costs, "latency_ratio_to_base": dict.fromkeys(RUNTIMES, 1.0)},
        "small": {"accuracy": 93, **costs, "latency_ratio_to_base": dict.fromkeys(RUNTIMES, 0.19)},
    }
    assert short_table(summary).splitlines()[2:] == [
        "| base | 94.20 % | 7.89 MB | 118.1 M | 1.00 × base | 1.00 × base |",
        "| small | 93.00 % | 7.89 MB | 118.1 M | 0.19 × base | 0.19 × base |",
    ]


# The README


def readme() -> str:
    return (ROOT / "README.md").read_text()


def test_the_readme_is_read_in_five_minutes():
    assert len(readme().splitlines()) <= README_LINES
    assert len(readme().split()) <= README_WORDS


def test_the_diagram_of_the_readme_is_the_pipeline():
    """Variants of a stage (`export@base`) are one; what a second way says as well is left out."""
    stages = [stage for stage in repository().index.stages if ":" not in stage.addressing]
    pipeline = repository().index.graph.subgraph(stages).reverse()
    diagram = networkx.DiGraph()
    body = next(body for _, kind, body in FENCE.findall(readme()) if kind == "mermaid")
    for line in body.splitlines()[1:]:
        way = line.strip().split(" --> ")
        diagram.add_edges_from(zip(way, way[1:], strict=False))
    assert set(diagram.edges) == {
        tuple(stage.addressing.partition("@")[0] for stage in edge)
        for edge in networkx.transitive_reduction(pipeline).edges
    }


def test_the_readme_has_a_row_for_each_stage():
    stages = {name for name in stage_names() if ":" not in name and "@" not in name}
    rows = re.findall(r"^\| `(\w+)` \|", readme(), re.MULTILINE)
    assert sorted(rows) == sorted(stages - {file for file in stages if file.endswith(".yaml")})


def test_the_figures_of_the_readme_follow_from_the_committed_results():
    """The part before the quick start: the claim, its conditions and the three findings."""
    summary = json.loads((ROOT / "metrics" / "summary.json").read_text())
    environment = json.loads((ROOT / "metrics" / "benchmark.json").read_text())["environment"]
    text = PLACE.sub("", readme().partition("## Quick start")[0]).replace("\n", " ")
    for key in RUNTIMES:
        assert environment[key] in text
        text = text.replace(environment[key], "")
    assert f"median of {environment['rounds']} interleaved rounds" in text
    base, pruned, smallest = (summary[name] for name in ("base", "pruned", "pruned_int8"))
    assert round(base["size_bytes"] / smallest["size_bytes"]) == 13
    assert "a thirteenth" in text
    assert f"{pruned['macs'] / base['macs']:.0%}".replace("%", " %") + " of the MACs" in text
    figures = {f"{each['accuracy']:.2f}" for each in summary.values()}
    figures.add(f"{base['accuracy'] - pruned['accuracy']:.2f}")
    ratios = [each["latency_ratio_to_base"] for each in summary.values()]
    figures |= {f"{ratio[runtime]:.2f}" for ratio in ratios for runtime in RUNTIMES}
    seeds = (ROOT / "metrics" / "studies" / "seeds.md").read_text()
    figures |= set(re.findall(r"\d\.\d\d|\d\d\.\d\d", seeds))
    zeros = (ROOT / "metrics" / "hardware.md").read_text()
    figures |= set(re.findall(r"zeros do not: (\d\.\d\d) × base", zeros))
    assert set(re.findall(r"\d+\.\d\d", text)) <= figures
