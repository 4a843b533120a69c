"""Local paths for tools that read files: of an object's bytes, or of the directory that the store has of a prefix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from casstore import Stored
from pathapi.backend import head_or_none
from pathapi.exceptions import CloudPathFileNotFoundError
from pathapi.freshness import ALWAYS
from pathapi.location import Location
from pathapi.metadata.head import has_children, names_directory
from pathapi.metadata.listing import list_objects
from pathapi.writing.opening import ReadOptions, open_blob, open_stored


def local_path(location: Location) -> str:
    """Return the local path of an object, of a "directory", or of an object to be created: see `CloudPath.fspath`."""
    if names_directory(location):
        return _view_of_directory(location)
    client, uri = location.client, location.uri
    try:
        stored = open_blob(location, ReadOptions())
    except CloudPathFileNotFoundError as error:
        if type(error) is not CloudPathFileNotFoundError:
            raise
        if has_children(location):
            return _view_of_directory(location)
        return client.cache.outbox(location.store_key, uri.filed.bucket, client.local_name(uri))
    return _view(location, stored)


@contextmanager
def local_copy(location: Location) -> Iterator[str]:
    """Return a local path that is released at the end of the block."""
    path = _view(location, open_stored(location, ReadOptions()))
    try:
        yield path
    finally:
        location.client.release_view(path)


def _view(location: Location, stored: Stored) -> str:
    try:
        return location.client.view(stored, location.uri)
    finally:
        os.close(stored.descriptor)


def _view_of_directory(location: Location) -> str:
    """Return the directory of views, one for every entry below; under ``always``, for those that a listing confirms."""
    client, root, prefix = location.client, location.root, location.prefix
    cache, bucket = client.cache, location.uri.filed.bucket
    entries = {entry.uri: entry for entry in cache.entries(root + prefix) if entry.key.origin == client.origin}
    if entries and location.policy is ALWAYS:
        backend = location.backend
        listed = {location.at(info.key).canonical: info for info, _ in list_objects(location)}
        known = {u: head_or_none(backend, i.key) if i.is_named_only else i for u, i in listed.items() if u in entries}
        entries = {u: entries[u] for u, i in known.items() if i and i.validator.same_version(entries[u].validator)}
    directory = cache.view_directory(client.origin, bucket, prefix)
    for entry in entries.values():
        descriptor = cache.open_entry(entry)
        if descriptor is not None:
            try:
                cache.view(entry, descriptor, bucket, entry.uri[len(root) :], client.views)
            finally:
                os.close(descriptor)
    return directory
