"""Who may come, how often, and what they did: the database, and what of it is kept at hand."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

from pydantic import SecretStr
from sqlalchemy import URL

from hugind.proxy.access.accounts import Accounts
from hugind.proxy.access.limit_database import DatabaseStore
from hugind.proxy.access.limit_stores import Limiter, MemoryStore, Store
from hugind.proxy.access.principal import UNLIMITED, Allowance
from hugind.proxy.access.user_keys import UserKeys
from hugind.proxy.admission import TokenGauge
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.errors import DatabaseAway
from hugind.proxy.records.responses import Responses
from hugind.proxy.records.usage_log import UsageLog
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Environment, Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """What the settings and the environment say of who may ask. A reload brings new ones."""

    defaults: Allowance = UNLIMITED
    """Limits of users who have none of their own."""
    path_keys: bool = False
    """Keys may come in the path."""
    origins: tuple[str, ...] = ()
    """Web pages that may ask, beside those that always may."""
    hub_token: SecretStr | None = None
    """What shows the hub who fetches models."""

    @classmethod
    def of(cls, settings: Settings, environment: Environment) -> Rules:
        """The environment beats the settings; 0 means no limit."""
        given = settings.limits
        requests = given.requests if environment.rate_limit is None else environment.rate_limit
        return cls(
            Allowance(
                requests or None,
                given.window_s if environment.rate_window_s is None else environment.rate_window_s,
                given.tokens_per_minute or None,
                given.tokens_per_day or None,
                given.concurrent or None,
                given.queued or None,
            ),
            settings.access.path_keys,
            (*settings.origins, *environment.origins),
            environment.hf_token or settings.hf_token,
        )


def database_url(home: Home, settings: Settings, environment: Environment) -> URL:
    """Where the database is: the environment, else the settings, else a file in the home.

    Raises:
        DatabaseError: the address cannot be used.
    """
    given = environment.database_url or settings.database_url
    return parse_address(given.get_secret_value() if given else None, home.database)


class Books:
    """Lives as long as the gateway; an async context manager."""

    def __init__(self, url: URL, home: Home, settings: Settings, rules: Rules) -> None:
        self.database = Database(url)
        self.accounts = Accounts(self.database)
        self.keys = UserKeys(self.database, rules.defaults, settings.access.stale_s)
        self._store: Store = MemoryStore()
        if settings.limits.store == "database":
            self._store = DatabaseStore(self.database)
        self.limiter = Limiter(self._store)
        self.usage = UsageLog(self.database, home.usage, settings.usage.record_content, settings.usage.retention_days)
        self.responses = Responses(self.database, settings.responses.retention_days)
        self.records_content = settings.usage.record_content
        self.rules = rules
        self._gauges: dict[str, TokenGauge] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Books:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.aclose)
            try:
                await self.database.prepare()
            except DatabaseAway as away:
                logger.warning("going on without the database, no user is known yet: %s", away.message)
            for part in (self.keys, self._store, self.usage, self.responses):
                await stack.enter_async_context(part)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    def apply(self, rules: Rules) -> None:
        """Go on by these rules."""
        self.rules = rules
        self.keys.defaults = rules.defaults

    def gauge(self, model: str) -> TokenGauge:
        """What an engine has told of its tokens."""
        gauge = self._gauges.get(model)
        if gauge is None:
            gauge = self._gauges[model] = TokenGauge()
        return gauge
