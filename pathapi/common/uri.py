"""A cloud URI, split and never interpreted.

``scheme://bucket/key``: the key is every character after the slash that ends the bucket. It is not decoded, unquoted or
normalised: clouds store ``a//b``, ``a/../b``, ``50%2F``, ``what?`` and ``#1`` as names like any other. Only a ``file:``
URI is decoded, as `pathlib.Path.as_uri` writes it; here it is written with ``%25`` for a percent sign, and no more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from casstore import printable
from pathapi.common.redaction import MASK, unsigned, without_user
from pathapi.exceptions import AnyPathTypeError, InvalidPrefixError, InvalidUriError


@dataclass(frozen=True, slots=True)
class Scheme:
    """The rules to parse one scheme."""

    canonical: str
    """The scheme of the store's entries; differs from the written one for aliases."""
    has_bucket: bool = True
    """False if the key follows the third slash at once, as in ``file:///key``, and ``%20`` in it is a space."""
    bucket_ends: str = "/"
    """Characters that end the bucket; a ``/`` is no part of the key, the others are."""
    is_url: bool = False
    """Whether it is fetched as written: possibly with a user before the host, and a query that may sign."""


SCHEMES: Final[dict[str, Scheme]] = {
    "s3": Scheme("s3"),
    "gs": Scheme("gs"),
    "az": Scheme("az"),
    "azure": Scheme("az"),
    "http": Scheme("http", bucket_ends="/?#", is_url=True),
    "https": Scheme("https", bucket_ends="/?#", is_url=True),
    "file": Scheme("file", has_bucket=False),
    "gcs": Scheme("gs"),
}
"""Every known scheme, by its lower-case name; `register_scheme` adds aliases and users' own."""

# An access point replaces a bucket's name, and contains one slash.
_ACCESS_POINT = re.compile(r"arn:aws[^:/]*:s3[^:/]*:[^:/]*:\d{12}:accesspoint/[^/]+")
_USER_INFO = re.compile(r"(?<=://)[^/@]*@")
_SHOWN_CHARACTERS: Final = 200
_HERE: Final = "localhost/"  # a host that a file's URI may name (RFC 8089)
_NO_LOGIN: Final = frozenset(("s3", "gs", "az"))
"""Providers whose buckets contain neither ``:`` nor ``@``: other tools write a login there."""


@dataclass(frozen=True, slots=True)
class Uri:
    """One object, prefix or bucket. `parse` checks; the constructor trusts its caller."""

    scheme: str
    """As written: ``S3`` remains ``S3``."""
    bucket: str
    """Bucket, container, host or access point; empty for ``file`` and for a bare ``s3://``."""
    key: str
    """Empty for the bucket itself. May begin or end with ``/``."""

    @classmethod
    def parse(cls, text: str | os.PathLike[str] | Uri, schemes: Collection[str] | None = None) -> Uri:
        """Split *text*.

        *schemes* are the lower-case names to accept, all of `SCHEMES` by default; one that is not in that table has a
        bucket.

        Raises:
            InvalidPrefixError: any other scheme.
            InvalidUriError: a NUL, an empty bucket, or a ``file`` URI with a host.
            AnyPathTypeError: *text* is no text (a `TypeError`).
        """
        if isinstance(text, Uri):
            text = str(text)
        elif not isinstance(text, str):
            if not isinstance(text, os.PathLike):
                raise AnyPathTypeError(f"{type(text).__name__}: a URI is a str: write 's3://bucket/key'")
            # Not os.fspath(): asking a cloud path for its local path downloads it.
            text = str(text)
        scheme, separator, rest = text.partition("://")
        name = scheme.lower()
        known: Collection[str] = SCHEMES if schemes is None else schemes
        if not separator or name not in known:
            raise InvalidPrefixError(_unknown_scheme(text, known))
        if "\0" in text:
            raise InvalidUriError(f"{_shown(text)}: names cannot contain a NUL character: remove it")
        rule = SCHEMES.get(name) or Scheme(name)
        if not rule.has_bucket:
            if rest[: len(_HERE)].lower() == _HERE:
                rest = rest[len(_HERE) - 1 :]
            if rest and not rest.startswith("/"):
                raise InvalidUriError(
                    f"{_shown(text)}: a host is not allowed: a file of this machine has three slashes: "
                    f"{name}:///directory/name"
                )
            if "%00" in rest:
                raise InvalidUriError(f"{_shown(text)}: names cannot contain a NUL character: remove it")
            return cls(scheme, "", _unquote(rest[1:]) if "%" in rest else rest[1:])
        bucket, key = _split_bucket(rest, rule.bucket_ends)
        if rule.canonical in _NO_LOGIN and (":" in bucket or "@" in bucket) and not bucket.startswith("arn:"):
            # Quotes nothing: a password with a slash continues in what looks like the key.
            raise InvalidUriError(
                f"{name}://: the bucket's name contains ':' or '@': give credentials to the client or the environment, "
                "and an endpoint as endpoint_url"
            )
        if not bucket and rest:
            raise InvalidUriError(f"{_shown(text)}: the URI names no bucket: write {name}://bucket/key")
        return cls(scheme, bucket, key)

    def __str__(self) -> str:
        """Return the text that `parse` reads back to an equal value; a bucket alone ends without a slash."""
        return f"{self.scheme}://{self._after_scheme()}"

    @property
    def _rule(self) -> Scheme:
        name = self.scheme.lower()
        return SCHEMES.get(name) or Scheme(name)

    @property
    def provider(self) -> str:
        """The scheme in lower case, with aliases resolved: ``s3`` for ``S3://``."""
        return self._rule.canonical

    @property
    def canonical(self) -> str:
        """One text per object, however the scheme was written: its name in the store's index.

        A URL is without login and signature: they are no part of the object's name, and secrets must not be stored.
        """
        text = f"{self.provider}://{self._after_scheme()}"
        return unsigned(text) if self._rule.is_url else text

    @property
    def prefix(self) -> str:
        """What the keys below begin with, if this names a "directory": ``""``, or a text that ends with ``/``."""
        return self.key if not self.key or self.key.endswith("/") else self.key + "/"

    @property
    def filed(self) -> Uri:
        """`canonical`, split: a bucket and a key without secrets."""
        return Uri.parse(self.canonical) if self._rule.is_url else self

    @property
    def shown(self) -> str:
        """The text for messages: printable; a URL without its login, and without its query, which may sign."""
        if not self._rule.is_url:
            return printable(str(self))
        before, mark, _ = without_user(str(self)).partition("?")
        return printable(f"{before}?{MASK}" if mark else before)

    def _after_scheme(self) -> str:
        if not self._rule.has_bucket:
            return f"/{self.encode(self.key)}"
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def encode(self, key: str) -> str:
        """Return a key, or a part of one, as the URIs of this scheme contain it."""
        return key if self._rule.has_bucket else key.replace("%", "%25")

    def decode(self, text: str) -> str:
        """Return the key that `encode` wrote as *text*."""
        return text if self._rule.has_bucket else text.replace("%25", "%")


def register_scheme(name: str, *, canonical: str | None = None) -> None:
    """Register *name* as an alias of *canonical*, or as a new scheme; the same again has no effect.

    Raises:
        InvalidPrefixError: *canonical* is unknown, or *name* already means something else.
    """
    name = name.lower()
    target = name if canonical is None else canonical.lower()
    if target != name and target not in SCHEMES:
        raise InvalidPrefixError(f"{target}://: the scheme is unknown: register it before its alias {name}://")
    like = SCHEMES.get(target, Scheme(target))
    if SCHEMES.setdefault(name, like) != like:
        raise InvalidPrefixError(f"{name}://: already an alias of {SCHEMES[name].canonical}://: choose another name")


def _split_bucket(rest: str, ends: str) -> tuple[str, str]:
    access_point = _ACCESS_POINT.match(rest)
    if access_point is not None:
        return access_point[0], rest[access_point.end() + 1 :]
    if ends == "/":
        bucket, _, key = rest.partition("/")
        return bucket, key
    end = min((at for at in map(rest.find, ends) if at >= 0), default=len(rest))
    return rest[:end], rest[end:].removeprefix("/")


def _unquote(text: str) -> str:
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(unquote_to_bytes(os.fsencode(text)))


def _unknown_scheme(text: str, known: Collection[str]) -> str:
    aliases = {name for name, rule in SCHEMES.items() if rule.canonical != name}
    prefixes = ", ".join(f"{name}://" for name in known if name not in aliases)
    lost = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/(?!/)", text)
    if lost is not None and lost[1].lower() in known:
        return f"{_shown(text)}: the URI lost a slash, as in a pathlib.Path: pass it as a str: {lost[1]}://..."
    return f"{_shown(text)}: not a URI of a known scheme: use one of {prefixes}"


def _shown(text: str) -> str:
    """Return *text* for an error: without a password or a query, which may sign, and shortened."""
    shown = _USER_INFO.sub("***@", text, count=1)
    if not shown.lower().startswith(("s3:", "gs:", "az:", "azure:", "file:")):
        shown = shown.partition("?")[0]
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "..."
    return repr(shown)
