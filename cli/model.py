"""`bitrl model`: everything about language models, each command in a file of its own."""

from __future__ import annotations

import click

from bitrl.cli.model_convert import convert
from bitrl.cli.model_distill import distill
from bitrl.cli.model_inspect import inspect
from bitrl.cli.model_list import list_models
from bitrl.cli.model_probe import probe
from bitrl.cli.model_pull import pull
from bitrl.cli.model_quantize import quantize
from bitrl.cli.model_train import train


@click.group()
def model() -> None:
    """Train, distil, convert, inspect and probe language models."""


model.add_command(list_models)
model.add_command(pull)
model.add_command(train)
model.add_command(distill)
model.add_command(convert)
model.add_command(quantize)
model.add_command(inspect)
model.add_command(probe)
