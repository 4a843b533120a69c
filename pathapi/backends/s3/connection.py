"""How to log in to S3, and the one boto3 client that comes of it.

boto3 is imported by the first request, not before: a warm read needs the origin only, and that is found without it
wherever the answer cannot depend on what botocore alone can read.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pathapi.backends.fork_safety import Made
from pathapi.backends.headers import parse_date
from pathapi.backends.s3.urls import prepare_urls
from pathapi.exceptions import InvalidConfigurationException, MissingDependenciesError
from pathapi.redaction import is_spawning, redacted, scrub, without_user

MAX_CONNECTIONS: Final = 64
"""Idle connections that are kept: 32 threads, each with an object and a part of another."""
_PARTITIONS: Final = (("cn-", "cn"), ("us-gov-", "us-gov"), ("us-iso", "us-iso"), ("eusc-", "eusc"))
"""Regions of Amazon's whose bucket names are a world of their own."""
_CONFIGURABLE: Final = ("endpoint_url", *(start for start, _ in _PARTITIONS))


_SECRETS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_ENVIRONMENT: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
_OTHER_BYTES: Final = frozenset(
    ("Bucket", "Key", "VersionId", "Range", "PartNumber")
    + ("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince")
)
"""Arguments that make the answer one about another object than the URI names, or about a part of it."""


class _Made(Made):
    def __init__(self) -> None:
        super().__init__()
        self.client: Any = None
        self.session: Any = None
        self.unsigned: Any = None
        self.origin: str | None = None

    def let_go(self) -> list[object]:
        made = [self.client, self.session, self.unsigned]
        self.client = self.session = self.unsigned = None
        return made


_wrapped: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""The boto3 session around a botocore session of the user's: a second one around the same makes no S3 client."""
_loaders: dict[str | None, Any] = {}
"""What reads and keeps the API's models, by where they are looked for beside botocore's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class S3Connection:
    """Settings of boto3, with boto3's own meaning and defaults; thread-safe, usable in a forked child, picklable where
    no session object was given.

    A pickle carries no secret, unless it is for a child that multiprocessing is starting: what it gives back looks for
    credentials as a new one would. A user and a password in *endpoint_url* are dropped; S3 logs in by its keys alone.

    *no_sign_request* reads public buckets without credentials. *addressing_style* is ``path``, ``virtual`` or
    ``auto``. *extra_args* go to every request that knows them (``RequestPayer``, ``SSECustomerKey``, ``ACL``).
    *boto3_transfer_config* gives the sizes and the concurrency of uploads in parts. Timeouts in seconds; a session
    that carries a default client configuration of its own overrides them.
    """

    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)
    no_sign_request: bool = False
    botocore_session: Any = field(default=None, repr=False)
    profile_name: str | None = None
    boto3_session: Any = field(default=None, repr=False)
    endpoint_url: str | None = field(default=None, repr=False)
    addressing_style: str | None = None
    region: str | None = None
    boto3_transfer_config: Any = None
    extra_args: Mapping[str, Any] = field(default_factory=dict, repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.endpoint_url:
            object.__setattr__(self, "endpoint_url", checked_endpoint(self.endpoint_url))
        refused = sorted(_OTHER_BYTES.intersection(self.extra_args))
        if refused:
            raise InvalidConfigurationException(
                f"extra_args cannot hold {', '.join(refused)}: the entries of a URI are what the URI names"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_made"}
        if not is_spawning():
            state |= dict.fromkeys(_SECRETS) | {"extra_args": self.plain_extra_args}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made=_Made())

    @property
    def plain_extra_args(self) -> dict[str, Any]:
        """*extra_args* without customers' keys."""
        return {name: value for name, value in self.extra_args.items() if "CustomerKey" not in name}

    def scrub(self, error: BaseException) -> None:
        """Take this connection's secrets out of an error of the SDK's, which is about to be the cause of ours."""
        known = [getattr(self, name) for name in _SECRETS] + [os.environ.get(name) for name in _ENVIRONMENT]
        # What was loaded to sign with; asking for it by its public name would look for it again where there is none.
        credentials = getattr(getattr(self._made.session, "_session", None), "_credentials", None)
        for name in ("access_key", "secret_key", "token"):
            known += [getattr(credentials, "__dict__", {}).get(mark + name) for mark in ("", "_")]
        known += [str(value) for name, value in self.extra_args.items() if "CustomerKey" in name]
        scrub(error, {value.strip() for value in known if value})

    @property
    def client(self) -> Any:
        """The boto3 client, made once per process. Raises MissingDependenciesError, InvalidConfigurationException."""
        client = self._made.client
        return client if client is not None else self._make()[1]

    @property
    def session(self) -> Any:
        """The boto3 session behind `client`."""
        session = self._made.session
        return session if session is not None else self._make()[0]

    @property
    def unsigned(self) -> Any:
        """A client of the same settings that signs nothing: what it makes are plain URLs, and needs no credentials."""
        if self.no_sign_request:
            return self.client
        if self._made.unsigned is None:
            like = replace(self, no_sign_request=True, boto3_session=self.session)
            self._made.unsigned = like.client
        return self._made.unsigned

    @property
    def origin(self) -> str:
        """``s3`` for Amazon, ``s3@host:port`` for any other endpoint; see `pathapi.backend.Backend.origin`."""
        if self._made.origin is None:
            self._made.origin = self._known_origin() or origin_of(self.client.meta.endpoint_url, self._client_region())
        return self._made.origin

    def _client_region(self) -> str:
        return str(self.client.meta.region_name or "")

    def _known_origin(self) -> str | None:
        """The origin where nothing but botocore's own reading of files and sessions could change it, else None."""
        region = self.region or os.environ.get("AWS_DEFAULT_REGION") or ""  # botocore does not read AWS_REGION.
        if self.endpoint_url:
            return origin_of(self.endpoint_url, region)
        if self.boto3_session is not None or self.botocore_session is not None:
            return None
        if "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" in os.environ:
            return None
        configured = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        files = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
        for variable, default in files:
            try:
                with open(os.path.expanduser(os.environ.get(variable) or default), encoding="utf-8") as file:
                    text = file.read()
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                return None
            if any(word in text for word in ("ignore_configured_endpoint_urls", *_CONFIGURABLE)):
                return None
        return origin_of(configured, region) if configured else origin_of("https://s3.amazonaws.com", region)

    def _make(self) -> tuple[Any, Any]:
        with self._made.lock:
            if self._made.client is None:
                try:
                    import boto3
                    import botocore.exceptions
                except ImportError as error:
                    raise MissingDependenciesError("s3:// needs boto3: pip install 'casstore[s3]'") from error
                try:
                    session = self._make_session(boto3)
                    self._made.client = self._make_client(session)
                    self._made.session = session
                except InvalidConfigurationException:
                    raise
                except (botocore.exceptions.BotoCoreError, ValueError) as error:
                    self.scrub(error)
                    message = f"no S3 client can be made of these settings: {redacted(str(error))}"
                    raise InvalidConfigurationException(message) from error
            return self._made.session, self._made.client

    def _make_session(self, boto3: Any) -> Any:
        if self.boto3_session is not None:
            return self.boto3_session
        core = self.botocore_session
        if core is not None and core in _wrapped:
            return _wrapped[core]
        if core is None:
            import botocore.session

            core = botocore.session.Session(profile=self.profile_name)
            # The default parser tries every format there is, which takes a sixth of the time of a small GET.
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_timestamp)
            # The API's models take 60 ms to parse. They are plain data, the same wherever they are read from one place.
            place = core.get_config_variable("data_path")
            core.register_component("data_loader", _loaders.setdefault(place, core.get_component("data_loader")))
        session = boto3.Session(
            aws_access_key_id=self.aws_access_key_id,
            aws_secret_access_key=self.aws_secret_access_key,
            aws_session_token=self.aws_session_token,
            region_name=self.region,
            botocore_session=core,
        )
        if self.botocore_session is not None:
            _wrapped[core] = session
        return session

    def _make_client(self, session: Any) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config

        config = Config(
            max_pool_connections=MAX_CONNECTIONS,
            retries={"mode": "standard"},
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            tcp_keepalive=True,
            signature_version=UNSIGNED if self.no_sign_request else None,
            s3={"addressing_style": self.addressing_style} if self.addressing_style else None,
        )
        own = None
        with contextlib.suppress(AttributeError):  # A session class of the user's own.
            own = session._session.get_default_client_config()  # noqa: SLF001 (boto3 has no face for it)
        if own is not None:
            config = config.merge(own)
        make = functools.partial(session.client, "s3", region_name=self.region, config=config)
        client = make(endpoint_url=self.endpoint_url)
        # One that came from the environment or a file: botocore quotes it in its errors.
        endpoint = checked_endpoint(client.meta.endpoint_url)
        if endpoint != client.meta.endpoint_url:
            client = make(endpoint_url=endpoint)
        prepare_urls(client)
        return client


def checked_endpoint(endpoint: str) -> str:
    """An endpoint's URL without user and password.

    Raises InvalidConfigurationException where it names no host or has a query; what it was is not told.
    """
    origin_of(endpoint)
    return without_user(endpoint)


def _split_endpoint(endpoint: str) -> tuple[str, str | None, int | None, str, str] | None:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme, parts.hostname, parts.port, parts.path, parts.query or parts.fragment
    except ValueError:
        return None


def origin_of(endpoint: str, region: str = "") -> str:
    """The origin of an endpoint's URL: host and port, and the path where there is one; no user, no password.

    Raises InvalidConfigurationException where the URL names no host, or has a query, as signed URLs have.
    """
    # The errors quote nothing and have no cause: what is malformed may be a password.
    split = _split_endpoint(endpoint)
    if split is None:
        raise InvalidConfigurationException("the S3 endpoint URL is malformed; write http://host:port")
    scheme, host, port, path, query = split
    if not host or scheme not in ("http", "https"):
        raise InvalidConfigurationException("the S3 endpoint URL names no host; write http://host:port")
    if query:
        raise InvalidConfigurationException("the S3 endpoint URL has a query; write http://host:port")
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonaws.eu")):
        for start, partition in _PARTITIONS:
            if region.startswith(start) or f".{start}" in host:
                return f"s3@{partition}"
        return "s3"
    if ":" in host:
        host = f"[{host}]"
    return f"s3@{host}:{port or (443 if scheme == 'https' else 80)}{path.rstrip('/')}"


def _parse_timestamp(value: Any) -> datetime:
    """S3's times: ``Last-Modified`` of a header, ISO 8601 of a listing; anything else as botocore reads it."""
    if isinstance(value, str):
        if value.endswith(" GMT") and (moment := parse_date(value)) is not None:
            return moment
        if value.endswith("Z"):
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(value)
    import botocore.utils

    parsed: datetime = botocore.utils.parse_timestamp(value)
    return parsed
