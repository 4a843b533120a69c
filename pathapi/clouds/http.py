"""HTTP(S): `HttpPath`, `HttpsPath` and their clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack
from urllib.parse import ParseResult, urlparse

from casstore import printable
from pathapi.backend import Backend
from pathapi.backends.http.backend import HttpBackend, HttpConnection
from pathapi.backends.settings import Connected
from pathapi.client import Client, ClientOptions, ContentType, guess_type
from pathapi.common.redaction import MASK, unsigned
from pathapi.common.uri import Uri
from pathapi.enums import FileCacheMode
from pathapi.exceptions import CloudPathFileNotFoundError, CloudPathNotImplementedError, InvalidConfigurationException
from pathapi.path.cloud_path import CloudPath
from pathapi.reading.listing_cache import NameListings
from pathapi.registry import implementation_registry, register_client_class, register_path_class

Response = tuple[Any, bytes]
"""urllib3's response, with ``status`` and ``headers``, and the whole body."""


@register_path_class("http")
class HttpPath(CloudPath):
    """The object of a URL. A URL with a final slash is a "directory", an index page of links; see `HttpClient`.

    A query is part of the request and of the object's identity (without a signature), and not of `name`, `parent` and
    other paths made from this one.
    """

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "http://"
    _in_anchor: ClassVar[int] = 1

    if TYPE_CHECKING:

        @property
        def client(self) -> HttpClient: ...

    def __init__(self, cloud_path: str | CloudPath, *parts: str, client: Any = None) -> None:
        super().__init__(cloud_path, *parts, client=client)
        if client is not None and client.scheme != self._scheme():
            implementation_registry.refuse_client(type(self), client)

    @property
    def parsed_url(self) -> ParseResult:
        """The URL, split."""
        return urlparse(self._text)

    @property
    def anchor(self) -> str:
        """``http://host/``, without a login."""
        return f"{self.cloud_prefix}{self.uri.bucket.rpartition('@')[2]}/"

    @property
    def parts(self) -> tuple[str, ...]:
        """``("http://host/", "directory", "name")``."""
        return (self.anchor, *self._split()[1:])

    @property
    def name(self) -> str:
        """The last part of the path, without a query; ``""`` at the host."""
        return self._split()[-1] if len(self._split()) > 1 else ""

    def as_url(self, presign: bool = False, expire_seconds: int = 3600) -> str:
        """The URL itself. Raises CloudPathNotImplementedError for *presign*."""
        if presign:
            raise CloudPathNotImplementedError(
                "presign=True: URLs of plain HTTP servers cannot be signed: use as_url()"
            )
        return self._text

    def __repr__(self) -> str:
        shown = unsigned(self._text)
        if shown != self._text:
            shown += ("&" if "?" in shown else "?") + MASK
        return f"{type(self).__name__}('{printable(shown)}')"

    def joinpath(self, *pathsegments: str | os.PathLike[str]) -> Self:
        """As `CloudPath.joinpath`; keeps a final slash, the sign of a "directory"."""
        joined = super().joinpath(*pathsegments)
        is_directory = pathsegments and str(pathsegments[-1]).endswith("/") and not str(joined).endswith("/")
        return self._derive(f"{joined}/") if is_directory else joined

    def _split(self) -> tuple[str, ...]:
        if self._names is None:
            key = _path_of(self.uri.key).removesuffix("/")
            self._names = (self.uri.bucket, *(key.split("/") if key else ())) if self.uri.bucket else ()
        return self._names

    def _from_names(self, names: Any) -> Self:
        return self._derive(f"{self.cloud_prefix}{names[0]}/") if len(names) == 1 else super()._from_names(names)

    def _at_prefix(self, prefix: str) -> Self:
        return self._at_key(prefix)

    def get(self, **options: Any) -> Response:
        """Send a GET that bypasses the store; see `HttpClient.request`."""
        return self._request("GET", options)

    def put(self, **options: Any) -> Response:
        """Send a PUT without conditions; see `HttpClient.request`."""
        return self._request("PUT", options)

    def post(self, **options: Any) -> Response:
        """Send a POST; see `HttpClient.request`."""
        return self._request("POST", options)

    def delete(self, **options: Any) -> Response:
        """Send a DELETE without conditions; see `HttpClient.request`."""
        return self._request("DELETE", options)

    def head(self, **options: Any) -> Response:
        """Send a HEAD; see `HttpClient.request`."""
        return self._request("HEAD", options)

    def _request(self, method: str, options: Mapping[str, Any]) -> Response:
        client: Any = self.client
        response: Response = client.request(self, method, **options)
        return response


@register_path_class("https")
class HttpsPath(HttpPath):
    """`HttpPath` over TLS."""

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "https://"

    if TYPE_CHECKING:

        @property
        def client(self) -> HttpsClient: ...


@register_client_class("http")
class HttpClient(Connected, Client[HttpPath]):
    """HTTP servers by urllib3, which the first request imports.

    *auth* is (user, password), or a handler of `urllib.request`. *headers* are sent with every request to the path's
    host; a host that this redirects to gets none that may log in. *custom_list_page_parser* returns the links of an
    index page's text; *custom_dir_matcher* returns whether a URL is a "directory", in place of the final slash.
    *write_file_http_method* is ``PUT`` or ``POST``. *ca_certs* is a file of certificates that replaces the system's.
    *timeout* limits the wait for each piece of data, in seconds.
    """

    scheme: ClassVar[str] = "http"
    lists_flat: ClassVar[bool] = False
    sets_times: ClassVar[bool] = False
    connection: HttpConnection

    def __init__(
        self,
        file_cache_mode: str | FileCacheMode | None = None,
        local_cache_dir: str | os.PathLike[str] | None = None,
        content_type_method: ContentType | None = guess_type,
        auth: Any = None,
        custom_list_page_parser: Callable[[str], Iterable[str]] | None = None,
        custom_dir_matcher: Callable[[str], bool] | None = None,
        write_file_http_method: Literal["PUT", "POST"] = "PUT",
        *,
        headers: Mapping[str, str] | None = None,
        ca_certs: str | os.PathLike[str] | None = None,
        timeout: float = 60.0,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        for name in headers or {}:
            if name.lower() in _OTHER_BYTES:
                raise InvalidConfigurationException(
                    f"headers: {name} would select other bytes than the URL names: leave it out"
                )
        self.auth = auth
        self.connection = HttpConnection(
            auth=auth,
            headers=dict(headers or {}),
            ca_certs=None if ca_certs is None else os.fspath(ca_certs),
            write_file_http_method=write_file_http_method.upper(),
            custom_list_page_parser=custom_list_page_parser,
            custom_dir_matcher=custom_dir_matcher,
            timeout=timeout,
        )
        super().__init__(file_cache_mode, local_cache_dir, content_type_method, **client_options)
        self.listings = NameListings()

    HttpPath = Client[HttpPath].CloudPath

    @property
    def origin(self) -> str:
        """The scheme: the URI itself names the host."""
        return self.scheme

    @property
    def dir_matcher(self) -> Callable[[str], bool]:
        """Whether a URL is a "directory"."""
        return self.connection.is_directory

    @property
    def custom_list_page_parser(self) -> Callable[[str], Iterable[str]] | None:
        """As given."""
        return self.connection.custom_list_page_parser

    @property
    def write_file_http_method(self) -> str:
        """As given."""
        return self.connection.write_file_http_method

    @property
    def opener(self) -> Any:
        """An opener of `urllib.request` with *auth*, for other programs; not used here."""
        from urllib.request import build_opener

        return build_opener() if not hasattr(self.auth, "add_parent") else build_opener(self.auth)

    def request(
        self, url: CloudPath, method: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send one request that bypasses the store; return the response and its whole body.

        After a method that may change the object, drops what is cached of *url*.

        Raises:
            FileNotFoundError, PermissionError, CloudUnavailableError: as every other request.
        """
        backend: Any = self.backend(url.uri.bucket)
        try:
            response: Response = backend.request(method.upper(), url.uri.key, dict(headers or {}), data)
        finally:
            if method.upper() not in _SAFE:
                self.listings.forget(url.uri.bucket, url.uri.key)
                url.clear_cache()
        return response

    def prefix(self, uri: Uri) -> str:
        """Without the query, which names no "directory"."""
        path = _path_of(uri.key)
        return path if not path or path.endswith("/") else path + "/"

    def is_directory(self, uri: Uri) -> bool:
        """By the slash at its end, or as *custom_dir_matcher* says."""
        return not uri.key or self.dir_matcher(str(uri))

    def require_directory(self, uri: Uri) -> None:
        """Raise CloudPathFileNotFoundError if there is no page."""
        if not self.has_children(uri):
            raise CloudPathFileNotFoundError(f"{uri.shown}: the server has no such page: check the URL")

    def is_bucket(self, uri: Uri) -> bool:
        """Return False: a host without a page lists nothing."""
        return False

    def has_children(self, uri: Uri) -> bool:
        """Of a "directory", whether there is a page; else whether one more slash leads to one with links below."""
        if self.is_directory(uri):
            backend: Any = self.backend(uri.bucket)
            return bool(backend.has_page(uri.key))
        try:
            return super().has_children(uri)
        except CloudPathNotImplementedError:
            return False

    def _make_backend(self, bucket: str) -> Backend:
        return HttpBackend(self.connection, self.scheme, bucket)

    def local_name(self, uri: Uri) -> str:
        """Return the key without the query: programs recognise a file by the end of its name."""
        return _path_of(uri.key) or uri.filed.key


_HttpsPath = HttpsPath  # the client below has a method of that name


@register_client_class("https")
class HttpsClient(HttpClient):
    """`HttpClient` for ``https://``."""

    scheme: ClassVar[str] = "https"

    if TYPE_CHECKING:

        def CloudPath(self, cloud_path: str | HttpPath, *parts: str) -> _HttpsPath: ...  # noqa: N802

        HttpsPath = CloudPath
    else:
        HttpsPath = Client.CloudPath


_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_OTHER_BYTES = frozenset(
    ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "accept-encoding")
)
"""Headers that would select another object than the URL names, or a part of it."""


def _path_of(key: str) -> str:
    """Return a key without query and fragment."""
    return key.partition("#")[0].partition("?")[0]
