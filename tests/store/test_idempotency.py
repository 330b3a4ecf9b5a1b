import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.clocks import ManualClock
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.store.idempotency import MAX_KEY_CHARS, DeliveryKeys


def receipt(name: str) -> IngressReceipt:
    return IngressReceipt(event_id=name, correlation_id="c", queue_depth=1, cursor="x")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0)


class Rows(list):
    """Keeps the changes that it is given."""

    def record(self, changes) -> int:
        self.extend(changes)
        return len(self)


@pytest.fixture
def keys(clock) -> DeliveryKeys:
    return DeliveryKeys("p", IngressReceipt, Rows(), age_s=clock, max_keys=3, max_age_s=60)


async def accept(keys: DeliveryKeys, key: str, name: str, body: bytes = b"{}", ingress="push"):
    if (first := await keys.claim(ingress, key, body)) is not None:
        return first.event_id
    keys.settle(ingress, key, body, receipt(name))
    return name


async def test_the_same_key_gets_the_first_answer(keys):
    assert await accept(keys, "k", "one") == "one"
    assert await accept(keys, "k", "two") == "one"
    assert await accept(keys, "other", "two") == "two"


async def test_a_key_belongs_to_its_ingress(keys):
    assert await accept(keys, "k", "one") == "one"
    assert await accept(keys, "k", "two", ingress="pull") == "two"


async def test_another_body_is_a_conflict_that_names_the_event(keys):
    await accept(keys, "k", "one")
    with pytest.raises(Refused) as caught:
        await accept(keys, "k", "two", b"[]")
    assert caught.value.code == "delivery_id_conflict"
    assert caught.value.fields == {"event_id": "one"}


async def test_while_a_key_is_under_way_its_twins_wait(keys, nursery):
    assert await keys.claim("push", "k", b"{}") is None
    answers = []

    async def twin() -> None:
        answers.append(await accept(keys, "k", "twin"))

    for _ in range(3):
        nursery.start_soon(twin)
    await wait_all_tasks_blocked()
    assert answers == []
    keys.settle("push", "k", b"{}", receipt("first"))
    await wait_all_tasks_blocked()
    assert answers == ["first"] * 3


async def test_an_abandoned_key_goes_to_one_of_the_waiting(keys, nursery):
    assert await keys.claim("push", "k", b"{}") is None
    answers = []

    async def twin(name: str) -> None:
        answers.append(await accept(keys, "k", name))

    for name in ("a", "b", "c"):
        nursery.start_soon(twin, name)
    await wait_all_tasks_blocked()
    keys.abandon("push", "k")
    await wait_all_tasks_blocked()
    assert len(answers) == 3
    assert len(set(answers)) == 1


async def test_a_cancelled_twin_changes_nothing(keys):
    assert await keys.claim("push", "k", b"{}") is None
    with trio.move_on_after(0):
        await keys.claim("push", "k", b"{}")
    keys.settle("push", "k", b"{}", receipt("first"))
    assert await accept(keys, "k", "later") == "first"


async def test_keys_are_remembered_for_a_time(keys, clock):
    await accept(keys, "k", "one")
    clock.advance(59)
    assert await accept(keys, "k", "two") == "one"
    clock.advance(1)
    assert await accept(keys, "k", "three") == "three"


async def test_the_latest_are_remembered(keys):
    for name in "abcd":
        await accept(keys, name, name)
    assert await accept(keys, "d", "again") == "d"
    assert await accept(keys, "b", "again") == "b"
    assert await accept(keys, "a", "again") == "again"


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_CHARS + 1)])
async def test_a_key_has_a_length(keys, key):
    with pytest.raises(Refused, match="invalid_request"):
        await keys.claim("push", key, b"")
    assert await keys.claim("push", "x" * MAX_KEY_CHARS, b"") is None
