"""The Hugging Face Hub or a mirror: model names, the client, and its errors.

The client's own environment variables apply: HF_ENDPOINT is the address of a mirror, HF_TOKEN is a
token, and HF_HUB_OFFLINE forbids requests. The client is imported when it is needed.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from meta_reward_core.system.settings import read_settings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PART: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_NAME: Final = re.compile(
    rf"({_PART}/{_PART})(?:@([A-Za-z0-9](?:[A-Za-z0-9_./-]*[A-Za-z0-9_-])?))?"
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_DENIED_STATUSES: Final = (401, 403)
_TRANSIENT_STATUSES: Final = (408, 429)
_SERVER_ERROR: Final = 500
_XET_HINT: Final = ". If it is a mirror without Xet support, set HF_HUB_DISABLE_XET=1"


@dataclass(frozen=True, slots=True)
class HubName:
    """Name of a Hub model.

    Attributes:
        repository: owner/name.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the name is a full commit, so that its files never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def parse_hub_name(text: str) -> HubName | None:
    """Parse `owner/name` or `owner/name@revision`; None if it is neither."""
    found = _NAME.fullmatch(text)
    if found is None or ".." in text or "//" in text:
        return None
    return HubName(found[1], found[2])


def parse_pinned_name(folder: str) -> HubName | None:
    """Parse the name of a downloaded folder: its path ends in owner/name@commit."""
    name = parse_hub_name("/".join(PurePath(folder).parts[-2:]))
    return name if name is not None and name.is_pinned else None


def get_hub_address() -> str:
    """Return the address of the Hub: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants

    return read_settings().hf_endpoint or str(constants.ENDPOINT)


def make_hub_client(token: str | None) -> "HfApi":
    """Create a client for the Hugging Face Hub.

    Args:
        token: Hub token; None: the token that the client finds, in HF_TOKEN or a stored login.
    """
    from huggingface_hub import HfApi

    return HfApi(endpoint=get_hub_address(), token=token, library_name="meta-reward")


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Context manager that hides the client's progress bars."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_on = not are_progress_bars_disabled()
    if were_on:
        disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            enable_progress_bars()


def get_client_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that the client raises for the Hub, the network or the disk."""
    import httpx2

    return httpx2.HTTPError, OSError, ValueError, RuntimeError


def is_transient(error: Exception) -> bool:
    """Whether the same call can succeed later without any change."""
    from huggingface_hub.errors import HfHubHTTPError

    answer = _find_root_cause(error)
    if not isinstance(answer, HfHubHTTPError):
        return True
    status = answer.response.status_code
    return status >= _SERVER_ERROR or status in _TRANSIENT_STATUSES


def explain_error(error: Exception, name: HubName) -> str:
    """Explain a client error and what to do; the token is never included."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    found, address = _find_root_cause(error), get_hub_address()
    if isinstance(found, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not queried: unset it, or use a local model"
    if isinstance(found, HfHubHTTPError):
        return _explain_http_error(found, name, address)
    if isinstance(found, httpx2.HTTPError):
        return (
            f"{address} does not respond ({type(found).__name__}: {found}): check the "
            f"network, HTTPS_PROXY and HF_ENDPOINT, and try again"
        )
    return f"{address}: {found}{_XET_HINT if 'xet' in str(found) else ''}"


def _explain_http_error(error: Exception, name: HubName, address: str) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{address}/{name.repository}"
    if isinstance(error, GatedRepoError):
        return (
            f"{page} is gated: accept its conditions there, and set HF_TOKEN to a token of "
            f"that account"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{address} has no model {name.repository}, or it is private: check the spelling, "
            f"or set "
            "HF_TOKEN to a token with read access to it"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{page} has no branch, tag or commit {name.revision!r}: choose one of {page}/tree/main"
        )
    assert isinstance(error, HfHubHTTPError)  # noqa: S101 for the types
    status = error.response.status_code
    if status in _DENIED_STATUSES:
        return (
            f"{address} rejected HF_TOKEN for {name.repository} ({status}): check its "
            f"permissions, or create another token, at {address}/settings/tokens"
        )
    return f"{address} answered {status} for {name.repository}: {_get_first_line(error)}"


def _get_first_line(error: Exception) -> str:
    """Return the client's message without its trailing links."""
    return next((line for line in str(error).splitlines() if line.strip()), "nothing more is known")


def _find_root_cause(error: BaseException) -> BaseException:
    """Return the original exception behind a less specific exception."""
    import httpx2

    while not isinstance(error, httpx2.HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    return error
