"""A backend in front of another one, which tells of every call and lets a test step in before and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pathapi.backend import Backend


class InterceptingBackend:
    """Is a `Backend`, by another one. What a hook raises is what the call raises: before it, the cloud never saw the
    request; after it, the cloud has done it and the answer is lost.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.calls: Counter[str] = Counter()
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            if name in self.before:
                self.before[name]()
            result = found(*arguments, **options)
            if name in self.after:
                self.after[name]()
            return result

        return call


def interpose(client: Any, bucket: str) -> InterceptingBackend:
    """Put an `Interposed` between *client* and its *bucket*."""
    backend = client.backend(bucket)
    if not isinstance(backend, InterceptingBackend):
        backend = client._backends[bucket] = InterceptingBackend(backend)  # noqa: SLF001 (a test stands in for a cloud)
    return backend
