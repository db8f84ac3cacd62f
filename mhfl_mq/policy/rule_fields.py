"""A rule in a policy file: a name, and a condition for each fact that it asks for, as fields that editors know."""

from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field, PlainValidator, WithJsonSchema, create_model, model_validator
from pydantic_core import PydanticCustomError

from mhfl_mq.policy import compiled
from mhfl_mq.policy.conditions import NUMBER_CONDITION, condition
from mhfl_mq.policy.facts import FACTS, Fact, Kind
from mhfl_mq.policy.fields import Id, Part

__all__ = ["Rule"]

_TEXTS: Final = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_SCHEMAS: Final[dict[Kind, dict[str, Any]]] = {
    Kind.NUMBER: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{NUMBER_CONDITION}$"}]},
    Kind.TEXT: _TEXTS,
    Kind.FLAG: {"type": "boolean"},
    Kind.TAGS: _TEXTS,
}


class _Rule(Part):
    """A rule: it holds for a device when all of its conditions do."""

    name: Id = Field(description="the rule's name, which stands in reasons, the ledger and reports")

    @model_validator(mode="after")
    def _says_something(self) -> "_Rule":
        if not self.compiled().conditions:
            hint = f"add a condition on one of {', '.join(FACTS)}"
            raise PydanticCustomError("condition", "the rule asks for no fact", {"hint": hint})
        return self

    def compiled(self) -> compiled.Rule:
        asked = (getattr(self, fact) for fact in FACTS)
        return compiled.Rule(self.name, tuple(one for one in asked if one is not None))


def _read(fact: str, written: object) -> compiled.Condition:
    try:
        return condition(fact, written)
    except ValueError as error:
        says, _, hint = str(error).partition("; ")
        raise PydanticCustomError("condition", "{says}", {"says": says, "hint": hint}) from None


def _field(fact: Fact) -> Any:
    form = Annotated[
        compiled.Condition | None, PlainValidator(partial(_read, fact.name)), WithJsonSchema(_SCHEMAS[fact.kind])
    ]
    return form, Field(None, description=f"{fact.says} ({fact.source.value})")


Rule: Final[Any] = create_model(  # one field for each fact of the catalogue
    "Rule", __base__=_Rule, __doc__=_Rule.__doc__, **{fact.name: _field(fact) for fact in FACTS.values()}
)
