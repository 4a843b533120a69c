"""Fields of pydantic's models; pydantic is imported only by its own call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def path_schema(validate: Callable[[Any], object], text_format: str | None) -> Any:
    """Return the core schema of paths that *validate* makes: text in JSON, of *text_format* in a JSON schema."""
    from pydantic_core import core_schema

    def check(value: Any) -> object:
        try:
            return validate(value)
        except TypeError as error:  # which pydantic lets through
            raise ValueError(str(error)) from error

    updates = {} if text_format is None else {"pydantic_js_updates": {"format": text_format}}
    return core_schema.json_or_python_schema(
        json_schema=core_schema.no_info_after_validator_function(check, core_schema.str_schema(metadata=updates)),
        python_schema=core_schema.no_info_plain_validator_function(check),
        serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
    )
