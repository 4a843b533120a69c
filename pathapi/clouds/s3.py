"""S3: `S3Path` and `S3Client`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from pathapi.backend import Backend
from pathapi.backends.s3.backend import S3Backend, S3Connection
from pathapi.backends.settings import Connected
from pathapi.client import Client, ClientOptions, ContentType, guess_type
from pathapi.enums import FileCacheMode
from pathapi.metadata.head import checksum
from pathapi.path.cloud_path import CloudPath
from pathapi.registry import register_client_class, register_path_class

_DIRECTORY_BUCKET = "--x-s3"
"""The suffix of the names of S3 Express buckets, whose ETags are random."""


@register_path_class("s3")
class S3Path(CloudPath):
    """An object or prefix of S3, or of another server of its protocol; ``bucket`` and ``key`` are its parts."""

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "s3://"

    if TYPE_CHECKING:

        @property
        def client(self) -> S3Client: ...

    @property
    def md5(self) -> str | None:
        """The MD5 of the object's bytes, in hex, if the ETag is one: after an upload in one part, without encryption
        by KMS or a customer's key. Else None, also if no request may be sent.

        Costs one HEAD: a listing does not state the encryption. Raises FileNotFoundError.
        """
        md5 = checksum(self.location, "etag-md5", by_listing=False)
        return None if self.uri.bucket.endswith(_DIRECTORY_BUCKET) else md5


@register_client_class("s3")
class S3Client(Connected, Client[S3Path]):
    """S3 by boto3, which the first request imports.

    Without arguments, boto3 finds credentials, region and endpoint (environment, profiles, instance roles).
    *no_sign_request* reads public buckets without credentials. *endpoint_url* names another server of the protocol. The
    other arguments are boto3's, or `pathapi.client.Client`'s.
    """

    connection: S3Connection

    def __init__(
        self,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        no_sign_request: bool = False,
        botocore_session: Any = None,
        profile_name: str | None = None,
        boto3_session: Any = None,
        file_cache_mode: str | FileCacheMode | None = None,
        local_cache_dir: str | os.PathLike[str] | None = None,
        endpoint_url: str | None = None,
        addressing_style: Literal["auto", "path", "virtual"] | None = None,
        boto3_transfer_config: Any = None,
        content_type_method: ContentType | None = guess_type,
        extra_args: dict[str, Any] | None = None,
        *,
        region: str | None = None,
        **client_options: Unpack[ClientOptions],
    ) -> None:
        self.connection = S3Connection(
            aws_access_key_id=aws_access_key_id,
            aws_secret_access_key=aws_secret_access_key,
            aws_session_token=aws_session_token,
            no_sign_request=no_sign_request,
            botocore_session=botocore_session,
            profile_name=profile_name,
            boto3_session=boto3_session,
            endpoint_url=endpoint_url,
            addressing_style=addressing_style,
            region=region,
            boto3_transfer_config=boto3_transfer_config,
            extra_args=extra_args or {},
        )
        super().__init__(file_cache_mode, local_cache_dir, content_type_method, **client_options)

    S3Path = Client[S3Path].CloudPath

    @property
    def client(self) -> Any:
        """The boto3 client."""
        return self.connection.client

    @property
    def sess(self) -> Any:
        """The boto3 session."""
        return self.connection.session

    @property
    def s3(self) -> Any:
        """A boto3 resource, for other code; not used here."""
        return self.connection.resource

    @property
    def boto3_transfer_config(self) -> Any:
        """As given."""
        return self.connection.boto3_transfer_config

    @property
    def boto3_dl_extra_args(self) -> dict[str, Any]:
        """Those of *extra_args* that boto3 accepts for a download; not used here."""
        return self.connection.extra_args_in("ALLOWED_DOWNLOAD_ARGS")

    @property
    def boto3_ul_extra_args(self) -> dict[str, Any]:
        """Those for an upload."""
        return self.connection.extra_args_in("ALLOWED_UPLOAD_ARGS")

    @property
    def boto3_copy_extra_args(self) -> dict[str, Any]:
        """Those for a copy."""
        return self.connection.extra_args_in("ALLOWED_COPY_ARGS")

    @property
    def boto3_list_extra_args(self) -> dict[str, Any]:
        """Those for a listing."""
        accepted = ("RequestPayer", "ExpectedBucketOwner")
        return {name: value for name, value in self.connection.extra_args.items() if name in accepted}

    def _make_backend(self, bucket: str) -> Backend:
        return S3Backend(self.connection, bucket)
