"""Whether llama.cpp reads the file that `bitrl export` writes of a language model that has learned, and says the same.

    python -m venv rival && rival/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    python benchmarks/exported_in_llama_cpp.py --rival-python rival/bin/python

A short run of GRPO for each kind of weights; then both complete prompts that it never saw, greedily, from the exported
file, and the logits after each prompt are compared. llama.cpp keeps keys and values as float16, and rounds activations
to 8 bits in groups of 256 before a ternary matrix, where the engine does by the token.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from against_llama_cpp import Rival
from record import save
from smollm2 import relative_error

import bitrl
from bitrl.core.environments.loading import load_environment
from bitrl.core.runs.export import export
from bitrl.plugins.backbones.engine.generation import Sequences

RUNS = {"fp32": "starter-tasks-fp16", "bitnet": "starter-tasks"}
"""A backbone, whose weights the run learns → the model that it begins with."""

ENV, TOKENS = "reverse-word", 16


def exported(backbone: str, model: str, steps: int, folder: Path) -> tuple[Path, list[str]]:
    """The file that a run exports, and what that says others miss in it."""
    bitrl.run(
        ENV, backbone=backbone, algo="grpo", steps=steps, out=folder / "run",
        options={"backbone.model": model, "run.eval_episodes": 8},
    )  # fmt: skip
    said = export(folder / "run", folder / "model.gguf")
    return Path(said["file"]), said["unsupported"]


def greedy(rival: Rival, prompt: list[int], ends: list[int]) -> list[int]:
    """llama.cpp's likeliest tokens after a prompt, an end token included."""
    made: list[int] = []
    while len(made) < TOKENS and not (made and made[-1] in ends):
        made.append(int(np.argmax(rival.ask(do="logits", tokens=prompt + made)["logits"])))
    return made


def compare(path: Path, backbone: str, rival_python: str, prompts: list[str]) -> dict[str, Any]:
    """Greedy completions of both, and the logits after the prompts."""
    loaded: Any = bitrl.load_backbone(backbone, model=str(path), threads=1)
    policy = loaded.language_policy()
    ours = policy.generate(prompts, TOKENS, temperature=0.0)
    ids = [each.prompt.tolist() for each in ours]
    exact = Sequences(loaded.engine).read(ids, 1)[1]
    rival = Rival(rival_python, path, "plain")
    theirs = [greedy(rival, prompt, policy.ends) for prompt in ids]
    cut = [rival.ask(do="tokens", text=text)["tokens"] for text in prompts]
    logits = [np.array(rival.ask(do="logits", tokens=prompt)["logits"]) for prompt in ids]
    about = rival.ask(do="about")
    rival.close()
    return {
        "prompts": len(prompts),
        "same_token_ids": sum(a == b for a, b in zip(ids, cut, strict=True)),
        "same_completions": sum(a.tokens.tolist() == b for a, b in zip(ours, theirs, strict=True)),
        "tokens": sum(map(len, theirs)),
        "relative_error_of_logits": float(np.median(list(map(relative_error, logits, exact)))),
        "llama_cpp": about["version"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--steps", type=int, default=512, help="completions that are learned from")
    parser.add_argument("--prompts", type=int, default=32)
    args = parser.parse_args()
    task: Any = load_environment(ENV)
    random = np.random.default_rng(0)
    prompts = [task.draw(random, held_out=True)[0] for _ in range(args.prompts)]
    rows = []
    for backbone, model in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            path, unsupported = exported(backbone, model, args.steps, Path(folder))
            row = {"backbone": backbone, "model": model, "steps": args.steps, "unsupported": unsupported}
            rows.append(row | compare(path, backbone, args.rival_python, prompts))
        print(rows[-1], flush=True)
    save("exported-in-llama-cpp", rows)


if __name__ == "__main__":
    main()
