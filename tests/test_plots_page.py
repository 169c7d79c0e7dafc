"""The page that `dvc plots show` writes opens without a network, with every plot on it."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE_FOLDER = ROOT / ".dvc" / "plots-page"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ENVIRONMENT = {**os.environ, "DVC_NO_ANALYTICS": "1"}

CHARTS = {
    "curve": "linear",
    "tradeoff": "scatter",
    "confusion": "confusion",
    "bars": "bar_horizontal",
    "many": "bar_horizontal",
}
TITLE = "A title that is wider than its plot and, in a narrow window, wider than the window"
MANY = 40  # bars
IMAGE = "picture.png"
EMPTY = "no-rows"  # a plot of a file with a header alone
ROWS = """step,size,latency_ms,variant,actual,predicted
0,3.0,4.0,base,cat,cat
1,1.5,2.0,pruned,dog,cat
2,0.8,1.0,base_int8,dog,dog
"""
AXES = {
    "curve": ("step", "size"),
    "tradeoff": ("latency_ms", "size"),
    "confusion": ("actual", "predicted"),
    "bars": ("latency_ms", "variant"),
    "many": ("size", "name"),
}


class Page(HTMLParser):
    """Addresses a page fetches, its inline scripts, and the drawings inside each of its plots."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []  # of scripts, links, images, frames
        self.scripts: dict[str | None, str] = {}  # by data-package
        self.drawings: dict[str, int] = {}  # svg, canvas and img, by the id of their plot
        self._plot: str | None = None
        self._package: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "link", "img", "iframe"):
            self.sources += [values[key] or "" for key in ("src", "href") if key in values]
        if tag == "script":
            self._package = values.get("data-package")
        name = (values.get("id") or "").lstrip(
            "_"
        )  # in a subfolder DVC names an image ../picture.png
        if tag == "div" and name in plot_ids():
            self._plot = name
            self.drawings[name] = 0
        if tag in ("svg", "canvas", "img") and self._plot:
            self.drawings[self._plot] += "marks" in (values.get("class") or "") or tag == "img"

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts[self._package] = self.scripts.get(self._package, "") + data


def plot_ids() -> set[str]:
    """The ids that DVC gives to the plots: their names, with special characters replaced."""
    return {*CHARTS, IMAGE.replace(".", "_")}


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def dvc(*arguments: str, cwd: Path) -> str:
    return run(sys.executable, "-m", "dvc", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with this project's page and one plot of each kind, committed."""
    path = tmp_path_factory.mktemp("plots")
    run("git", "init", "--quiet", cwd=path)
    dvc("init", "--quiet", cwd=path)
    shutil.copy(ROOT / ".dvc" / "config", path / ".dvc" / "config")
    shutil.copytree(TEMPLATE_FOLDER, path / ".dvc" / TEMPLATE_FOLDER.name)
    (path / "subfolder").mkdir()

    (path / "rows.csv").write_text(ROWS)
    bars = "".join(f"a network on device {index},{index}\n" for index in range(MANY))
    (path / "many.csv").write_text(f"name,size\n{bars}")
    assert cv2.imwrite(str(path / IMAGE), np.full((400, 2000, 3), 90, dtype=np.uint8))
    charts = [
        {
            name: {
                "template": template,
                "title": TITLE,
                "x": AXES[name][0],
                "y": {"many.csv" if name == "many" else "rows.csv": AXES[name][1]},
            }
        }
        for name, template in CHARTS.items()
    ]
    (path / "empty.csv").write_text("step,size\n")
    charts.append({EMPTY: {"x": "step", "y": {"empty.csv": "size"}}})
    (path / "dvc.yaml").write_text(json.dumps({"plots": [*charts, IMAGE]}))  # JSON is YAML

    run("git", "add", "--all", cwd=path)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    run("git", *author, "commit", "--quiet", "--message", "plots", cwd=path)
    return path


@pytest.fixture(scope="module")
def page_file(repository) -> Path:
    dvc("plots", "show", cwd=repository)
    return repository / "dvc_plots" / "index.html"


def assert_self_contained(page_file: Path) -> None:
    page = Page(page_file.read_text(encoding="utf8"))
    assert set(page.drawings) == plot_ids()
    for source in page.sources:
        assert source.startswith("data:") or (page_file.parent / source).is_file(), source


def test_shown_plots_load_nothing_from_elsewhere(page_file):
    assert_self_contained(page_file)


def test_compared_plots_load_nothing_from_elsewhere_in_a_subfolder(repository):
    rows = repository / "rows.csv"
    rows.write_text(ROWS.replace("4.0", "5.0"))
    dvc("plots", "diff", "HEAD", "workspace", cwd=repository / "subfolder")
    rows.write_text(ROWS)
    assert_self_contained(repository / "subfolder" / "dvc_plots" / "index.html")


def test_drawing_libraries_are_inside_the_page_whole_and_licensed(page_file):
    scripts = Page(page_file.read_text(encoding="utf8")).scripts
    packages = {name for name in scripts if name}
    assert {name.split("@")[0] for name in packages} == {"vega", "vega-lite", "vega-embed"}

    licences = (TEMPLATE_FOLDER / "LICENSES.txt").read_text(encoding="utf8")
    for package in packages:
        assert len(scripts[package]) > 50_000, package
        assert re.search(rf"^{re.escape(package)} \(BSD-3-Clause\)$", licences, re.MULTILINE)


def drawn_by_chromium(page_file: Path, folder: Path, width: int, extra: str = "") -> str:
    """The page after its scripts have run, with ``extra`` as one more, in a window of a width."""
    page = folder / "index.html"
    start, end, rest = page_file.read_text(encoding="utf8").rpartition("</body>")
    page.write_text(f"{start}{extra}{end}{rest}", encoding="utf8")
    shutil.copytree(page_file.parent / "static", folder / "static")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--no-first-run", f"--user-data-dir={folder}", "--virtual-time-budget=10000"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1000", "--dump-dom"]
    return run(CHROMIUM or "", *flags, page.as_uri(), cwd=folder)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to draw the page")
def test_browser_without_network_draws_every_plot(page_file, tmp_path):
    drawn = drawn_by_chromium(page_file, tmp_path, width=1400)
    assert Page(drawn).drawings == dict.fromkeys(plot_ids(), 1)
    assert 'class="failed"' not in drawn
    assert f'id="{EMPTY}"' in page_file.read_text().replace("id = ", "id=")
    assert f'id="{EMPTY}"' not in drawn


# Titles that reach out of their drawing, and labels of an axis that touch one another.
MEASURE = """<pre id="found"></pre><script>
  setTimeout(() => {
    const box = (node) => node.getBoundingClientRect(), found = { cut: [], touching: 0, labels: 0 };
    for (const card of document.querySelectorAll("main > div.vega-embed")) {
      const inside = box(card.querySelector("svg"));
      for (const text of card.querySelectorAll(".role-title-text text, .role-title-text tspan"))
        if (box(text).left < inside.left || box(text).right > inside.right) found.cut.push(card.id);
    }
    const labels = [...document.querySelectorAll("#many .role-axis-label text")]
      .filter((text) => text.textContent.startsWith("a network")).map(box);
    found.labels = labels.length;
    labels.slice(1).forEach((label, index) => {
      found.touching += label.top < labels[index].bottom - 2;
    });
    document.getElementById("found").textContent = JSON.stringify(found);
  }, 3000);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to draw the page")
@pytest.mark.parametrize("width", [1400, 500])  # chromium's windows are not narrower
def test_no_title_is_cut_and_the_labels_of_many_bars_stay_apart(page_file, tmp_path, width):
    drawn = drawn_by_chromium(page_file, tmp_path, width, extra=MEASURE)
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', drawn)[1])
    assert found == {"cut": [], "touching": 0, "labels": MANY}
