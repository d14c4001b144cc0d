"""Pages in headless Chromium, checked by axe-core."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not AXE.is_file(),
    reason="needs Chromium, and axe-core: npm install --prefix build/axe axe-core",
)


def document_in_browser(url: str, folder: Path, width: int, *flags: str) -> str:
    """The document that a page has become once its scripts have run, in a window of this width."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=20000",
        f"--window-size={width},900", f"--user-data-dir={folder}/profile", *flags, url,
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment).stdout


def said_in_browser(url: str, folder: Path, width: int, *flags: str) -> dict[str, object]:
    """The JSON that a page's script has written into the attribute data-facts."""
    [found] = re.findall(r'data-facts="([^"]*)"', document_in_browser(url, folder, width, *flags))
    facts: dict[str, object] = json.loads(unescape(found))
    return facts
