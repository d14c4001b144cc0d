"""An environment component whose Gymnasium environments are all wrapped in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bitrl.core.environments.environment import Environment
from bitrl.core.interfaces import ObservationSpec

if TYPE_CHECKING:
    import gymnasium


class WrappedEnvironment(Environment):
    """`environment` with `wrap` applied to every environment that it makes; all else is unchanged."""

    def __init__(
        self,
        environment: Environment,
        wrap: Callable[[gymnasium.Env], gymnasium.Env],
        spec: ObservationSpec | None = None,
    ):
        """`spec` is `environment`'s, where it is known: asking for it makes an environment beside those at work."""
        super().__init__(environment.options, environment.id)
        self.environment, self.wrap, self.spec = environment, wrap, spec

    @property
    def identity(self) -> Mapping[str, Any]:
        """The wrapped environment's."""
        return self.environment.identity

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new single environment."""
        return self.wrap(self.environment.make(render_mode))

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new single environment to evaluate in."""
        return self.wrap(self.environment.make_for_evaluation(render_mode))

    def observation_spec(self) -> ObservationSpec:
        """The wrapped environment's."""
        return self.environment.observation_spec() if self.spec is None else self.spec

    def action_names(self) -> tuple[str, ...]:
        """The wrapped environment's."""
        return self.environment.action_names()
