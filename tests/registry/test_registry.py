import pytest

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.registry.registry import Registry
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.profiles import make_profiles


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
