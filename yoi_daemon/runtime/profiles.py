"""Profiles: the names a worker can be made from, each with its engine."""

from collections.abc import Mapping

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import ProfileSettings
from yoi_daemon.model.workers import BUILTIN_ECHO
from yoi_daemon.runtime.engines.echo import EchoEngine
from yoi_daemon.runtime.engines.interface import Engine


class Profiles:
    """Engines by profile name."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = dict(engines)

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are."""
        return tuple(sorted(self._engines))

    def engine(self, name: str) -> Engine:
        """The engine of a profile. Raises `Refused` (`profile_not_found`), naming the ones there are."""
        engine = self._engines.get(name)
        if engine is None:
            raise Refused(
                "profile_not_found",
                f"there is no such profile; there is {', '.join(self.names)}",
                profiles=list(self.names),
            )
        return engine


def make_profiles(settings: Mapping[str, ProfileSettings]) -> Profiles:
    """The configured profiles and the built-in one."""
    engines: dict[str, Engine] = {BUILTIN_ECHO: EchoEngine()}
    for name, profile in settings.items():
        match profile.engine:
            case "echo":
                engines[name] = EchoEngine()
    return Profiles(engines)
