"""Fits the pages to the site: what lies outside docs/ is linked on GitHub, and its pictures are copied.

The pages are written to read well on GitHub too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
RANGE = re.compile(r"\[((?:\d+<=?)?x(?:[<>]=?\d+)?)\]")
"""A range as click writes it, `[1<=x<=8]`, which would be taken for a reference."""
OUTSIDE = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Give the site the pictures of benchmarks/results under pictures/."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of a page that lead out of docs/.

    Raises:
        PluginError: a link leads to a file that is not there.
    """
    folder = Path("docs", page.file.src_uri).parent

    def rewrite(found: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / found[1]))
        if path.parts[0] == "docs":
            return found[0]
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: the link to {found[1]} leads nowhere")
        if path.suffix == ".png":
            return f"]({os.path.relpath('docs/pictures/' + path.name, folder)})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{path.as_posix()}{found[2] or ''})"

    return OUTSIDE.sub(rewrite, RANGE.sub(r"\\[\1\\]", markdown))
