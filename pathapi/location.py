"""A client and one of its keys: what every operation takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casstore import Key
from pathapi.backend import Backend

if TYPE_CHECKING:
    from pathapi.client import Client


@dataclass(frozen=True, slots=True)
class Location:
    """Where bytes go: *object_key* of *bucket*, by *client*."""

    client: Client[Any]
    key: Key
    bucket: str
    object_key: str

    @property
    def uri(self) -> str:
        """As users write it."""
        return self.key.uri

    @property
    def backend(self) -> Backend:
        """The bucket's."""
        return self.client.backend(self.bucket)

    def forget_listed(self) -> None:
        """What listings said of it no longer counts."""
        self.client.listings.forget(self.bucket, self.object_key)

    def __str__(self) -> str:
        return self.uri
