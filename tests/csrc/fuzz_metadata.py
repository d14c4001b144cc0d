"""Fuzzes what Python reads of a model file: metadata, seal, vocabulary, merges, the first token.

Each seed is one wrong file: some keys of a good one get a value of another type or a hostile one, and sometimes bytes
of the header change too. Whatever comes of it, the model encodes or ModelFileError is raised. A long run:
`python tests/csrc/fuzz_metadata.py SECONDS` (a part of `make fuzz`); the file that breaks it is left behind.
"""

import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from tiny_models import TinyModel, gguf_string

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.files.model_file import HEADER_KEY, TENSOR_KEY, ModelFileError, seal
from bitrl.plugins.backbones.language_model import LanguageModel

ARRAY, STRING = 9, 8
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
WORDS = ["", "a", "Ġ", "a b", " ", "  ", "<0x-1>", "<0x41>", "\0", "\x1b[2J", "\U0010ffff", "é", "gpt2", "0" * 64]
MODEL = TinyModel(width=2, ffn=4, heads=1, kv_heads=1, blocks=1, vocabulary=300, weights="F16")


def any_value(rng: random.Random, good: Any) -> Any:
    """A value for a key: of any type, or the good one with something wrong in it."""
    if isinstance(good, list) and rng.random() < 0.5:
        changed = list(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed))
            choice = rng.randrange(5)
            if choice == 0:
                del changed[at]
            elif choice == 1:
                changed.insert(at, changed[rng.randrange(len(changed))])
            elif choice == 2:
                changed[at] = rng.choice(WORDS)
            elif choice == 3:
                changed[at] = rng.randbytes(rng.randrange(6))
            else:
                changed[at] = "".join(rng.choice([*WORDS, *good]) for _ in range(2))
        return changed
    kind = rng.choice([*SIZES, STRING])
    if kind == STRING:
        value = rng.choice([*WORDS, rng.randbytes(rng.randrange(8))])
        if rng.random() < 0.5:
            return [value] * rng.randrange(4)
        return struct.pack("<I", STRING) + gguf_string(value)
    count = rng.randrange(4)
    fill = rng.choice([bytes(8), b"\xff" * 8, b"\1" + bytes(7), bytes(7) + b"\x80", rng.randbytes(8)])[: SIZES[kind]]
    if rng.random() < 0.5:
        return struct.pack("<I", kind) + fill
    return struct.pack("<IIQ", ARRAY, kind, count) + fill * count


def write(path: Path, seed: int) -> None:
    """The wrong file of that seed."""
    rng = random.Random(seed)
    keys = MODEL.keys() | {"tokenizer.ggml.bos_token_id": 1}
    # The tokenizer's keys are what only Python reads.
    names = [name for name in keys if name.startswith("tokenizer.")] * 3 + [*keys, TENSOR_KEY, HEADER_KEY]
    changes = {name: any_value(rng, keys.get(name)) for name in rng.sample(names, rng.randrange(1, 4))}
    if rng.random() < 0.2:
        changes |= {"tokenizer.ggml.add_bos_token": True}
    sealed = rng.random() < 0.3
    MODEL.write(path, seal=sealed, changes={"tokenizer.ggml.bos_token_id": 1} | changes)
    if sealed and not {TENSOR_KEY, HEADER_KEY} & changes.keys():
        seal(path)
    if rng.random() < 0.2:
        data = bytearray(path.read_bytes())
        data[rng.randrange(24, len(data) // 2)] = rng.randrange(256)
        path.write_bytes(data)


def accepts(path: Path) -> bool:
    """Whether the file was good enough to encode with. Raises what should never be raised."""
    try:
        model = LanguageModel(LanguageModelOptions(model=str(path), threads=1), format="fp32")
        assert model.encode(['{"x": 0.5}', "", "\0é"]).shape == (3, model.width)
        return True
    except UsageError as error:
        refused, said = isinstance(error, ModelFileError), str(error)
    # Either the file is refused, in a line that names it, or the text is longer than the context it claims.
    assert said.startswith(f"{path} ") if refused else "model reads at most" in said
    assert said.isprintable()
    assert len(said) < len(str(path)) + 520
    return False


if __name__ == "__main__":
    target, end, seed, accepted = Path("build/fuzz/metadata.gguf"), time.monotonic() + float(sys.argv[1]), 0, 0
    target.parent.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < end:
        write(target, seed)
        accepted += accepts(target)
        seed += 1
    target.unlink()
    print(f"{seed} files, {accepted} accepted")
