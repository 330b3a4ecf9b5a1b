"""`Idempotency-Key` of a mutation: the same key, token and address have one effect and one answer."""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from yoi_daemon.api.routing import Answer, Answered, Handler, Request
from yoi_daemon.store.idempotency import DeliveryKeys

HEADER = "idempotency-key"


class Replies:
    """The answers to keyed mutations of one daemon, within the window that delivery keys have.

    A refusal is not kept: the same key may then be tried again. Effect and answer are two commits: of a
    process killed between them, which told nobody, the key is not known after the restart.
    """

    def __init__(self, keys: DeliveryKeys[Answer], draining: trio.Event) -> None:
        self._keys = keys
        self._draining = draining

    async def answer(self, request: Request, address: str, handler: Handler) -> Answered:
        """What `handler` answers, or answered to the first call with this key.

        Raises what the handler raises, `delivery_id_conflict` for another body, and `invalid_request`
        for a key that is empty or too long.
        """
        key = request.idempotency_key()
        if key is None:
            return await handler(request)
        at = f"{request.principal.token_id} {address}"
        body = await request.body()
        known = await self._keys.claim(at, key, body)
        if known is not None:
            return known
        first: Answer | None = None
        try:
            answer = await self._carry_out(lambda: handler(request))
            assert isinstance(answer, Answer), "streamed answers are not keyed"
            kept = answer.value if answer.kept is msgspec.UNSET else answer.kept
            first = Answer(msgspec.Raw(msgspec.json.encode(kept)), answer.status)
            log = request.daemon.event_log
            await log.recorded(self._keys.record(log, at, key, body, first))
            return answer
        finally:
            if first is None:
                self._keys.abandon(at, key)
            else:
                self._keys.settle(at, key, body, first)

    async def _carry_out(self, handler: Callable[[], Awaitable[Answered]]) -> Answered:
        """To its end though the client is gone: or the effect is there and its key is free again.

        Once the daemon drains, a request whose client is gone is cancelled after all.
        """
        answer: Answered | None = None
        error: Exception | None = None
        effect, watch = trio.CancelScope(shield=True), trio.CancelScope(shield=True)

        async def unshield() -> None:
            with watch:
                await self._draining.wait()
                effect.shield = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unshield)
            try:
                with effect:
                    answer = await handler()
            except Exception as raised:  # noqa: BLE001 (handed on, out of the nursery's group)
                error = raised
            finally:
                watch.cancel()
        if error is not None:
            raise error
        assert answer is not None, "a handler answers or raises"
        return answer
