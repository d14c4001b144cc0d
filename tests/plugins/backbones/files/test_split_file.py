"""Split GGUF files whose keys are damaged; tests/field/test_odd_files.py has the rest of split files."""

import struct
from pathlib import Path

import pytest
from tiny_models import TinyModel

from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError


def test_a_damaged_key_is_blamed_on_its_file(tmp_path: Path) -> None:
    path = TinyModel(blocks=1).write(
        tmp_path / "m.gguf", changes={"split.count": struct.pack("<IQ", 8, 2) + b"\xff\xfe"}
    )
    with pytest.raises(ModelFileError, match=f"^{path} is damaged: its metadata holds text that is not UTF-8"):
        ModelFile(path)
