"""Tokens: created, checked and revoked; whatever a token opened is closed with it."""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Protocol

import msgspec
import structlog
import trio

from yoi_daemon.front.failed_attempts import FailedAttempts
from yoi_daemon.front.principal import ADMIN, Principal, make_secret
from yoi_daemon.model.errors import Refused, StorageFailed, YoiError
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.tokens import (
    ADMIN_ID,
    SCOPE_RULE,
    TokenInfo,
    TokenRecord,
    info_of,
    is_scope,
    may_grant,
)

MAX_TOKENS = 1000
TICK_S = 0.5
"""Maximum delay before open connections notice an expiry."""
USE_S = 60.0
"""Precision of a token's last use, which is saved with other changes, or after `USE_KEPT_S`."""
USE_KEPT_S = 300.0


class TokenKeeper(Protocol):
    """Stores the records."""

    def load(self) -> Sequence[TokenRecord]:
        """Returns all of them. Raises `StorageFailed`, `NotAllowed`."""
        ...

    def save(self, records: Sequence[TokenRecord]) -> None:
        """Replaces all of them, durably or not at all.

        Raises `StorageFailed`, `NotAllowed`, and `Refused` (`invalid_state`) if something else has
        written them since.
        """
        ...


class NotKept:
    """Stores nothing: tokens end with the process."""

    def load(self) -> Sequence[TokenRecord]:
        return ()

    def save(self, records: Sequence[TokenRecord]) -> None:
        return


class _Token:
    """A known token: its record, and the scopes of what it opened."""

    def __init__(self, record: TokenRecord) -> None:
        self.record = record
        self.is_revoked = False
        self.open: set[trio.CancelScope] = set()
        self.principal = Principal(record.token_id, frozenset(record.scopes), record.expires_s)

    def is_valid(self, now_s: float) -> bool:
        expires_s = self.record.expires_s
        return not self.is_revoked and (expires_s is None or now_s < expires_s)

    def note_use(self, now_s: float) -> bool:
        """Records the minute of use. Returns True if it changed."""
        minute = now_s - now_s % USE_S
        if self.record.last_used_s == minute:
            return False
        self.record = msgspec.structs.replace(self.record, last_used_s=minute)
        return True

    def is_still(self, record: TokenRecord) -> bool:
        """True if `record` has the same secret, scopes and expiry."""
        ours = self.record
        return (ours.sha256, ours.expires_s, set(ours.scopes)) == (
            record.sha256,
            record.expires_s,
            set(record.scopes),
        )

    def close_what_is_open(self) -> None:
        for scope in self.open:
            scope.cancel()


class Tokens:
    """All tokens. `wall_clock` returns Unix seconds; the records are read at once.

    Raises what `keeper.load` raises.
    """

    def __init__(
        self,
        admin_token: str,
        *,
        keeper: TokenKeeper | None = None,
        failures: FailedAttempts | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.failures = failures or FailedAttempts()
        self._admin_digest = _digest(admin_token)
        self._keeper = keeper or NotKept()
        self._wall_clock = wall_clock
        self._new_id = partial(IdSource(wall_clock).new, "tok")
        self._by_id = {record.token_id: _Token(record) for record in self._keeper.load()}
        self._by_digest = {token.record.sha256: token for token in self._by_id.values()}
        self._saving = trio.Lock()
        self._has_new_uses = False

    def authenticate(self, authorization: str | None, address: str) -> Principal:
        """Returns the principal of the bearer token in an `Authorization` header from `address`.

        Raises `Refused`: `unauthenticated`, or `rate_limited` after too many failures.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            refused = Refused("unauthenticated", "send a token: Authorization: Bearer TOKEN")
            raise self.failures.refusal(address, refused)
        # By its digest, which nobody can choose, so the time of the look-up reveals nothing.
        digest = _digest(secret.strip())
        if digest == self._admin_digest:
            return ADMIN
        token = self._by_digest.get(digest)
        now_s = self._wall_clock()
        if token is None or not token.is_valid(now_s):
            raise self.failures.refusal(address, _not_valid())
        self._has_new_uses |= token.note_use(now_s)
        return token.principal

    def is_valid(self, principal: Principal) -> bool:
        """True if the token has neither been revoked nor expired since."""
        if principal.token_id == ADMIN_ID:
            return True
        token = self._by_id.get(principal.token_id)
        # The same object: a replaced record may have another secret, or fewer scopes.
        if token is None or token.principal is not principal:
            return False
        return token.is_valid(self._wall_clock())

    def require_valid(self, principal: Principal) -> None:
        """Raises `Refused` (`unauthenticated`) unless `is_valid`."""
        if not self.is_valid(principal):
            raise _not_valid()

    @contextmanager
    def while_valid(self, principal: Principal) -> Generator[trio.CancelScope]:
        """Opens a scope that is cancelled when the token is revoked, or up to `TICK_S` after it expires."""
        token = self._by_id.get(principal.token_id)
        with trio.CancelScope() as scope:
            if not self.is_valid(principal):
                scope.cancel()
            try:
                if token is not None:
                    token.open.add(scope)
                yield scope
            finally:
                if token is not None:
                    token.open.discard(scope)

    def infos(self) -> tuple[TokenInfo, ...]:
        """Returns every token but the admin's, in order of creation."""
        now_s = self._wall_clock()
        return tuple(info_of(token.record, now_s) for token in self._by_id.values())

    async def create(
        self,
        creator: Principal,
        *,
        scopes: Sequence[str],
        label: str = "",
        expires_in_s: float | None = None,
    ) -> tuple[str, TokenInfo]:
        """Creates a token durably. Returns its secret, which is stored nowhere, and its public view.

        Without `expires_in_s` it expires with its creator's. Raises `Refused`:
        `invalid_request`, `forbidden` (more than the creator may, or for longer), `limit_reached`,
        `storage_low`, `invalid_state` if the records were changed by hand and not reloaded. Cancelled, it
        may have been created; then nobody has its secret.
        """
        now_s = self._wall_clock()
        expires_s = creator.expires_s if expires_in_s is None else now_s + expires_in_s
        _check_grant(creator, scopes, expires_s)
        secret = make_secret()
        record = TokenRecord(
            token_id=self._new_id(),
            sha256=_digest(secret),
            label=label,
            scopes=tuple(dict.fromkeys(scopes)),
            created_by=creator.token_id,
            created_s=now_s,
            expires_s=expires_s,
        )
        async with self._saving:
            self.require_valid(creator)
            if len(self._by_id) >= MAX_TOKENS:
                self._forget_expired(now_s)
            if len(self._by_id) >= MAX_TOKENS:
                raise Refused(
                    "limit_reached", f"there are {MAX_TOKENS} tokens; revoke those nobody uses"
                )
            await self._save([*self._records(), record])
            token = self._by_id[record.token_id] = _Token(record)
            self._by_digest[record.sha256] = token
        return secret, info_of(record, now_s)

    async def revoke(self, token_id: str) -> TokenInfo:
        """Revokes a token: at once, with everything that it opened; durably when this returns.

        Raises `Refused`: `token_not_found`, `invalid_state` for the admin's, or where the records were
        changed by hand, and `storage_low` (it is ended, but a restart would bring it back: try again).
        """
        if token_id == ADMIN_ID:
            raise Refused(
                "invalid_state",
                "the admin's token is a file: delete admin.token in the state directory and restart",
            )
        token = self._by_id.get(token_id)
        if token is None:
            raise Refused("token_not_found", "there is no such token; it may be revoked already")
        token.is_revoked = True
        token.close_what_is_open()
        async with self._saving:
            await self._save(self._records())
            self._by_id.pop(token_id, None)
            self._by_digest.pop(token.record.sha256, None)
        return info_of(token.record, self._wall_clock())

    async def tend(self) -> None:
        """Closes what expired tokens opened, and saves last uses, until cancelled."""
        kept_at = trio.current_time()
        while True:
            await trio.sleep(TICK_S)
            now_s = self._wall_clock()
            for token in self._by_id.values():
                if token.open and not token.is_valid(now_s):
                    token.close_what_is_open()
            if self._has_new_uses and trio.current_time() >= kept_at + USE_KEPT_S:
                kept_at = trio.current_time()
                async with self._saving:
                    try:
                        await self._save(self._records())
                    except YoiError as error:
                        _warn_uses_not_kept(error)

    @asynccontextmanager
    async def reading_again(self) -> AsyncGenerator[Callable[[], None]]:
        """Reads the stored records, and yields a function that applies them. Blocks changes meanwhile.

        Raises what `keeper.load` raises.
        """
        async with self._saving:
            records = await trio.to_thread.run_sync(self._keeper.load)
            yield partial(self._replace, records)

    def _replace(self, records: Sequence[TokenRecord]) -> None:
        """Replaces the records; closes what tokens opened that are gone or changed."""
        before = self._by_id
        after: dict[str, _Token] = {}
        for record in records:
            token = before.get(record.token_id)
            if token is None or not token.is_still(record):
                token = _Token(record)
            else:
                last_used_s = max(token.record.last_used_s or 0, record.last_used_s or 0)
                token.record = msgspec.structs.replace(record, last_used_s=last_used_s or None)
            after[record.token_id] = token
        self._by_id = after
        self._by_digest = {token.record.sha256: token for token in after.values()}
        for token_id, token in before.items():
            if after.get(token_id) is not token:
                token.is_revoked = True
                token.close_what_is_open()

    def keep_uses(self) -> None:
        """Saves last uses, if possible; for the shutdown, when nothing else runs."""
        if self._has_new_uses:
            try:
                self._keeper.save(self._records())
                self._has_new_uses = False
            except YoiError as error:
                _warn_uses_not_kept(error)

    def _forget_expired(self, now_s: float) -> None:
        for token in [known for known in self._by_id.values() if not known.is_valid(now_s)]:
            token.close_what_is_open()
            del self._by_id[token.record.token_id]
            del self._by_digest[token.record.sha256]

    def _records(self) -> list[TokenRecord]:
        return [token.record for token in self._by_id.values() if not token.is_revoked]

    async def _save(self, records: Sequence[TokenRecord]) -> None:
        # A started thread is awaited even when cancelled: what is stored and what is known change together.
        has_new_uses, self._has_new_uses = self._has_new_uses, False
        try:
            await trio.to_thread.run_sync(self._keeper.save, records)
        except YoiError as error:
            self._has_new_uses |= has_new_uses
            if not isinstance(error, StorageFailed):
                raise
            raise Refused(
                "storage_low", "the tokens cannot be written; make room, then try again"
            ) from error


def _check_grant(creator: Principal, scopes: Sequence[str], expires_s: float | None) -> None:
    if not scopes or not all(map(is_scope, scopes)):
        raise Refused("invalid_request", f"scopes: expected at least one, each {SCOPE_RULE}")
    lacking = sorted(scope for scope in scopes if not may_grant(creator.scopes, scope))
    if lacking:
        raise Refused(
            "forbidden",
            f"this token cannot grant what it lacks: {', '.join(lacking)}",
            scope=lacking[0],
        )
    if creator.expires_s is not None and (expires_s is None or expires_s > creator.expires_s):
        raise Refused(
            "forbidden", "a token created by this one cannot outlive it; request less time"
        )


def _warn_uses_not_kept(error: YoiError) -> None:
    # Not worth a failure: only a time for operators is lost.
    structlog.get_logger("tokens").warning("last uses of tokens not kept", error=str(error))


def _not_valid() -> Refused:
    return Refused(
        "unauthenticated",
        "this token is unknown, was revoked or has expired; the admin's is in <state>/admin.token",
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
