"""The documentation site builds without a warning, its links lead somewhere, and the public interface is on it."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import bitrl
import bitrl.learning
import bitrl.testing

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The ids of a page, and what it links to and shows."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.targets: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value for name, value in attrs if value}
        self.ids |= {named["id"]} if "id" in named else set()
        self.targets |= {named[name] for name in ("href", "src") if name in named}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings")
    built, site = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("site")
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", built]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    environment = {**os.environ, "BITRL_BUILT": str(built), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", site]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


def test_every_link_and_anchor_within_the_site_leads_somewhere(site: Path):
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= 15
    checked = 0
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert other.exists(), f"{path.name} links to {target}"
            if parts.fragment and other.suffix == ".html":
                assert unquote(parts.fragment) in pages[other].ids | {"__skip"}, f"{path.name} links to {target}"
            checked += 1
    assert checked > 500


def test_the_public_interface_is_on_it(site: Path):
    ids = set().union(*(Page(path).ids for path in (site / "api").glob("*.html")))
    for name in bitrl.__all__:
        assert any(each.startswith("bitrl.") and each.endswith(f".{name}") for each in ids), name
    for name in bitrl.learning.__all__:
        assert any(each.startswith("bitrl.") and each.endswith(f".{name}") for each in ids), name
    for name in bitrl.testing.__all__:
        assert any(each.startswith("bitrl.testing.") and each.endswith(f".{name}") for each in ids), name


def test_nothing_is_asked_of_another_server(site: Path):
    """Pages may link elsewhere; what they show and run comes along."""
    for path in site.rglob("*.html"):
        assert "fonts.googleapis" not in path.read_text(encoding="utf-8")
    pictures = sorted((site / "pictures").glob("*.svg"))
    assert pictures
    for path in pictures:
        assert "url(" not in path.read_text(encoding="utf-8").replace("url(#", ""), path.name
