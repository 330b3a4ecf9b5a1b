import json
import socket
import sys

import pytest

from yoi_daemon.model.configuration import kinds_of
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import (
    LocalCompatSettings,
    RegisteredRuntimeSettings,
    RuntimeSettings,
)
from yoi_daemon.registry.opening import MAKERS, open_registry
from yoi_daemon.registry.registry import Registry
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.profiles import make_profiles


def test_each_kind_of_configured_runtime_can_be_made():
    kinds = kinds_of(RegisteredRuntimeSettings)
    assert kinds is not None
    assert set(MAKERS) == set(kinds.structs.values())


async def test_a_runtime_is_found_by_its_id_alone(event_log, ids):
    async with open_embedded_runtime(
        event_log, ids, make_profiles({}), RuntimeSettings()
    ) as embedded:
        registry = Registry({"backend-internal": embedded})
        assert registry.runtime("backend-internal") is embedded
        assert dict(registry.runtimes) == {"backend-internal": embedded}
        assert registry.summaries() == (embedded.summary(),)
        with pytest.raises(Refused, match="there is backend-internal") as caught:
            registry.runtime("gpu_box")
        assert caught.value.code == "runtime_not_found"


async def test_the_embedded_runtime_has_no_address_of_its_own(event_log, ids):
    async with open_embedded_runtime(
        event_log, ids, make_profiles({}), RuntimeSettings()
    ) as embedded:
        summary = embedded.summary()
    assert (summary.runtime_id, summary.implementation_kind) == ("backend-internal", "embedded")
    fields = set(summary.__struct_fields__)
    assert not fields & {"url", "endpoint", "token", "path", "socket", "directory"}


async def test_the_same_worker_id_in_two_runtimes_is_never_cross_routed(tmp_path, event_log, ids):
    async with open_embedded_runtime(
        event_log, ids, make_profiles({}), RuntimeSettings()
    ) as embedded:
        made = await embedded.create(profile="builtin:echo", label="mine", input="hello")
        worker_id = made.worker.worker_id
        record = {"state": "stopped", "created_at": "t", "label": "theirs"}
        (tmp_path / f"{worker_id}.json").write_text(json.dumps(record))
        settings = {"other": LocalCompatSettings(directory=str(tmp_path))}
        async with open_registry(embedded, settings, event_log) as registry:
            mine = await registry.runtime("backend-internal").worker(worker_id)
            theirs = await registry.runtime("other").worker(worker_id)
            assert (mine.label, mine.runtime_id) == ("mine", "backend-internal")
            assert (theirs.label, theirs.runtime_id) == ("theirs", "other")
            assert (await registry.runtime("other").transcript(worker_id)).items == ()
            with pytest.raises(Refused, match="unsupported_operation"):
                await registry.runtime("other").stop(worker_id)
            assert (await registry.runtime("backend-internal").worker(worker_id)).state != "stopped"
            listed, diagnostics = await registry.all_workers(100)
            assert [(one.runtime_id, one.label) for one in listed] == [
                ("backend-internal", "mine"),
                ("other", "theirs"),
            ]
            assert diagnostics == ()


async def test_a_runtime_that_is_down_is_a_diagnostic_and_the_rest_is_listed(
    tmp_path, event_log, ids
):
    async with open_embedded_runtime(
        event_log, ids, make_profiles({}), RuntimeSettings()
    ) as embedded:
        await embedded.create(profile="builtin:echo", label="")
        await embedded.create(profile="builtin:echo", label="")
        settings = {"gone": LocalCompatSettings(directory=str(tmp_path / "gone"))}
        async with open_registry(embedded, settings, event_log) as registry:
            listed, diagnostics = await registry.all_workers(1)
    assert len(listed) == 1
    assert [(one.code, one.severity) for one in diagnostics] == [
        ("list_cut", "info"),
        ("runtime_unavailable", "error"),
    ]


SOCKETS = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.__new__")


async def test_routing_to_the_embedded_runtime_opens_no_socket(event_log, ids):
    """Held by the interpreter's own audit events; the control at the end shows that they would tell."""
    opened: list[str] = []
    watching = True

    def watch(event: str, _arguments: object) -> None:
        if watching and event in SOCKETS:
            opened.append(event)

    sys.addaudithook(watch)
    async with open_embedded_runtime(
        event_log, ids, make_profiles({}), RuntimeSettings()
    ) as embedded:
        registry = Registry({"backend-internal": embedded})
        runtime = registry.runtime("backend-internal")
        made = await runtime.create(profile="builtin:echo", label="", input="hello")
        worker_id = made.worker.worker_id
        await runtime.send(worker_id, "more", when_busy="queue")
        await runtime.transcript(worker_id)
        await registry.all_workers(10)
        await runtime.stop(worker_id)
    assert opened == []
    socket.socket().close()
    watching = False
    assert opened == ["socket.__new__"]
