"""Azure Blob Storage: `AzureBlobPath` and `AzureBlobClient`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pathapi.backend import Backend, marker_of
from pathapi.backends.azure.backend import AzureBackend, AzureConnection
from pathapi.backends.settings import Connected
from pathapi.client import Client, ClientOptions, ContentType, guess_type
from pathapi.common.uri import Uri
from pathapi.enums import FileCacheMode
from pathapi.metadata.head import checksum
from pathapi.path.cloud_path import CloudPath
from pathapi.registry import register_client_class, register_path_class

_ALIAS = "azure://"


@register_path_class("azure")
class AzureBlobPath(CloudPath):
    """A blob or prefix of Azure Blob Storage; ``container`` and ``blob`` are its parts."""

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "az://"

    if TYPE_CHECKING:

        @property
        def client(self) -> AzureBlobClient: ...

    def __init__(self, cloud_path: Any, *parts: str, client: Any = None) -> None:
        """As `CloudPath`; ``azure://`` becomes ``az://``."""
        if isinstance(cloud_path, str) and cloud_path[: len(_ALIAS)].lower() == _ALIAS:
            cloud_path = self.cloud_prefix + cloud_path[len(_ALIAS) :]
        super().__init__(cloud_path, *parts, client=client)

    @property
    def container(self) -> str:
        """The container's name."""
        return self.uri.bucket

    @property
    def blob(self) -> str:
        """The blob's name in its container, unchanged."""
        return self.uri.key

    @property
    def md5(self) -> str | None:
        """The content MD5 that Azure states, in hex; None if it has none, or if no request may be sent.

        Raises FileNotFoundError.
        """
        return checksum(self.location, "md5")


@register_client_class("azure")
class AzureBlobClient(Connected, Client[AzureBlobPath]):
    """Azure Blob Storage by azure-storage-blob, which the first request imports.

    *connection_string* contains account and login. *account_url* names the account, with a SAS in it or with a
    *credential* (an account key, a SAS, a token credential of azure-identity); alone it reads public containers. A
    *blob_service_client* or *data_lake_client* of your own is used unchanged. Without any of them:
    ``AZURE_STORAGE_CONNECTION_STRING``, then ``AZURE_STORAGE_ACCOUNT_URL`` with azure-identity's default credentials.
    *standard_blob_tier* (``Cool``, or the SDK's `StandardBlobTier`) applies to every blob that is written or copied;
    the default is the account's. The other arguments are `pathapi.client.Client`'s.

    Raises MissingCredentialsError if there is no account.
    """

    def __init__(
        self,
        account_url: str | None = None,
        credential: Any = None,
        connection_string: str | None = None,
        blob_service_client: Any = None,
        data_lake_client: Any = None,
        file_cache_mode: str | FileCacheMode | None = None,
        local_cache_dir: str | os.PathLike[str] | None = None,
        content_type_method: ContentType | None = guess_type,
        *,
        standard_blob_tier: Any = None,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        self.connection = AzureConnection(
            account_url=account_url,
            credential=credential,
            connection_string=connection_string,
            blob_service_client=blob_service_client,
            data_lake_client=data_lake_client,
            standard_blob_tier=getattr(standard_blob_tier, "value", standard_blob_tier),
        )
        _ = self.connection.account  # Raises MissingCredentialsError.
        super().__init__(file_cache_mode, local_cache_dir, content_type_method, **client_options)

    AzureBlobPath = Client[AzureBlobPath].CloudPath

    @property
    def service_client(self) -> Any:
        """The SDK's `BlobServiceClient`."""
        return self.connection.service_client

    @property
    def data_lake_client(self) -> Any:
        """The SDK's `DataLakeServiceClient`; needs azure-storage-file-datalake."""
        return self.connection.data_lake

    def has_children(self, uri: Uri) -> bool:
        """Whether there is anything below, or an object that is the directory itself."""
        backend, prefix = self.backend(uri.bucket), self.prefix(uri)
        name = prefix.removesuffix("/")
        first = next(iter(backend.list(name, delimited=True, limit=1)), None) if name else None
        if name and (first is None or first.key == prefix):
            return first is not None
        return super().has_children(uri) or marker_of(backend, prefix) is not None

    def _make_backend(self, bucket: str) -> Backend:
        self.connection.sdk_tier()  # an unknown tier fails before anything is written
        return AzureBackend(self.connection, bucket)
