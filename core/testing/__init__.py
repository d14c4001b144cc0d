"""The conformance kit: a plugin's own tests call it to learn whether its components keep bitrl's contracts.

It works under any test runner. Each `check_…` function raises ConformanceError, an AssertionError, with one line for
every check that failed. It looks at behaviour, not at classes. Importing it imports numpy and Gymnasium, so no record
module imports it.
"""

from __future__ import annotations

from bitrl.testing.algorithms import check_algorithm
from bitrl.testing.backbones import check_backbone
from bitrl.testing.environments import check_environment
from bitrl.testing.loggers import check_logger
from bitrl.testing.outcomes import ConformanceError, Outcome
from bitrl.testing.plugins import check_plugin, plugin_outcomes
from bitrl.testing.serializers import check_serializer
from bitrl.testing.tasks import make_task

__all__ = [
    "ConformanceError",
    "Outcome",
    "check_algorithm",
    "check_backbone",
    "check_environment",
    "check_logger",
    "check_plugin",
    "check_serializer",
    "make_task",
    "plugin_outcomes",
]
