"""How a value of a recipe is declared: its default, its bounds, its unit, and where it is from."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PAPER = "Wu et al. 2024, arXiv 2407.19594"
SECONDARY = "secondary texts on Wu et al. 2024"
OURS = "our choice; the paper is silent"


def declare_field(
    default: Any,
    text: str,
    *,
    source: str,
    unit: str = "",
    **bounds: Any,
) -> Any:
    """Declare one value of a recipe with what a person needs to know about it."""
    extra: dict[str, Any] = {"unit": unit, "source": source}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
