"""The module that an environment's name asks for (`module:Id`): where it is looked for, and what is said without it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from bitrl.core.errors import UsageError, cause
from bitrl.core.terminal import tell


def import_module_of(id: str) -> None:
    """Import the module of `module:Id`, which registers the environment; nothing for an id without one.

    A module that is installed nowhere but stands in the working directory is found there, as `python -m` would: that
    directory becomes the last place of sys.path, so nothing else is imported from it that was found before.

    Raises:
        UsageError: there is no such module, or it cannot be imported.
    """
    module, colon, _ = id.partition(":")
    if not colon or module in sys.modules:
        return
    if not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f'environment {id}: expected MODULE:ID, got "{module}" as the name of a module')
    top = module.partition(".")[0]
    if not _found(top):
        here = os.getcwd()
        if not (os.path.isfile(f"{top}.py") or os.path.isdir(top)):
            raise UsageError(
                f"environment {id}: there is no module {top}, neither installed nor in {here}: install it, or name the "
                "folder that it is in with PYTHONPATH=FOLDER"
            )
        if sys.flags.safe_path:
            raise UsageError(
                f"environment {id}: this Python (-P, -I or PYTHONSAFEPATH) imports nothing from the working directory, "
                f"where {top} is: install it"
            )
        sys.path.append(here)
        importlib.invalidate_caches()
        tell(f"environment {id}: importing {top} from {here}")
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise UsageError(f"environment {id}: module {module} cannot be imported: {cause(error)}") from error


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a name that no module can have
        return False
