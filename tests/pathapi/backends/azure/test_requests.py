"""An interrupt inside of what the SDK does for each request leaves no lock of the standard library locked."""

from __future__ import annotations

import contextlib
import logging
import threading

from pathapi.backends.azure.backend import AzureBackend, AzureConnection
from tests.harness.interrupts import Interrupted, Interrupter

STRING = "AccountName=acct;AccountKey=UExBTlRFRDBTRUNSRVQ=;BlobEndpoint=http://127.0.0.1:9"


def test_an_interrupt_at_any_point_of_making_a_request_leaves_logging_unlocked() -> None:
    requests = AzureBackend(AzureConnection(connection_string=STRING), "container")._requests
    requests.blob("key")
    with Interrupter() as counter:
        requests.blob("key")
    left = []
    for number in range(1, counter.count + 1):
        interrupter = Interrupter(number)
        with contextlib.suppress(Interrupted), interrupter:
            requests.blob("key")
        if not is_free():
            left.append(interrupter.where)
            while logging._lock._is_owned():  # type: ignore[attr-defined]
                logging._lock.release()  # type: ignore[attr-defined]
    assert left == []


def is_free() -> bool:
    """Whether another thread could acquire the lock of `logging`."""
    results = []

    def look() -> None:
        results.append(logging._lock.acquire(blocking=False))  # type: ignore[attr-defined]
        if results[0]:
            logging._lock.release()  # type: ignore[attr-defined]

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return results == [True]
