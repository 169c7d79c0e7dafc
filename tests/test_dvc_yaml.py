"""dvc.yaml names what a stage reads: DVC follows no imports, so the tests do."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PIPELINES = (
    "dvc.yaml",
    "stages/card/dvc.yaml",
    "stages/controls/dvc.yaml",
    "stages/family/dvc.yaml",
    "stages/hardware/dvc.yaml",
    "stages/jetson/dvc.yaml",
    "stages/mcu/dvc.yaml",
    "stages/runtimes/dvc.yaml",
    "stages/sensitivity/dvc.yaml",
)
# A needless run of these takes hours, or moves the milliseconds of a table.
COSTLY = (
    *("prepare", "teach", "train", "prune", "benchmark", "controls/controls"),
    *("family/train", "family/benchmark"),
)


def definitions() -> dict[str, dict]:
    """Every stage by name, of an optional pipeline with its folder; of a foreach, what it does."""
    found = {}
    for file in PIPELINES:
        folder = "" if file == "dvc.yaml" else f"{Path(file).parent.name}/"
        for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items():
            found[f"{folder}{name}"] = stage.get("do", stage)
    return found


STAGES = definitions()
assert set(COSTLY) <= set(STAGES)


def paths(entries: list) -> list[str]:
    """Paths of deps or outs, with or without options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def code_deps(name: str) -> list[str]:
    return [dep for dep in paths(STAGES[name]["deps"]) if dep.startswith(("stages/", "deploy/"))]


def command(name: str) -> str:
    """All that the stage runs, in one line."""
    found = STAGES[name]["cmd"]
    return found if isinstance(found, str) else " ".join(found)


def programs(name: str) -> list[str]:
    """The files that the stage runs: 'python -m stages.train' -> 'stages/train.py'."""
    modules = re.findall(r"python -m (\S+)", command(name))
    assert modules, name
    return [module.replace(".", "/") + ".py" for module in modules]


def files_run(name: str) -> set[str]:
    return {file for program in programs(name) for file in needed(program)}


@cache
def imported(file: str) -> frozenset[str]:
    """The modules of this repository that a file imports itself, anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            found |= files_of(name)
    return frozenset(found)


def files_of(module: str) -> set[str]:
    """The module's file, and the __init__.py of each package on the way that holds code."""
    parts = module.split(".")
    if parts[0] not in ("stages", "deploy"):
        return set()
    packages = ["/".join(parts[: depth + 1]) + "/__init__.py" for depth in range(len(parts))]
    found = {package for package in packages if holds_code(package)}
    file = "/".join(parts) + ".py"
    return found | ({file} if (ROOT / file).is_file() else set())


def holds_code(package: str) -> bool:
    if not (ROOT / package).is_file():
        return False
    statements = ast.parse((ROOT / package).read_text()).body
    return any(not isinstance(each, ast.Expr) for each in statements)


def needed(file: str) -> set[str]:
    """All files of this repository that run when the file runs."""
    found, ahead = {file}, [file]
    while ahead:
        for each in imported(ahead.pop()) - found:
            found.add(each)
            ahead.append(each)
    return found


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("name", STAGES)
def test_every_import_of_a_stage_is_covered_by_a_dep(name):
    uncovered = {
        file for file in files_run(name) if not any(covers(dep, file) for dep in code_deps(name))
    }
    assert not uncovered


@pytest.mark.parametrize("name", STAGES)
def test_every_code_dep_of_a_stage_is_used_and_named_once(name):
    deps = code_deps(name)
    files = files_run(name)
    words = command(name).split()  # a profile or a folder of Verilog comes by argument
    for dep in deps:
        assert (ROOT / dep).exists(), dep
        assert not list((ROOT / dep).glob("**/dvc.lock")), f"{dep} changes whenever it has run"
        used = any(covers(dep, file) for file in files) or dep in words or "profiles" in dep
        assert used, dep
        assert [other for other in deps if covers(other, dep)] == [dep], f"{dep} is named twice"


@pytest.mark.parametrize("name", [name for name in STAGES if name in COSTLY])
def test_a_costly_stage_depends_on_no_file_that_it_does_not_use(name):
    """A folder stands in its deps only where it uses all of it; core is part of everything."""
    files = files_run(name)
    for dep in set(code_deps(name)) - {"stages/common/core"}:
        unused = {
            str(path.relative_to(ROOT))
            for path in (ROOT / dep).rglob("*.py")
            if path.read_text().strip() and path.name != "__init__.py"
        } - files
        assert not unused, dep


@pytest.mark.parametrize("name", [name for name in STAGES if name not in COSTLY])
def test_a_cheap_stage_depends_on_whole_rooms(name):
    single = [dep for dep in code_deps(name) if dep.startswith("stages/common/")]
    assert not [dep for dep in single if dep.endswith(".py")]


def test_the_imports_are_followed_in_every_form(tmp_path, monkeypatch):
    """`import a.b`, `from a import b`, `from a.b import c`, and code in an __init__.py."""
    for path, text in {
        "stages/__init__.py": '"""Only words."""\n',
        "stages/room/__init__.py": "from stages import hidden\n",
        "stages/room/used.py": "",
        "stages/room/other.py": "",
        "stages/hidden.py": "",
        "stages/one.py": "from stages.room import used\n",
        "stages/two.py": "def later():\n    import stages.room.other\n",
        "stages/three.py": "from stages.one import anything\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr("tests.test_dvc_yaml.ROOT", tmp_path)
    imported.cache_clear()
    room = {"stages/room/__init__.py", "stages/hidden.py"}
    one = {"stages/one.py", "stages/room/used.py"} | room
    try:
        assert needed("stages/one.py") == one
        assert needed("stages/two.py") == {"stages/two.py", "stages/room/other.py"} | room
        assert needed("stages/three.py") == {"stages/three.py"} | one
    finally:
        imported.cache_clear()


def test_a_stage_imports_no_stage_and_no_tool_and_a_room_neither():
    """validate_params excepted, which reads the params of all."""
    of_stages = {file for name in STAGES for file in programs(name)}
    for path in sorted((ROOT / "stages").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        if file == "stages/validate_params.py":
            continue
        others = {
            each for each in imported(file) if each in of_stages or each.startswith("stages/tools/")
        }
        if file.startswith("stages/tools/"):  # what a person starts may use a stage's functions
            continue
        assert not others - {file}, file


def test_a_room_of_common_imports_only_rooms_below_it():
    order = [
        ("core",),
        ("data", "measuring"),
        ("reporting",),
        ("network", "sources"),
        ("building", "inference", "studies"),
        ("training", "npu", "revisions"),
        ("pruning", "qat"),
        ("mcu",),
        ("consistency",),
    ]
    level = {room: depth for depth, rooms in enumerate(order) for room in rooms}
    for path in sorted((ROOT / "stages" / "common").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        room = path.relative_to(ROOT / "stages" / "common").parts[0]
        for other in imported(file) - {"deploy/classify.py"}:  # images are read as on a device
            assert other.startswith("stages/common/"), f"{file} imports {other}"
            below = other.split("/")[2]
            assert below == room or level[below] < level[room], f"{file} imports {other}"


def test_a_room_has_at_most_ten_files():
    for folder in {path.parent for path in (ROOT / "stages").rglob("*.py")} - {ROOT / "stages"}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 10, folder


def test_the_code_deps_stay_few_enough_to_read():
    assert len([1 for name in root_stages() for _ in code_deps(name)]) <= 102
    assert len([1 for name in STAGES for _ in code_deps(name)]) <= 290


def root_stages() -> list[str]:
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_one_file_of_metrics_is_what_dvc_compares():
    declared = {metric for stage in STAGES.values() for metric in paths(stage.get("metrics", []))}
    assert declared == {"metrics/summary.json"}


def test_every_plot_has_a_title_labels_and_a_template():
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    charts = [chart for plot in plots if isinstance(plot, dict) for chart in plot.values()]
    assert len(charts) >= 10
    for chart in charts:
        assert {"template", "title", "x", "y", "x_label", "y_label"} <= set(chart)
