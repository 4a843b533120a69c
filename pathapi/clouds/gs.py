"""Google Cloud Storage: `GSPath` and `GSClient`."""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeGuard, Unpack

from pathapi.backend import Backend
from pathapi.backends.gs.backend import GSBackend, GSConnection
from pathapi.backends.settings import Connected
from pathapi.client import Client, ClientOptions, ContentType, guess_type
from pathapi.enums import FileCacheMode
from pathapi.metadata.head import checksum
from pathapi.path.cloud_path import CloudPath
from pathapi.path.pure_path import PureCloudPath
from pathapi.registry import register_client_class, register_path_class

_ALIAS: Final = re.compile(r"^gcs(?=://)", re.IGNORECASE)


@register_path_class("gs")
class GSPath(CloudPath):
    """An object or prefix of Google Cloud Storage; ``bucket`` and ``blob`` are its parts.

    ``gcs://`` becomes ``gs://``.
    """

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "gs://"

    if TYPE_CHECKING:

        @property
        def client(self) -> GSClient: ...

    def __init__(self, cloud_path: str | PureCloudPath, *parts: str, client: Any = None) -> None:
        if isinstance(cloud_path, str):
            cloud_path = _ALIAS.sub("gs", cloud_path)
        super().__init__(cloud_path, *parts, client=client)

    @classmethod
    def is_valid_cloudpath(cls, path: object, raise_on_error: bool = False) -> TypeGuard[Self]:
        """Return whether *path* starts with ``gs://`` or ``gcs://``, in any case; checks nothing else."""
        return super().is_valid_cloudpath(_ALIAS.sub("gs", str(path)), raise_on_error)

    @property
    def blob(self) -> str:
        """The object's name in the bucket, unchanged."""
        return self.key

    @property
    def md5(self) -> str | None:
        """The MD5 that Google states, in base64; None for a composed object, or if no request may be sent.

        Raises FileNotFoundError.
        """
        md5 = checksum(self.location, "md5")
        return None if md5 is None else base64.b64encode(bytes.fromhex(md5)).decode()


@register_client_class("gs")
class GSClient(Connected, Client[GSPath]):
    """Google Cloud Storage by google-cloud-storage, which the first request imports.

    Without arguments, google-auth finds the credentials (``GOOGLE_APPLICATION_CREDENTIALS``, gcloud's, the machine's).
    If there are none, requests are anonymous, as public buckets allow. *no_sign_request* sends anonymous requests
    without that search. *endpoint_url* (else ``STORAGE_EMULATOR_HOST``) names another server of the protocol; it gets
    only credentials given here. *timeout* and *retry* apply to every request. *storage_class* (``NEARLINE``) applies to
    every object that is written or copied; the default is the bucket's. *download_chunks_concurrently_kwargs* exists
    for cloudpathlib: large objects are always read in parallel. The other arguments are `pathapi.client.Client`'s.
    """

    def __init__(
        self,
        application_credentials: str | os.PathLike[str] | None = None,
        credentials: Any = None,
        project: str | None = None,
        storage_client: Any = None,
        file_cache_mode: str | FileCacheMode | None = None,
        local_cache_dir: str | os.PathLike[str] | None = None,
        content_type_method: ContentType | None = guess_type,
        download_chunks_concurrently_kwargs: dict[str, Any] | None = None,
        timeout: float | tuple[float, float] | None = None,
        retry: Any = None,
        *,
        endpoint_url: str | None = None,
        storage_class: str | None = None,
        no_sign_request: bool = False,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        self.download_chunks_concurrently_kwargs = download_chunks_concurrently_kwargs
        self.connection = GSConnection(
            application_credentials=application_credentials,
            credentials=credentials,
            project=project,
            storage_client=storage_client,
            endpoint_url=endpoint_url,
            timeout=timeout,
            retry=retry,
            storage_class=storage_class,
            no_sign_request=no_sign_request,
        )
        super().__init__(file_cache_mode, local_cache_dir, content_type_method, **client_options)

    GSPath = Client[GSPath].CloudPath

    @property
    def client(self) -> Any:
        """The client of google-cloud-storage."""
        return self.connection.client

    @property
    def timeout(self) -> float | tuple[float, float] | None:
        """The argument of the constructor."""
        timeout: float | tuple[float, float] | None = self.connection.timeout
        return timeout

    @property
    def retry(self) -> Any:
        """The argument of the constructor."""
        return self.connection.retry

    @property
    def blob_kwargs(self) -> dict[str, Any]:
        """*timeout* and *retry*, if they were given, as the SDK's objects take them; not used here."""
        given = {"timeout": self.connection.timeout, "retry": self.connection.retry}
        return {name: value for name, value in given.items() if value is not None}

    def _make_backend(self, bucket: str) -> Backend:
        return GSBackend(self.connection, bucket)

    def _settings(self) -> dict[str, Any]:
        unused = self.download_chunks_concurrently_kwargs
        return super()._settings() | ({"download_chunks_concurrently_kwargs": unused} if unused else {})
