"""A real browser, without a window: where Debian's `chromium` is installed. `.ci/install-browser` installs it."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; `.ci/install-browser` installs Debian's")
# The screen of a small laptop.
WIDTH, HEIGHT = 1280, 800


def _run(page: Path, folder: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    # No sandbox: a container has no user namespaces, and the page is our own file.
    always = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'browser'}"]
    command = [CHROMIUM, *always, f"--window-size={WIDTH},{HEIGHT}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def screenshot(page: Path, picture: Path) -> Path:
    """The page's first screen as a PNG."""
    _run(page, picture.parent, f"--screenshot={picture}", "--hide-scrollbars")
    return picture


def evaluate(page: Path, folder: Path, script: str) -> str:
    """What a script finds in the page as laid out; the page's copy gets it appended, and says so in its title."""
    probe = folder / f"probe-{page.name}"
    probe.write_text(page.read_text(encoding="utf-8") + f"<script>document.title = String({script})</script>", encoding="utf-8")
    dom = _run(probe, folder, "--dump-dom")
    return dom.split("<title>")[1].split("</title>")[0]
