"""How a rule across fields is refused: by an error whose context leads to the field, so that its line can be told."""

from typing import LiteralString

from pydantic_core import PydanticCustomError


def refusal(error_type: LiteralString, message: str, **context: str | int) -> PydanticCustomError:
    """Make an error of a validator.

    In the context `field`, or `list` and `index` (and `below`, a field of that entry), name the place below the value.
    Braces in a message would be taken for placeholders, so the message is a part of the context itself.
    """
    return PydanticCustomError(error_type, "{message}", {"message": message, **context})


def refuse_duplicates(where: str, given: list[str]) -> None:
    """Raise for the first name that a list has twice."""
    seen: set[str] = set()
    for index, name in enumerate(given):
        if name in seen:
            message = f"{where} has two entries named {name!r}; names must be unique"
            raise refusal("duplicate_name", message, list=where, index=index)
        seen.add(name)
