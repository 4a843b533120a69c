"""Local paths of objects, for tools that take file names.

A path has the object's own name, and is the same in every process for as long as the object does not change: its
record says in which tree it is. Its file is a reflink, a private copy that tools may write to, or, if it is large, a
hard link to the blob, which they may only read. What is changed or made there is noticed by `casstore.local.changes`;
what no process uses gives way to new downloads (`casstore.local.eviction`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Final, NamedTuple, Self

from casstore.config.settings import Settings
from casstore.errors import StillBeingWrittenError
from casstore.format.digest import Digest, hash_descriptor
from casstore.format.keys import Key
from casstore.format.layout import PATHS_NAME, Layout
from casstore.format.records import Entry, Validator
from casstore.fs import copying, files
from casstore.fs.stable import OPEN_FLAGS, OPEN_MTIME, ctime_of, stable_read
from casstore.leases.holder import LeaseHolder
from casstore.local.names import Place, local_name, record_of, use_of
from casstore.local.record import Kind, LocalFile, LockedRecord, PathRecord
from casstore.local.uses import LocalUse, LocalUses
from casstore.locks.byte_locks import ByteLocks

COPY_LIMIT: Final = 64 << 20
"""Bytes up to which a local path is a private copy where there are no reflinks: tools can write to it."""
_SECOND: Final = 1_000_000_000
_TICK_NS: Final = 20_000_000
"""The resolution of kernels' mtimes (1 to 10 ms), doubled."""
_RECENT_SECONDS: Final = 1.0
"""How long a path is handed out again without its record."""
_OTHER: Final = -1, OPEN_MTIME, 0
_MOST_SEEN: Final = 10_000
_CANNOT_LINK: Final = frozenset((errno.ENOENT, errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP))
_NO_PARENT: Final = frozenset((errno.EEXIST, errno.ENOTDIR))  # a file has the name of a directory


class Content(NamedTuple):
    """The bytes of a version: *digest*, *size*, what the server says of it, and when it was last changed or seen."""

    digest: Digest
    size: int
    validator: Validator | None
    mtime_ns: int

    @classmethod
    def of_entry(cls, entry: Entry) -> Self:
        known = entry.validator.mtime_ns
        return cls(entry.digest, entry.size, entry.validator, entry.validated.wall_ns if known is None else known)

    @property
    def file_mtime_ns(self) -> int:
        """The mtime to the second; the rest follows from the digest, so that other bytes differ."""
        return self.mtime_ns // _SECOND * _SECOND + self.digest.mtime % _SECOND


class _Recent(NamedTuple):
    """A path that was handed out a moment ago."""

    content: Content
    file: LocalFile
    until: float

    def serves(self, content: Content, layout: Layout) -> bool:
        """Whether it can be handed out again: no process removes it so soon."""
        is_right = self.content == content and time.monotonic() < self.until
        return is_right and not self.file.is_changed_or_gone(layout)


class _Seen(NamedTuple):
    """What there was of an object when the directory of its pending writes had this mtime."""

    mtime_ns: int
    has_pending: bool
    files: tuple[LocalFile, ...]


class LocalPaths:
    """The local paths of one store for one process; thread-safe. A forked child makes its own.

    *on_copied* is called with the size of each copy. *boot* is a tag of this boot. *uses* are those before a fork, or
    before the store was closed.
    """

    def __init__(
        self,
        layout: Layout,
        locks: ByteLocks,
        leases: LeaseHolder,
        settings: Settings,
        boot: int,
        on_copied: Callable[[int], object] = lambda _: None,
        uses: LocalUses | None = None,
    ) -> None:
        self.layout, self.leases, self.settings = layout, leases, settings
        self.uses = LocalUses(leases, uses)
        self.boot, self._locks, self._on_copied = boot, locks, on_copied
        self.handed_out: set[Key] = set()
        """The objects whose paths this process was given: they are looked at when it ends."""
        self._kept: list[LocalUse] = []
        self._recent: dict[Key, _Recent] = {}
        self._seen: dict[Key, _Seen] = {}
        self.made_at: set[str] = set()
        """Paths at which tools may have made files."""

    def locked(self, key: Key, timeout: float | None = None) -> LockedRecord:
        """Return the owner of a lock of *key*'s record."""
        return LockedRecord(self.layout, self._locks, key, self.settings.lock_timeout if timeout is None else timeout)

    # --- reading -----------------------------------------------------------------------------------------------------

    def path(
        self, place: Place, content: Content, source: int, mode: str | None = None, *, briefly: bool = False
    ) -> str:
        """Return the path of a version, with the bytes of the open file *source*. Raises: StoreFullError.

        With *briefly*, only a use keeps it: after that, it gives way before all others, unless others were given it.
        """
        recent = self._recent.get(place.key)
        if recent is not None and recent.serves(content, self.layout):
            return self.layout.local_path(recent.file.name)
        owner = self.locked(place.key)
        with files.full_disk(self.layout.root), owner, owner as record:
            objects = (file for file in record.files if file.kind is Kind.OBJECT and file.tree.isdigit())
            known = (file for file in objects if file.digest == content.digest)
            for file in sorted(known, key=lambda file: int(file.tree)):
                if self._restore(record, file, content, lambda: source, mode):
                    break
            else:
                file = self._create(record, place, content, source, mode)
            path = self._hand_out(owner, file, briefly=briefly)
            if briefly:
                return path
            until = time.monotonic() + min(_RECENT_SECONDS, self.settings.local_path_grace / 2)
            if len(self._recent) >= _MOST_SEEN:
                self._recent.clear()
            self._recent[place.key] = _Recent(content, record.at(file.name) or file, until)
            return path

    def path_in(
        self, tree: str, place: Place, content: Content, source: Callable[[], int], mode: str | None = None
    ) -> bool:
        """Make the path of a version in one *tree*; False if something else is or was there.

        *source* opens the bytes; they are closed here.
        """
        name = f"{tree}/{local_name(place)}"
        owner = self.locked(place.key)
        with files.full_disk(self.layout.root), contextlib.ExitStack() as opened, owner, owner as record:

            def open_source() -> int:
                descriptor = source()
                opened.callback(os.close, descriptor)
                return descriptor

            file = record.at(name)
            if file is None:
                file = self._create_at(record, LocalFile(name, Kind.OBJECT), content, open_source(), mode)
            elif not (file.kind is Kind.OBJECT and file.digest == content.digest) or not self._restore(
                record, file, content, open_source, mode
            ):
                return False
            if file is not None:
                self._hand_out(owner, file)
            return file is not None

    def _hand_out(self, owner: LockedRecord, file: LocalFile, *, briefly: bool = False) -> str:
        owner.touch(briefly=briefly)
        self.handed_out.add(owner.record.key)
        return self.layout.local_path(file.name)

    def _restore(
        self, record: PathRecord, file: LocalFile, content: Content, source: Callable[[], int], mode: str | None
    ) -> bool:
        """Whether *file* has the bytes of *content*; makes it again if it was evicted, or damaged by a power cut."""
        path = self.layout.local_path(file.name)
        status = files.lstat_regular(path) if os.path.lexists(path) else None
        if status is not None:
            if file.is_changed(self.layout, self.boot):
                return False
            if file.boot == self.boot or _has_same_bytes(path, source()):
                # The same bytes may be a newer version of the object by now: a change starts from that one.
                known = replace(file, base=content.validator, boot=self.boot)
                if known != file:
                    record.save(self.layout, known)
                return True
            os.unlink(path)  # written before this boot, and not completely
        return not os.path.lexists(path) and self._create_at(record, file, content, source(), mode) is not None

    def _create(self, record: PathRecord, place: Place, content: Content, source: int, mode: str | None) -> LocalFile:
        name = local_name(place)
        numbers = (int(file.tree) for file in record.files if file.tree.isdigit())
        for number in count(max(numbers, default=-1) + 1):
            made = self._create_at(record, LocalFile(f"{number}/{name}", Kind.OBJECT), content, source, mode)
            if made is not None:
                return made
        raise AssertionError

    def _create_at(
        self, record: PathRecord, file: LocalFile, content: Content, source: int, mode: str | None
    ) -> LocalFile | None:
        """Make the file at its name; None if anything else has the name, or that of a directory above it."""
        path = self.layout.local_path(file.name)
        if os.path.lexists(path) or not self.make_parent(path):
            return None
        mode = mode or self.settings.views
        if mode != "link":
            temporary = self._copy(source, must_copy=mode == "copy" or content.size <= COPY_LIMIT)
            if temporary is not None:
                return self._name(record, file, content, temporary, path)
        made = self._link(record, file, content, source, path)
        return made or self._name(record, file, content, self._copy(source), path)

    def _name(
        self, record: PathRecord, file: LocalFile, content: Content, temporary: str | None, path: str
    ) -> LocalFile | None:
        if temporary is None:
            raise OSError(errno.EIO, "cannot create a local copy", path)
        try:
            os.utime(temporary, ns=(content.file_mtime_ns, content.file_mtime_ns))
            made = self._record(record, file, content, os.stat(temporary))
            with contextlib.suppress(FileExistsError):
                files.link(temporary, path)
                self._on_copied(content.size)
                files.unlink_quietly(temporary)  # before the ctime, which it changes
                made = replace(made, ctime_ns=ctime_of(files.lstat_or_none(path)))
                record.save(self.layout, made)
                return made
            record.drop(made)  # a tool made a file there meanwhile
            record.write(self.layout)
            return None
        finally:
            files.unlink_quietly(temporary)

    def _link(self, record: PathRecord, file: LocalFile, content: Content, source: int, path: str) -> LocalFile | None:
        """Make the file a hard link; None if the blob was swept meanwhile, or cannot have more links."""
        blob = self.layout.blob(content.digest.value)
        try:
            if not os.path.samestat(os.lstat(blob), os.fstat(source)):
                return None  # not the file that was checked
            made = self._record(record, file, content, os.fstat(source))
            try:
                files.link(blob, path)
            except FileExistsError:
                # A tool made a file there meanwhile. Or locks do not work here: another process made this very link.
                return made if os.path.samestat(os.lstat(path), os.fstat(source)) else None
            if os.path.samestat(os.lstat(path), os.fstat(source)):
                return made
            os.unlink(path)  # the blob was swept and filled again since
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        return None

    def _record(self, record: PathRecord, file: LocalFile, content: Content, status: os.stat_result) -> LocalFile:
        """Record the file before it has its name: what has no record counts as a user's."""
        version = content.digest, content.validator
        made = LocalFile(file.name, Kind.OBJECT, content.size, status.st_mtime_ns, *version, self.boot)
        record.save(self.layout, made)
        return made

    def _copy(self, source: int, *, must_copy: bool = True) -> str | None:
        """Create a private copy as a reflink, or with *must_copy* as a copy of the bytes; return None if neither."""
        directory = self.leases.get().paths.staging
        os.makedirs(directory, 0o700, exist_ok=True)
        temporary, copied = f"{directory}/{os.urandom(8).hex()}", False
        try:
            # With the mode that the umask gives: programs that copy the file copy its mode.
            with files.opened(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666) as descriptor:
                copied = copying.clone(source, descriptor)
                if not copied and must_copy:
                    copying.copy_bytes(source, descriptor)
                    copied = True
        finally:
            if not copied:
                files.unlink_quietly(temporary)
        return temporary if copied else None

    def make_parent(self, path: str) -> bool:
        """Create the directory of *path*; False if a file has the name of one above it."""
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            os.utime(os.path.dirname(path))  # an old empty directory may be removed: see `forget_old`
        except OSError as error:
            if error.errno not in _NO_PARENT:
                raise
            return False
        return True

    # --- trees --------------------------------------------------------------------------------------------------------

    def trees(self) -> list[str]:
        return sorted((name for name in files.list_names(self.layout.local) if name.isdigit()), key=int)

    def files_below(self, directory: str, prefix: str = "") -> Iterator[str]:
        """Yield the names below ``local/`` of the files below *directory*, a path there; in it, only those of names
        that begin with *prefix*.
        """
        skipped = len(self.layout.local) + 1
        for parent, folders, names in os.walk(directory):
            if prefix and parent == directory:
                folders[:] = [name for name in folders if name.startswith(prefix)]
                names = [name for name in names if name.startswith(prefix)]  # noqa: PLW2901
            for name in names:
                yield f"{parent}/{name}"[skipped:]

    def record_at(self, name: str) -> PathRecord | None:
        """Return the record of the object that has the path *name* below ``local/``."""
        found = record_of(name.partition("/")[2])
        return None if found is None else PathRecord.read(self.layout, found)

    # --- writing ------------------------------------------------------------------------------------------------------

    def path_to_create(self, place: Place) -> str:
        """Return a path for a tool to create the object; the same until what it made there is pushed or dropped."""
        owner = self.locked(place.key)
        with files.full_disk(self.layout.root), owner, owner as record:
            # A file that a tool made and that was not pushed is what the tool goes on with.
            made = (file for file in record.files if file.kind is Kind.SAVED and file.base is None)
            unmade = (file for file in record.files if file.kind is Kind.ABSENT)
            file = next((file for file in made if file.exists(self.layout)), next(unmade, None))
            path = "" if file is None else self.layout.local_path(file.name)
            if file is None or not self.make_parent(path):
                numbers = (int(known.tree) for known in record.files if known.tree.isdigit())
                for number in count(max(numbers, default=-1) + 1):
                    file = LocalFile(f"{number}/{local_name(place)}", Kind.ABSENT)
                    path = self.layout.local_path(file.name)
                    if not os.path.lexists(path) and self.make_parent(path):
                        break
                assert file is not None
                record.save(self.layout, file)
            self.made_at.add(path)
            return self._hand_out(owner, file)

    def private_path(
        self, place: Place, base: Validator | None, source: int | None = None, tree: str | None = None
    ) -> str:
        """Return a path in a new tree of this process, or in *tree*, to be given back by `release`.

        *base* is the version that changes of it start from. With *source*, an open file, it has a copy of it.
        """
        tree = tree or self.new_private_tree()
        file = LocalFile(f"{tree}/{local_name(place)}", Kind.PRIVATE, base=base)
        path = self.layout.local_path(file.name)
        owner, temporary = self.locked(place.key), None
        with files.full_disk(self.layout.root), owner, owner as record:
            try:
                if source is not None:
                    temporary = self._copy(source)
                    assert temporary is not None
                    # Dated back, so that any write changes the mtime.
                    made_ns = os.stat(temporary).st_mtime_ns - _SECOND
                    os.utime(temporary, ns=(made_ns, made_ns))
                    file = replace(file, size=os.stat(temporary).st_size, mtime_ns=made_ns)
                self.make_parent(path)
                record.save(self.layout, file)
                if temporary is not None:
                    files.link(temporary, path)
            finally:
                if temporary is not None:
                    files.unlink_quietly(temporary)
        return path

    def new_private_tree(self) -> str:
        return f"e{self.leases.get().name}-{os.urandom(8).hex()}"

    def release(self, key: Key, path: str, proof: Digest | None = None) -> bool:
        """Forget a path and remove its file; False if it lacks the bytes of *proof*, or is shared and being written."""
        owner = self.locked(key)
        with owner, owner as record:
            file = record.of_path(path)
            if file is None:
                return False
            if proof is not None and os.path.lexists(path):
                state = _state_if(path, proof)
                if state == _OTHER or (state[1] == OPEN_MTIME and file.kind is not Kind.PRIVATE):
                    return False
            files.unlink_quietly(path)
            record.drop(file)
            record.write(self.layout)
            self.made_at.discard(path)
        parent = os.path.dirname(path)
        with contextlib.suppress(OSError):
            # Other processes make files in the trees that they share.
            while not file.tree.isdigit() and len(parent) > len(self.layout.local):
                os.rmdir(parent)
                parent = os.path.dirname(parent)
        return True

    def uploaded(self, key: Key, path: str, digest: Digest, proof: Digest, validator: Validator) -> None:
        """Note that the bytes of *digest* at *path* were uploaded as *validator*; *proof* is their strong digest.

        If the file still has these bytes, its path is from now on that of this version.
        """
        owner = self.locked(key)
        with owner, owner as record:
            file = record.of_path(path)
            if file is not None and (state := _state_if(path, proof)) != _OTHER:
                made = LocalFile(file.name, Kind.OBJECT, *state[:2], digest, validator, self.boot, state[2])
                record.save(self.layout, made)
                self._recent.pop(key, None)

    def changed_path(self, key: Key) -> str | None:
        """Return the path that this process was given of *key* and that was changed since; None if there is none."""
        if key not in self.handed_out:
            return None
        record = PathRecord.read(self.layout, key.name, key) or PathRecord(key)
        changed = (file for file in record.files if file.kind is Kind.SAVED and file.exists(self.layout))
        return next((self.layout.local_path(file.name) for file in changed), None)

    # --- the process --------------------------------------------------------------------------------------------------

    def use(self, key: Key, *, is_directory: bool = False) -> LocalUse:
        """Use the path of an object or a directory until the result is dropped, or with ``local_paths = "keep"`` for
        the life of this process. Raises: StoreFullError.
        """
        with files.full_disk(self.layout.root):
            use = self.uses.begin(use_of(Key(key.uri.rstrip("/") + "/", key.origin) if is_directory else key))
        if self.settings.local_paths == "keep":
            self._kept.append(use)
        return use

    def close(self) -> None:
        """Forget what this process was given; the next use begins anew."""
        self.handed_out.clear()
        self.made_at.clear()
        self.uses.close()

    def has_changes(self, key: Key) -> bool:
        """Whether a local file of *key* was changed or made since it was last looked at."""
        seen = self._look(key)
        return seen is not None and any(
            file.kind is not Kind.PRIVATE and file.is_changed(self.layout, self.boot) for file in seen.files
        )

    def may_have_unsaved(self, key: Key) -> bool:
        """Whether *key* has a pending write, or `has_changes`."""
        seen = self._look(key)
        return seen is not None and (seen.has_pending or self.has_changes(key))

    def _look(self, key: Key) -> _Seen | None:
        directory = self.layout.pending(key.name)
        try:
            mtime_ns = os.stat(directory).st_mtime_ns
        except FileNotFoundError:
            return None
        seen = self._seen.get(key)
        if seen is None or seen.mtime_ns != mtime_ns:
            has_pending = any(name != PATHS_NAME for name in files.list_names(directory))
            record = PathRecord.read(self.layout, key.name, key) or PathRecord(key)
            seen = _Seen(mtime_ns, has_pending, tuple(record.files))
            # In the tick of the kernel's clock in which it was changed, it may change again.
            if time.time_ns() - mtime_ns > _TICK_NS:
                if len(self._seen) >= _MOST_SEEN:
                    self._seen.clear()
                self._seen[key] = seen
        return seen


def _has_same_bytes(path: str, source: int) -> bool:
    with contextlib.suppress(FileNotFoundError), files.opened(path, OPEN_FLAGS) as descriptor:
        return os.path.sameopenfile(descriptor, source) or copying.same_bytes(descriptor, source)
    return False


def _state_if(path: str, proof: Digest) -> tuple[int, int, int]:
    """Return the state of the file at *path* if it has the bytes of *proof*; `_OTHER` if not, or if it changes."""
    with contextlib.suppress(FileNotFoundError, StillBeingWrittenError), stable_read(path) as (descriptor, state):
        if hash_descriptor(descriptor, proof.algorithm) == proof:
            return state
    return _OTHER
