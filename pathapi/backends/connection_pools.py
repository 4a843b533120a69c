"""Pools of connections for the SDKs, without locks that an interrupt leaves locked, which hear it while they connect.

urllib3 keeps idle connections in a `queue.LifoQueue`, and requests its cookies under a lock that is not acquired by
``with``. An interrupt inside of either leaves that lock locked: every later request of the process would hang
(`casstore.locks.mutex` says why).
"""

from __future__ import annotations

import functools
import queue
from typing import Any, Final, TypeVar

from pathapi.parallel.part_threads import heard

MAX_CONNECTIONS: Final = 64
"""Idle connections kept open to one host: 32 threads, each with an object and a part of another."""

ManagerT = TypeVar("ManagerT")


class IdleConnections:
    """What urllib3 uses of a `queue.LifoQueue`, for pools that never wait for a connection: each step is one of C."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def qsize(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add *item*; never waits. Raises: queue.Full."""
        if len(self._items) >= self._maxsize > 0:
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the item that was added last; never waits. Raises: queue.Empty."""
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None


def without_locks(manager: ManagerT) -> ManagerT:
    """Return *manager*, a new `urllib3.PoolManager`, whose pools have no lock."""
    named: Any = manager
    named.pool_classes_by_scheme = pools_without_locks(named.pool_classes_by_scheme)
    return manager


def pools_without_locks(classes: dict[str, Any]) -> dict[str, Any]:
    """Return urllib3's classes of pools, by scheme, without locks."""
    return {scheme: _without_lock(made) for scheme, made in classes.items()}


@functools.cache
def _without_lock(pool: Any) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]  # known at run time only
        def _new_conn(self) -> Any:
            """Resolve the host's name, which C does without a look at signals, and connect."""
            return heard(super()._new_conn)

    return type(pool.__name__, (pool,), {"QueueCls": IdleConnections, "ConnectionCls": Connection})


def mount_without_locks(session: Any, *schemes: str, **options: Any) -> None:
    """Give *session*, of requests, connections without locks for *schemes*, and no cookies: no service needs them.

    *options* are those of `requests.adapters.HTTPAdapter`.
    """
    from requests.adapters import HTTPAdapter
    from requests.cookies import RequestsCookieJar

    class Adapter(HTTPAdapter):  # type: ignore[misc]  # requests has no types
        def init_poolmanager(self, *args: Any, **named: Any) -> None:
            super().init_poolmanager(*args, **named)
            without_locks(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
            return without_locks(super().proxy_manager_for(proxy, **named))

    class NoCookies(RequestsCookieJar):  # type: ignore[misc]  # as above
        def extract_cookies(self, response: Any, request: Any) -> None:
            """Keep none."""

    adapter = Adapter(pool_connections=4, pool_maxsize=MAX_CONNECTIONS, **options)
    for scheme in schemes:
        session.mount(scheme, adapter)
    session.cookies = NoCookies()
