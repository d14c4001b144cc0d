"""A small model as one GGUF file, and the same in parts."""

import struct
from pathlib import Path
from typing import Any

from tiny_models import TinyModel, gguf_bytes

from bitrl.plugins.backbones.files.model_file import ModelFile

TINY = {"width": 48, "ffn": 80, "blocks": 2}


def split(folder: Path, parts: int = 3, name: str = "model", **changes: Any) -> tuple[Path, list[Path]]:
    """A whole file, and the same in parts as llama-gguf-split writes them: keys in the first, tensors in turn."""
    whole = TinyModel(**TINY)
    path = whole.write(folder / "whole.gguf", "F16")
    file = ModelFile(path)
    types = {"F32": 0, "F16": 1}
    tensors = []
    for tensor in file.tensors():
        values = file.weights(tensor.name)
        raw = values.astype("<f2" if tensor.type == "F16" else "<f4").tobytes()
        tensors.append((tensor.name, types[tensor.type], tensor.shape, raw))
    paths = []
    for i in range(parts):
        numbers = {"split.count": parts, "split.no": i, "split.tensors.count": len(tensors)} | changes
        keys = {
            key: struct.pack("<IH", 2, value) if key != "split.tensors.count" else value
            for key, value in numbers.items()
        }
        keys |= whole.keys() if i == 0 else {}
        paths.append(folder / f"{name}-{i + 1:05}-of-{parts:05}.gguf")
        paths[-1].write_bytes(gguf_bytes(keys, tensors[i::parts]))
    return path, paths
