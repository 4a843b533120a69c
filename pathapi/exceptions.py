"""What can go wrong, as a short closed list.

Every class is also the built-in that callers already catch, where there is one. Names that cloudpathlib's users know
are kept. A backend raises only classes of this module, always ``from`` the SDK's own error; its messages name the URI
and the way out and never hold a credential, a signed URL or a request header.
"""

from __future__ import annotations


class CloudPathException(Exception):
    """Base of everything that `pathapi` raises on purpose."""


# --- the path itself -----------------------------------------------------------------------------------------------


class AnyPathTypeError(CloudPathException, TypeError):
    """Neither a cloud URI nor something `pathlib.Path` takes."""


class InvalidPrefixError(CloudPathException, ValueError):
    """The text starts with no scheme that is known here."""


class InvalidUriError(CloudPathException, ValueError):
    """The scheme is known and the rest cannot name an object: an empty bucket, a NUL."""


class InvalidGlobArgumentsError(CloudPathException, ValueError):
    """A pattern that no listing can answer."""


class ClientMismatchError(CloudPathException, ValueError):
    """A client of one cloud was given a path of another."""


class CloudPathNotImplementedError(CloudPathException, NotImplementedError):
    """This cloud, or object stores in general, cannot do that."""


class IncompleteImplementationError(CloudPathException, NotImplementedError):
    """A scheme was registered with a path class and no client class, or the reverse."""


# --- configuration -------------------------------------------------------------------------------------------------


class InvalidConfigurationException(CloudPathException, ValueError):
    """Arguments that contradict each other or mean nothing."""


class MissingDependenciesError(CloudPathException, ModuleNotFoundError):
    """The cloud's SDK is not installed; the message says which extra installs it."""


class MissingCredentialsError(CloudPathException, PermissionError):
    """The SDK found no credentials; the message says how to read a public bucket without."""


# --- what the cloud answered ---------------------------------------------------------------------------------------


class CloudPathFileNotFoundError(CloudPathException, FileNotFoundError):
    """No such object. Never raised for a 403."""


class CloudPathNotExistsError(CloudPathFileNotFoundError):
    """No such object and nothing below that prefix."""


class BucketNotFoundError(CloudPathFileNotFoundError):
    """No such bucket (container, root directory)."""


class CloudPathFileExistsError(CloudPathException, FileExistsError):
    """The object exists and was to be created."""


class CloudPathIsADirectoryError(CloudPathException, IsADirectoryError):
    """A prefix where an object was wanted."""


class CloudPathNotADirectoryError(CloudPathException, NotADirectoryError):
    """An object where a prefix was wanted."""


class DirectoryNotEmptyError(CloudPathException, OSError):
    """There are objects below that prefix."""


class NoStatError(CloudPathException, OSError):
    """Nothing to stat: a prefix, or nothing at all."""


class CloudPathPermissionError(CloudPathException, PermissionError):
    """The cloud refused; the message names the permission that lacks. Not the same as "does not exist"."""


class CloudUnavailableError(CloudPathException, ConnectionError):
    """The cloud could not be reached, stalled or kept failing after retries; nothing is known of the object."""


class TruncatedBodyError(CloudUnavailableError):
    """The body was shorter or longer than announced, or the connection broke inside it."""


class ChecksumMismatchError(CloudPathException, OSError):
    """The bytes received do not have the checksum that the provider stated."""


class VersionMismatchError(CloudPathException, OSError):
    """A conditional request was refused: the object is not, or no longer, the version named (HTTP 412)."""

    after_retry = False
    """Whether the SDK had sent the request before, and lost the answer: then the refusal may come of our own success.
    """

    keys: tuple[str, ...] = ()
    """The keys that a delete of several has left alone."""


# --- the cache -----------------------------------------------------------------------------------------------------


class NotCachedError(CloudPathException, OSError):
    """The policy is ``offline`` and the store does not hold the object; it may well exist."""


class StaleReadError(CloudPathException, OSError):
    """The object kept changing while it was read; no single version could be had."""


class PendingWriteError(CloudPathException, OSError):
    """An earlier write of this URI has not reached the cloud; the message says where its bytes are."""


class OverwriteDirtyFileError(CloudPathException, OSError):
    """A local file with changes would be overwritten."""


class OverwriteNewerCloudError(CloudPathException, OSError):
    """The object in the cloud is not the version this write started from; nothing was overwritten."""


class OverwriteNewerLocalError(CloudPathException, OSError):
    """A local copy was changed outside the API; the message names the ways on."""


class CloudPathLocalPathTraversalError(CloudPathException, ValueError):
    """A key would leave the directory it is to be downloaded into."""
