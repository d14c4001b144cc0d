"""Python bindings of the C engine: encode, generate, replace weights."""

from bitrl.plugins.backbones.engine.engine import Engine, formats, instruction_sets, open_model
from bitrl.plugins.backbones.engine.generation import Generated

__all__ = ["Engine", "Generated", "formats", "instruction_sets", "open_model"]
