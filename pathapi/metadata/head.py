"""What is known of one object, or of whether there is anything below: from listings, from the store, else by a request.

The freshness policy decides what counts. A 403 raises; it never reads as "does not exist".
"""

from __future__ import annotations

import os
import stat as stat_module
from contextlib import suppress

from pathapi.backend import HasUrls, ObjectInfo, head_or_none
from pathapi.exceptions import (
    BucketNotFoundError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotImplementedError,
    InvalidUriError,
    NoStatError,
    NothingToStatError,
)
from pathapi.freshness import ALWAYS
from pathapi.metadata.location import Location


def head(location: Location) -> ObjectInfo | None:
    """Return what the object is, as fresh as the policy asks; None if there is none."""
    client, uri = location.client, location.uri
    if client.is_directory(uri):
        return None
    listed = location.listed_info()
    if listed is not None:
        return listed.info
    policy = location.policy
    if policy is not ALWAYS:
        if client.listings.is_absent(uri.bucket, uri.key):
            return None
        entry = client.cache.lookup(location.store_key)
        now = client.now()
        if entry is not None and entry.validator.mtime_ns is not None and policy.allows(entry, now, now):
            return ObjectInfo(uri.key, entry.validator)
        if not policy.may_request:
            return None if entry is None else ObjectInfo(uri.key, entry.validator)
    return head_or_none(location.backend, uri.key)


def require(location: Location, info: ObjectInfo | None) -> ObjectInfo:
    """Return *info* of the object. Raises CloudPathFileNotFoundError if it is None."""
    if info is None:
        raise CloudPathFileNotFoundError(f"{location.shown} does not exist")
    return info


def checksum(location: Location, kind: str, *, by_listing: bool = True) -> str | None:
    """Return the server's checksum of *kind*, in hex; None if it has none, or the policy forbids requests.

    A listing's word counts only if *by_listing*. Raises CloudPathFileNotFoundError.
    """
    policy = location.policy
    info = head(location) if by_listing or not policy.may_request else None
    is_entry = info is not None and not info.checksums and policy is not ALWAYS  # entries keep no checksums
    if policy.may_request and (is_entry or not by_listing) and location.key:
        info = head_or_none(location.backend, location.key)
    return next((item.value for item in require(location, info).checksums if item.kind == kind), None)


def has_children(location: Location) -> bool:
    """Return whether there is anything below; offline, whether the store has an entry there."""
    if location.policy.may_request:
        return location.client.has_children(location.uri)
    origin = location.client.origin
    return any(entry.key.origin == origin for entry in location.client.cache.entries(location.prefix_uri))


def exists(location: Location) -> bool:
    return location.recall() is not None or _is_object(location) or _is_directory(location)


def is_file(location: Location) -> bool:
    listed = location.recall()
    if location.client.is_directory(location.uri):
        return False
    return listed.info is not None if listed is not None else _is_object(location)


def _is_directory(location: Location) -> bool:
    """Ask whether there is such a "directory": an empty bucket is one, a missing one is not."""
    if location.is_account:
        return True
    try:
        return has_children(location) or location.client.is_bucket(location.uri)
    except BucketNotFoundError:
        return False


def _is_object(location: Location) -> bool:
    try:
        return head(location) is not None
    except NoStatError:
        return True  # of a size that the server does not state


def is_dir(location: Location) -> bool:
    listed = location.recall()
    if listed is not None and (listed.info is None or listed is location.listed):
        # A listing's child is one or the other; a name that is both comes as two children.
        return listed.info is None or location.client.is_directory(location.uri)
    return _is_directory(location)


def names_directory(location: Location) -> bool:
    """Return whether the name, or a recent listing, says that this is a "directory"; asks nothing."""
    key = location.key
    if not key or key.endswith("/"):
        return True
    listed = location.recall()
    return listed is not None and listed.info is None


def stat(location: Location) -> os.stat_result:
    info = head(location)
    if info is None and _is_directory(location):
        raise NoStatError(f"{location.shown} is a directory: object stores keep no size or time for those")
    if info is None:
        raise NothingToStatError(f"{location.shown} does not exist")
    mtime_ns = info.validator.mtime_ns or 0
    fields = (stat_module.S_IFREG | 0o644, 0, 0, 1, 0, 0, info.size, 0, mtime_ns // 10**9, 0)
    times = {"st_mtime": mtime_ns / 1e9, "st_mtime_ns": mtime_ns, "st_atime_ns": 0, "st_ctime_ns": 0}
    return os.stat_result(fields, times)


def url(location: Location, expire_seconds: int | None = None) -> str:
    """Return the object's URL, signed if it is to expire. Raises as `CloudPath.as_url` does."""
    uri, is_signed = location.uri, expire_seconds is not None
    if not uri.bucket and uri.provider != "file":
        raise InvalidUriError(f"{location.shown} names no bucket")
    if is_signed and not uri.key:
        raise CloudPathIsADirectoryError(f"{location.shown} is a bucket, not an object")
    backend: object = location.backend
    if not isinstance(backend, HasUrls):
        raise CloudPathNotImplementedError(f"{location.shown}: its backend has no URLs")
    return backend.url(uri.key) if expire_seconds is None else backend.signed_url(uri.key, expire_seconds)


def explain_missing(location: Location, error: CloudPathFileNotFoundError) -> CloudPathException:
    """Return *error*, or CloudPathIsADirectoryError if there are objects below that name; a listing may have said more.

    The extra request is spent only on the way to an error.
    """
    location.forget_listed()
    with suppress(CloudPathException):  # credentials may allow no listing
        if type(error) is CloudPathFileNotFoundError and has_children(location):
            return CloudPathIsADirectoryError(
                f"{location.shown} is a directory: no object of that name, only objects below it"
            )
    return error
