"""A client and one of its URIs: what every operation takes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from casstore import Key, Place, printable
from pathapi.backend import Backend, ObjectInfo
from pathapi.client import Client
from pathapi.common.uri import Uri
from pathapi.exceptions import CloudPathLocalPathTraversalError
from pathapi.freshness import Freshness, FreshnessArg
from pathapi.reading.listing_cache import ListedFact


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """One object or "directory", and the client that reaches it; *listed* is what a listing said of it."""

    client: Client[Any]
    uri: Uri
    listed: ListedFact | None = None
    _key: Key | None = field(default=None, compare=False)

    @property
    def store_key(self) -> Key:
        """The key of its entry in the store."""
        key = self._key
        if key is None:
            key = self.client.store_key(self.uri)
            object.__setattr__(self, "_key", key)
        return key

    @property
    def canonical(self) -> str:
        """The URI as the store files it and messages name it: without a login or a signature."""
        return self.store_key.uri

    @property
    def shown(self) -> str:
        """The URI as the user wrote it, printable, without a login or a query."""
        return self.uri.shown

    @property
    def key(self) -> str:
        """The object's name in the bucket."""
        return self.uri.key

    @property
    def prefix(self) -> str:
        """What the keys below begin with: ``""``, or a text that ends with ``/``."""
        return self.client.prefix(self.uri)

    @property
    def prefix_uri(self) -> str:
        """The URI of the "directory" with its final slash."""
        return self.uri_of(self.prefix)

    @property
    def root(self) -> str:
        """What the URIs of the bucket's entries begin with."""
        return f"{self.uri.provider}://{self.uri.filed.bucket}/"

    def uri_of(self, prefix: str) -> str:
        """Return what the URIs of entries begin with whose keys begin with *prefix*."""
        return self.root + self.uri.encode(prefix)

    def key_of(self, uri: str) -> str:
        """Return the key of an entry of this bucket."""
        return self.uri.decode(uri[len(self.root) :])

    @property
    def is_account(self) -> bool:
        """Whether it is the scheme alone, below which the buckets are."""
        return not self.uri.bucket and self.uri.provider != "file"

    @property
    def backend(self) -> Backend:
        return self.client.backend(self.uri.bucket)

    @property
    def policy(self) -> Freshness:
        """The client's freshness policy for this URI."""
        return self.policy_of_call(None)

    def policy_of_call(self, freshness: FreshnessArg) -> Freshness:
        """Return the policy of a call that may name its own *freshness*."""
        # With a slash after the bucket, as prefixes of policies are written.
        text = f"{self.uri.scheme}://{self.uri.bucket}/{self.uri.encode(self.uri.key)}"
        return self.client.policy.of_call(text, freshness)

    @property
    def place(self) -> Place:
        """The object as local paths name it."""
        return Place(self.store_key, self.uri.filed.bucket, self.client.local_name(self.uri))

    def at(self, key: str, listed: ListedFact | None = None) -> Location:
        """Return the location of *key* in the same bucket."""
        uri = self.uri
        return Location(self.client, Uri(uri.scheme.lower(), uri.bucket, key), listed)

    def recall(self) -> ListedFact | None:
        """Return what a listing of the last seconds said, or None."""
        return self.client.listings.recall(self.uri.bucket, self.uri.key, self.listed)

    def listed_info(self) -> ListedFact | None:
        """Return what such a listing said, unless that is no more than an object's name."""
        return informative(self.recall())

    def listed_object(self) -> ObjectInfo | None:
        """Return what such a listing said of the object; None for a "directory" too."""
        listed = self.listed_info()
        return None if listed is None else listed.info

    def file_name(self, name: str) -> str:
        """Return *name*, the last part of its path, if it can be a file's. Raises CloudPathLocalPathTraversalError."""
        if name in ("", ".", "..") or os.path.basename(name) != name:
            raise CloudPathLocalPathTraversalError(f"{self.shown}: its name cannot be a file's: name the target's file")
        return name

    def learn(self, info: ObjectInfo) -> None:
        """Forget what listings said of it if the server now says *info*, which is something else."""
        listed = self.listed_info()
        if listed is None:
            is_other = self.client.listings.is_absent(self.uri.bucket, self.uri.key)
        else:
            is_other = listed.info is None or not listed.info.validator.may_be(info.validator)
        if is_other:
            self.forget_listed()

    def forget_listed(self) -> None:
        """Forget what listings said of it."""
        self.client.listings.forget(self.uri.bucket, self.uri.key)

    def __str__(self) -> str:
        """Return the canonical URI for messages: printable."""
        return printable(self.canonical)


def informative(listed: ListedFact | None) -> ListedFact | None:
    """Return *listed*, or None if it says no more than an object's name."""
    return None if listed is not None and listed.info is not None and listed.info.is_named_only else listed
