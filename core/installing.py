"""What to install for a module that is not there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from bitrl.core.errors import UsageError
from bitrl.core.wording import pip

PACKAGES = {
    "Box2D": "'bitrl[box2d]'",
    "PIL": "pillow",
    "_cffi_backend": "cffi",
    "ale_py": "'bitrl[atari]'",
    "arch": "'bitrl[studies]'",
    "av": "'bitrl[video]'",
    "huggingface_hub": "'bitrl[hub]'",
    "matplotlib": "'bitrl[report]'",
    "minigrid": "'bitrl[babyai]'",
    "mujoco": "'bitrl[mujoco]'",
    "pygame": "'bitrl[video]'",
    "ray": "'bitrl[ray]'",
    "httptools": "'bitrl[serve]'",
    "scipy": "'bitrl[studies]'",
    "starlette": "'bitrl[serve]'",
    "tensorboardX": "'bitrl[tensorboard]'",
    "textworld": "'bitrl[textworld]'",
    "tomli_w": "tomli-w",
    "uvicorn": "'bitrl[serve]'",
}
"""Module → what to install for it, where the names differ."""

LEFT_OUT = {
    "torch": "adapters (backbone.lora_rank), quantised rollouts (algo.rollout), algorithms that teach a language "
    "model, and bitrl model train and distill"
}
"""What bitrl depends on, but an installation may leave out → what of bitrl then does not work."""


def to_install(module: str) -> str:
    """What to do about a module that is not there, as `pip install torch`. One that bitrl depends on comes with all
    that this installation lacks: whoever installed bitrl for its agents alone lacks several. What may be left out does
    not come unasked.
    """
    top = module.partition(".")[0]
    if top == "bitrl":
        return f"reinstall bitrl: {pip('install --force-reinstall bitrl')}"
    lacking = [name for name in _dependencies() if not is_there(name.replace("-", "_"))]
    lacking = [name for name in lacking if name == top or name not in LEFT_OUT]
    package = PACKAGES.get(top, top)
    return pip(f"install {' '.join(lacking) if package in lacking else package}")


@contextmanager
def needing(module: str, what: str) -> Iterator[None]:
    """Within, `module` is imported, which only `what` needs.

    Raises:
        UsageError: it is not installed; says what to do.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:
            raise
        raise UsageError(f"{what} needs {module}, which is not installed: {to_install(module)}") from None


def _dependencies() -> list[str]:
    """The packages that bitrl depends on."""
    try:
        requirements = metadata.requires("bitrl") or ()
    except metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in requirements if ";" not in each]


def normalised(package: str) -> str:
    """A package's name as versions and messages have it: `My_Plugin` is `my-plugin`."""
    return re.sub(r"[-_.]+", "-", package).lower()


def is_there(module: str) -> bool:
    """Whether a module can be imported, as far as is seen without importing it (of `a.b`, `a` is imported)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
