"""A client: how to reach one provider, which store to read through, and with which settings.

Subclasses define how to log in and make backends; everything that is the same for all clouds is here and in
`pathapi.path.cloud_path`.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Generic, Literal, Self, TypedDict, TypeVar

import casstore
from casstore import Cache, Entry, Key, Moment, Stored, new_mutex, printable
from pathapi.backend import Backend
from pathapi.common.redaction import is_spawning
from pathapi.common.uri import Uri
from pathapi.enums import FileCacheMode
from pathapi.exceptions import IncompleteImplementationError, InvalidConfigurationException
from pathapi.freshness import FreshnessLike, FreshnessPolicy
from pathapi.reading.entry_scopes import EntryHold, EntryScope
from pathapi.reading.listing_cache import Listings
from pathapi.reading.reader import BELIEVED, Reader
from pathapi.registry import CloudImplementation, implementation_registry, register_client_class

__all__ = [
    "BoundedCloudPath",
    "Client",
    "CloudImplementation",
    "FileCacheMode",
    "InvalidConfigurationException",
    "implementation_registry",
    "register_client_class",
    "set_default_client",
]

BoundedCloudPath = TypeVar("BoundedCloudPath")

ContentType = Callable[[str], tuple[str | None, str | None]]

_VIEW_MODES = ("auto", "copy", "link")
_BY_ADDRESS: Any = object.__repr__
_CONDITIONS = ("auto", "require", "off")
_NEVER_CALLED = frozenset(
    ("_download_file", "_exists", "_generate_presigned_url", "_get_metadata", "_get_public_url", "_is_file_or_dir")
    + ("_list_dir", "_move_file", "_remove", "_upload_file")
)
"""Methods that a client of one's own has for cloudpathlib."""


def guess_type(name: str) -> tuple[str | None, str | None]:
    """Return the content type and the encoding that a name's ending stands for: what clients send with an upload."""
    # Imported here: only writers need it, and loading its tables takes longer than a read.
    import mimetypes

    return mimetypes.guess_type(name)


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of `Client` that the clients of all clouds pass on to it."""

    freshness: FreshnessLike | Mapping[str, FreshnessLike] | None
    verify: bool | None
    views: Literal["auto", "copy", "link"] | None
    dedup_by_checksum: Literal["strong", "origin", "all", "off"] | None
    conditional_writes: Literal["auto", "require", "off"]
    trust_root: bool | None


class Client(Generic[BoundedCloudPath]):
    """Common to all clouds; thread-safe, usable in forked children, picklable with its configuration but no secrets.

    *local_cache_dir* is the root of the store (default: ``CASSTORE_DIR``, ``CLOUDPATHLIB_LOCAL_CACHE_DIR``, the user's
    cache directory). *file_cache_mode* says how long entries are kept. *content_type_method* guesses the type of an
    upload from its name. *freshness*: see `pathapi.freshness`; a policy or a mapping of URI prefixes to policies.
    *verify* hashes every blob before it is served. *views*: ``auto``, ``copy`` or ``link``. *trust_root* uses a store
    in which other users can replace files. *dedup_by_checksum*: which stated checksums stand for equal bytes, so that
    nothing is sent: ``strong``, SHA-256 only; ``origin``, within one origin MD5 and SHA-1, too, although two objects
    can be made with one MD5; ``all``, across origins; ``off``. The default is ``CASSTORE_DEDUP_BY_CHECKSUM``, or
    ``strong``. *conditional_writes*: ``auto`` falls back, with a warning, if the server has none; ``require``; ``off``.

    Raises InvalidConfigurationException for arguments that are not valid.
    """

    _cloud_meta: ClassVar[CloudImplementation]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if unused := sorted(_NEVER_CALLED & vars(cls).keys()):
            message = f"{cls.__name__}: {', '.join(unused)}: not called here, as they are by cloudpathlib"
            message += ": see 'A client of your own' in docs/migrating.md"
            if cls._make_backend is Client._make_backend:
                raise IncompleteImplementationError(f"{message}: define _make_backend")
            warnings.warn(printable(message), stacklevel=2)

    def __init__(
        self,
        file_cache_mode: str | FileCacheMode | None = None,
        local_cache_dir: str | os.PathLike[str] | None = None,
        content_type_method: ContentType | None = guess_type,
        *,
        freshness: FreshnessLike | Mapping[str, FreshnessLike] | None = None,
        verify: bool | None = None,
        views: Literal["auto", "copy", "link"] | None = None,
        dedup_by_checksum: Literal["strong", "origin", "all", "off"] | None = None,
        conditional_writes: Literal["auto", "require", "off"] = "auto",
        trust_root: bool | None = None,
    ) -> None:
        if (implementation := getattr(self, "_cloud_meta", None)) is not None:
            implementation.validate_completeness()
        self.dedup_by_checksum = dedup_by_checksum or os.environ.get("CASSTORE_DEDUP_BY_CHECKSUM") or "strong"
        _choose("dedup_by_checksum", self.dedup_by_checksum, tuple(BELIEVED))
        _choose("conditional_writes", conditional_writes, _CONDITIONS)
        if views is not None:
            _choose("views", views, _VIEW_MODES)
        self.file_cache_mode = (
            FileCacheMode.from_environment() if file_cache_mode is None else FileCacheMode.parse(file_cache_mode)
        )
        self.content_type_method = content_type_method
        self.verify = verify
        self.views = views
        self.conditional_writes = conditional_writes
        self._policy = FreshnessPolicy(freshness)
        self.listings = Listings()
        self._trust_root = trust_root
        self._root = None if local_cache_dir is None else os.fspath(local_cache_dir)
        self._cache: Cache | None = None
        self._reader: Reader | None = None
        self._fallback: casstore.PassThroughCache | None = None
        self.directories: dict[str, tuple[str, Moment, weakref.ref[casstore.LocalUse]]] = {}
        """Local directories that were handed out in the last seconds, and when, by their URIs."""
        self.entry_scope: EntryScope | None = None
        self._backends: dict[str, Backend] = {}
        self._warned: set[str] = set()
        given = {
            "file_cache_mode": None if file_cache_mode is None else self.file_cache_mode,
            "local_cache_dir": self._root,
            "content_type_method": None if content_type_method is guess_type else content_type_method,
            "freshness": freshness,
            "verify": verify,
            "views": views,
            "dedup_by_checksum": dedup_by_checksum,
            "trust_root": trust_root,
            "conditional_writes": None if conditional_writes == "auto" else conditional_writes,
        }
        self._arguments = _without_none(given | self._settings())
        self.identity = type(self), _name(self._arguments), 0
        if (login := self._login()) is not None:
            self._be_login(login)
        with _mutex:
            _clients.add(self)

    identity: tuple[type, str, int]
    """What a pickle names: class, configuration, and the number of the login among those of the configuration.

    0 is without keys. A pickle cannot tell more: a hash of keys would help to guess them, and a random number would
    make each pickle another text.
    """
    lists_flat: ClassVar[bool] = True
    """Whether a request lists a thousand objects however deep they are, and not one directory."""
    sets_times: ClassVar[bool] = True
    """Whether the server can give an object the time of now."""
    is_automatic = False
    """Whether it is the default client, made of the environment only."""
    has_lost_keys = False
    """Whether it was unpickled without the keys that the pickled one had."""

    @property
    def origin(self) -> str:
        """The provider and the endpoint or account of everything this client reads; part of every entry's identity."""
        raise NotImplementedError

    @property
    def push_options(self) -> str:
        """The shell options, without secrets, by which ``casstore push`` reaches this client's server."""
        return ""

    def _make_backend(self, bucket: str) -> Backend:
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """Return how to log in, without secrets: constructor arguments for pickles."""
        return {}

    def _secrets(self) -> dict[str, Any]:
        """Return constructor arguments for the pickle of a child that multiprocessing is spawning, and for no other."""
        return {}

    def _login(self) -> object:
        """Return what tells this client's keys from others, in this process; None without keys."""
        return None

    def _lose_keys(self) -> None:
        self.has_lost_keys = True

    def _be_login(self, login: object, number: int = 0) -> None:
        """Number the logins of one configuration: clients with the same keys have the same *number*, the next one."""
        with _mutex:
            known = _logins.setdefault(self.identity[:2], {})
            known[login] = number or known.get(login) or max(known.values(), default=0) + 1
            self.identity = (*self.identity[:2], known[login])

    @property
    def cache(self) -> Cache:
        """The store, opened on first use, or a stand-in if no store is usable. Raises as `casstore.open` does."""
        if self._cache is None:
            root = self._root
            if root is None and not os.environ.get("CASSTORE_DIR"):
                root = os.environ.get("CLOUDPATHLIB_LOCAL_CACHE_DIR") or None
            cache = casstore.open(root, or_uncached=True, trust_root=self._trust_root)
            if cache.settings.offline:
                self._policy.go_offline()
            self._cache = cache
        return self._cache

    @property
    def policy(self) -> FreshnessPolicy:
        """The freshness policy; opens the store, whose settings may say ``offline``."""
        if self._cache is None:
            _ = self.cache
        return self._policy

    @property
    def believed_checksums(self) -> Collection[str]:
        """The kinds of stated checksums that, if they are equal, stand for equal bytes."""
        return BELIEVED[self.dedup_by_checksum]

    @property
    def reader(self) -> Reader:
        """Reads through the store."""
        if self._reader is None:
            self._reader = Reader(self.cache, self.dedup_by_checksum, self._on_fill())
        return self._reader

    def _on_fill(self) -> Callable[[Entry, bool], object] | None:
        """Return what the reader calls with each new entry; it does not refer to the client, which can be collected."""
        if self.file_cache_mode is FileCacheMode.persistent:
            return None
        scope = self.entry_scope = EntryScope(self.cache)
        if self.file_cache_mode is not FileCacheMode.tmp_dir:
            return scope.filled
        holds: list[EntryHold | None] = []

        def hold(entry: Entry, is_new: bool) -> None:
            scope.filled(entry, is_new)
            holds.append(scope.hold(entry.key))

        return hold

    def local_path(
        self, content: casstore.Content, stored: Stored, place: casstore.Place, *, briefly: bool = False
    ) -> tuple[str, casstore.LocalUse]:
        """Return a path with the object's name and *stored*'s bytes, and its use: in the store, else in the temporary
        directory.
        """
        mode = self.views if stored.entry is not None else "copy"
        try:
            use = self.cache.local.use(place.key)
            return self.cache.local.path(place, content, stored.descriptor, mode, briefly=briefly), use
        except OSError as error:
            local = (uncached := casstore.pass_through_for(error, self.cache)).local
            use = local.use(place.key)
            path = local.path(place, content, stored.descriptor, "copy")
            uncached.warn()
            self._fallback = uncached
            return path, use

    def local_name(self, uri: Uri) -> str:
        """Return the key that a local path is named after, without a login or a signature."""
        return uri.filed.key

    def backend(self, bucket: str) -> Backend:
        """Return the backend of one bucket."""
        backend = self._backends.get(bucket)
        if backend is None:
            backend = self._backends[bucket] = self._make_backend(bucket)
        return backend

    def prefix(self, uri: Uri) -> str:
        """Return what the keys below *uri* begin with: ``""``, or a text that ends with ``/``."""
        return uri.prefix

    def is_directory(self, uri: Uri) -> bool:
        """Return whether *uri* names a "directory", by the slash at its end: an object of that name only marks it."""
        return not uri.key or uri.key.endswith("/")

    def is_bucket(self, uri: Uri) -> bool:
        """Return whether *uri* names a bucket, which exists if a listing of it is no error."""
        return not uri.key and bool(uri.bucket)

    def require_directory(self, uri: Uri) -> None:
        """Raise CloudPathFileNotFoundError if *uri*, which lists nothing, does not exist: no bucket can tell."""

    def has_children(self, uri: Uri) -> bool:
        """Ask the server whether there is anything below *uri*."""
        return next(iter(self.backend(uri.bucket).list(self.prefix(uri), limit=1)), None) is not None

    def store_key(self, uri: Uri) -> Key:
        """Return the key of the object's entry in the store."""
        return Key(uri.canonical, self.origin)

    def now(self) -> Moment:
        """Return this moment, by the store's clocks."""
        return self.cache.now()

    def warn_once(self, about: str, message: str) -> None:
        """Warn, once per client and subject."""
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(printable(message), stacklevel=4)

    def clear_cache(self, uri: Uri | None = None) -> None:
        """Evict the entries of this client's origin, or of *uri* and what is below, except pinned ones.

        Blobs that other entries use, pending writes, local edits and local paths are kept. `cache` has `clear`, which
        empties the whole store.
        """
        origin, name = self.origin, "" if uri is None else uri.canonical
        below = name if not name or name.endswith("/") else name + "/"
        self.cache.evict(
            lambda entry: entry.key.origin == origin and (entry.uri == name or entry.uri.startswith(below)), name
        )

    def CloudPath(self, cloud_path: str | BoundedCloudPath, *parts: str) -> BoundedCloudPath:  # noqa: N802 (the name users know)
        """Return a path that uses this client."""
        made: BoundedCloudPath = self._cloud_meta.path_class(cloud_path, *parts, client=self)
        return made

    @classmethod
    def get_default_client(cls) -> Self:
        """Return the client that paths without one use, created from the environment on first use."""
        with _mutex:
            client = _default_clients.get(cls)
            if client is None:
                client = _default_clients[cls] = cls()
                client.is_automatic = True
            assert isinstance(client, cls)
            return client

    @classmethod
    def chosen_default(cls) -> Self | None:
        """Return the client that `set_as_default_client` has set; None if there is none."""
        client = _default_clients.get(cls)
        return client if isinstance(client, cls) and not client.is_automatic else None

    def set_as_default_client(self) -> None:
        """Make this the client of paths that are made without one, from now on."""
        with _mutex:
            _default_clients[type(self)] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration and the number of the login: no secret, and nothing that is of this process."""
        if self.is_automatic:
            return _restore_default, (type(self),)
        pickled = type(self), self._arguments, self.identity[2]
        secrets = _without_none(self._secrets()) if is_spawning() else {}
        return _restore_client, (*pickled, secrets) if secrets else pickled


_default_clients: dict[type, Client[Any]] = {}
_restored: dict[tuple[type, str, int], Client[Any]] = {}
_clients: weakref.WeakSet[Client[Any]] = weakref.WeakSet()
_logins: dict[tuple[type, str], dict[object, int]] = {}
_mutex = new_mutex()


def set_default_client(client: Client[Any]) -> None:
    """Make *client* the one of paths that are made without one, and of unpickled ones whose keys stayed behind.

    For initializers of worker processes: a path of a client with keys takes this one if it has the same origin.
    """
    client.set_as_default_client()


def _restore_default(cls: type[Client[Any]]) -> Client[Any]:
    return cls.get_default_client()


def _restore_client(
    cls: type[Client[Any]], arguments: dict[str, Any], number: int, secrets: Mapping[str, Any] | None = None
) -> Client[Any]:
    """Return the client of this configuration and login that this process has, by inheritance or its own making.

    Else make one for all such pickles. Without its keys, the default client stands in for it, if it has the same
    origin.
    """
    name = cls, _name(arguments), number
    with _mutex:
        same = (one for one in list(_clients) if one.identity == name and not one.has_lost_keys)
        client = next(same, None) or _restored.get(name)
        if client is None:
            client = _restored[name] = cls(**arguments | dict(secrets or {}))
            client.identity = name
            if secrets and number:
                client._be_login(client._login(), number)
            elif number:
                client._lose_keys()
        stand_in = cls.chosen_default() if client.has_lost_keys else None
        return stand_in if stand_in is not None and stand_in.origin == client.origin else client


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _name(arguments: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal *arguments*, also after they were pickled."""

    def describe(value: Any) -> object:
        return getattr(value, "__dict__", value) if type(value).__repr__ is _BY_ADDRESS else value

    return repr([(name, describe(value)) for name, value in sorted(arguments.items())])


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidConfigurationException(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")


def forced(given: bool | None, which: str) -> bool:
    """Return what the call says, else what ``CLOUDPATHLIB_FORCE_OVERWRITE_*`` says."""
    if given is not None:
        return given
    variable = f"CLOUDPATHLIB_FORCE_OVERWRITE_{which}"
    return _may_be_set(variable) and os.environ.get(variable, "").lower() in ("1", "true")


def _may_be_set(variable: str) -> bool:
    # `os.environ` takes 2 us to report a missing variable, a tenth of a warm open; the dictionary in it does not.
    known = getattr(os.environ, "_data", None)
    return known is None or variable.encode("ascii") in known or variable in known
