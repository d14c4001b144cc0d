"""`bitrl model`: everything about language models, each command in a file of its own."""

from __future__ import annotations

import click

from bitrl.cli.model_convert import convert
from bitrl.cli.model_distill import distill
from bitrl.cli.model_eval import evaluate
from bitrl.cli.model_generate import generate
from bitrl.cli.model_inspect import inspect
from bitrl.cli.model_list import list_models
from bitrl.cli.model_probe import probe
from bitrl.cli.model_pull import pull
from bitrl.cli.model_quantize import quantize
from bitrl.cli.model_train import train
from bitrl.cli.output import Group


@click.group(cls=Group)
def model() -> None:
    """Train, distil, convert, inspect, probe and try language models."""


model.add_command(list_models)
model.add_command(pull)
model.add_command(train)
model.add_command(distill)
model.add_command(convert)
model.add_command(quantize)
model.add_command(inspect)
model.add_command(probe)
model.add_command(generate)
model.add_command(evaluate)
