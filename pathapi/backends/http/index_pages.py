"""Index pages: the "directory" listings of web servers, made of links."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import Final
from urllib.parse import unquote, urljoin

from casstore import Validator
from pathapi.backend import ListItem, ObjectInfo, Prefix
from pathapi.backends.error_table import translating
from pathapi.backends.http.requests import HttpRequests
from pathapi.exceptions import CloudPathNotImplementedError

MAX_PAGE: Final = 64 << 20
"""Bytes of the longest page that is read as an index, decompressed."""
MAX_DEPTH: Final = 64
"""Depth of directories: a link to a parent would never end."""

_CHARSET: Final = re.compile(r"charset=\"?([\w.:-]+)", re.IGNORECASE)
_DOTS: Final = frozenset((".", ".."))
_MARKUP: Final = ("text/html", "application/xhtml+xml")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base: str | None = None
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("a", "base"):
            href = dict(attrs).get("href")
            if href and tag == "a":
                self.found.append(href.strip())
            elif href and self.base is None:
                self.base = href.strip()


def links_of(html: str) -> Iterable[str]:
    """Return the targets of the page's links, as written."""
    parser = _Links()
    parser.feed(html)
    parser.close()
    return parser.found if parser.base is None else [urljoin(parser.base, link) for link in parser.found]


def is_markup(content_type: str | None) -> bool:
    """Return whether a page can contain links."""
    return content_type is None or content_type.partition(";")[0].strip().lower() in _MARKUP


def text_of(data: bytes, content_type: str | None) -> str:
    """Decode a page; invalid bytes are replaced."""
    found = _CHARSET.search(content_type or "")
    try:
        return data.decode(found[1] if found else "utf-8", "replace")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")


def names_below(page: str, links: Iterable[str]) -> Iterator[str]:
    """Yield the names that *links* of the page at *page* give below it, relative to it; each once, in no order.

    Links to parents, other places, the page itself and other orders of it (``?C=N;O=D``) are skipped; links to a parent
    also if they are escaped (``%2e%2e/x``), because a server may follow them there.
    """
    folder = page.partition("#")[0].partition("?")[0]
    folder = folder[: folder.rfind("/") + 1]
    seen = set()
    for link in links:
        target = urljoin(folder, str(link)).partition("#")[0]
        name = target[len(folder) :] if target.startswith(folder) else ""
        parts = re.split(r"[/\\]", unquote(name.partition("?")[0]))
        if name and not name.startswith(("?", "/")) and name not in seen and not _DOTS.intersection(parts):
            seen.add(name)
            yield name


def walk(host: HttpRequests, folder: str, start: str = "", depth: int = 0, *, delimited: bool) -> Iterator[ListItem]:
    """Yield what is below the index page *folder* and begins with *start* there, in the order of the keys' bytes.

    One request per page. Raises CloudPathNotImplementedError for a page that is no index.
    """
    if depth > MAX_DEPTH:
        raise CloudPathNotImplementedError(
            f"{host.uri(folder)}: {depth} directories deep, the links have no end: list a directory below"
        )
    objects, folders = set[str](), set[str]()
    for name in _names_in(host, folder):
        first, slash, _ = name.partition("?")[0].partition("/")
        if slash or host.connection.is_directory(host.url(folder + name)):
            folders.add(first + "/")
        else:
            objects.add(name)
    for name in sorted(objects | folders, key=lambda name: name.encode("utf-8", "surrogatepass")):
        if not name.startswith(start):
            continue
        if name not in folders:
            yield ObjectInfo(folder + name, Validator(0), is_named_only=True)
        elif delimited:
            yield Prefix(folder + name)
        else:
            yield from walk(host, folder + name, depth=depth + 1, delimited=False)


def _names_in(host: HttpRequests, folder: str) -> Iterator[str]:
    answer = host.send("GET", folder)
    if answer.status in (404, 410):
        answer.drop()
        return iter(())
    host.require(answer, folder, "GET", is_page=True)
    kind, parse = answer.headers.get("Content-Type"), host.connection.custom_list_page_parser
    if parse is None and not is_markup(kind):
        answer.drop()
        raise CloudPathNotImplementedError(
            f"{host.uri(folder)}: the page is no index ({kind}): use custom_list_page_parser= for other pages"
        )
    encoded = {name.strip() for name in answer.headers.get("Content-Encoding", "").lower().split(",")}
    unknown = encoded - {"", "identity", *answer.response.CONTENT_DECODERS}
    if unknown:
        answer.drop()
        raise CloudPathNotImplementedError(
            f"{host.uri(folder)}: the page is encoded in an unknown way: {', '.join(unknown)}"
        )
    try:
        with translating(host.translator(folder, "GET")):
            # When it decodes, urllib3 reads to the end and checks the length: else a truncated page were a short one.
            data = answer.response.read(MAX_PAGE + 1, decode_content=True)
    except Exception:
        answer.response.close()
        raise
    if len(data) > MAX_PAGE:
        answer.response.close()
        raise CloudPathNotImplementedError(f"{host.uri(folder)}: the page is no index: it has over {MAX_PAGE} bytes")
    answer.response.release_conn()
    return names_below(answer.url, (parse or links_of)(text_of(data, kind)))
