"""GRPO: bitrl beside TRL's GRPOTrainer, an update each in turn in one process, from the same model with equal settings.

    pip install trl
    python benchmarks/grpo_against_trl.py
    python benchmarks/grpo_against_trl.py --model smollm2-135m --env addition --updates 6 --completions 32 --tokens 32

TRL gets the file as transformers' model in float32, whose logits are compared with the decoder's before it begins. Both
sample at temperature 1 with nothing cut off, score by the same task, and take one gradient step on all completions of
an update: PPO's clipped loss, averaged over tokens, without KL, by Adam at a constant learning rate. Ours computes
gradients in bfloat16, TRL in float32: torch's precision "medium", which allows it the same, makes TRL slower
(small model, AVX-512). Prompts are drawn at random by each. Ratios are of neighbours in a round, medians over rounds;
the first round is not counted.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import transformers
from record import save
from turns import Clock, each_takes, first_and_last, parser_of, ratio, runs_of

from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.interfaces import Algorithm
from bitrl.plugins.backbones.language_policy import EnginePolicy
from bitrl.plugins.backbones.training.decoder import Decoder
from bitrl.plugins.backbones.training.decoder_file import read_decoder

OURS = {
    "bitrl fp32": {"algo.rollout": "fp32", "algo.correction": "none"},
    "bitrl int8": {"algo.rollout": "int8", "algo.correction": "acr"},
}
TRL = "trl"
LAYERS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_sub_norm": "self_attn.attn_sub_norm", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm", "ffn_down": "mlp.down_proj",
}  # fmt: skip
AROUND = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def transformers_model(decoder: Decoder) -> Any:
    """A decoder as transformers' model of float32: of Llama's architecture, or BitNet's with its sub-norms."""
    shape = decoder.shape
    config = (transformers.BitNetConfig if shape.sub_norms else transformers.LlamaConfig)(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.ffn, num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, hidden_act=shape.activation,
        max_position_embeddings=shape.context, rms_norm_eps=shape.eps, tie_word_embeddings=decoder.output is None,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta}, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {}
    for name, weight in decoder.named_parameters():
        block, _, own = name.removeprefix("blk.").partition(".")
        place = f"model.layers.{block}.{LAYERS[own]}" if own else AROUND[name]
        weights[f"{place}.weight"] = weight.detach().clone()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing  # tied to the embedding
    assert not unexpected, unexpected
    model.tie_weights()
    return model


def same_model(policy: EnginePolicy, prompts: list[str]) -> tuple[Any, Any]:
    """A policy's model and tokenizer as transformers', which give the same tokens and logits for these prompts."""
    model = policy.model
    theirs = transformers_model(read_decoder(model.engine.file, "fp32", learns=True))
    end = model.tokenizer.id_to_token(policy.ends[0])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model.tokenizer, eos_token=end, pad_token=end)
    ids = model.prompt_ids(prompts)
    assert tokenizer(prompts)["input_ids"] == ids, "the tokenizers differ"
    with torch.no_grad():
        for each in ids:
            tokens = torch.tensor([each])
            difference = float((theirs(tokens).logits - policy.decoder(tokens)).abs().max())
            assert difference < 1e-3, f"the models' logits differ by {difference}"
    return theirs, tokenizer


def take_turns(
    env: str, ours: dict[str, Algorithm], updates: int, completions: int, tokens: int, rate: float
) -> tuple[Clock, dict[str, list[float]]]:
    """Times and rewards of everyone's updates."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    task: Any = load_environment(env)
    assert isinstance(task, PromptTask)
    options: Any = next(iter(ours.values())).options
    group, random = options.group_size, np.random.default_rng(0)
    asked = [task.draw(random, held_out=False) for _ in range(updates * completions // group)]
    model, tokenizer = same_model(next(iter(ours.values())).language_policy(), [prompt for prompt, _ in asked[:8]])
    clock = Clock((*ours, TRL))
    rewards: dict[str, list[float]] = {name: [] for name in (*ours, TRL)}

    def score(completions: list[str], answer: list[str], **rest: Any) -> list[float]:
        found = [task.score(json.loads(each), text) for each, text in zip(answer, completions, strict=True)]
        rewards[TRL].append(float(np.mean(found)))
        return found

    class Turns(transformers.TrainerCallback):
        """Lets the others take their turn before each update of TRL's, and times it."""

        def on_step_begin(self, *arguments: Any, **rest: Any) -> None:
            for name, algorithm in ours.items():
                clock.start()
                rewards[name].append(algorithm.update()["episode_return"])
                clock.stop(name)
            clock.start()

        def on_step_end(self, *arguments: Any, **rest: Any) -> None:
            clock.stop(TRL)
            last = {name: (clock.seconds[name][-1], clock.cpu_seconds[name][-1], rewards[name][-1]) for name in rewards}
            print({name: tuple(round(each, 3) for each in found) for name, found in last.items()}, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], disable_tqdm=True,
            save_strategy="no", logging_strategy="no", max_steps=updates, per_device_train_batch_size=completions,
            num_generations=group, max_completion_length=tokens, temperature=1.0, top_p=1.0, top_k=0, beta=0.0,
            num_iterations=1, epsilon=options.clip_low, loss_type="dapo", scale_rewards="group", learning_rate=rate,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=options.max_grad_norm, shuffle_dataset=False,
            dataloader_pin_memory=False, seed=0,
        )  # fmt: skip
        rows = [{"prompt": prompt, "answer": json.dumps(answer)} for prompt, answer in asked]
        trainer = GRPOTrainer(
            model, score, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            callbacks=[Turns()],
        )  # fmt: skip
        trainer.train()
    return clock, rewards


def compared(clock: Clock, rewards: dict[str, list[float]]) -> dict[str, Any]:
    """Updates an hour, how many times TRL's that is, and rewards at first and at last."""
    cpu, seconds = clock.cpu_seconds, clock.seconds
    return each_takes(clock) | {
        "ratio_to_trl": {name: ratio(seconds[TRL], each) for name, each in seconds.items() if name != TRL},
        "ratio_to_trl_in_cpu_seconds": {name: ratio(cpu[TRL], each) for name, each in cpu.items() if name != TRL},
        "reward": {name: first_and_last(each) for name, each in rewards.items()},
    }


def main() -> None:
    args = parser_of(
        __doc__, env="reverse-word", model="starter-tasks-fp16", updates=60, completions=64, tokens=16,
        learning_rate=3e-4, out="grpo-against-trl",
    ).parse_args()  # fmt: skip
    ours = runs_of(args, OURS)
    clock, rewards = take_turns(args.env, ours, args.updates, args.completions, args.tokens, args.learning_rate)
    found = compared(clock, rewards)
    print(json.dumps(found, indent=2))
    packages = {name: version(name) for name in (TRL, "transformers")}
    save(args.out, vars(args) | packages | found | {"seconds": clock.seconds, "rewards": rewards})


if __name__ == "__main__":
    main()
