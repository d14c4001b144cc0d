"""Fuzzes the reader of Hugging Face checkpoints: python fuzz_safetensors.py [corpus...] -max_total_time=600

Needs the `fuzz` extra (atheris). An input is a safetensors file, read alone and as the weights of a tiny model with a
right config.json; one that starts with "{" is the config.json of a model with right weights instead. Only a
ModelFileError may come of it, within a second.
"""

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["bitrl.plugins.backbones.files.safetensors_file", "bitrl.plugins.backbones.files.hugging_face"]
):
    from bitrl.plugins.backbones.engine.engine import Engine
    from bitrl.plugins.backbones.files.hugging_face import MATRICES
    from bitrl.plugins.backbones.files.model_file import ModelFileError
    from bitrl.plugins.backbones.files.safetensors_file import read_safetensors

CONFIG = {
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "vocab_size": 4, "quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear"},
}  # fmt: skip


def weights() -> bytes:
    """A model of CONFIG's shape: packed ternary matrices, float32 norms, a float16 embedding."""
    header: dict[str, object] = {}
    data = b""

    def add(name: str, dtype: str, shape: list[int], raw: bytes) -> None:
        nonlocal data
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw

    add("embed_tokens.weight", "F16", [4, 8], bytes(64))
    for name in ("norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"):
        add(f"{name}.weight", "F32", [8], bytes(32))
    for name in MATRICES:
        add(f"layers.0.{name}.weight", "U8", [2, 8], b"\x55" * 16)
        add(f"layers.0.{name}.weight_scale", "BF16", [1], b"\x80\x3f")
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
FILE, SETTINGS = FOLDER / "model.safetensors", FOLDER / "config.json"


def check(data: bytes) -> None:
    """One input; anything but a ModelFileError is a finding."""
    configures = data[:1] == b"{"
    FILE.write_bytes(weights() if configures else data)
    SETTINGS.write_bytes(data if configures else json.dumps(CONFIG).encode())
    for read in (read_safetensors, lambda path: Engine(path, threads=1).encode([[1, 2, 3]])):
        try:
            read(FILE)
        except ModelFileError as error:
            assert "\n" not in str(error)  # noqa: PT017


if __name__ == "__main__":
    SETTINGS.write_text(json.dumps(CONFIG))
    FILE.write_bytes(weights())
    Engine(FILE)  # the seed itself must be read
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    (seeds / "weights").write_bytes(weights())
    (seeds / "config").write_text(json.dumps(CONFIG))
    atheris.Setup([*sys.argv, str(seeds), "-timeout=2", "-max_len=4096"], check)
    atheris.Fuzz()
