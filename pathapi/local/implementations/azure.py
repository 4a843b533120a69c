"""The local double of Azure."""

from __future__ import annotations

import os
from typing import Any, Final

from pathapi.clouds.azure import AzureBlobClient, AzureBlobPath
from pathapi.exceptions import MissingCredentialsError
from pathapi.local.localclient import LocalClient, implementation_of
from pathapi.local.localpath import LocalPath


class LocalAzureBlobPath(LocalPath, AzureBlobPath):
    """An `AzureBlobPath` of a directory."""

    __slots__ = ()


class LocalAzureBlobClient(LocalClient, AzureBlobClient):
    """An `AzureBlobClient` of a directory. Raises MissingCredentialsError without a login, as the real one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        logins = ("account_url", "connection_string", "blob_service_client", "data_lake_client")
        given = args or [name for name in logins if kwargs.get(name) is not None]
        if not given and not {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL"} & os.environ.keys():
            raise MissingCredentialsError(f"LocalAzureBlobClient: it has no login: pass one of {', '.join(logins)}")
        super().__init__(*args, **kwargs)


local_azure_blob_implementation: Final = implementation_of("azure", LocalAzureBlobPath, LocalAzureBlobClient)
