"""What a language model was asked, what it answered and what that earned: shown now and then, to see it change."""

from __future__ import annotations

import attrs

from bitrl.core.terminal import printable

LONGEST = 100
"""Characters of a prompt's end, and of a completion's beginning, that a line shows."""


@attrs.frozen
class SampledCompletion:
    """A prompt as the model reads it, its completion, and the reward."""

    prompt: str
    completion: str
    reward: float

    def line(self) -> str:
        """`reward 0.5: Reverse the word abc: → cbx`; long texts are cut, and what would break the line is escaped."""
        prompt, completion = (printable(text, keep="") for text in (self.prompt, self.completion))
        prompt = prompt if len(prompt) <= LONGEST else f"…{prompt[-LONGEST:]}"
        completion = completion if len(completion) <= LONGEST else f"{completion[:LONGEST]}…"
        return f"reward {self.reward:.3g}: {prompt} → {completion}"
