"""Records that somebody else has written, read again while tokens are in use."""

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.front.test_tokens import Kept, refused_code, whose
from tests.front.test_tokens import kept as kept
from tests.front.test_tokens import tokens as tokens
from yoi_daemon.front.principal import ADMIN
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.errors import StorageFailed


async def read_again(tokens: Tokens) -> None:
    async with tokens.reading_again() as take:
        take()


def edit(kept: Kept, token_id: str, **changes) -> None:
    kept.records = tuple(
        msgspec.structs.replace(one, **changes) if one.token_id == token_id else one
        for one in kept.records
    )


async def test_after_a_reload_new_tokens_work_and_removed_ones_do_not(tokens, kept):
    first, info = await tokens.create(ADMIN, scopes=["events:read"])
    backup = kept.records
    second, _ = await tokens.create(ADMIN, scopes=["events:read"])
    kept.records = backup
    await read_again(tokens)
    assert whose(tokens, first).token_id == info.token_id
    assert refused_code(tokens, second) == "unauthenticated"
    assert [one.token_id for one in tokens.infos()] == [info.token_id]
    kept.records = ()
    await read_again(tokens)
    assert refused_code(tokens, first) == "unauthenticated"
    kept.records = backup
    await read_again(tokens)
    assert whose(tokens, first).token_id == info.token_id


@pytest.mark.parametrize(
    "changes", [{"scopes": ("status:read",)}, {"expires_s": 4e9}, {"sha256": "00" * 32}]
)
async def test_a_reload_closes_what_a_changed_token_opened(tokens, kept, changes):
    secret, info = await tokens.create(ADMIN, scopes=["events:read", "status:read"])
    before = whose(tokens, secret)
    edit(kept, info.token_id, **changes)
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def follow() -> None:
            with tokens.while_valid(before):
                await trio.sleep_forever()
            ended.set()

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        await read_again(tokens)
        with trio.fail_after(10):
            await ended.wait()
    # What the old record allowed is allowed to nobody who came by it.
    assert not tokens.is_valid(before)
    if "sha256" not in changes:
        after = whose(tokens, secret)
        assert after.scopes == frozenset(changes.get("scopes", before.scopes))


async def test_a_reload_keeps_open_what_an_unchanged_token_opened(tokens, kept, wall_clock):
    secret, info = await tokens.create(ADMIN, scopes=["events:read"])
    principal = whose(tokens, secret)
    used = tokens.infos()[0].last_used_at
    assert used is not None
    edit(kept, info.token_id, label="another")  # in the file it was never used
    with tokens.while_valid(principal) as scope:
        await read_again(tokens)
        assert not scope.cancel_called
    (told,) = tokens.infos()
    assert (told.label, told.last_used_at) == ("another", used)
    assert tokens.is_valid(principal)


async def test_an_unreadable_token_file_changes_nothing(tokens, kept, monkeypatch):
    secret, _ = await tokens.create(ADMIN, scopes=["events:read"])

    def fail() -> None:
        raise StorageFailed("no tokens")

    monkeypatch.setattr(kept, "load", fail)
    with pytest.raises(StorageFailed):
        await read_again(tokens)
    assert whose(tokens, secret).scopes == {"events:read"}
    await tokens.create(ADMIN, scopes=["events:read"])  # and holds up nobody


async def test_records_that_were_read_but_not_applied_change_nothing(tokens, kept):
    secret, _ = await tokens.create(ADMIN, scopes=["events:read"])
    kept.records = ()
    async with tokens.reading_again():
        pass
    assert whose(tokens, secret).scopes == {"events:read"}


async def test_creating_a_token_during_a_reload_waits_for_it(tokens, kept):
    old, _ = await tokens.create(ADMIN, scopes=["events:read"])
    kept.records = ()
    made: list[str] = []

    async def make() -> None:
        made.append((await tokens.create(ADMIN, scopes=["status:read"]))[0])

    async with trio.open_nursery() as nursery, tokens.reading_again() as take:
        nursery.start_soon(make)
        await wait_all_tasks_blocked()
        assert made == []
        take()
    assert whose(tokens, made[0]).scopes == {"status:read"}
    assert refused_code(tokens, old) == "unauthenticated"
    assert len(kept.records) == 1


async def test_a_token_revoked_during_a_reload_stays_revoked(tokens, kept):
    secret, info = await tokens.create(ADMIN, scopes=["events:read"])
    async with trio.open_nursery() as nursery, tokens.reading_again() as take:
        nursery.start_soon(tokens.revoke, info.token_id)
        await wait_all_tasks_blocked()
        take()
        assert refused_code(tokens, secret) == "unauthenticated"
    assert refused_code(tokens, secret) == "unauthenticated"
    assert kept.records == ()
