"""The strict base of every type in the contract.

Unknown fields are errors, values are never coerced (`"3"` is not `3`), instances are immutable.
JSON and YAML use camelCase, Python uses snake_case.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def read(cls, value: Any) -> Self:
        """Check data as it stands in JSON or YAML, where only camelCase names a field.

        Raises pydantic's ValidationError with everything that is wrong.
        """
        return cls.model_validate(value, by_alias=True, by_name=False)
