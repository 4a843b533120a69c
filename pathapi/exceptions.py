"""All errors, as a short closed list.

Each class is also the built-in that callers already catch, if there is one. Names of cloudpathlib are kept. A backend
raises only these classes, always ``from`` the SDK's own error. Messages name the URI and the fix, and never contain a
credential, a signed URL or a request header.
"""

from __future__ import annotations

from typing import Self

from casstore import printable


class CloudPathException(Exception):
    """Base of everything that `pathapi` raises on purpose.

    A message ends with *hint*, the fix in Python; `shell_message` ends with *shell_hint*, the fix on the command line.
    The text is printable, whatever key or server it quotes.
    """

    shell_message: str | None = None
    """The message for the command line, if it differs."""
    outcome_unknown = False
    """Whether the server may have carried out the change, in this request or in an earlier try of it.

    True after a lost response, a timeout, and statuses such as 500, 502 and 504; False if every try was refused (503,
    429, connection refused).
    """

    def __init__(self, *args: object, hint: str = "", shell_hint: str = "") -> None:
        if hint:
            message, *others = args
            self.shell_message = f"{message}: {shell_hint or hint}"
            args = (f"{message}: {hint}", *others)
        super().__init__(*args)

    def __str__(self) -> str:
        return printable(super().__str__())

    def add_note(self, note: str, /) -> None:
        super().add_note(printable(note))

    def extended(self, text: str, *, hint: str = "", shell_hint: str = "") -> Self:
        """Return the same error with *text* and the hints at the end of its message."""
        error = type(self)(f"{self}{text}", hint=hint, shell_hint=shell_hint)
        if self.shell_message is not None:
            error.shell_message = f"{self.shell_message}{text}" + (f": {shell_hint or hint}" if hint else "")
        error.outcome_unknown = self.outcome_unknown
        return error


# --- the path itself -----------------------------------------------------------------------------------------------


class AnyPathTypeError(CloudPathException, TypeError):
    """Neither a cloud URI nor an argument for `pathlib.Path`."""


class InvalidPrefixError(CloudPathException, ValueError):
    """The text does not start with a known scheme."""


class InvalidUriError(CloudPathException, ValueError):
    """The scheme is known, and the rest cannot name an object: an empty bucket, a NUL."""


class InvalidGlobArgumentsError(CloudPathException, ValueError):
    """A pattern that no listing can answer."""


class ClientMismatchError(CloudPathException, ValueError):
    """A client of one cloud got a path of another."""


class CloudPathNotImplementedError(CloudPathException, NotImplementedError):
    """This cloud, or object stores in general, do not support the operation."""


class IncompleteImplementationError(CloudPathException, NotImplementedError):
    """A scheme was registered with a path class and no client class, or the reverse."""


# --- configuration -------------------------------------------------------------------------------------------------


class InvalidConfigurationException(CloudPathException, ValueError):
    """Arguments that are invalid or contradict each other."""


class TargetInsideSourceError(InvalidConfigurationException, OSError):
    """A "directory" was to be copied or moved to a place inside of it."""


class MissingDependenciesError(CloudPathException, ModuleNotFoundError):
    """The cloud's SDK is not installed; the message says which extra installs it."""


class MissingCredentialsError(CloudPathException, PermissionError):
    """The SDK found no credentials; the message says how to read a public bucket without them."""


# --- answers of the server -------------------------------------------------------------------------------------------


class CloudPathFileNotFoundError(CloudPathException, FileNotFoundError):
    """No such object. Never raised for a 403."""


class CloudPathNotExistsError(CloudPathFileNotFoundError, ValueError):
    """No such object and nothing below that prefix; also a ValueError, as cloudpathlib's `copy` raises."""


class BucketNotFoundError(CloudPathFileNotFoundError):
    """No such bucket (container, root directory)."""


class CloudPathFileExistsError(CloudPathException, FileExistsError):
    """The object already exists."""


class CloudPathIsADirectoryError(CloudPathException, IsADirectoryError):
    """A prefix where an object is required."""


class CloudPathNotADirectoryError(CloudPathException, NotADirectoryError):
    """An object where a prefix is required."""


class DirectoryNotEmptyError(CloudPathException, OSError):
    """Objects exist below that prefix."""


class NoStatError(CloudPathException, OSError):
    """Nothing to stat: a prefix, or an object whose size the server does not state."""


class NothingToStatError(NoStatError, CloudPathFileNotFoundError):
    """No such object to stat: cloudpathlib's class, and the built-in of `pathlib`."""


class CloudPathPermissionError(CloudPathException, PermissionError):
    """The server denied access; the message names the missing permission. The object may exist."""


class CloudUnavailableError(CloudPathException, ConnectionError):
    """The server was unreachable, stalled or kept failing after retries; the object may exist."""


class TruncatedBodyError(CloudUnavailableError):
    """The body was shorter or longer than announced, or the connection broke during the read."""


class ChecksumMismatchError(CloudPathException, OSError):
    """The bytes received do not match the checksum that the provider states."""


class VersionMismatchError(CloudPathException, OSError):
    """The server refused a conditional request: the object is not the expected version (HTTP 412)."""

    keys: tuple[str, ...] = ()
    """The keys that a delete of several objects did not delete."""


# --- the cache -----------------------------------------------------------------------------------------------------


class NotCachedError(CloudPathException, OSError):
    """The policy is ``offline`` and the object is not cached; it may exist."""


class StaleReadError(CloudPathException, OSError):
    """The object kept changing while it was read; no single version could be read."""


class PendingWriteError(CloudPathException, OSError):
    """An earlier write of this URI is pending; the message says where its bytes are."""


class OverwriteDirtyFileError(CloudPathException, OSError):
    """A local file with changes would be overwritten."""


class OverwriteNewerCloudError(CloudPathException, OSError):
    """The object on the server is not the version that this write started from; nothing was overwritten."""


class OverwriteNewerLocalError(CloudPathException, OSError):
    """A program changed a local copy; the message says how to proceed."""


class CloudPathLocalPathTraversalError(CloudPathException, ValueError):
    """A key would leave the directory of the download."""
