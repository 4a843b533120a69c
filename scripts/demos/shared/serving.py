"""``scripts/demo --serve``: a throw-away server with a bucket, and the exports that reach it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Final

from PIL import Image
from rich.console import Console

from demos.reading.options import CLOUDS
from demos.shared.clouds import put_over_http
from demos.shared.terminal import prepare
from tests.harness.azure_servers import azurite
from tests.harness.http_server import http_process
from tests.harness.proxy import proxy_process
from tests.harness.servers import ServerStartError, fake_gcs, seaweedfs

BUCKET: Final = "my-bucket"
"""The bucket of the README's examples."""

Served = tuple[str, dict[str, str]]
"""The URI of the bucket, and the variables that reach its server."""


def main(cloud: str) -> int:
    """Serve until Ctrl-C; return the exit status."""
    directory = Path(tempfile.mkdtemp(prefix="casstore-serve-"))
    try:
        prepare()
        for name in ("CASSTORE_TEST_GCS_ENDPOINT", "CASSTORE_TEST_AZURE_CONNECTION_STRING"):
            os.environ.pop(name, None)  # `my-bucket` belongs to a server of our own only
        with contextlib.ExitStack() as stack:
            with Console(stderr=True).status(f"starting {CLOUDS[cloud]}"):
                uri, exports = stack.enter_context(_SERVERS[cloud]())
            _print_exports(cloud, uri, exports, directory)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        print("\nThe server has stopped, and its objects are gone.", file=sys.stderr)
        return 0
    except ServerStartError as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _print_exports(cloud: str, uri: str, exports: dict[str, str], directory: Path) -> None:
    programs = Path(sys.executable).parent
    print(f"# {CLOUDS[cloud]} runs until Ctrl-C. Paste these lines into another terminal:")
    for name, value in {**exports, "CASSTORE_DIR": str(directory / "store")}.items():
        print(f"export {name}={quote(value)}")
    print(f'export PATH={quote(str(programs))}:"$PATH"')
    print(f"# The bucket is {uri}, with photos/cat.png and photos/dog.png in it. Try:")
    print(f"#     casstore prefetch {uri}photos/ && casstore ls", flush=True)


@contextlib.contextmanager
def _s3() -> Iterator[Served]:
    with seaweedfs() as server:
        client = server.client()
        client.create_bucket(Bucket=BUCKET)
        _plant_photos(lambda key, data: client.put_object(Bucket=BUCKET, Key=key, Body=data))
        yield (
            f"s3://{BUCKET}/",
            {
                "AWS_ENDPOINT_URL": server.endpoint,
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_DEFAULT_REGION": server.region,
            },
        )


@contextlib.contextmanager
def _gs() -> Iterator[Served]:
    # The proxy adds the conditional requests that fake-gcs-server ignores.
    with fake_gcs() as server, proxy_process(server.endpoint, gcs_rules=True) as proxy:
        client = server.client()
        bucket = client.create_bucket(BUCKET)
        _plant_photos(lambda key, data: bucket.blob(key).upload_from_string(data))
        yield f"gs://{BUCKET}/", {"STORAGE_EMULATOR_HOST": proxy.endpoint}


@contextlib.contextmanager
def _az() -> Iterator[Served]:
    with azurite() as server:
        client = server.client()
        container = client.create_container(BUCKET)
        _plant_photos(container.upload_blob)
        yield f"az://{BUCKET}/", {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string()}


@contextlib.contextmanager
def _http() -> Iterator[Served]:
    with http_process() as endpoint:
        _plant_photos(partial(put_over_http, f"{endpoint}/{BUCKET}/"))
        yield f"{endpoint}/{BUCKET}/", {}


def _plant_photos(plant: Callable[[str, bytes], object]) -> None:
    for name, size in {"cat": (64, 48), "dog": (32, 32)}.items():
        file = io.BytesIO()
        Image.effect_noise(size, 50).save(file, "PNG")
        plant(f"photos/{name}.png", file.getvalue())


_SERVERS: Final = {"s3": _s3, "gs": _gs, "az": _az, "http": _http}
