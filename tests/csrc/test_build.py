"""What an install without a C compiler says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_compiler_is_one_clear_message(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "src", "core", "plugins", "cli"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.gguf"))
    (tmp_path / "README.md").write_text("bitrl")
    environment = {**os.environ, "CC": "/nowhere/cc", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "needs a C compiler" in done.stderr
    assert "apt install gcc" in done.stderr
    assert "Traceback" not in done.stderr
