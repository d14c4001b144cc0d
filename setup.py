"""Builds csrc/ as the cffi extensions `bitrl._engine` and `bitrl._limits`; everything else is in pyproject.toml."""

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildEngine(build_ext):
    """build_ext that says what is missing instead of how it failed."""

    def build_extension(self, ext: Extension) -> None:
        """Compile, once there is something to compile with."""
        compiler = getattr(self.compiler, "compiler_so", ["cc"])[0]
        if shutil.which(compiler) is None:
            sys.exit(
                f"bitrl needs a C compiler to build its engine, and {compiler!r} was not found. Install one: "
                "`apt install gcc` (Debian, Ubuntu), `dnf install gcc` (Fedora), `xcode-select --install` (macOS)."
            )
        if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
            sys.exit(
                "bitrl needs Python's C headers to build its engine, and Python.h was not found. Install them: "
                "`apt install python3-dev` (Debian, Ubuntu), `dnf install python3-devel` (Fedora)."
            )
        super().build_extension(ext)


setup(
    cffi_modules=["csrc/build.py:engine", "csrc/build.py:limits"],
    cmdclass={"build_ext": BuildEngine},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for Python 3.11 and later
)
