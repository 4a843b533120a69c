"""Every line of the error table of Azure."""

from __future__ import annotations

import builtins
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import azure.core.exceptions
import azure.storage.blob._shared.authentication
import pytest
import requests
import urllib3.exceptions

from pathapi import exceptions
from pathapi.backends.azure.backend import AzureBackend
from pathapi.backends.azure.connection import AzureConnection
from pathapi.backends.azure.errors import BY_CODE, BY_EXCEPTION, BY_STATUS, translate
from pathapi.exceptions import CloudPathException, CloudPathPermissionError, InvalidUriError
from tests.harness.azure_servers import AzureServer
from tests.pathapi.support.raw_buckets import azure_connection_to

WHERE: dict[str, Any] = {"uri": "az://c/b", "bucket": "c", "endpoint": "127.0.0.1:1/x", "operation": "Get Blob"}


def answered(status: int, code: str = "", message: str = "said the server") -> azure.core.exceptions.HttpResponseError:
    error = azure.core.exceptions.HttpResponseError(message)
    error.status_code = status
    error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_gives_a_message_that_names_the_object(code: str) -> None:
    error = translate(answered(400, code), **WHERE)
    assert type(error) is BY_CODE[code].error
    assert "az://c/b" in str(error)
    assert "{" not in str(error)


@pytest.mark.parametrize("status", [*sorted(BY_STATUS), 418, 500, 502, 599])
def test_a_bare_status_has_a_meaning(status: int) -> None:
    error = translate(answered(status), **WHERE)
    assert isinstance(error, CloudPathException)
    assert isinstance(error, FileNotFoundError) == (status == 404)
    assert isinstance(error, ConnectionError) == (status in (408, 429) or (status >= 500 and status != 501))


def test_the_sdks_codes_are_objects_or_texts() -> None:
    from azure.storage.blob import StorageErrorCode

    error = answered(404)
    error.error_code = StorageErrorCode.CONTAINER_NOT_FOUND  # type: ignore[attr-defined]
    assert isinstance(translate(error, **WHERE), exceptions.BucketNotFoundError)


def test_every_name_in_the_table_of_exceptions_exists() -> None:
    modules = (
        azure.core.exceptions,
        azure.storage.blob._shared.authentication,
        urllib3.exceptions,
        requests,
        builtins,
        ET,
    )
    assert set(BY_EXCEPTION) <= {name for module in modules for name in dir(module)}


def test_every_exception_of_the_sdk_becomes_ours_and_nothing_else_does() -> None:
    for module, base in (
        (azure.core.exceptions, azure.core.exceptions.AzureError),
        (urllib3.exceptions, urllib3.exceptions.HTTPError),
    ):
        for name in dir(module):
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, base) and name != "ODataV4Error":
                error = kind.__new__(kind)
                Exception.__init__(error, "text")
                assert isinstance(translate(error, **WHERE), CloudPathException), name
    assert translate(KeyError("ours"), **WHERE) is None


def test_only_a_404_is_absence_and_a_lease_is_no_conflict() -> None:
    table = {**BY_CODE, **BY_EXCEPTION}
    absent = {code for code, meaning in table.items() if issubclass(meaning.error, FileNotFoundError)}
    gone = {"BlobNotFound", "ResourceNotFound", "PathNotFound"}
    assert absent == gone | {"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
    assert isinstance(translate(answered(412, "LeaseIdMissing"), **WHERE), CloudPathPermissionError)


def test_a_signature_out_of_its_time_is_told_from_a_wrong_one() -> None:
    late = "Signature not valid in the specified time frame: Start [...] - Expiry [...]"
    assert "at this time" in str(translate(answered(403, "AuthenticationFailed", late), **WHERE))
    assert "wrong" in str(translate(answered(403, "AuthenticationFailed"), **WHERE))


def test_who_has_no_credentials_is_not_told_that_they_need_more() -> None:
    assert "no credentials were given" in str(translate(answered(403), **WHERE, is_signed=False))


@pytest.mark.parametrize("key", ["", "a/../b", "./a", "..", "a\udc80"])
def test_a_name_that_no_object_can_have_is_an_invalid_uri(azurite: AzureServer, key: str) -> None:
    backend = AzureBackend(azure_connection_to(azurite), "container")
    attempts: list[Callable[[], object]] = [lambda: backend.read(key), lambda: backend.delete([key, "x"])]
    for attempt in attempts:
        with pytest.raises(InvalidUriError):
            attempt()


def test_an_account_that_does_not_exist_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathapi.backends.azure.connection._BACKOFF", 0.01)
    backend = AzureBackend(AzureConnection(account_url="https://nobody.blob.core.invalid"), "container")
    with pytest.raises(exceptions.CloudUnavailableError, match="name of the account"):
        backend.head("a")


def test_an_error_of_the_table_is_one_of_the_closed_list() -> None:
    closed = {value for value in vars(exceptions).values() if isinstance(value, type)}
    for meaning in (*BY_CODE.values(), *BY_STATUS.values(), *BY_EXCEPTION.values()):
        assert meaning.error in closed
