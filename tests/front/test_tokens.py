"""Tokens in this process: who may what, until when, and what ends with them."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.clocks import ManualClock
from yoi_daemon.front.failed_attempts import FailedAttempts
from yoi_daemon.front.principal import ADMIN, TOKEN_FORM, Principal, make_secret
from yoi_daemon.front.tokens import MAX_TOKENS, USE_KEPT_S, NotKept, Tokens
from yoi_daemon.model.errors import Refused, StorageFailed
from yoi_daemon.model.tokens import PERMISSIONS

TOKEN = "yoi_0123456789"


class Kept(NotKept):
    """Keeps the records in memory, counts how often, and fails when told to."""

    def __init__(self) -> None:
        self.records = ()
        self.writes = 0
        self.fails = False

    def load(self):
        return self.records

    def save(self, records) -> None:
        if self.fails:
            raise StorageFailed("no room")
        self.records = tuple(records)
        self.writes += 1


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def tokens(kept, wall_clock) -> Tokens:
    return reopened(kept, wall_clock)


def reopened(kept, wall_clock) -> Tokens:
    return Tokens(TOKEN, keeper=kept, wall_clock=wall_clock, failures=lenient())


def lenient() -> FailedAttempts:
    return FailedAttempts(per_s=10_000, total_per_s=10_000)


def whose(tokens: Tokens, secret: str) -> Principal:
    return tokens.authenticate(f"Bearer {secret}", "test")


def refused_code(tokens: Tokens, secret: str) -> str | None:
    try:
        whose(tokens, secret)
    except Refused as refused:
        return refused.code
    return None


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_the_admins_token_may_everything(tokens, header):
    principal = tokens.authenticate(header, "test")
    assert principal == Principal("admin", PERMISSIONS)
    for permission in PERMISSIONS:
        principal.require(permission, "gen")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
     f"Bearer {TOKEN.upper()}", "Bearer \udc80", f"Bearer{TOKEN}", f"Bearer {TOKEN}, Bearer {TOKEN}"],
)  # fmt: skip
def test_anything_else_is_refused(tokens, header):
    with pytest.raises(Refused) as caught:
        tokens.authenticate(header, "test")
    assert caught.value.code == "unauthenticated"
    assert TOKEN not in str(caught.value)


@given(st.text(max_size=30))
def test_no_other_text_is_the_token(text):
    assert refused_code(Tokens(TOKEN, failures=lenient()), text) == "unauthenticated"


def test_a_secret_is_256_random_bits_with_a_prefix_to_know_it_by():
    made = {make_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(secret) for secret in made} == {len("yoi_") + 43}  # 32 bytes in base64
    assert all(TOKEN_FORM.fullmatch(secret) for secret in made)


def test_a_scope_that_is_lacking_is_named():
    principal = Principal("tok_1", frozenset({"events:read"}))
    principal.require("events:read")
    with pytest.raises(Refused, match="workers:command") as caught:
        principal.require("workers:command")
    assert caught.value.code == "forbidden"


async def test_a_token_has_its_scopes_and_its_secret_is_stored_nowhere(tokens, kept):
    secret, info = await tokens.create(ADMIN, scopes=["events:read", "events:read"], label="x")
    assert whose(tokens, secret) == Principal(info.token_id, frozenset({"events:read"}))
    assert (info.scopes, info.created_by, info.expires_at) == (("events:read",), "admin", None)
    assert secret not in repr(kept.records)
    assert secret not in repr(tokens.infos())
    assert kept.records[0].sha256 not in repr(tokens.infos())


async def test_tokens_outlive_the_process_and_revoked_ones_do_not(tokens, kept, wall_clock):
    one, _ = await tokens.create(ADMIN, scopes=["events:read"])
    two, info = await tokens.create(ADMIN, scopes=["status:read"])
    await tokens.revoke(info.token_id)
    assert refused_code(tokens, two) == "unauthenticated"
    later = reopened(kept, wall_clock)
    assert whose(later, one).scopes == {"events:read"}
    assert refused_code(later, two) == "unauthenticated"


@pytest.mark.parametrize(
    ("scopes", "code"),
    [
        ([], "invalid_request"),
        (["events"], "invalid_request"),
        (["events:read", "ingress:write:Gen"], "invalid_request"),
        (["workers:command"], "forbidden"),
        (["events:read", "workers:command"], "forbidden"),
        (["ingress:write"], "forbidden"),
        (["ingress:write:other"], "forbidden"),
    ],
)
async def test_a_token_gives_nothing_it_has_not_itself(tokens, kept, scopes, code):
    creator = Principal("tok_1", frozenset({"tokens:admin", "events:read", "ingress:write:gen"}))
    with pytest.raises(Refused) as caught:
        await tokens.create(creator, scopes=scopes)
    assert caught.value.code == code
    assert kept.records == ()


async def test_a_token_grants_only_what_it_has(tokens):
    granted = ["tokens:admin", "events:read", "ingress:write:gen"]
    secret, _ = await tokens.create(ADMIN, scopes=granted)
    child, info = await tokens.create(whose(tokens, secret), scopes=granted[1:])
    assert whose(tokens, child).scopes == set(granted[1:])
    assert info.created_by == whose(tokens, secret).token_id


async def test_a_token_made_by_one_that_expires_does_not_outlive_it(tokens, wall_clock):
    secret, parent = await tokens.create(ADMIN, scopes=["tokens:admin"], expires_in_s=100)
    creator = whose(tokens, secret)
    _, info = await tokens.create(creator, scopes=["tokens:admin"])
    assert info.expires_at == parent.expires_at
    await tokens.create(creator, scopes=["tokens:admin"], expires_in_s=100)
    with pytest.raises(Refused, match="outlive"):
        await tokens.create(creator, scopes=["tokens:admin"], expires_in_s=101)


async def test_an_expired_token_is_refused_from_its_second_on(tokens, wall_clock):
    secret, info = await tokens.create(ADMIN, scopes=["events:read"], expires_in_s=10)
    assert not info.expired
    wall_clock.advance(9.999)
    assert refused_code(tokens, secret) is None
    wall_clock.advance(0.001)
    assert refused_code(tokens, secret) == "unauthenticated"
    assert tokens.infos()[0].expired


async def test_a_creator_that_ended_meanwhile_makes_nothing(tokens):
    secret, info = await tokens.create(ADMIN, scopes=["tokens:admin"])
    creator = whose(tokens, secret)
    await tokens.revoke(info.token_id)
    with pytest.raises(Refused, match="unauthenticated"):
        await tokens.create(creator, scopes=["tokens:admin"])


async def test_there_are_so_many_tokens_and_no_more(tokens):
    for _ in range(MAX_TOKENS):
        await tokens.create(ADMIN, scopes=["events:read"])
    with pytest.raises(Refused) as caught:
        await tokens.create(ADMIN, scopes=["events:read"])
    assert caught.value.code == "limit_reached"


async def test_expired_tokens_make_room_where_there_is_none(tokens, kept, wall_clock):
    secret, _ = await tokens.create(ADMIN, scopes=["events:read"], expires_in_s=10)
    for _ in range(MAX_TOKENS - 1):
        await tokens.create(ADMIN, scopes=["events:read"])
    wall_clock.advance(10)
    await tokens.create(ADMIN, scopes=["events:read"])
    assert len(tokens.infos()) == len(kept.records) == MAX_TOKENS
    assert refused_code(tokens, secret) == "unauthenticated"


async def test_neither_an_unknown_token_nor_the_admins_can_be_revoked(tokens):
    with pytest.raises(Refused) as caught:
        await tokens.revoke("tok_nope")
    assert caught.value.code == "token_not_found"
    with pytest.raises(Refused, match=r"admin\.token") as caught:
        await tokens.revoke("admin")
    assert caught.value.code == "invalid_state"


async def test_a_token_that_cannot_be_kept_is_not_made(tokens, kept):
    kept.fails = True
    with pytest.raises(Refused) as caught:
        await tokens.create(ADMIN, scopes=["events:read"])
    assert (caught.value.code, tokens.infos()) == ("storage_low", ())


async def test_a_revocation_that_cannot_be_kept_ends_the_token_here_and_is_tried_again(
    tokens, kept, wall_clock
):
    secret, info = await tokens.create(ADMIN, scopes=["events:read"])
    kept.fails = True
    with pytest.raises(Refused) as caught:
        await tokens.revoke(info.token_id)
    assert caught.value.code == "storage_low"
    assert refused_code(tokens, secret) == "unauthenticated"
    kept.fails = False
    await tokens.revoke(info.token_id)
    assert refused_code(reopened(kept, wall_clock), secret) == "unauthenticated"


async def hold(tokens, principal, ended: list[str]) -> None:
    with tokens.while_valid(principal) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    ended.append(principal.token_id)


async def test_revoking_a_token_closes_what_it_opened_and_nothing_else(tokens, nursery):
    ended: list[str] = []
    ids = []
    for _ in range(2):
        secret, info = await tokens.create(ADMIN, scopes=["events:read"])
        ids.append(info.token_id)
        for _ in range(3):
            nursery.start_soon(hold, tokens, whose(tokens, secret), ended)
    nursery.start_soon(hold, tokens, ADMIN, ended)
    await wait_all_tasks_blocked()
    await tokens.revoke(ids[0])
    await wait_all_tasks_blocked()
    assert ended == [ids[0]] * 3
    nursery.cancel_scope.cancel()


async def test_a_scope_opened_with_a_revoked_token_ends_at_once(tokens):
    ended: list[str] = []
    secret, info = await tokens.create(ADMIN, scopes=["events:read"])
    principal = whose(tokens, secret)
    await tokens.revoke(info.token_id)
    with trio.fail_after(1):
        await hold(tokens, principal, ended)
    with pytest.raises(Refused, match="unauthenticated"):
        tokens.require_valid(principal)


async def test_open_scopes_end_within_a_second_of_their_tokens_expiry(
    tokens, nursery, wall_clock, mock_clock
):
    ended: list[str] = []
    nursery.start_soon(tokens.tend)
    secret, _ = await tokens.create(ADMIN, scopes=["events:read"], expires_in_s=10)
    nursery.start_soon(hold, tokens, whose(tokens, secret), ended)
    await wait_all_tasks_blocked()
    mock_clock.jump(20)  # the wall clock decides, not ours
    await wait_all_tasks_blocked()
    assert ended == []
    wall_clock.advance(10)
    mock_clock.jump(1)
    await wait_all_tasks_blocked()
    assert len(ended) == 1
    nursery.cancel_scope.cancel()


async def test_last_use_is_true_to_the_minute_and_not_saved_for_each_request(
    tokens, kept, wall_clock
):
    secret, _ = await tokens.create(ADMIN, scopes=["events:read"])
    assert tokens.infos()[0].last_used_at is None
    wall_clock.now = 1_800_000_047.5  # 08:00:47.5
    for _ in range(1000):
        whose(tokens, secret)
    assert kept.writes == 1
    assert tokens.infos()[0].last_used_at == "2027-01-15T08:00:00.000000Z"
    tokens.keep_uses()
    assert (kept.writes, kept.records[0].last_used_s) == (2, 1_800_000_000)
    tokens.keep_uses()
    assert kept.writes == 2


async def test_last_uses_are_written_down_from_time_to_time(
    tokens, kept, wall_clock, nursery, mock_clock
):
    secret, _ = await tokens.create(ADMIN, scopes=["events:read"])
    nursery.start_soon(tokens.tend)
    for _ in range(4):
        await wait_all_tasks_blocked()
        wall_clock.advance(60)
        whose(tokens, secret)
        mock_clock.jump(USE_KEPT_S / 4 - 1)
    await wait_all_tasks_blocked(0.01)
    assert kept.writes == 1
    mock_clock.jump(10)
    with trio.fail_after(5):
        while kept.writes == 1:
            await trio.lowlevel.checkpoint()
    nursery.cancel_scope.cancel()


def test_failures_to_keep_a_last_use_harm_nothing(tokens, kept):
    tokens._has_new_uses = kept.fails = True
    tokens.keep_uses()


class TestFailures:
    """Whoever guesses is told less and less often that it was wrong; who has a token never notices."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(0.0)

    @pytest.fixture
    def tokens(self, clock) -> Tokens:
        return Tokens(TOKEN, failures=FailedAttempts(per_s=3, total_per_s=8, clock=clock))

    def fail(self, tokens: Tokens, address: str, times: int) -> list[str]:
        codes = []
        for _ in range(times):
            with pytest.raises(Refused) as caught:
                tokens.authenticate("Bearer wrong", address)
            codes.append(caught.value.code)
            if caught.value.code == "rate_limited":
                assert caught.value.retry_after_s is not None
                assert caught.value.retry_after_s > 0
        return codes

    def test_one_address_has_so_many_and_another_its_own(self, tokens, clock):
        assert self.fail(tokens, "a", 5) == ["unauthenticated"] * 3 + ["rate_limited"] * 2
        assert self.fail(tokens, "b", 1) == ["unauthenticated"]
        clock.advance(1)
        assert self.fail(tokens, "a", 4) == ["unauthenticated"] * 3 + ["rate_limited"]

    def test_all_together_have_so_many(self, tokens):
        codes = [code for n in range(10) for code in self.fail(tokens, f"address {n}", 1)]
        assert codes == ["unauthenticated"] * 8 + ["rate_limited"] * 2

    def test_a_right_token_is_never_kept_waiting(self, tokens):
        self.fail(tokens, "a", 1000)
        for address in ("a", "b"):
            assert tokens.authenticate(f"Bearer {TOKEN}", address) is ADMIN

    def test_no_token_at_all_counts_too(self, tokens):
        for _ in range(3):
            with pytest.raises(Refused, match="send a token"):
                tokens.authenticate(None, "a")
        with pytest.raises(Refused, match="rate_limited"):
            tokens.authenticate(None, "a")
