"""What the log in memory says of itself; what all logs hold is in conformance/."""

from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import ObserveSettings


async def test_it_does_not_claim_to_be_durable(event_log):
    assert event_log.durable is False


async def test_every_opening_is_another_epoch():
    epochs = set()
    for _ in range(3):
        async with open_event_log(ObserveSettings()) as log:
            epochs.add(log.cursors.epoch)
    assert len(epochs) == 3


async def test_a_batch_is_one_commit(event_log):
    for number in range(10):
        event_log.append(Draft(kind="a.b", data=number))
    await event_log.committed(10)
    assert event_log.statistics().commits == 1
