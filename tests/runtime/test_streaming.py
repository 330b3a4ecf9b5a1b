"""Answers that are told as they are written: the parts are the item, and no flood of them costs what happened."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.runtime.engines import TellingEngine
from yoi_daemon.eventlog import ring
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.eventlog.interface import PositionExpiredError
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import WorkerDelta
from yoi_daemon.runtime.engines.interface import TurnClosedError
from yoi_daemon.runtime.streaming import DELTA_BYTES, DELTA_INTERVAL_S, ItemStream


async def create(runtime, text: str = "go") -> str:
    return (await runtime.create(profile="it", label="", input=text)).worker.worker_id


def joined(deltas: list[dict]) -> str:
    """The text they are parts of; each must begin where the one before ended."""
    text = b""
    for delta in deltas:
        assert delta["offset_bytes"] == len(text)
        assert 0 < len(delta["text"].encode()) <= DELTA_BYTES
        text += delta["text"].encode()
    return text.decode()


async def test_the_parts_are_told_together_and_are_the_item(open_runtime, seen, autojump_clock):
    words = [f"word{number} " for number in range(100)]
    async with open_runtime({"it": TellingEngine(words, pause_s=0.01)}) as runtime:
        worker_id = await create(runtime)
        await seen.until("worker.turn.finished")
        page = await runtime.transcript(worker_id)
    deltas = [event["data"] for event in seen.events("worker.delta")]
    item = seen.events("worker.item")[-1]["data"]
    assert joined(deltas) == item["text"] == page.items[-1].text == "".join(words)
    assert {(one["item_id"], one["generation"], one["role"]) for one in deltas} == {
        (item["item_id"], 1, "assistant")
    }
    assert deltas[0]["text"] == words[0]  # the first is seen at once
    at_most = 100 * 0.01 / DELTA_INTERVAL_S
    assert at_most / 2 < len(deltas) <= at_most + 2
    assert seen.kinds(worker_id)[-4:-2] == ["worker.item", "worker.turn.finished"]


async def test_what_was_written_is_told_though_the_engine_falls_silent(
    open_runtime, seen, autojump_clock
):
    engine = TellingEngine(["one ", "two ", "never"])
    async with open_runtime({"it": engine}) as runtime:
        await create(runtime, "fall silent")
        await engine.hangs.wait()
        await wait_all_tasks_blocked()
        assert [event["data"]["text"] for event in seen.events("worker.delta")] == ["one "]
        await trio.sleep(DELTA_INTERVAL_S * 1.1)
        await wait_all_tasks_blocked()
        assert [event["data"]["text"] for event in seen.events("worker.delta")] == ["one ", "two "]


async def test_a_cancelled_answer_comes_to_nothing_and_is_not_told_further(
    open_runtime, seen, autojump_clock
):
    engine = TellingEngine(["one ", "two ", "never"])
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await create(runtime, "fall silent")
        await engine.hangs.wait()
        await runtime.cancel(worker_id)  # before the second was told
        assert engine.item is not None
        with pytest.raises(TurnClosedError):
            await engine.item.write("late")
        await trio.sleep(1)
        await runtime.send(worker_id, "again")
        await seen.until("worker.turn.finished", 2)
    first, second = ([], [])
    for event in seen.events("worker.delta"):
        (first if event["data"]["generation"] == 1 else second).append(event["data"])
    assert joined(first) == "one "
    assert joined(second) == "one two never"
    roles = [event["data"]["role"] for event in seen.events("worker.item")]
    assert roles == ["user", "user", "assistant"]


async def test_a_finished_item_takes_no_more(open_runtime, seen):
    refused = []

    class Hasty:
        async def run(self, turn):
            async with turn.stream("assistant") as item:
                await item.write("done")
            with pytest.raises(RuntimeError, match="finished"):
                await item.write("more")
            refused.append(True)

    async with open_runtime({"it": Hasty()}) as runtime:
        await create(runtime)
        await seen.until("worker.turn.finished")
    assert refused
    assert joined([event["data"] for event in seen.events("worker.delta")]) == "done"


async def test_an_item_larger_than_a_transcript_fails_the_turn(open_runtime, seen):
    engine = TellingEngine(["x" * 1000] * 2)
    async with open_runtime({"it": engine}, transcript_bytes=1024) as runtime:
        worker_id = await create(runtime)
        await seen.until("worker.turn.finished")
    assert seen.outcomes(worker_id) == [("failed", "engine_failed")]
    assert [event["data"]["role"] for event in seen.events("worker.item")] == ["user"]


class Told:
    """Takes the deltas of one item."""

    def __init__(self) -> None:
        self.deltas: list[dict] = []
        self.now = 0.0
        self.due: list[float] = []

    def emit(self, delta: WorkerDelta) -> None:
        self.deltas.append({"offset_bytes": delta.offset_bytes, "text": delta.text})

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()

    def flush_at(self, when: float) -> None:
        self.due.append(when)

    def stream(self, max_bytes: int = 1 << 20) -> ItemStream:
        return ItemStream(
            self, lambda: self.now, item_id="i", role="assistant", generation=1, max_bytes=max_bytes
        )


parts = st.lists(
    st.tuples(
        st.one_of(st.text(max_size=20), st.sampled_from(["€" * 3000, "a" * 9001, "😀é" * 1500])),
        st.sampled_from([0.0, 0.0, 0.01, 0.06]),
    ),
    max_size=12,
)


@given(parts)
def test_any_text_is_told_exactly_in_bounded_deltas_between_characters(parts):
    async def main() -> None:
        told = Told()
        stream = told.stream()
        for text, later_s in parts:
            await stream.write(text)
            told.now += later_s
        whole = "".join(text for text, _ in parts)
        assert stream.finish() == whole
        assert joined(told.deltas) == whole
        size = len(whole.encode())
        spent_s = sum(later_s for _, later_s in parts)
        assert len(told.deltas) <= 2 + 2 * size / DELTA_BYTES + spent_s / DELTA_INTERVAL_S

    trio.run(main)


async def test_a_stream_refuses_what_is_too_large_before_it_takes_it():
    told = Told()
    stream = told.stream(max_bytes=10)
    await stream.write("12345678")
    with pytest.raises(Refused, match="payload_too_large"):
        await stream.write("€")
    assert stream.finish() == "12345678"


@pytest.fixture
async def flooded(open_log, ids, wall_clock):
    """Runs a worker whose answer's deltas fill the window many times over; gives the log."""
    from yoi_daemon.model.settings import RuntimeSettings
    from yoi_daemon.runtime.embedded import open_embedded_runtime
    from yoi_daemon.runtime.profiles import Profiles

    async with open_log(window_events=40) as log:
        profiles = Profiles({"it": TellingEngine(["x" * DELTA_BYTES] * 500)})
        opened = open_embedded_runtime(log, ids, profiles, RuntimeSettings(), wall_clock=wall_clock)
        async with opened as runtime:
            await runtime.stop(await create(runtime, "nothing"))
            worker_id = await create(runtime)
            while (await runtime.worker(worker_id)).state != "idle" or log.head < 500:
                await trio.lowlevel.checkpoint()
            await log.committed(log.appended)
        yield log


WHAT_HAPPENED = Filter(kinds=("worker.created", "worker.state", "worker.turn."))


async def test_a_flood_of_deltas_does_not_evict_what_happened(flooded):
    entries, _ = flooded.scan(WHAT_HAPPENED, 0, 1 << 40)
    assert [entry.kind for entry in entries].count("worker.created") == 2
    assert flooded.statistics().retentions["volume"].evicted >= 460
    assert flooded.statistics().retentions["lifecycle"].evicted == 0
    with pytest.raises(PositionExpiredError):
        flooded.scan(EVERYTHING, 0, 1)  # the hole is told to whoever wants them too


class TestControl:
    @pytest.fixture(autouse=True)
    def one_lane(self, monkeypatch):
        monkeypatch.setattr(ring, "retention_of", lambda entry: "lifecycle")

    async def test_in_one_lane_it_does(self, flooded):
        with pytest.raises(PositionExpiredError):
            flooded.scan(WHAT_HAPPENED, 0, 1)
