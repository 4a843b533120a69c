"""A backend wrapper that counts calls and runs hooks before and after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pathapi.backend import Backend
from pathapi.exceptions import CloudPathException


class InterceptingBackend:
    """Wraps a `Backend`. An error of *before* is like a lost request, an error of *after* like a lost response."""

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
                try:
                    self.after[name]()
                except CloudPathException as error:
                    error.outcome_unknown = True
                    raise
            return result

        return call


def interpose(client: Any, bucket: str) -> InterceptingBackend:
    """Wrap the backend of *client*'s *bucket*, once."""
    backend = client.backend(bucket)
    if not isinstance(backend, InterceptingBackend):
        backend = client._backends[bucket] = InterceptingBackend(backend)  # noqa: SLF001 (a test replaces the backend)
    return backend
