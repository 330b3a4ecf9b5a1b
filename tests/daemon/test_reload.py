"""A reload is of all or of nothing: configuration, plugins, runtimes and tokens."""

import json
import time
from collections.abc import AsyncGenerator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.daemon.token_file import TokenFile
from yoi_daemon.front.principal import ADMIN
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import Refused

PLUGIN = """
from yoi_daemon.sdk import Plugin
plugin = Plugin("gen")
@plugin.ingress("{ingress}")
async def take(ctx, event): ...
"""


@pytest.fixture
def place(tmp_path):
    for name in ("config/plugins", "state", "one", "two"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def configure(place, text: str = "", **runtimes: str) -> None:
    tables = [
        f"[runtimes.{name}]\nkind = 'local_compat'\ndirectory = '{place / directory}'\n"
        for name, directory in runtimes.items()
    ]
    (place / "config" / "yoi-daemon.toml").write_text(
        "[store]\nkind = 'memory'\n" + text + "".join(tables)
    )


@pytest.fixture
async def daemon(place) -> AsyncGenerator[Daemon]:
    directories = Directories(place / "config", place / "state", place / "state" / "secrets")
    configure(place, one="one")
    (place / "one" / "w1.json").write_text(json.dumps({"state": "stopped", "created_at": "t"}))
    (place / "two" / "w2.json").write_text(json.dumps({"state": "stopped", "created_at": "t"}))
    tokens = Tokens("yoi_t", keeper=TokenFile(directories.tokens_file))
    settings = read_settings(directories, {})
    async with open_daemon(directories, settings, tokens, {}) as one:
        yield one
        await one.plugins.shutdown(budget_s=1)


async def workers(daemon: Daemon) -> list[tuple[str, str]]:
    listed, _ = await daemon.registry.all_workers(100)
    return [(one.runtime_id, one.worker_id) for one in listed]


async def test_runtimes_come_go_and_are_another(daemon, place):
    kept = daemon.registry.runtime("one")
    configure(place, one="one", two="two")
    reloaded = await reload(daemon)
    assert (reloaded.runtimes, reloaded.needs_restart) == (("two",), ())
    assert daemon.registry.runtime("one") is kept
    assert await workers(daemon) == [("one", "w1"), ("two", "w2")]
    assert {one.status for one in daemon.registry.summaries()} == {"available"}

    configure(place, one="two")
    reloaded = await reload(daemon)
    assert (reloaded.runtimes, reloaded.needs_restart) == (("two", "one"), ())
    assert await workers(daemon) == [("one", "w2")]
    with pytest.raises(Refused, match="runtime_not_found"):
        daemon.registry.runtime("two")
    # Who held the old one is answered still.
    assert [one.worker_id for one in (await kept.workers(limit=10)).items] == ["w1"]

    configure(place)
    assert (await reload(daemon)).runtimes == ("one",)
    assert list(daemon.registry.runtimes) == ["backend-internal"]
    assert (await reload(daemon)).runtimes == ()


async def test_of_a_runtime_that_was_taken_the_status_is_kept_current(daemon, place, mock_clock):
    configure(place, three="three")
    await reload(daemon)
    runtime = daemon.registry.runtime("three")
    assert runtime.status() == "unavailable"
    (place / "three").mkdir()
    await wait_all_tasks_blocked()
    mock_clock.jump(11)
    # A thread looks, in time that the test's clock knows nothing of: one that jumps by itself overtakes it.
    given_up_s = time.monotonic() + 30
    while runtime.status() != "available":
        assert time.monotonic() < given_up_s
        await trio.lowlevel.checkpoint()


async def test_tokens_are_read_again(daemon):
    secret, info = await daemon.tokens.create(ADMIN, scopes=["status:read"])
    file = daemon.directories.tokens_file
    backup = file.read_bytes()
    await daemon.tokens.revoke(info.token_id)
    file.write_bytes(backup)  # restored by hand
    with pytest.raises(Refused, match="reload"):  # and not written over
        await daemon.tokens.create(ADMIN, scopes=["status:read"])
    await reload(daemon)
    assert daemon.tokens.authenticate(f"Bearer {secret}", "a").token_id == info.token_id
    file.unlink()
    await reload(daemon)
    with pytest.raises(Refused, match="unauthenticated"):
        daemon.tokens.authenticate(f"Bearer {secret}", "a")


async def change_everything(daemon, place) -> str:
    """A good change of each part, none of them taken; gives the secret of a token that is to go."""
    secret, _ = await daemon.tokens.create(ADMIN, scopes=["status:read"])
    daemon.directories.tokens_file.unlink()
    (place / "config" / "plugins" / "gen.py").write_text(PLUGIN.format(ingress="new"))
    configure(place, "[daemon]\nlog_level = 'error'\n", two="two")
    return secret


def is_as_before(daemon, secret: str) -> bool:
    return (
        daemon.tokens.authenticate(f"Bearer {secret}", "a").scopes == {"status:read"}
        and list(daemon.registry.runtimes) == ["backend-internal", "one"]
        and daemon.plugins.services == {}
        and daemon.settings.daemon.log_level == "info"
    )


BAD = {
    "tokens that do not read": ("tokens.json does not read as tokens", "state/tokens.json", "{"),
    "an unknown key": ("nope", "config/yoi-daemon.toml", "[nope]"),
    "a plugin that does not load": ("plugins/gen.py:1", "config/plugins/gen.py", "def (:"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_where_one_part_is_bad_none_is_taken(daemon, place, bad):
    says, file, text = BAD[bad]
    secret = await change_everything(daemon, place)
    (place / file).write_text(text)
    (place / file).chmod(0o600)
    with pytest.raises(Refused, match="invalid_state") as caught:
        await reload(daemon)
    (fault,) = caught.value.fields["faults"]
    assert says in fault
    assert str(place) not in fault
    assert is_as_before(daemon, secret)
    (told,) = daemon.status().diagnostics
    assert told.code == "reload_refused"
    assert says in told.message


async def test_tokens_that_others_could_have_written_refuse_it(daemon, place):
    secret = await change_everything(daemon, place)
    (place / "state" / "tokens.json").write_text("{}")
    (place / "state" / "tokens.json").chmod(0o666)
    with pytest.raises(Refused) as caught:
        await reload(daemon)
    assert "tokens.json is open to others" in caught.value.fields["faults"][0]
    assert str(place) not in caught.value.fields["faults"][0]
    assert is_as_before(daemon, secret)


async def test_the_control_all_of_it_is_taken_where_all_is_good(daemon, place):
    secret = await change_everything(daemon, place)
    reloaded = await reload(daemon)
    assert (reloaded.plugins, reloaded.runtimes) == (("gen",), ("one", "two"))
    with pytest.raises(Refused, match="unauthenticated"):
        daemon.tokens.authenticate(f"Bearer {secret}", "a")
    assert list(daemon.registry.runtimes) == ["backend-internal", "two"]
    assert daemon.settings.daemon.log_level == "error"


async def test_a_reload_of_one_plugin_is_of_it_alone(daemon, place):
    secret = await change_everything(daemon, place)
    reloaded = await reload(daemon, "gen")
    assert (reloaded.plugins, reloaded.runtimes) == (("gen",), ())
    assert daemon.tokens.authenticate(f"Bearer {secret}", "a")
    assert list(daemon.registry.runtimes) == ["backend-internal", "one"]
    # What it passed over is not forgotten: the next whole reload takes it.
    assert (await reload(daemon)).runtimes == ("one", "two")
