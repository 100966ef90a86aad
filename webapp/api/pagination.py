"""Pages of long lists: `limit` and `offset`, with the number of all rows."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Field, Schema
from ninja.pagination import LimitOffsetPagination

_MAX_LIMIT = 200


class RowPagination(LimitOffsetPagination):
    """Pages of rows; each row becomes a schema object.

    Args:
        items: name of the list in the response.
        write: converts one row; called only for the rows of the page.
    """

    class Input(LimitOffsetPagination.Input):
        """The requested page."""

        limit: int = Field(50, ge=1, le=_MAX_LIMIT)
        offset: int = Field(0, ge=0, le=10**9)

    class Output(Schema):
        """A page; the list is added under its own name."""

        count: int

    def __init__(self, *, items: str, write: Callable[[Any], Schema], **kwargs: Any) -> None:
        super().__init__(max_limit=_MAX_LIMIT, **kwargs)
        self.items_attribute = items
        self._write = write

    def paginate_queryset(
        self,
        queryset: "QuerySet[Any]",
        pagination: Any,
        request: HttpRequest,
        **params: Any,
    ) -> Any:
        """Read one page and count all rows."""
        page = super().paginate_queryset(queryset, pagination, request, **params)
        page[self.items_attribute] = [self._write(row) for row in page[self.items_attribute]]
        return page
