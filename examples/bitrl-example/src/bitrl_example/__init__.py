"""What this package adds to bitrl. Only options and records: the components' code is imported when one is chosen."""

from collections.abc import Iterator

import bitrl


@bitrl.options
class BinsOptions:
    """Options of the serializer."""

    levels: int = bitrl.option(21, "levels between a number's bounds", bitrl.between(2, 1000))


@bitrl.hookimpl
def bitrl_serializers() -> Iterator[bitrl.SerializerRecord]:
    """The serializers of this package."""
    yield bitrl.SerializerRecord(
        name="example-bins",
        summary="numbers rounded to a few levels: position=7",
        target="bitrl_example.bins:Bins",
        options=BinsOptions,
    )


@bitrl.options
class HashingOptions:
    """Options of the backbone."""

    width: int = bitrl.option(256, "number of features", bitrl.at_least(1))


@bitrl.hookimpl
def bitrl_backbones() -> Iterator[bitrl.BackboneRecord]:
    """The backbones of this package."""
    yield bitrl.BackboneRecord(
        name="example-hashing",
        summary="hashed words, no model at all",
        target="bitrl_example.hashing:Hashing",
        options=HashingOptions,
        accepts=("text",),
    )


@bitrl.options
class ReinforceOptions:
    """Options of the algorithm."""

    rollout_steps: int = bitrl.option(2048, "environment steps between two updates", bitrl.above(0))
    learning_rate: float = bitrl.option(10.0, "step size of gradient ascent", bitrl.above(0))
    gamma: float = bitrl.option(0.99, "discount factor", bitrl.between(0, 1))


@bitrl.hookimpl
def bitrl_algorithms() -> Iterator[bitrl.AlgorithmRecord]:
    """The algorithms of this package."""
    yield bitrl.AlgorithmRecord(
        name="example-reinforce",
        summary="REINFORCE with a linear policy on frozen features",
        target="bitrl_example.reinforce:Reinforce",
        options=ReinforceOptions,
        actions=("Discrete",),
        bootstraps=False,
    )


@bitrl.options
class CorridorOptions:
    """Options of the environment."""

    length: int = bitrl.option(10, "steps from one end to the other", bitrl.at_least(2))
    slip: float = bitrl.option(0.1, "probability that a step goes the other way", bitrl.between(0, 1))


@bitrl.hookimpl
def bitrl_environments() -> Iterator[bitrl.EnvironmentRecord]:
    """The environments of this package."""
    yield bitrl.EnvironmentRecord(
        name="example-corridor-v0",
        summary="walk to the right end of a slippery corridor (return up to 1)",
        target="bitrl_example.corridor:CorridorEnvironment",
        options=CorridorOptions,
        defaults={"run.steps": 20_000},
    )


@bitrl.hookimpl
def bitrl_loggers() -> Iterator[bitrl.LoggerRecord]:
    """The loggers of this package."""
    yield bitrl.LoggerRecord(
        name="example-plaintext",
        summary="log.txt: a line of text per update",
        target="bitrl_example.plaintext:PlainText",
    )


@bitrl.hookimpl
def bitrl_commands() -> Iterator[bitrl.CommandRecord]:
    """The commands of this package."""
    yield bitrl.CommandRecord(
        name="example-leaderboard",
        summary="List finished runs by their mean return.",
        target="bitrl_example.leaderboard:leaderboard",
    )


@bitrl.hookimpl
def bitrl_doctor_checks() -> Iterator[bitrl.DoctorCheckRecord]:
    """The checks of `bitrl doctor` in this package."""
    yield bitrl.DoctorCheckRecord(
        name="example-thermal",
        summary="is the machine cool enough",
        target="bitrl_example.thermal:check",
    )


@bitrl.hookimpl
def bitrl_energy_meters() -> Iterator[bitrl.EnergyMeterRecord]:
    """The energy meters of this package."""
    yield bitrl.EnergyMeterRecord(
        name="example-battery",
        summary="the power that a battery gives",
        target="bitrl_example.battery:meters",
    )
