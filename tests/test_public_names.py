"""Names that users import: they stay, also where the class behind one has a better name now."""

from __future__ import annotations

import importlib
from typing import Final

import pytest

NAMES: Final = {
    "casstore": """
        ALGORITHMS BlobDamagedError BlobTrippedError Cache CasstoreError Checked Cleared CollisionError Condition
        Digest Entry Fill Flight Freed IndexDamagedError IndexUnavailableError InUse Key Leftovers LockTimeoutError
        Mended Moment NotAStoreError NotHeldError Noted Pending PendingDamagedError PendingState PendingWrite Pin Plan
        Problem ProblemKind ReentrantWriteError Removed Repair Staging Statistics Stated StillBeingWrittenError
        StoreFormatError StoreFullError StoreReadOnlyError StoreUnavailableError Stored Usage Validator Verified
        WriteLock __version__ at_exit boot_clock_ns new_hasher copy_out full_disk make_directories same_bytes
        size_text open without_storing
    """,
    "pathapi": """
        AzureBlobClient AzureBlobPath CloudPath FileClient FilePath GSClient GSPath HttpClient HttpPath HttpsClient
        HttpsPath Progress S3Client S3Path __version__ implementation_registry prefetch progress_bar set_default_client
    """,
    "pathapi.backend": """
        Validator CloudPathFileNotFoundError InvalidConfigurationException VersionMismatchError WEEK Checksum
        COMPARABLE ObjectInfo Prefix Absent ABSENT Body Nothing Backend HasUrls check_expiry head_or_none delete_each
        require_gone
    """,
    "pathapi.enums": """
        InvalidConfigurationException FileCacheMode
    """,
    "pathapi.exceptions": """
        CloudPathException AnyPathTypeError InvalidPrefixError InvalidUriError InvalidGlobArgumentsError
        ClientMismatchError CloudPathNotImplementedError IncompleteImplementationError InvalidConfigurationException
        MissingDependenciesError MissingCredentialsError CloudPathFileNotFoundError CloudPathNotExistsError
        BucketNotFoundError CloudPathFileExistsError CloudPathIsADirectoryError CloudPathNotADirectoryError
        DirectoryNotEmptyError NoStatError CloudPathPermissionError CloudUnavailableError TruncatedBodyError
        ChecksumMismatchError VersionMismatchError NotCachedError StaleReadError PendingWriteError
        OverwriteDirtyFileError OverwriteNewerCloudError OverwriteNewerLocalError CloudPathLocalPathTraversalError
    """,
    "pathapi.freshness": """
        contextlib math os Entry Moment InvalidConfigurationException FreshnessLike Freshness ALWAYS IMMUTABLE OFFLINE
        parse_freshness FreshnessPolicy
    """,
    "pathapi.testing": """
        BackendSuite EditSuite Ground Interposed ReadSuite WriteSuite count_descriptors drain in_forked_child
        interpose keys only_winner opened read write
    """,
}


@pytest.mark.parametrize("module", [*NAMES])
def test_names_of_the_version_before_can_be_imported(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []
