"""Every line of the error table of `gs`."""

from __future__ import annotations

import builtins
import http.client
from collections.abc import Callable
from typing import Any

import google.api_core.exceptions
import google.auth.exceptions
import pytest
import requests.exceptions
import urllib3.exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import exceptions as storage_exceptions

from pathapi import exceptions
from pathapi.backends.gs.backend import GSBackend
from pathapi.backends.gs.connection import GSConnection
from pathapi.backends.gs.errors import (
    BY_EXCEPTION,
    BY_REASON,
    BY_STATUS,
    PERMISSIONS,
    RETRIED_EXCEPTIONS,
    should_retry,
    translate,
)
from pathapi.exceptions import (
    BucketNotFoundError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathPermissionError,
    InvalidUriError,
    MissingCredentialsError,
)
from pathapi.testing import write

WHERE: dict[str, Any] = {"uri": "gs://b/k", "bucket": "b", "endpoint": "Google Cloud Storage", "operation": "read"}


def answer(status: int, reason: str = "", message: str = "said the server") -> Exception:
    errors = [{"reason": reason, "message": message}]
    error: Exception = google.api_core.exceptions.from_http_status(status, message, errors=errors)
    return error


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_every_reason_gives_a_message_that_names_the_object(reason: str) -> None:
    error = translate(answer(400, reason), **WHERE)
    assert type(error) is BY_REASON[reason].error
    assert "gs://b/k" in str(error)
    assert "{" not in str(error)


@pytest.mark.parametrize("status", [*sorted(BY_STATUS), 418, 500, 502, 599])
@pytest.mark.parametrize("operation", sorted(PERMISSIONS))
def test_a_bare_status_has_a_meaning_for_every_call(status: int, operation: str) -> None:
    error = translate(answer(status), **{**WHERE, "operation": operation})
    assert isinstance(error, CloudPathException)
    assert isinstance(error, FileNotFoundError) == (status == 404)
    assert isinstance(error, ConnectionError) == (status in (408, 409, 410, 429) or (status >= 500 and status != 501))
    assert "gs://b/k" in str(error)


def test_every_name_in_the_table_of_exceptions_exists() -> None:
    modules = (google.api_core.exceptions, google.auth.exceptions, storage_exceptions, requests.exceptions)
    known = {name for module in (*modules, urllib3.exceptions, http.client, builtins) for name in dir(module)}
    assert {*BY_EXCEPTION, *RETRIED_EXCEPTIONS} <= known


@pytest.mark.parametrize("module", [requests.exceptions, urllib3.exceptions, google.auth.exceptions])
def test_every_exception_of_the_sdk_and_its_transport_becomes_ours(module: Any) -> None:
    for name in dir(module):
        kind = getattr(module, name)
        is_theirs = isinstance(kind, type) and kind.__module__.startswith(module.__name__)
        is_raised = is_theirs and issubclass(kind, OSError | urllib3.exceptions.HTTPError | GoogleAuthError)
        if is_raised and not issubclass(kind, Warning):
            error: Exception = kind.__new__(kind)
            Exception.__init__(error, "text")
            assert isinstance(translate(error, **WHERE), CloudPathException), name
    assert translate(KeyError("ours"), **WHERE) is None


def test_only_a_404_is_absence() -> None:
    assert BY_STATUS[404].error is CloudPathFileNotFoundError
    others = [*BY_REASON.values(), *BY_EXCEPTION.values(), *(BY_STATUS[key] for key in BY_STATUS if key != 404)]
    assert not [meaning for meaning in others if issubclass(meaning.error, FileNotFoundError)]


@pytest.mark.parametrize("operation", sorted(PERMISSIONS))
def test_a_bucket_that_is_missing_is_told_by_googles_words(operation: str) -> None:
    where = {**WHERE, "operation": operation}
    assert type(translate(answer(404, "notFound", "The specified bucket does not exist."), **where)) is (
        BucketNotFoundError
    )
    missing = translate(answer(404, "notFound", "No such object: b/The specified bucket does not exist"), **where)
    assert type(missing) is (BucketNotFoundError if operation in ("list", "write") else CloudPathFileNotFoundError)


def test_a_read_that_is_refused_does_not_claim_absence() -> None:
    assert "403 for objects that do not exist" in str(translate(answer(403, "forbidden"), **WHERE))
    written = translate(answer(403, "forbidden"), **{**WHERE, "operation": "write"})
    assert "storage.objects.create" in str(written)
    assert "not exist" not in str(written)


def test_who_asks_without_credentials_is_told_to_log_in() -> None:
    for status in (401, 403):
        assert type(translate(answer(status), **WHERE)) is CloudPathPermissionError
        error = translate(answer(status), **WHERE, is_signed=False)
        assert isinstance(error, MissingCredentialsError)
        assert "GOOGLE_APPLICATION_CREDENTIALS" in str(error)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_sent_again_and_what_stays_is_not(status: int) -> None:
    assert should_retry(answer(status))
    assert should_retry(answer(403, "rateLimitExceeded"))
    assert should_retry(requests.exceptions.ConnectionError())
    assert should_retry(requests.exceptions.ReadTimeout())
    for error in (answer(403), answer(404), answer(412), answer(501), KeyError(), OSError()):
        assert not should_retry(error)


@pytest.mark.parametrize("key", ["", "\udcff"])
def test_a_key_that_no_object_can_have_is_an_invalid_uri_before_any_request(key: str) -> None:
    backend = GSBackend(GSConnection(endpoint_url="http://127.0.0.1:9"), "bucket")
    calls: list[Callable[[str], object]] = [backend.head, backend.read, lambda key: write(backend, key, b"")]
    calls += [lambda key: backend.delete([key]), lambda key: backend.copy("a", key)]
    for call in calls:
        with pytest.raises(InvalidUriError):
            call(key)
    with pytest.raises(InvalidUriError):
        list(backend.list("\udcff"))


def test_an_error_of_the_table_is_one_of_the_closed_list() -> None:
    closed = {value for value in vars(exceptions).values() if isinstance(value, type)}
    for meaning in (*BY_REASON.values(), *BY_STATUS.values(), *BY_EXCEPTION.values()):
        assert meaning.error in closed
