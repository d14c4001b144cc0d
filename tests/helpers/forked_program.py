"""The command line in a copy of this process, which has imported already what a new process would need seconds for."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from bitrl.cli import main
from bitrl.core.registry import registry


def forked_program(*arguments: object, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Call `bitrl` in `cwd`, with the plugins of `site` beside the installed ones."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        pid = os.fork()
        if not pid:
            _child(words, out.fileno(), err.fileno(), cwd, site)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(["bitrl", *words], code, out.read(), err.read())


def _child(words: list[str], out: int, err: int, cwd: Path, site: Path) -> None:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.chdir(cwd)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        sys.path.insert(0, str(site))
        importlib.invalidate_caches()
        registry.cache_clear()
        main(words)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
