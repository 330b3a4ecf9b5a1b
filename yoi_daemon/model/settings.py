"""The configuration's shape. Every number carries its unit in its key; every default is stated here."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 40)]
PerSecond = Annotated[float, Meta(ge=0.1, le=10_000)]
"""What is not used is kept for one second."""
Listen = str | list[str]
Grant = Literal["workers:read", "workers:command"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of every table of the configuration: an unknown key is a fault."""


class ListenerSettings(Section, frozen=True):
    """What both listeners have. `tls_certificate` and `tls_key` name PEM files in the secrets directory; a unix
    socket stays plain.

    `behind_proxy` says that a proxy which speaks TLS stands before this listener.
    """

    hosts: list[str] = []
    origins: list[str] = []
    tls_certificate: str | None = None
    tls_key: str | None = None
    behind_proxy: bool = False

    @property
    def has_tls(self) -> bool:
        return self.tls_certificate is not None


class ApiSettings(ListenerSettings, frozen=True):
    """`[api]`: the REST listener. `max_address_connections` is for each address of other machines."""

    listen: Listen = "127.0.0.1:7420"
    max_connections: Count = 2048
    max_address_connections: Count = 256
    commands_per_s: PerSecond = 200
    """Of one token: every POST and DELETE but an ingress, which its plugin's queue bounds."""
    auth_failures_per_s: PerSecond = 5
    """From one address; and from all, below. The stream's listener counts with this one."""
    all_auth_failures_per_s: PerSecond = 100


class ObserveSettings(ListenerSettings, frozen=True):
    """`[observe]`: the stream's listener, and the window of events that resume."""

    enabled: bool | Literal["auto"] = "auto"
    listen: Listen = "127.0.0.1:7421"
    heartbeat_s: Seconds = 15
    max_subscribers: Count = 4096
    max_token_subscribers: Count = 4096
    max_address_connections: Count = 1024
    window_events: Count = 100_000
    window_bytes: Bytes = 67_108_864
    window_age_s: Annotated[float, Meta(gt=0)] = 604_800


class StoreSettings(Section, frozen=True):
    """`[store]`: where accepted events and the log are kept."""

    kind: Literal["sqlite", "memory"] = "sqlite"
    low_bytes: Bytes = 67_108_864
    reserve_bytes: Bytes = 16_777_216


class DaemonSettings(Section, frozen=True):
    """`[daemon]`: the process."""

    stop_timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 10
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    boot_attempts: Annotated[int, Meta(ge=0, le=100)] = 3
    """So many starts in a row that die on one plugin are its quarantine, of unknown cause safe mode; 0 is never."""
    boot_healthy_s: Seconds = 60
    """A start that lived so long after it was ready did not die of starting."""


class PluginHostSettings(Section, frozen=True):
    """`[plugin_host]`: rules for all plugins."""

    require_enable: bool = False


class PluginSettings(Section, frozen=True):
    """`[plugins.NAME]`: how the host treats one plugin; `config` is the author's own table.

    Where two keys bound each other, the smaller `…_max_s`, `queue_bytes` or `…_timeout_s` wins.
    """

    enabled: bool | None = None
    critical: bool = False
    isolation: Literal["inline"] = "inline"
    grants: list[Grant] = []
    config: dict[str, Any] = {}
    # the lane
    queue_events: Count = 256
    queue_bytes: Bytes = 4_194_304
    event_bytes: Bytes = 1_048_576
    dispatch_timeout_s: Seconds = 30
    dispatch_warn_s: Seconds = 5
    dispatch_grace_s: Seconds = 5
    # retries of an event
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    retry_min_s: Seconds = 1
    retry_max_s: Seconds = 30
    redeliver_per_s: PerSecond = 10
    hooks_per_s: PerSecond = 100
    # the service's life
    start_timeout_s: Seconds = 30
    start_warn_s: Seconds = 10
    drain_s: Seconds = 10
    cancel_s: Seconds = 5
    stop_hook_s: Seconds = 5
    status_timeout_s: Seconds = 1
    # tools
    tool_timeout_s: Seconds = 30
    tool_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 4
    restart: Literal["permanent", "transient", "temporary"] = "permanent"
    restart_attempts: Annotated[int, Meta(ge=0, le=1000)] = 5
    restart_window_s: Seconds = 300
    restart_min_s: Seconds = 1
    restart_max_s: Seconds = 60
    restart_healthy_s: Seconds = 300
    give_up_min_s: Seconds = 300
    give_up_max_s: Seconds = 3600


class ProfileSettings(Section, frozen=True):
    """`[profiles.NAME]`: what a worker of this profile is made of."""

    engine: Literal["echo"]


class RuntimeSettings(Section, frozen=True):
    """`[runtime]`: bounds of the embedded runtime."""

    max_workers: Count = 1000
    max_input_bytes: Bytes = 262_144
    inbox_inputs: Annotated[int, Meta(ge=1, le=10_000)] = 16
    transcript_items: Count = 10_000
    transcript_bytes: Bytes = 16_777_216
    turn_timeout_s: Seconds = 3600
    cancel_grace_s: Seconds = 5
    retained_workers: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000


class RegisteredRuntimeSettings(Section, frozen=True):
    """`[runtimes.NAME]`: a runtime beside the embedded one, addressed as runtime_id NAME."""

    kind: Literal["local_compat"]
    directory: str
    display_name: str = ""


class Settings(Section, frozen=True):
    """The whole file."""

    api: ApiSettings = ApiSettings()
    observe: ObserveSettings = ObserveSettings()
    store: StoreSettings = StoreSettings()
    daemon: DaemonSettings = DaemonSettings()
    plugin_host: PluginHostSettings = PluginHostSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    runtimes: dict[str, RegisteredRuntimeSettings] = {}
    plugins: dict[str, PluginSettings] = {}
    profiles: dict[str, ProfileSettings] = {}

    def for_plugin(self, plugin_id: str) -> PluginSettings:
        """The settings of one plugin; the defaults where the file does not name it."""
        return self.plugins.get(plugin_id) or PluginSettings()

    def is_enabled(self, plugin_id: str) -> bool:
        """Whether a module found under this id is to be loaded."""
        enabled = self.for_plugin(plugin_id).enabled
        return not self.plugin_host.require_enable if enabled is None else enabled


KeyPath = tuple[str, ...]

RELOADABLE: frozenset[KeyPath] = frozenset(
    {("daemon", "log_level"), ("plugin_host",), ("plugins",), ("runtimes",)}
)
"""Keys and tables that a reload takes, with everything below them; all others need a restart."""


def is_reloadable(path: KeyPath) -> bool:
    """Returns whether a reload takes a change of this key or table."""
    return any(path[:length] in RELOADABLE for length in range(1, len(path) + 1))


def settings_after_reload(current: Settings, read: Settings, only: str | None = None) -> Settings:
    """Returns the settings that are in use once `read` was taken: all that is reloadable, or plugin `only`."""
    if only is None:
        return _with_reloadable(current, read, ())
    plugins = {name: one for name, one in current.plugins.items() if name != only}
    if only in read.plugins:
        plugins[only] = read.plugins[only]
    return msgspec.structs.replace(current, plugins=plugins)


def needs_restart(current: Settings, read: Settings) -> tuple[str, ...]:
    """Returns the sections in which `read` differs from `current` by a key that a reload does not take."""
    taken = settings_after_reload(current, read)
    return tuple(
        name for name in Settings.__struct_fields__ if getattr(read, name) != getattr(taken, name)
    )


_S = TypeVar("_S", bound=Section)


def _with_reloadable(current: _S, read: _S, path: KeyPath) -> _S:
    changes: dict[str, Any] = {}
    for name in current.__struct_fields__:
        before, after = getattr(current, name), getattr(read, name)
        if is_reloadable((*path, name)):
            changes[name] = after
        elif isinstance(before, Section):
            changes[name] = _with_reloadable(before, after, (*path, name))
    return msgspec.structs.replace(current, **changes)


RENAMED: dict[tuple[type[Section], str], str] = {
    (PluginSettings, "quarantine_min_s"): "give_up_min_s",
    (PluginSettings, "quarantine_max_s"): "give_up_max_s",
}
"""Keys of an earlier version, by their table and old name: refused, and the message says the new one."""
