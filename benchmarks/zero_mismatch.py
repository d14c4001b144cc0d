"""How far the policy that generates (the engine) is from the one that learns (the decoder in torch) at equal precision.

Compared are log-probabilities of sampled tokens.

    python benchmarks/zero_mismatch.py
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from record import save

from bitrl.plugins.backbones import catalogue
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.language_policy import engine_weights
from bitrl.plugins.backbones.training.decoder_file import read_decoder

CASES = (
    ("starter-fp16", "fp32"),
    ("starter", "ternary"),
    ("smollm2-135m", "fp32"),
    ("smollm2-135m", "ternary"),
    ("starter-fp16", "bf16"),
    ("starter-fp16", "int8"),
    ("starter-fp16", "int4"),
)
NEW, PROMPT, TOGETHER = 128, 8, 8


def mismatch(engine: Engine, sequences: int, new: int, seed: int = 0) -> dict[str, Any]:
    """Absolute differences of log-probabilities over `sequences` texts of `new` sampled tokens after random prompts."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, engine.vocabulary, (sequences, PROMPT)).tolist()
    decoder = read_decoder(engine.file, engine.format, learns=True)
    for name, values in engine_weights(decoder):  # as after a step of learning
        engine.replace(name, values)
    made, differences = engine.generate(prompts, new, seed=seed), []
    for at in range(0, sequences, TOGETHER):
        texts = [[*prompt, *each.tokens] for prompt, each in zip(prompts[at:], made[at : at + TOGETHER], strict=False)]
        tokens = torch.tensor(texts)
        with torch.no_grad():
            logits = decoder(tokens[:, :-1])[:, PROMPT - 1 :]
        theirs = logits.double().log_softmax(-1).gather(2, tokens[:, PROMPT:, None])[..., 0].numpy()
        ours = np.stack([each.logprobs for each in made[at : at + TOGETHER]])
        differences.append(np.abs(theirs - ours).ravel())
    found = np.concatenate(differences)
    return {"tokens": len(found), "largest": float(found.max()), "mean": float(found.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="zero_mismatch", help="name of the file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name, format in CASES:
        engine = Engine(catalogue.resolve(name), format, threads=args.threads)
        rows.append({"model": name, "format": format} | mismatch(engine, -(-args.tokens // NEW), NEW))
        print(rows[-1], flush=True)
    save(args.out, {"new_tokens_each": NEW, "cases": rows})


if __name__ == "__main__":
    main()
