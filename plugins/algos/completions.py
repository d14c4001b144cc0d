"""Completions as a learner reads them: padded, a microbatch at a time, with the log-probability of every token.

Knows tokens, padding and sampling's temperature and cut-offs. Does not know rewards or losses. Shapes: B completions, T
tokens of the longest one, N tokens of all of them, V of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.interfaces import Completion

MOST_TOKENS = 2048
"""Tokens, with prompts and padding, that are learned from at once: the memory of a backward pass grows with them."""


def mask_of(completions: Sequence[Completion]) -> Tensor:
    """Which of T places in a row are tokens of its completion: bool [B, T]."""
    lengths = torch.tensor([len(each.tokens) for each in completions])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def behaviour_logprobs(completions: Sequence[Completion]) -> Tensor:
    """The log-probabilities that the tokens were sampled with: float32 [B, T], zeros beyond a completion's end."""
    found = torch.zeros(mask_of(completions).shape)
    for row, each in enumerate(completions):
        found[row, : len(each.tokens)] = torch.from_numpy(each.logprobs).float()
    return found


def microbatches(completions: Sequence[Completion], rows: Tensor) -> list[Tensor]:
    """Rows [m] of completions → parts of them that are learned from at once: those of a prompt one after another,
    prompts of similar lengths, and with padding within memory.
    """
    groups: dict[bytes, list[Completion]] = {}
    numbers: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        key = completions[row].prompt.tobytes()
        groups.setdefault(key, []).append(completions[row])
        numbers.setdefault(key, []).append(row)
    longest = {key: len(group[0].prompt) + max(len(each.tokens) for each in group) for key, group in groups.items()}
    parts: list[list[int]] = []
    prompts, prompt, text = set[bytes](), 0, 0  # of the last part: its prompts, and the lengths of the longest
    for key in sorted(groups, key=lambda each: -longest[each]):
        for row, each in zip(numbers[key], groups[key], strict=True):
            prompts, prompt, text = prompts | {key}, max(prompt, len(each.prompt)), max(text, len(each.tokens))
            if not parts or len(prompts) * prompt + (len(parts[-1]) + 1) * text > MOST_TOKENS:
                parts.append([])
                prompts, prompt, text = {key}, len(each.prompt), len(each.tokens)
            parts[-1].append(row)
    return [torch.tensor(part) for part in parts]


def token_logprobs(
    module: nn.Module, completions: Sequence[Completion], mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """The log-probability of each token under a language model, as it was sampled: float32 [B, T], zeros where masked.

    Temperature divides the logits. Where sampling was cut off (top-k, top-p), the probabilities are of the tokens that
    were kept then: over all tokens, the ratio of two policies would be biased by the mass that was cut off.

    Args:
        module: a language model (interfaces.LanguagePolicy.module).
        completions: B of them.
        mask: their rows of `mask_of`, bool [B, T].
        temperature: above 0.
    """
    return of_chosen(module.completions(*apart(completions)), completions, mask, temperature)  # type: ignore[operator]


def token_logprobs_and_hidden(
    module: nn.Module, completions: Sequence[Completion], mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the hidden state that each token was chosen in: float32 [B, T, d], zeros where masked."""
    logits, hidden = module.completions(*apart(completions), hidden=True)  # type: ignore[operator]
    states = torch.zeros(*mask.shape, hidden.shape[1]).masked_scatter(mask[..., None], hidden.float())
    return of_chosen(logits, completions, mask, temperature), states


def apart(completions: Sequence[Completion]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Their prompts, each once, their own tokens, and which of the prompts each follows, int64 [B]."""
    places: dict[bytes, int] = {}
    follows = torch.tensor([places.setdefault(each.prompt.tobytes(), len(places)) for each in completions])
    prompts = {each.prompt.tobytes(): each.prompt for each in completions}
    return [token_ids(each) for each in prompts.values()], [token_ids(each.tokens) for each in completions], follows


def token_ids(tokens: np.ndarray) -> Tensor:
    """As torch takes them, int64."""
    return torch.from_numpy(tokens.astype(np.int64))


def of_chosen(logits: Tensor, completions: Sequence[Completion], mask: Tensor, temperature: float) -> Tensor:
    """Logits [N, V] → the log-probability of the token that was chosen by each: float32 [B, T], zeros where masked."""
    chosen = torch.from_numpy(np.concatenate([each.tokens for each in completions]).astype(np.int64))
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    if any(each.kept is not None for each in completions):
        logits = logits.masked_fill(cut_off(completions, logits.shape[1]), -torch.inf)
    found = logits.gather(1, chosen[:, None]).squeeze(1) - logits.logsumexp(dim=1)
    return torch.zeros(mask.numel()).index_copy(0, mask.flatten().nonzero()[:, 0], found).view(mask.shape)


def cut_off(completions: Sequence[Completion], vocabulary: int) -> Tensor:
    """The tokens that sampling left out before each one: bool [N, V]."""
    out = torch.ones(sum(len(each.tokens) for each in completions), vocabulary, dtype=torch.bool)
    row = 0
    for each in completions:
        for step in range(len(each.tokens)):
            if each.kept is None:
                out[row] = False
            else:
                out[row, torch.from_numpy(each.kept[step].astype(np.int64))] = False
            row += 1
    return out
