"""Glob patterns over keys, and directories derived from listings of keys. No I/O of its own.

Clouds have no directories: ``a/b.txt`` implies ``a/``. Everything here derives them from a stream of objects in which
the keys below one prefix are adjacent, as they are in any sorted listing. A directory is complete once the stream has
left it, so that only the directories between the root and the current key are in memory.

A pattern means what it means to `pathlib` of Python 3.13 on a case-sensitive file system with hidden files included.
Names are matched as strings between slashes, the empty name too: ``*`` finds ``a//b``'s middle part.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from pathapi.backend import ObjectInfo, Prefix
from pathapi.exceptions import CloudPathException, CloudPathNotImplementedError

FLAT: Final = 10_000
"""Objects of a flat listing after which a pattern chooses between that and a listing for each directory."""

_MAGIC: Final = re.compile(r"[*?\[]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DEEP: Final = r"(?:[^/]*/)*"
# What fnmatch wraps around a translation; it differs between Python versions.
_WRAP_START, _WRAP_END = (len(side) for side in fnmatch.translate("_").split("_"))


class Match(NamedTuple):
    """One result of a glob: an object with what the listing said of it, or a directory, whose *key* ends with ``/``."""

    key: str
    info: ObjectInfo | None


class Visit(NamedTuple):
    """One directory of a walk. Top-down, names taken out of *dirnames* are not entered, as with `os.walk`."""

    key: str
    """``""`` or ends with ``/``; a subdirectory's key is ``key + name + "/"``."""
    dirnames: list[str]
    files: dict[str, ObjectInfo]


class Pattern(NamedTuple):
    """A compiled relative pattern; made by `compile_pattern`."""

    parts: tuple[str, ...]
    case_sensitive: bool
    directories_only: bool
    """The pattern ended with a slash."""
    literal_prefix: str
    """What every match's key below the starting directory begins with: ``sub/img_`` of ``sub/img_*``."""
    regex: re.Pattern[str]
    """Matches keys of directories below the starting one, each with a ``/`` at its end."""

    def select(
        self,
        base: str,
        list_flat: Callable[[str], Iterable[ObjectInfo]],
        list_dir: Callable[[str], Iterable[ObjectInfo | Prefix]],
        *,
        prefers_flat: bool = False,
    ) -> Iterator[Match]:
        """Yield the matches below *base* (``""`` or ending with ``/``), while the listings arrive.

        Both callables take a whole key prefix, which need not end at a slash: *list_flat* lists every object,
        *list_dir* one level. A recursive pattern costs one flat listing; a pattern with wildcards in its last component
        alone one delimited listing. With wildcards before, each directory that they select is listed; with
        *prefers_flat*, a flat listing comes first, as far as it costs no more. A name that is an object and a directory
        is yielded as both, as `iterdir` does.
        """
        if "**" in self.parts:
            return self._select_flat(base, list_flat)
        if prefers_flat and _MAGIC.search("/".join(self.parts[:-1])):
            return self._select_either(base, list_flat, list_dir)
        return self._select_level(base, 0, list_dir)

    def _select_either(
        self,
        base: str,
        list_flat: Callable[[str], Iterable[ObjectInfo]],
        list_dir: Callable[[str], Iterable[ObjectInfo | Prefix]],
    ) -> Iterator[Match]:
        given, above, depth = set[str](), set[str](), len(self.parts) - 1
        listed = 0

        def first(prefix: str) -> Iterator[ObjectInfo]:
            nonlocal listed
            for info in list_flat(prefix):
                listed += 1
                above.add("/".join(info.key[len(base) :].split("/", depth)[:depth]))
                yield info
                if listed == FLAT and len(above) < FLAT // 1_000:
                    return

        for match in self._select_flat(base, first):
            if listed <= FLAT:
                given.add(match.key)
            yield match
        if listed == FLAT:
            # Few directories of many objects: their names cost less than the rest of those objects.
            yield from (match for match in self._select_level(base, 0, list_dir) if match.key not in given)

    def _select_flat(self, base: str, list_flat: Callable[[str], Iterable[ObjectInfo]]) -> Iterator[Match]:
        matches, start = self.regex.match, len(base)
        # A last "**" stands for a directory and all below it, and so for no file at its own place.
        matches_file = compile_parts(self.parts, self.case_sensitive, itself=False).match
        entered = base
        root_due = matches("") is not None
        for info in list_flat(base + self.literal_prefix):
            if root_due:
                root_due = False
                yield Match(base, None)
            key = info.key
            directory = key[: key.rfind("/") + 1]
            if directory != entered:
                for end in _new_directories(entered, directory, start):
                    if matches(directory[start:end]):
                        yield Match(directory[:end], None)
                entered = directory
            if not self.directories_only and len(key) > len(directory) and matches_file(key[start:] + "/"):
                yield Match(key, info)

    def _select_level(
        self, prefix: str, depth: int, list_dir: Callable[[str], Iterable[ObjectInfo | Prefix]]
    ) -> Iterator[Match]:
        last = len(self.parts) - 1
        # A literal component needs no listing: there is nothing below a directory that does not exist.
        while depth < last and _literal_start(self.parts[depth], self.case_sensitive) == self.parts[depth]:
            prefix += self.parts[depth] + "/"
            depth += 1
        part = self.parts[depth]
        matches, start = compile_component(part, self.case_sensitive), len(prefix)
        for item in list_dir(prefix + _literal_start(part, self.case_sensitive)):
            key = item.key
            is_dir = isinstance(item, Prefix)
            path = key[:-1] if is_dir else key
            # An object that is the prefix itself only marks the directory.
            if (not is_dir and key.endswith("/")) or matches(path[start:]) is None:
                continue
            if depth < last:
                if is_dir:
                    yield from self._select_level(key, depth + 1, list_dir)
            elif is_dir or not self.directories_only:
                yield Match(key, None if isinstance(item, Prefix) else item)


def compile_pattern(
    pattern: str | os.PathLike[str], case_sensitive: bool | None = None, *, anywhere: bool = False
) -> Pattern:
    """Compile a relative *pattern*; *anywhere* puts ``**/`` before it, as ``rglob`` does. Case counts by default.

    Raises CloudPathNotImplementedError for a pattern that is absolute or has a ``..``, ValueError for an empty one.
    """
    text = os.fspath(pattern)
    if text.startswith("/") or _SCHEME.match(text):
        raise CloudPathNotImplementedError(
            f"{text!r}: Non-relative patterns are unsupported: a pattern is relative to its path"
        )
    parts = split_pattern(text)
    if ".." in parts:
        raise CloudPathNotImplementedError(
            f"{text!r}: Relative paths with '..' not supported in glob patterns.: start from .parent"
        )
    directories_only = text.endswith(("/", "/."))
    if anywhere:
        directories_only = directories_only or not parts
        parts = ("**", *(parts[1:] if parts[:1] == ("**",) else parts))
    if not parts:
        raise ValueError(f"Unacceptable pattern: {text!r}")
    is_sensitive = case_sensitive is not False
    literal = ""
    for depth, part in enumerate(parts):
        start = _literal_start(part, is_sensitive)
        literal += start
        if start != part:
            break
        if depth < len(parts) - 1:
            literal += "/"
    return Pattern(parts, is_sensitive, directories_only, literal, compile_parts(parts, is_sensitive))


def split_pattern(text: str) -> tuple[str, ...]:
    """Return the components of *text* as `pathlib` does: no empty ones, no ``.``, and never ``**`` twice in a row."""
    parts: list[str] = []
    for part in text.split("/"):
        if part not in ("", ".") and not (part == "**" and parts[-1:] == ["**"]):
            parts.append(part)
    return tuple(parts)


@lru_cache(maxsize=512)
def compile_component(part: str, case_sensitive: bool = True) -> Callable[[str], re.Match[str] | None]:
    """Return a function that matches one whole name with *part*; ``**`` is ``*`` here."""
    return re.compile(_translate_component(part) + r"\Z", 0 if case_sensitive else re.IGNORECASE).match


@lru_cache(maxsize=512)
def compile_parts(parts: tuple[str, ...], case_sensitive: bool = True, *, itself: bool = True) -> re.Pattern[str]:
    """Return a regular expression for names joined and ended by ``/``; ``**`` matches any number of names.

    With *itself*, ``a/**`` matches ``a/``, as directories do in ``glob``; without, only what is below, as files do
    there and all names in ``full_match``.
    """
    pieces: list[str] = []
    deep = False
    run = ""
    for part in parts:
        if part == "**":
            # The leftmost place where the names between two "**" fit is as good as any other, so the rest is never
            # tried: backtracking into several "**" would take time exponential in their number.
            pieces.append(f"(?>{_DEEP}?{run})" if deep else run)
            deep, run = True, ""
        else:
            run += _translate_component(part) + "/"
    if deep and not run:
        pieces.append(".*" if itself or len(parts) == 1 else ".+")
    else:
        pieces.append((_DEEP if deep else "") + run)
    flags = re.DOTALL if case_sensitive else re.DOTALL | re.IGNORECASE
    return re.compile("".join(pieces) + r"\Z", flags)


def match_tail(names: Sequence[str], pattern: str, case_sensitive: bool | None) -> bool:
    """Return whether the last *names* match *pattern*; all of them, if it starts with ``/``. Raises ValueError."""
    wanted = [part for part in pattern.split("/") if part not in ("", ".")]
    is_whole = pattern.startswith("/")
    if not wanted and not is_whole:
        raise ValueError("empty pattern")
    if len(names) < len(wanted) or (is_whole and len(names) > len(wanted)):
        return False
    tail, is_sensitive = names[len(names) - len(wanted) :], case_sensitive is not False
    return all(compile_component(part, is_sensitive)(name) for part, name in zip(wanted, tail, strict=True))


def match_whole(names: Sequence[str], parts: tuple[str, ...], case_sensitive: bool | None) -> bool:
    """Return whether all *names* match a pattern's *parts*."""
    subject = "".join(f"{name}/" for name in names)
    return compile_parts(parts, case_sensitive is not False, itself=False).match(subject) is not None


def walk_tree(objects: Iterable[ObjectInfo], prefix: str, *, top_down: bool = True) -> Iterator[Visit]:
    """Walk the directories implied by *objects*, a flat listing of *prefix* (``""`` or ending with ``/``).

    Bottom-up streams: it yields a directory as soon as the listing has left it. Top-down needs the whole listing in
    memory, because the last key may still be a file of the root; `walk_levels` is for trees too large for that. A
    listing without objects yields nothing.
    """
    visits = _leave_directories(objects, prefix)
    if not top_down:
        yield from visits
        return
    tree = {visit.key: visit for visit in visits}
    pending = [prefix] if tree else []
    while pending:
        visit = tree.pop(pending.pop())
        yield visit
        pending.extend(f"{visit.key}{name}/" for name in reversed(visit.dirnames))


def walk_levels(
    list_dir: Callable[[str], Iterable[ObjectInfo | Prefix]],
    prefix: str,
    *,
    top_down: bool = True,
    on_error: Callable[[Exception], object] | None = None,
) -> Iterator[Visit]:
    """Walk by one delimited listing of each directory, so that a pruned one is never listed.

    With *on_error*, a directory that cannot be listed is reported to it, and left out.
    """
    visit = Visit(prefix, [], {})
    try:
        for item in list_dir(prefix):
            name = item.key[len(prefix) :]
            if isinstance(item, Prefix):
                visit.dirnames.append(name[:-1])
            elif not item.key.endswith("/"):
                visit.files[name] = item
    except (OSError, CloudPathException) as error:
        if on_error is None:
            raise
        on_error(error)
        return
    if top_down:
        yield visit
    for name in visit.dirnames:
        yield from walk_levels(list_dir, f"{prefix}{name}/", top_down=top_down, on_error=on_error)
    if not top_down:
        yield visit


def _leave_directories(objects: Iterable[ObjectInfo], prefix: str) -> Iterator[Visit]:
    open_visits: list[Visit] = []
    for info in objects:
        if not open_visits:
            open_visits.append(Visit(prefix, [], {}))
        key = info.key
        directory = key[: key.rfind("/") + 1]
        entered = open_visits[-1].key
        if directory != entered:
            while not directory.startswith(open_visits[-1].key):
                yield open_visits.pop()
            for end in _new_directories(entered, directory, len(prefix)):
                parent = open_visits[-1]
                parent.dirnames.append(directory[len(parent.key) : end - 1])
                open_visits.append(Visit(directory[:end], [], {}))
        if len(key) > len(directory):
            open_visits[-1].files[key[len(directory) :]] = info
    yield from reversed(open_visits)


def _new_directories(old: str, new: str, start: int) -> Iterator[int]:
    """Yield where the directories of *new* end that *old* is not in, outermost first; both share *start* characters."""
    end = new.find("/", start) + 1
    while end:
        if not old.startswith(new[:end]):
            yield end
        end = new.find("/", end) + 1


def _literal_start(part: str, case_sensitive: bool) -> str:
    """Return the characters that every name matching *part* begins with."""
    magic = _MAGIC.search(part)
    start = part if magic is None else part[: magic.start()]
    if case_sensitive:
        return start
    caseless = next((at for at, char in enumerate(start) if char.lower() != char or char.upper() != char), len(start))
    return start[:caseless]


def _translate_component(part: str) -> str:
    pieces: list[str] = []
    starred = False
    run = ""
    at = 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            pieces.append(f"(?>[^/]*?{run})" if starred else run)
            starred, run = True, ""
        elif char == "?":
            run += "[^/]"
        elif char == "[" and (end := _class_end(part, at)) > 0:
            # A class such as [!a] or [+-9] must not match a slash.
            run += "(?!/)" + fnmatch.translate(part[at - 1 : end])[_WRAP_START:-_WRAP_END]
            at = end
        else:
            run += re.escape(char)
    pieces.append(f"[^/]*{run}" if starred else run)
    return "".join(pieces)


def _class_end(part: str, at: int) -> int:
    """Return the index after the ``]`` of the class whose first character is at *at*; 0 if ``[`` is a literal."""
    if part[at : at + 1] == "!":
        at += 1
    return part.find("]", at + 1) + 1
