"""Removes secrets from texts and errors of SDKs: no message, log, pickle or traceback may show them.

SDKs quote their arguments: an endpoint with its password, a header with the whole token. Their errors are the causes of
ours, and are printed with them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from functools import cache
from typing import Final

from casstore import printable

MASK: Final = "***"

_SHORTEST: Final = 8
"""Characters of the shortest secret that is searched for in texts; a shorter one would match ordinary words."""


_SIGNERS: Final = {"x-amz-signature": "x-amz-", "x-goog-signature": "x-goog-"}
_SAS: Final = frozenset(
    ("sig", "se", "sp", "sv", "sr", "st", "spr", "sip", "srt", "ss", "sdd")
    + ("skoid", "sktid", "skt", "ske", "sks", "skv")
)
_OLD: Final = frozenset(("signature", "expires", "awsaccesskeyid", "googleaccessid", "policy", "key-pair-id"))


@cache
def _masked() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Return what is masked by its form: a sign that it may be there, the pattern, the replacement."""
    # Compiled after an error, not by every import.
    return (
        # Anchored at the start of a word: linear time for every text.
        ("@", re.compile(r"(?<![^\s\"'`<>@])[^\s\"'`<>@]+@"), MASK + "@"),  # user and password before a host
        ("?", re.compile(r"\?[^\s\"'`<>=?]*=[^\s\"'`<>]*"), "?" + MASK),  # a query, which may sign
        ("header", re.compile(r"(Invalid header value).*", re.DOTALL), r"\1 " + MASK),
        ("SharedKey", re.compile(r"(SharedKey(?:Lite)? [^\s:]*:)[^\s\"'<>]+"), r"\1" + MASK),
        ("Bearer", re.compile(r"(Bearer )[^\s\"'<>]+"), r"\1" + MASK),
        ("=", re.compile(r"((?:Credential|Signature)=)[^\s,&]+"), r"\1" + MASK),
    )


def redacted(text: str, known: Collection[str] = ()) -> str:
    """Return *text* without passwords, queries of URLs, signatures and the *known* secrets; its lines are printable."""
    for secret in known:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    for sign, pattern, mask in _masked():
        if sign in text:
            text = pattern.sub(mask, text)
    return "\n".join(map(printable, text.split("\n")))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and all errors that it was made of, each once."""
    pending, seen = [error], set[int]()
    while pending:
        error = pending.pop()
        if id(error) not in seen:
            seen.add(id(error))
            known = (error.__cause__, error.__context__, *error.args, *vars(error).values())
            pending += [one for one in known if isinstance(one, BaseException)]
            yield error


def scrub(error: BaseException, known: Collection[str] = ()) -> None:
    """Redact *error* and all its causes, in place."""
    for one in causes_of(error):
        # Assigned only if it differs: some exceptions keep more than their arguments show.
        args = tuple(redacted(arg, known) if isinstance(arg, str) else arg for arg in one.args)
        if args != one.args:
            one.args = args
        for facts in (getattr(one, "kwargs", None), getattr(one, "response", None)):
            if isinstance(facts, dict):
                detail = facts.get("Error", facts)
                if isinstance(detail, dict):
                    detail.update(
                        {name: redacted(text, known) for name, text in detail.items() if isinstance(text, str)}
                    )


def without_user(url: str) -> str:
    """Return *url* without user and password."""
    return re.sub(r"(?<=://)[^/]*@", "", url, count=1)


def unsigned(url: str) -> str:
    """Return *url* without user, password and the parameters of a signature: the identity of its object.

    Knows the signatures of Amazon, Google, Azure and CloudFront.
    """
    before, mark, rest = without_user(url).partition("?")
    if not mark:
        return before
    query, hash_mark, fragment = rest.partition("#")
    parameters = query.split("&")
    names = {parameter.partition("=")[0].lower() for parameter in parameters}
    signing = tuple(prefix for signer, prefix in _SIGNERS.items() if signer in names)
    exact = (_SAS if "sig" in names else frozenset()) | (_OLD if "signature" in names else frozenset())

    def is_kept(parameter: str) -> bool:
        name = parameter.partition("=")[0].lower()
        return name not in exact and not (signing and name.startswith(signing))

    kept = "&".join(parameter for parameter in parameters if is_kept(parameter))
    return before + ("?" + kept if kept else "") + hash_mark + fragment


def is_spawning() -> bool:
    """Return whether multiprocessing is pickling in this thread for a child that it is spawning.

    Only then may a pickle contain secrets.
    """
    context = sys.modules.get("multiprocessing.context")
    return context is not None and context.get_spawning_popen() is not None
