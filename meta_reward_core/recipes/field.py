"""Declaration of recipe values: default, bounds, unit and source."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PAPER = "Wu et al. 2024, arXiv 2407.19594"
SECONDARY = "secondary sources on Wu et al. 2024"
OURS = "our choice; the paper gives no value"


def declare_field(
    default: Any,
    text: str,
    *,
    source: str,
    unit: str = "",
    **bounds: Any,
) -> Any:
    """Declare a recipe value with its documentation."""
    extra: dict[str, Any] = {"unit": unit, "source": source}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """A section of a recipe: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
