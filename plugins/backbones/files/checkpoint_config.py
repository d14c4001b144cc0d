"""The values of a checkpoint's config.json, each checked as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.safetensors_file import shown


class CheckpointConfig:
    """config.json's values, each checked as it is read. Raises ModelFileError naming the key."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def fail(self, problem: str) -> ModelFileError:
        """An error about this file."""
        return ModelFileError(self.path, problem)

    def count(self, key: str, otherwise: int | None = None) -> int:
        """An integer from 1 to 2^31; `otherwise` when the key is absent."""
        value = self._present(key) if otherwise is None else self.values.get(key)
        value = otherwise if value is None else value
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected an integer above 0")
        return value

    def positive(self, key: str, among: Mapping[str, Any] | None = None) -> float:
        """A positive number."""
        value = self._present(key, among)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected a positive number")
        return float(value)

    def says(self, key: str) -> Any:
        """A value that may be null but must be there, since transformers' classes have others for absent ones."""
        if key not in self.values:
            raise self.fail(f"lacks {key}, and bitrl does not guess it")
        return self.values[key]

    def group(self, key: str) -> Mapping[str, Any]:
        """An object, empty when the key is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected an object")
        return value or {}

    def items(self, key: str) -> list[Any]:
        """A list, empty when the key is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected a list")
        return value or []

    def _present(self, key: str, among: Mapping[str, Any] | None = None) -> Any:
        value = (self.values if among is None else among).get(key)
        if value is None:
            raise self.fail(f"lacks {key}, and bitrl does not guess it")
        return value
