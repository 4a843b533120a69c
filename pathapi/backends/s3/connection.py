"""How to log in to S3, and the boto3 client of these settings.

The first request imports boto3: a warm read needs only the origin. That is found without boto3, unless it depends on
files or sessions that only botocore can read.
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

from pathapi.backends.connection_pools import MAX_CONNECTIONS, pools_without_locks
from pathapi.backends.endpoints import checked_endpoint, parse_endpoint
from pathapi.backends.fork_safety import ForkSafe
from pathapi.backends.headers import parse_date
from pathapi.backends.s3.events import prepare_urls, watch
from pathapi.backends.settings import LIVE, SECRET, ConnectionSettings, importing
from pathapi.common.redaction import scrub, without_user
from pathapi.exceptions import InvalidConfigurationException

_PARTITIONS: Final = (("cn-", "cn"), ("us-gov-", "us-gov"), ("us-iso", "us-iso"), ("eusc-", "eusc"))
"""Amazon's regions with their own namespace of buckets."""
_CONFIGURABLE: Final = ("endpoint_url", *(start for start, _ in _PARTITIONS))


_ENVIRONMENT: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
_OTHER_BYTES: Final = frozenset(
    ("Bucket", "Key", "VersionId", "Range", "PartNumber")
    + ("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince")
)
"""Arguments that would select another object than the URI names, or a part of it."""
_OPERATIONS: Final = ("PutObject", "CreateMultipartUpload", "UploadPart", "CopyObject", "GetObject", "DeleteObjects")
"""Between them they accept every argument of the requests that are sent."""


def _without_keys(extra_args: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in extra_args.items() if "CustomerKey" not in name}


_NEEDS: Final = "s3:// needs boto3: pip install 'casstore[s3]'"
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_wrapped: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""The boto3 session around a user's botocore session: a second one around the same cannot make an S3 client."""
_loaders: dict[str | None, Any] = {}
"""The loaders of the API's models, by the directory that they search beside botocore's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class S3Connection(ConnectionSettings):
    """Settings of boto3, with boto3's own meaning and defaults; thread-safe, usable in a forked child.

    *no_sign_request* reads public buckets without credentials. *addressing_style* is ``path``, ``virtual`` or
    ``auto``. *extra_args* are sent with every request that accepts them (``RequestPayer``, ``SSECustomerKey``,
    ``ACL``). *boto3_transfer_config* sets the sizes and the concurrency of uploads in parts. Timeouts are in seconds; a
    session's own default client configuration overrides them. User and password in *endpoint_url* are dropped.
    """

    aws_access_key_id: str | None = field(default=None, repr=False, metadata=SECRET)
    aws_secret_access_key: str | None = field(default=None, repr=False, metadata=SECRET)
    aws_session_token: str | None = field(default=None, repr=False, metadata=SECRET)
    no_sign_request: bool = False
    botocore_session: Any = field(default=None, repr=False, metadata=LIVE)
    profile_name: str | None = None
    boto3_session: Any = field(default=None, repr=False, metadata=LIVE)
    endpoint_url: str | None = field(default=None, repr=False)
    addressing_style: str | None = None
    region: str | None = None
    boto3_transfer_config: Any = None
    extra_args: Mapping[str, Any] = field(default_factory=dict, repr=False, metadata={"plain": _without_keys})
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    _process: ForkSafe = field(default_factory=ForkSafe, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.endpoint_url:
            object.__setattr__(self, "endpoint_url", checked_endpoint(self.endpoint_url))
        refused = sorted(_OTHER_BYTES.intersection(self.extra_args))
        if refused:
            raise InvalidConfigurationException(
                f"extra_args: {', '.join(refused)} would select other bytes than the URI names: leave it out"
            )

    @property
    def is_signed(self) -> bool:
        """Whether requests carry credentials."""
        return not self.no_sign_request

    def scrub(self, error: BaseException) -> None:
        known = [self.aws_access_key_id, self.aws_secret_access_key, self.aws_session_token]
        known += [os.environ.get(name) for name in _ENVIRONMENT]
        # The loaded credentials; their public name would start another search if there are none.
        credentials = getattr(getattr(self._process.made.get("session"), "_session", None), "_credentials", None)
        for name in ("access_key", "secret_key", "token"):
            known += [getattr(credentials, "__dict__", {}).get(mark + name) for mark in ("", "_")]
        known += [str(value) for name, value in self.extra_args.items() if "CustomerKey" in name]
        scrub(error, {value.strip() for value in known if value})

    @property
    def client(self) -> Any:
        """The boto3 client, one per process. Raises MissingDependenciesError, InvalidConfigurationException."""
        return self._process.once("client", self._make_client)

    @property
    def session(self) -> Any:
        """The boto3 session behind `client`."""
        _ = self.client
        return self._process.made["session"]

    @property
    def resource(self) -> Any:
        """A boto3 resource of the same settings, which no backend uses."""
        meta = self.client.meta
        options = {"endpoint_url": meta.endpoint_url, "region_name": meta.region_name, "config": meta.config}
        return self._process.once("resource", lambda: self.session.resource("s3", **options))

    def extra_args_in(self, accepted: str) -> dict[str, Any]:
        """Return those of the extra arguments that boto3's transfers list under the name *accepted*."""
        with importing(_NEEDS):
            from boto3.s3.transfer import S3Transfer
        return {name: value for name, value in self.extra_args.items() if name in getattr(S3Transfer, accepted)}

    @property
    def unsigned(self) -> Any:
        """A client of the same settings that signs nothing: it makes plain URLs, without credentials."""
        if self.no_sign_request:
            return self.client
        return self._process.once(
            "unsigned", lambda: replace(self, no_sign_request=True, boto3_session=self.session).client
        )

    @property
    def origin(self) -> str:
        """``s3`` for Amazon, ``s3@host:port`` for any other endpoint; see `pathapi.backend.Backend.origin`."""
        return str(self._process.once("origin", self._find_origin))

    def _find_origin(self) -> str:
        known = self._known_origin()
        if known is not None:
            return known
        meta = self.client.meta
        return origin_of(meta.endpoint_url, str(meta.region_name or ""))

    def _known_origin(self) -> str | None:
        """Return the origin, or None if files or sessions that only botocore reads could change it."""
        region = self.region or os.environ.get("AWS_DEFAULT_REGION") or ""  # botocore does not read AWS_REGION.
        if self.endpoint_url:
            return origin_of(self.endpoint_url, region)
        if self.boto3_session is not None or self.botocore_session is not None:
            return None
        if "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" in os.environ:
            return None
        configured = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
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

    def shell_options(self) -> list[str]:
        options = ["--profile", self.profile_name] if self.profile_name else []
        made = self._process.made.get("client")
        urls = (self.endpoint_url, *map(os.environ.get, _ENDPOINTS), None if made is None else made.meta.endpoint_url)
        if ":" in self.origin:
            url = next((url for url in urls if url and origin_of(url) == self.origin), None)
            options += ["--endpoint-url", without_user(url)] if url else []
        return options + ["--no-sign-request"] * self.no_sign_request

    def _make_client(self) -> Any:
        with importing(_NEEDS):
            import boto3
            import botocore.exceptions
        with self.checking("S3 client: boto3", botocore.exceptions.BotoCoreError, ValueError):
            session = self._make_session(boto3)
            client = self._client_of(session)
            self._check_extra_args(client)
            self._process.made["session"] = session
            return client

    def _check_extra_args(self, client: Any) -> None:
        """Raise InvalidConfigurationException for an extra argument that no request about an object accepts."""
        if not self.extra_args:
            return
        model = client.meta.service_model
        known = {name for operation in _OPERATIONS for name in model.operation_model(operation).input_shape.members}
        for name in sorted(set(self.extra_args) - known):
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f"write {near[0]!r}" if near else "leave it out"
            raise InvalidConfigurationException(f"extra_args: no request of S3 accepts {name!r}: {hint}")

    def _make_session(self, boto3: Any) -> Any:
        if self.boto3_session is not None:
            return self.boto3_session
        core = self.botocore_session
        if core is not None and core in _wrapped:
            return _wrapped[core]
        if core is None:
            import botocore.session

            core = botocore.session.Session(profile=self.profile_name)
            # The default parser tries every format, which takes a sixth of the time of a small GET.
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_timestamp)
            # The API's models take 60 ms to parse. They are plain data, equal for equal search paths.
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

    def _client_of(self, session: Any) -> Any:
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
        with contextlib.suppress(AttributeError):  # a session class of the user
            own = session._session.get_default_client_config()  # noqa: SLF001 (boto3 has no public name for it)
        if own is not None:
            config = config.merge(own)
        make = functools.partial(session.client, "s3", region_name=self.region, config=config)
        client = make(endpoint_url=self.endpoint_url)
        # It may come from the environment or a file, and botocore quotes it in its errors.
        endpoint = checked_endpoint(client.meta.endpoint_url)
        if endpoint != client.meta.endpoint_url:
            client = make(endpoint_url=endpoint)
        prepare_urls(client)
        watch(client)
        session = client._endpoint.http_session  # noqa: SLF001 (boto3 has no public name for it)
        pools = getattr(session, "_pool_classes_by_scheme", {})
        pools.update(pools_without_locks(pools))
        return client


def origin_of(endpoint: str, region: str = "") -> str:
    """Return the origin of an endpoint's URL. Raises InvalidConfigurationException, see `parse_endpoint`."""
    parsed = parse_endpoint(endpoint)
    if parsed.host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonaws.eu")):
        for start, partition in _PARTITIONS:
            if region.startswith(start) or f".{start}" in parsed.host:
                return f"s3@{partition}"
        return "s3"
    return f"s3@{parsed.address}"


def _parse_timestamp(value: Any) -> datetime:
    """Parse S3's times: ``Last-Modified`` of a header, ISO 8601 of a listing; botocore parses anything else.

    Raises ValueError.
    """
    if isinstance(value, str):
        if value.endswith(" GMT") and (moment := parse_date(value)) is not None:
            return moment
        if value.endswith("Z"):
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(value)
    import botocore.utils

    try:
        parsed: datetime = botocore.utils.parse_timestamp(value)
    except RuntimeError as error:  # a year of many digits
        raise ValueError(f"no time: {value}") from error
    return parsed
