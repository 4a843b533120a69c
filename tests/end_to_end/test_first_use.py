"""The guided first use on the README's first page, run as it stands there against a real S3 server."""

from __future__ import annotations

import doctest
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server

ROOT = Path(__file__).parents[2]

_CHILD = """
import doctest, io, json, sys, urllib.request

def count():
    request = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1] + "/__counts__")
    return json.load(request)

text, steps, names = sys.stdin.read(), [], {}
for example in doctest.DocTestParser().get_examples(text):
    before = count()
    said = io.StringIO()
    test = doctest.DocTest([example], names, "README.md", "README.md", example.lineno, text)
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    runner.run(test, out=said.write, clear_globs=False)
    names.update(test.globs)
    after = count()
    kinds = {kind: number - before["kinds"].get(kind, 0) for kind, number in after["kinds"].items()}
    steps.append({
        "source": example.source,
        "complaint": said.getvalue(),
        "kinds": {kind: number for kind, number in kinds.items() if number},
        "body_bytes": after["body_bytes"] - before["body_bytes"],
    })
json.dump(steps, sys.stdout)
"""
"""Runs a transcript one example at a time, and says what each cost at the proxy."""


@dataclass(frozen=True, slots=True)
class Step:
    """One example of the transcript; *complaint* is doctest's, empty where the output was as written."""

    source: str
    complaint: str
    kinds: dict[str, int]
    body_bytes: int


def readme_transcript() -> str:
    """Return the transcript of README.md that uses a bucket."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```pycon\n")[1:]]
    (transcript,) = (block for block in blocks if "s3://" in block)
    return transcript


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 50).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def cat() -> bytes:
    return png(64, 48)


@pytest.fixture
def bucket_of_the_readme(seaweed: S3Server, cat: bytes) -> Iterator[Any]:
    client = seaweed.client()
    client.create_bucket(Bucket="my-bucket")
    keys = {"photos/cat.png": cat, "photos/dog.png": png(32, 32)}
    for key, data in keys.items():
        client.put_object(Bucket="my-bucket", Key=key, Body=data)
    yield client
    for key in [*keys, "photos/notes.txt"]:
        client.delete_object(Bucket="my-bucket", Key=key)
    client.delete_bucket(Bucket="my-bucket")


@pytest.fixture
def follow(seaweed: S3Server, proxy: Proxy, tmp_path: Path) -> Callable[[str], list[Step]]:
    """Runs a transcript in a new process, with credentials and endpoint in the environment, as users have them."""

    def run(transcript: str) -> list[Step]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CASSTORE_"))}
        environment |= {
            "AWS_ACCESS_KEY_ID": seaweed.access_key,
            "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
            "AWS_DEFAULT_REGION": seaweed.region,
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "CASSTORE_DIR": str(tmp_path / "store"),
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, proxy.endpoint],
            input=transcript,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1_000,
        )
        assert child.returncode == 0, child.stderr
        assert not child.stderr, child.stderr
        return [Step(**step) for step in json.loads(child.stdout)]

    return run


def test_the_readme_shows_its_first_use_within_ten_statements() -> None:
    """A first page that grows into a manual is not read."""
    assert 8 <= len(doctest.DocTestParser().get_examples(readme_transcript())) <= 10


@pytest.mark.needs_locks
def test_the_first_use_does_what_the_readme_says_at_the_price_it_says(
    follow: Callable[[str], list[Step]], bucket_of_the_readme: Any, cat: bytes
) -> None:
    """Every output is as printed; a listing downloads nothing, an image comes once, a written file is in the cloud."""
    steps = follow(readme_transcript())
    assert [step.complaint for step in steps if step.complaint] == []
    by_source = {step.source.partition(" #")[0].strip(): step for step in reversed(steps)}
    listing = by_source["[photo.name for photo in photos.iterdir()]"]
    assert listing.kinds == {"LIST": 1} and listing.body_bytes == 0
    empty_tree = by_source['(photos / "cat.png").exists(), os.listdir(photos.fspath)']
    assert empty_tree.body_bytes == 0 and "GET" not in empty_tree.kinds
    first, second = (step for step in steps if step.source.startswith("Image.open"))
    assert first.kinds == {"GET": 1} and first.body_bytes == len(cat)
    assert second.kinds == {"GET": 1} and second.body_bytes == 0
    written = bucket_of_the_readme.get_object(Bucket="my-bucket", Key="photos/notes.txt")["Body"].read()
    assert written == b"a cat and a dog\n"


def test_the_tree_of_a_directory_shows_exactly_what_was_opened(
    follow: Callable[[str], list[Step]], bucket_of_the_readme: Any
) -> None:
    """`fspath` of a "directory" downloads nothing, before and after one of two images was opened."""
    steps = follow(readme_transcript())
    trees = [step for step in steps if "os.listdir" in step.source]
    assert len(trees) == 2 and all(step.body_bytes == 0 and not step.complaint for step in trees)


@pytest.mark.needs_locks
def test_a_second_process_finds_everything_in_the_store(
    follow: Callable[[str], list[Step]], bucket_of_the_readme: Any
) -> None:
    """What the first process read and what it wrote is read by the next without a body."""
    follow(readme_transcript())
    steps = follow(
        ">>> import os\n"
        ">>> from PIL import Image\n"
        ">>> from pathapi import CloudPath\n"
        '>>> photos = CloudPath("s3://my-bucket/photos/")\n'
        ">>> sorted(os.listdir(photos.fspath))\n"
        "['cat.png', 'notes.txt']\n"
        '>>> Image.open(photos / "cat.png").size\n'
        "(64, 48)\n"
        '>>> (photos / "notes.txt").read_text()\n'
        "'a cat and a dog\\n'\n"
        '>>> (photos / "notes.txt").read_text(freshness="immutable")\n'
        "'a cat and a dog\\n'\n"
    )
    assert [step.complaint for step in steps if step.complaint] == []
    assert sum(step.body_bytes for step in steps) == 0
    assert steps[-1].kinds == {}
