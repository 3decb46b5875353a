"""A check of what a pipeline is asked and what it answers."""

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from midstream_api import names
from midstream_api.base import Strict
from midstream_api.expression import ExpressionError, parse
from midstream_api.refusal import refusal

Text = Annotated[str, Field(min_length=1, max_length=1024)]


class Validation(Strict):
    """A condition on each row: exactly one of `expression` and `failWhen`. It changes no answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.expression) != has(self.failWhen)",
                    "message": "a validation has exactly one of expression and failWhen",
                },
                {
                    "rule": "self.name != 'count'",
                    "message": "'count' is the number of failed validations in an answer; choose another name",
                    "fieldPath": ".name",
                },
            ]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=names.VALIDATION_NAME)]
    """Of the answer's column `anomaly.<name>`."""
    expression: Text | None = None
    """Must hold: `out.variable[0] < 1500000.0`."""
    fail_when: Text | None = None
    """Must not hold."""

    @model_validator(mode="after")
    def _one_condition(self) -> "Validation":
        if (self.expression is None) == (self.fail_when is None):
            raise refusal(
                "validation_kind", "a validation has exactly one of expression and failWhen"
            )
        if self.name == "count":
            raise refusal(
                "validation_name",
                "'count' is the number of failed validations in an answer; choose another name",
                field="name",
            )
        field = "expression" if self.expression is not None else "failWhen"
        try:
            parse(self.expression or self.fail_when or "")
        except ExpressionError as error:
            raise refusal("expression", str(error), field=field) from None
        return self
