"""Proof that a local file has certain bytes: by a cryptographic hash, or compared with the blob.

Unequal bytes with equal XXH3 digests can be made on purpose. Where such a digest alone decided, a user's bytes could be
taken for others, and lost.
"""

from __future__ import annotations

import contextlib
import os

from casstore.blobs.blob_store import OPEN_FLAGS
from casstore.errors import CasstoreError
from casstore.format.digest import Digest, hash_descriptor
from casstore.format.layout import Layout
from casstore.fs import copying, files


def has_bytes(layout: Layout, descriptor: int, digest: Digest) -> bool:
    """Return whether an open file certainly has the bytes of *digest*.

    False in doubt: without a cryptographic digest and without the blob. A file that is the blob itself, a view that is
    a hard link, can only be compared with its digest.
    """
    with contextlib.suppress(OSError, CasstoreError):
        if hash_descriptor(descriptor, digest.algorithm) != digest:
            return False
        if digest.is_cryptographic:
            return True
        with files.opened(layout.blob(digest.value), OPEN_FLAGS) as blob:
            return os.path.sameopenfile(descriptor, blob) or copying.same_bytes(descriptor, blob)
    return False


def path_has_bytes(layout: Layout, path: str, digest: Digest) -> bool:
    """Return the same for the file at *path*; False if it cannot be read."""
    with contextlib.suppress(OSError), files.opened(path, OPEN_FLAGS) as descriptor:
        return has_bytes(layout, descriptor, digest)
    return False
