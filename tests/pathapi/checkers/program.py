"""What a user writes, for `test_golden`: not run, only checked by mypy and pyright."""

import os
from pathlib import Path
from typing import reveal_type

from pathapi import (
    AnyPath,
    AzureBlobClient,
    CloudPath,
    GSClient,
    GSPath,
    HttpClient,
    HttpsClient,
    HttpsPath,
    S3Client,
    S3Path,
)

data = CloudPath("s3://bucket/data/")
image = data / "image.png"
reveal_type(data)
reveal_type(image)
reveal_type(S3Path("s3://bucket/key"))
reveal_type(S3Path("s3://bucket") / "a" / "b")
reveal_type(GSPath("gs://bucket/key").parent)
reveal_type(HttpsPath("https://host/a") / "b")
reveal_type(CloudPath(S3Path("s3://bucket/key")))
reveal_type(AnyPath("s3://bucket/key"))
reveal_type(AnyPath(Path("/local")))

reveal_type(image.parents)
reveal_type([path.name for path in data.glob("*.png")])
reveal_type(list(data.iterdir()))
reveal_type(next(S3Path("s3://bucket/").rglob("*", case_sensitive=False)))
reveal_type(list(data.walk()))
reveal_type(image.relative_to(data))
reveal_type(image.stat().st_size)
reveal_type(os.fspath(image))
reveal_type(image.download_to("image.png"))
reveal_type(image.upload_from("image.png"))
reveal_type(image.rename(data / "other.png"))
reveal_type(image.info.is_file())
reveal_type(image.client)
reveal_type(S3Path("s3://bucket").client)
reveal_type(GSPath("gs://bucket").client)
reveal_type(HttpsPath("https://host").client)
reveal_type(S3Path("s3://bucket/key").md5)

reveal_type(image.open())
reveal_type(image.open("w", encoding="utf-8"))
reveal_type(image.open("rb"))
reveal_type(image.open("rb", buffering=0))
reveal_type(image.open("rb", 1 << 20))
reveal_type(image.open("wb"))
reveal_type(image.open("ab", force_overwrite_to_cloud=True))
reveal_type(image.open("r+b", freshness="immutable"))
reveal_type(image.open("x", newline=""))
with image.open() as text, image.open("wb") as binary:
    reveal_type(text.read())
    reveal_type(binary.write(b""))
reveal_type(image.read_bytes(freshness=60))
reveal_type(image.write_text(""))
with image.local() as name:
    reveal_type(name)


def open_in(mode: str) -> None:
    reveal_type(image.open(mode))


client = S3Client(endpoint_url="http://localhost:9000", freshness="immutable", file_cache_mode="tmp_dir")
reveal_type(client)
reveal_type(client.CloudPath("s3://bucket/key"))
reveal_type(client.S3Path("s3://bucket/key"))
reveal_type(S3Client.get_default_client())
reveal_type(HttpClient().HttpPath("http://host/a"))
reveal_type(HttpsClient().HttpsPath("https://host/a"))
reveal_type(HttpsClient().CloudPath("https://host/a"))
GSClient(freshness={"gs://bucket/": 60}, views="copy", verify=True)
AzureBlobClient(conditional_writes="require", dedup_by_checksum="off", local_cache_dir=Path("store"))

# Each of these is an error.
CloudPath(5)
S3Path()
image.nonsense()
image.open("rb").read().encode()
image.read_bytes(freshness="sometimes")
S3Client(freshness="sometimes")
S3Client(no_such_argument=1)
GSClient(views="beautiful")
_ = data / 5
