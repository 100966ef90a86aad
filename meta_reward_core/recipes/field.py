"""Declaration of recipe values: default, bounds, unit and source."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PAPER = "Wu et al. 2024, arXiv 2407.19594"
SECONDARY = "secondary sources on Wu et al. 2024"
OURS = "our choice; the paper gives no value"

_PATH_BYTES: Final = 1000
_NAME_BYTES: Final = 255


def _require_possible_path(text: str) -> str:
    """Refuse a path that no file system can have: looking for it is an error, not an absence."""
    written = text.encode(errors="surrogatepass")
    if len(written) > _PATH_BYTES or max(map(len, written.split(b"/"))) > _NAME_BYTES:
        raise ValueError(
            f"the path is too long: use up to {_PATH_BYTES:,} bytes, and {_NAME_BYTES} for each "
            "name in it"
        )
    return text


PathText = Annotated[str, AfterValidator(_require_possible_path)]
"""The name of a file, folder, template or model."""


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
