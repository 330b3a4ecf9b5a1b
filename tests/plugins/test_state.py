"""A plugin's own state: bounded, JSON, shared with nobody, refused after the verdict."""

import pytest
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.execution.state import MAX_STATE_BYTES, MAX_VALUE_BYTES, PluginState
from yoi_daemon.sdk import AttemptClosedError, Plugin


def test_values_are_kept_as_json_and_shared_with_nobody():
    state, value = PluginState("p", len), {"list": [1]}
    state.set("k", value)
    value["list"].append(2)
    state.get("k")["list"].append(3)
    assert state.get("k") == {"list": [1]}
    state.delete("k")
    state.delete("k")
    assert (state.get("k"), state.keys()) == (None, [])


def test_it_is_bounded_and_a_refusal_changes_nothing():
    state = PluginState("p", len)
    for key, value, code in [
        ("", 1, "invalid_request"),
        ("k" * 201, 1, "invalid_request"),
        ("k", object(), "invalid_request"),
        ("k", "x" * MAX_VALUE_BYTES, "payload_too_large"),
    ]:
        with pytest.raises(Refused) as refused:
            state.set(key, value)
        assert refused.value.code == code
    assert state.keys() == []
    large = "x" * (MAX_VALUE_BYTES - 2)
    whole = MAX_STATE_BYTES // (MAX_VALUE_BYTES + 2)
    for number in range(whole):
        state.set(f"{number:02}", large)
    with pytest.raises(Refused) as refused:
        state.set("one more", large)
    assert refused.value.code == "limit_reached"
    state.set("00", large)  # the same again takes no more
    state.delete("01")
    state.set("one more", large)


async def test_it_outlives_a_restart_and_late_writes_are_refused(autojump_clock, rig):
    seen = []
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        seen.append(await ctx.state.get("n"))
        if event.payload == "late":
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    with pytest.raises(AttemptClosedError):
                        await ctx.state.set("n", "late")
                    with pytest.raises(AttemptClosedError):
                        await ctx.state.delete("n")
        else:
            await ctx.state.set("n", event.payload)

    service = rig.add(plugin, attempts=1)
    await rig.accept(service, "go", 1)
    await rig.accept(service, "go", "late")
    await trio.sleep(50)
    await service.restart()
    await rig.accept(service, "go", 2)
    await trio.sleep(1)
    assert seen == [None, 1, 1]
