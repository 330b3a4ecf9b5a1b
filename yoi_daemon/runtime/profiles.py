"""Profiles: the names that workers are created from, each with its engine."""

from collections.abc import Callable, Mapping
from typing import Any

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import EchoProfileSettings, ProfileSettings
from yoi_daemon.model.workers import BUILTIN_ECHO
from yoi_daemon.runtime.engines.echo import EchoEngine
from yoi_daemon.runtime.engines.interface import Engine


class Profiles:
    """Engines by profile name."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = dict(engines)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of all profiles."""
        return tuple(sorted(self._engines))

    def engine(self, name: str) -> Engine:
        """Returns the engine of a profile. Raises `Refused` (`profile_not_found`) with the names of all."""
        engine = self._engines.get(name)
        if engine is None:
            raise Refused(
                "profile_not_found",
                f"no such profile; the profiles are {', '.join(self.names)}",
                profiles=list(self.names),
            )
        return engine


ENGINES: Mapping[type[ProfileSettings], Callable[[Any], Engine]] = {
    EchoProfileSettings: lambda _: EchoEngine(),
}
"""Makes the engine of each kind of profile from its settings."""


def make_profiles(settings: Mapping[str, ProfileSettings]) -> Profiles:
    """Returns the configured profiles and the built-in one."""
    engines: dict[str, Engine] = {BUILTIN_ECHO: EchoEngine()}
    for name, profile in settings.items():
        engines[name] = ENGINES[type(profile)](profile)
    return Profiles(engines)
