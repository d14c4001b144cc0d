"""Whether llama.cpp reads what `bitrl model convert` writes, and computes from it what the engine does.

    python -m venv rival && rival/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    python benchmarks/converted_in_llama_cpp.py --rival-python rival/bin/python --smollm2 FILE

Small random models, saved by transformers, and SmolLM2 if its file is given (see smollm2.py). Each is converted, and
for each text the logits after its last token are compared with the engine's in fp32. llama.cpp rounds activations to 8
bits before a quantised matrix and to 16 before a 16-bit one, and keeps keys and values as float16. Its BitNet has SiLU
whatever the model had (which convert says), so the one here has that.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from against_llama_cpp import Rival
from record import save
from smollm2 import PROMPTS, relative_error

from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.engine.generation import Sequences
from bitrl.plugins.backbones.files.tokenizer import tokenizer_of
from bitrl.plugins.backbones.text_tokens import TextTokens
from bitrl.plugins.backbones.tools.convert import convert

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
import hugging_face_models as models

SHAPE = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def bitnet(folder: Path) -> None:
    model = models.bitnet(**SHAPE, hidden_act="silu", tie_word_embeddings=True)
    models.packed(model, folder, "bitlinear")


def saved(build: Callable[..., Any], **changes: Any) -> Callable[[Path], None]:
    """Saves a model whose weights are small enough that attention does not magnify every rounding."""

    def save_model(folder: Path) -> None:
        model = build(**SHAPE, **changes)
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.data *= 0.2
        model.save_pretrained(folder)

    return save_model


SMALL: dict[str, tuple[Callable[[Path], None], tuple[str | None, ...]]] = {
    "bitnet": (bitnet, (None, "tq1_0")),
    "llama": (saved(models.llama), ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")),
    "llama, tied head": (saved(models.llama, tie_word_embeddings=True), ("f32", "q8_0")),
    "qwen3": (saved(models.qwen3, head_dim=64), ("f32", "f16", "bf16", "q8_0", "q4_0")),
    "gemma3": (saved(models.gemma3, head_dim=64, query_pre_attn_scalar=64), ("f32", "f16", "bf16", "q8_0", "q4_0")),
}


def compare(path: Path, rival_python: str) -> dict[str, Any]:
    """The converted file in both: how far the logits are apart, and whether the same token is the likeliest.

    So also for the engine in the file's own format, which rounds as much.
    """
    engine = Engine(path, "fp32")
    tokenizer = tokenizer_of(engine.file)
    ids = TextTokens(tokenizer, ours=False).ids(PROMPTS)
    exact, rounded = (Sequences(each).read(ids, 1)[1] for each in (engine, Engine(path)))
    rival = Rival(rival_python, path, "plain")
    theirs = [np.array(rival.ask(do="logits", tokens=prompt)["logits"]) for prompt in ids]
    cut = [rival.ask(do="tokens", text=text)["tokens"] for text in PROMPTS]
    rival.close()
    return {
        "llama_cpp_relative_error": float(np.median(list(map(relative_error, theirs, exact)))),
        "bitrl_relative_error": float(np.median(list(map(relative_error, rounded, exact)))),
        "llama_cpp_same_best_token": int((np.argmax(theirs, 1) == exact.argmax(1)).sum()),
        "bitrl_same_best_token": int((rounded.argmax(1) == exact.argmax(1)).sum()),
        "same_token_ids": sum(a == b for a, b in zip(ids, cut, strict=True)),
        "texts": len(ids),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--smollm2", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases: list[tuple[str, Path, tuple[str | None, ...]]] = []
        for name, (build, kinds) in SMALL.items():
            checkpoint = Path(folder, name)
            build(checkpoint)
            models.add_tokenizer(checkpoint)
            cases.append((name, checkpoint, kinds))
        if args.smollm2:
            cases.append(("smollm2", args.smollm2, ("q8_0", "f16")))
        for name, source, kinds in cases:
            for kind in kinds:
                path = Path(folder, "converted.gguf")
                lacks = convert(source, path, kind)
                row = {"model": name, "type": kind or "as in the source", "lacks": lacks}
                rows.append(row | compare(path, args.rival_python))
                print(rows[-1], flush=True)
    save("converted-in-llama-cpp", rows)


if __name__ == "__main__":
    main()
