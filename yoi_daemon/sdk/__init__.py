"""What plugin authors import."""

from yoi_daemon.model.errors import Refused
from yoi_daemon.sdk.config import Config, Secret
from yoi_daemon.sdk.context import (
    AttemptClosedError,
    Context,
    IngressEvent,
    NotReady,
    Retry,
    State,
    Workers,
)
from yoi_daemon.sdk.plugin import API_VERSION, Plugin, PluginDefinitionError

__all__ = [
    "API_VERSION",
    "AttemptClosedError",
    "Config",
    "Context",
    "IngressEvent",
    "NotReady",
    "Plugin",
    "PluginDefinitionError",
    "Refused",
    "Retry",
    "Secret",
    "State",
    "Workers",
]
