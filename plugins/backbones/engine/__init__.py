"""The C engine seen from Python: encode, generate, replace weights."""

from bitrl.plugins.backbones.engine.engine import Engine, formats, instruction_sets, open_model
from bitrl.plugins.backbones.engine.generation import Generated

__all__ = ["Engine", "Generated", "formats", "instruction_sets", "open_model"]
