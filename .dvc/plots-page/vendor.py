"""Put the drawing libraries into template.html, so that the page of plots works without a network.

Reads   a node_modules folder with the packages that template.html names (README.md: how to get it)
Writes  template.html: every <script data-package="NAME@VERSION"> block, filled with its library
        LICENSES.txt: the licence of everything that is in those libraries
Raises  ValueError where a package has another version, or text that would break the page
"""

import argparse
import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BLOCK = re.compile(r'(<script data-package="([\w-]+)@([\d.]+)">).*?(</script>)', re.DOTALL)
# What would end the script block early, or be taken for a placeholder of DVC's.
FORBIDDEN = re.compile(
    r"</script|<script|<!--|\{(?:scripts|plot_divs|refresh_tag)\}", re.IGNORECASE
)


def library(node_modules: Path, name: str, version: str) -> str:
    """The minified build of a package, checked to be the pinned version and safe to inline."""
    found = json.loads((node_modules / name / "package.json").read_text())["version"]
    if found != version:
        raise ValueError(f"{name}: template.html pins {version}, node_modules has {found}")
    source = (node_modules / name / "build" / f"{name}.min.js").read_text()
    source = re.sub(r"\n//# sourceMappingURL=.*", "", source).strip()
    if bad := FORBIDDEN.search(source):
        raise ValueError(f"{name}@{version}: cannot be inlined, it has {bad.group()!r}")
    return source


def bundled_packages(node_modules: Path, name: str) -> list[str]:
    """The package and all that its build includes, from the build's source map."""
    sources = json.loads((node_modules / name / "build" / f"{name}.min.js.map").read_text())
    paths = "\n".join(sources["sources"])
    return [name, *re.findall(r"node_modules/((?:@[^/\n]+/)?[^/\n]+)(?=/[^\n]*$)", paths, re.M)]


def licences(node_modules: Path, names: list[str]) -> str:
    """One section for each licence text, headed by the packages that it covers."""
    covered: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        package = json.loads((node_modules / name / "package.json").read_text())
        files = sorted((node_modules / name).glob("LICENSE*"))
        if not files and name.split("-")[0] == "vega":  # most parts of Vega are published without
            files = [node_modules / "vega-canvas" / "LICENSE"]
        if not files:
            raise ValueError(f"{name}: no LICENSE file to go with its code")
        text = files[0].read_text().strip()
        title = f"{name}@{package['version']} ({package['license']})"
        covered.setdefault(text, []).append(title)
    rule = "\n\n" + "=" * 79 + "\n"
    sections = ["\n".join(titles) + "\n\n" + text for text, titles in covered.items()]
    return rule.join(["The libraries inside template.html and their licences.", *sections]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("node_modules", type=Path)
    node_modules = parser.parse_args().node_modules

    template = FOLDER / "template.html"
    page = template.read_text(encoding="utf8")
    pins = [(name, version) for _, name, version, _ in BLOCK.findall(page)]
    page = BLOCK.sub(
        lambda block: f"{block[1]}{library(node_modules, block[2], block[3])}{block[4]}", page
    )
    bundled = [part for name, _ in pins for part in bundled_packages(node_modules, name)]

    template.write_text(page, encoding="utf8")
    (FOLDER / "LICENSES.txt").write_text(licences(node_modules, bundled), encoding="utf8")
    print(f"{template.name}: {len(page.encode()):,} bytes with {dict(pins)}")


if __name__ == "__main__":
    main()
