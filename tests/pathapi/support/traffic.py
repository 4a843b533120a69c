"""What crosses a proxy between two looks."""

from __future__ import annotations

from urllib.parse import parse_qs

from tests.harness.proxy import Proxy


def kinds_of(proxy: Proxy) -> dict[str, int]:
    """Requests by kind since the last look."""
    kinds = proxy.counts.kinds
    proxy.reset()
    return kinds


class Wire:
    """Counts, from now on; a call gives the requests by kind since the last one."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        proxy.reset()

    def __call__(self) -> dict[str, int]:
        return kinds_of(self.proxy)

    def statuses(self) -> dict[str, int]:
        """Answers by status since the last look."""
        return self.proxy.counts.statuses

    def conditions(self) -> list[bool]:
        """Of each write since the last look: whether it was bound to a version, or to there being none."""
        records = (record for record in self.proxy.records if record.kind in ("PUT", "DELETE"))
        return [bool(record.if_match or record.if_none_match) for record in records]

    def query(self) -> dict[str, list[str]]:
        """The query of the last request."""
        return parse_qs(self.proxy.records[-1].query)
