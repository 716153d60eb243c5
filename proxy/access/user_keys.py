"""The keys of users, as every request asks for them: out of memory, and never older than a change by more than a poll.

What is remembered of a key is as of a revision of `revisions.access`, which every change of users and keys counts up.
Several times a second that number is looked at; when it moved, all that is remembered is read anew.

A key is looked up by its SHA-256, so no time tells how much of a wrong one was right; the digest that was found is
compared once more with `hmac.compare_digest`. No key is kept, only digests.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Row, Select, exists, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from hugind.proxy.access.keys import key_id
from hugind.proxy.access.known_key import SELECT_KEYS, KnownKey, read_key
from hugind.proxy.access.last_uses import LastUses
from hugind.proxy.access.misses import Misses
from hugind.proxy.access.principal import Allowance, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.records.database import Database
from hugind.proxy.records.errors import DatabaseAway, DatabaseError
from hugind.proxy.records.schema import keys, revisions, users
from hugind.supervisor import tasks

logger = logging.getLogger(__name__)

POLL_S = 0.25
WRITE_BACK_S = 30
ANSWER_TIMEOUT_S = 5
"""The database is away if it takes longer for one question."""
POLL_SLACK_S = 2
"""A poll that succeeds may take so long before `stale_s` begins to count."""
RETRY_AFTER_S = 5
MAX_KEYS = 50_000
"""That are remembered; the one not used for longest goes. Turns that it still has would not hear of its end."""
MAX_REFUSED = 10_000
CHUNK = 250
"""Keys read at once: few enough that turns which stream do not notice."""

OnEnded = Callable[[frozenset[str]], None]


class UserKeys:
    """The keys of one database's users. `async with` it: inside, changes are noticed and last uses written down."""

    def __init__(
        self,
        database: Database,
        defaults: Allowance,
        stale_s: float,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_keys: int = MAX_KEYS,
        max_refused: int = MAX_REFUSED,
    ) -> None:
        """`defaults`: what users may ask for who have no limits of their own. `stale_s`: while the database is away,
        keys that were known are good for so many seconds."""
        self._database = database
        self._defaults = defaults
        self._stale_s = stale_s
        self._now = now
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._max_refused = max_refused
        self._known: OrderedDict[bytes, KnownKey] = OrderedDict()
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        """Digests of what has a key's form and is not good."""
        self._revision = -1
        self._good_until = -math.inf
        """By the monotonic clock: after it, what is known is too old to go by."""
        self._next_end = math.inf
        """No key ends by itself before."""
        self._is_away = False
        self._has_users = False
        self._misses = Misses()
        self._last_uses = LastUses(database)
        self._callbacks: list[OnEnded] = []
        self._catching_up = asyncio.Lock()
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def has_users(self) -> bool:
        """There is a user in the database, or was one: from the first on keys are needed, and that stays so.

        Also where the database was away ever since the start, and nobody can tell.
        """
        return self._has_users or (self._is_away and self._revision < 0)

    @property
    def defaults(self) -> Allowance:
        """What users may ask for who have no limits of their own."""
        return self._defaults

    @defaults.setter
    def defaults(self, defaults: Allowance) -> None:
        self._defaults = defaults
        for known in self._known.values():
            known.allow(defaults)

    async def __aenter__(self) -> Self:
        await self.refresh()
        self._tasks = [
            tasks.start(_every(POLL_S, self.refresh), "look for changes of keys"),
            tasks.start(_every(POLL_S, self._end_expired), "end expired keys"),
            tasks.start(_every(WRITE_BACK_S, self._last_uses.write), "write down when keys were used"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (*self._tasks, *self._asking.values()):
            await tasks.cancel(task)
        if not self._is_away:
            await self._last_uses.write()

    def known(self, key: bytes) -> Principal | None:
        """Whom a key stands for, from memory alone. None: not known, not good any more, or not certain any more."""
        digest = hashlib.sha256(key).digest()
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known.digest, digest):
            return None
        now = self._now()
        if now >= known.ends_at or self._monotonic() >= self._good_until:
            return None
        self._known.move_to_end(digest)
        self._last_uses.note(known.id, now)
        return known.principal

    async def look_up(self, key: bytes, client_ip: str | None) -> Principal | None:
        """Whom a key stands for, from the database where need be. None: it is not good.

        Only tries that fail count against an address. After too many, keys from there that are not in memory wait, too.

        Raises:
            ApiError: 503 while the database cannot be asked; 429 after too many keys from `client_ip` were not good.
        """
        if key_id(key) is None:
            return None
        principal = self.known(key)
        if principal is not None:
            return principal
        wait_s = self._misses.wait_s(client_ip, self._monotonic())
        if wait_s > 0:
            raise _too_many(wait_s)
        digest = hashlib.sha256(key).digest()
        if not self._is_refused(digest):
            principal = await self._ask_once(digest)
        if principal is None or self._is_refused(digest):  # by a change that came between the answer and us
            self._misses.add(client_ip, self._monotonic())
            return None
        return principal

    def on_ended(self, callback: OnEnded) -> None:
        """Have the ids of keys told that stopped being good: revoked, expired, their user disabled or deleted."""
        self._callbacks.append(callback)

    async def refresh(self) -> None:
        """Notice now what has changed. While the database is away nothing happens; the poll goes on trying."""
        try:
            await self._catch_up()
        except DatabaseError as error:
            if not self._is_away:
                logger.warning("keys that are known are good for another %g s: %s", self._stale_s, error.message)
            self._is_away = True
        else:
            if self._is_away:
                logger.info("%s is back", self._database.address)
            self._is_away = False

    async def names(self) -> list[str]:
        """The names of all users, disabled ones too.

        Raises:
            DatabaseAway: it cannot be reached.
        """
        wanted = select(users.c.username).where(users.c.deleted_at.is_(None)).order_by(users.c.username)
        async with self._questions() as connection:
            return list(await connection.scalars(wanted))

    # ---- what changed

    async def _catch_up(self) -> None:
        async with self._catching_up:
            asked_at = self._monotonic()
            async with self._questions() as connection:
                revision, has_users = (await connection.execute(_REVISION)).one()
            self._has_users = self._has_users or has_users
            if revision != self._revision:
                await self._read_again(revision)
            self._good_until = asked_at + POLL_SLACK_S + self._stale_s

    async def _read_again(self, revision: int) -> None:
        """Bring what is known up to a revision. Keys that are looked up meanwhile may be older, and are read too."""
        if revision < self._revision:  # an older state of the database was put back
            for known in self._known.values():
                known.revision = -1
        ended: list[bytes] = []
        while behind := [digest for digest, known in self._known.items() if known.revision < revision]:
            for at in range(0, len(behind), CHUNK):
                ended += self._take_over(behind[at : at + CHUNK], await self._rows(behind[at : at + CHUNK]), revision)
        self._revision = revision
        self._refused.clear()
        for digest in ended:
            self._refuse(digest)

    def _take_over(self, digests: Sequence[bytes], rows: Iterable[Row[Any]], revision: int) -> list[bytes]:
        """What was read of some keys; returns those that are not good any more."""
        found = {bytes.fromhex(row.digest): row for row in rows}
        ended = []
        for digest in digests:
            known = self._known.get(digest)
            if known is None or known.revision >= revision:
                continue
            fresh = self._read(found.get(digest), revision)
            if fresh is None:
                ended.append(digest)
            else:
                self._known[digest] = fresh
        self._end(ended)
        return ended

    async def _end_expired(self) -> None:
        """Time ends keys, too, without any change."""
        now = self._now()
        if now >= self._next_end:
            self._end([digest for digest, known in self._known.items() if known.ends_at <= now])
            self._next_end = min((known.ends_at for known in self._known.values()), default=math.inf)

    def _end(self, digests: Sequence[bytes]) -> None:
        ids = frozenset(self._known.pop(digest).id for digest in digests)
        for digest in digests:
            self._refuse(digest)
        for callback in self._callbacks if ids else ():
            try:
                callback(ids)
            except Exception:
                # A bug of one who listens must not keep it from the others, nor any key good.
                logger.exception("the end of keys %s was not taken in", ", ".join(sorted(ids)))

    # ---- one key

    def _is_refused(self, digest: bytes) -> bool:
        known = self._known.get(digest)
        return digest in self._refused or (known is not None and known.ends_at <= self._now())

    def _refuse(self, digest: bytes) -> None:
        self._refused[digest] = None
        if len(self._refused) > self._max_refused:
            self._refused.popitem(last=False)

    async def _ask_once(self, digest: bytes) -> Principal | None:
        """However many ask for the same key at a time."""
        if self._is_away:
            raise _cannot_tell()
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = tasks.start(self._ask(digest), "look up a key")
            task.add_done_callback(lambda done: self._asked(digest, done))
        try:
            return await asyncio.shield(task)
        except DatabaseError as error:
            raise _cannot_tell() from error

    def _asked(self, digest: bytes, task: asyncio.Task[Principal | None]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # is looked at, even if all who waited for it are gone

    async def _ask(self, digest: bytes) -> Principal | None:
        while True:
            async with self._questions() as connection:
                # In this order: the key is then at least as new as the revision that it is remembered with.
                revision = (await connection.execute(_REVISION)).one()[0]
                row = (await connection.execute(SELECT_KEYS.where(keys.c.digest == digest.hex()))).first()
            if revision >= self._revision:
                break
            await self.refresh()  # a change overtook us, or an older state of the database was put back
        known = self._read(row, revision)
        if known is None or not hmac.compare_digest(known.digest, digest):
            self._refuse(digest)
            return None
        self._known[digest] = known
        self._last_uses.note(known.id, self._now())
        if len(self._known) > self._max_keys:
            self._known.popitem(last=False)
        return known.principal

    def _read(self, row: Row[Any] | None, revision: int) -> KnownKey | None:
        known = None if row is None else read_key(row, revision, self._defaults, self._now())
        if known is not None:
            self._next_end = min(self._next_end, known.ends_at)
        return known

    # ---- the database

    async def _rows(self, digests: Sequence[bytes]) -> Sequence[Row[Any]]:
        wanted = SELECT_KEYS.where(keys.c.digest.in_([digest.hex() for digest in digests]))
        async with self._questions() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(wanted)).all()
            return rows

    @asynccontextmanager
    async def _questions(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with.

        Raises:
            DatabaseAway: it cannot be reached, does not answer in time, or is not as it was.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._database.read() as connection:
                yield connection
        except TimeoutError as error:
            raise DatabaseAway(f"{self._database.address} does not answer") from error
        except SQLAlchemyError as error:  # without its own words: they hold digests
            raise DatabaseAway(f"{self._database.address} cannot be used: {type(error).__name__}") from None


_REVISION: Select[Any] = select(revisions.c.value, exists(select(users.c.id))).where(revisions.c.name == "access")


def _cannot_tell() -> ApiError:
    return ApiError(503, "the key cannot be checked just now", code="database_away", retry_after_s=RETRY_AFTER_S)


def _too_many(wait_s: float) -> ApiError:
    message = "too many keys from your address were not valid"
    return ApiError(429, message, code="too_many_invalid_keys", retry_after_s=math.ceil(wait_s))


async def _every(interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
        except Exception:
            # A bug must not end the noticing of revoked keys.
            logger.exception("looking after the keys of users broke")
