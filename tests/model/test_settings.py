import pytest

from yoi_daemon.model.configuration import parse_settings
from yoi_daemon.model.settings import PluginSettings, Settings

UNITS = (
    "_s",
    "_bytes",
    "_events",
    "_items",
    "_inputs",
    "_workers",
    "_attempts",
    "_subscribers",
    "_connections",
    "_concurrency",
)


def test_an_empty_file_gives_the_defaults():
    assert parse_settings("", "f", {}) == Settings()


def test_the_documented_defaults():
    settings = Settings()
    assert settings.api.listen == "127.0.0.1:7420"
    assert settings.observe.listen == "127.0.0.1:7421"
    assert settings.observe.enabled == "auto"
    assert (settings.observe.heartbeat_s, settings.observe.window_events) == (15, 100_000)
    assert settings.observe.window_bytes == 64 * 2**20
    assert settings.daemon.stop_timeout_s == 10
    plugin = PluginSettings()
    assert (plugin.queue_events, plugin.queue_bytes) == (256, 4 * 2**20)
    assert (plugin.dispatch_timeout_s, plugin.dispatch_warn_s, plugin.attempts) == (30, 5, 3)
    assert (plugin.retry_min_s, plugin.retry_max_s, plugin.start_timeout_s) == (1, 30, 30)
    assert (plugin.restart_attempts, plugin.restart_window_s) == (5, 300)


def test_every_number_carries_its_unit_in_its_key():
    def numbers(struct):
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield name
            elif hasattr(value, "__struct_fields__"):
                yield from numbers(value)

    named = [*numbers(Settings()), *numbers(PluginSettings())]
    assert len(named) > 20
    assert [name for name in named if not name.endswith(UNITS) and name != "attempts"] == []


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("", True),
        ("[plugins.gen]\nenabled = false", False),
        ("[plugin_host]\nrequire_enable = true", False),
        ("[plugin_host]\nrequire_enable = true\n[plugins.gen]\nenabled = true", True),
        ("[plugin_host]\nrequire_enable = true\n[plugins.gen]\nattempts = 1", False),
    ],
)
def test_whether_a_module_is_enabled(text, enabled):
    assert parse_settings(text, "f", {}).is_enabled("gen") is enabled


def test_a_plugin_the_file_does_not_name_has_the_defaults():
    settings = parse_settings("[plugins.gen]\nattempts = 7", "f", {})
    assert settings.for_plugin("gen").attempts == 7
    assert settings.for_plugin("other") == PluginSettings()
