"""Open artifact roots that are not local folders, and translate their errors.

Any fsspec file system works if it can write a file on condition that the file does not exist. The
file system finds its own credentials, in the environment or in its configuration files.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import fsspec

from meta_reward_core.errors import ArtifactError, InputError, StorageUnreachableError
from meta_reward_core.system.settings import read_settings

_S3_TIMEOUTS: Final = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "retries": {"max_attempts": 0},  # s3fs itself retries five times
}
_PRECONDITION_CODES: Final = {"PreconditionFailed", "ConditionalRequestConflict"}


def open_file_system(url: str) -> tuple[Any, str]:
    """Open the file system of an address.

    Returns:
        The file system, and the path of the address on it.

    Raises:
        InputError: the address contains a secret, or a package that it requires is not installed.
    """
    if "://" not in url:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    scheme, _, place = url.partition("://")
    if "@" in place.partition("/")[0]:
        raise InputError(
            f"the address of the artifact root ({scheme}://...@...) contains a user name or a "
            f"secret: remove it, and provide credentials through the environment or a file "
            f"(docs/docker.md)"
        )
    options = {"use_listings_cache": False, **(_get_s3_options() if scheme == "s3" else {})}
    try:
        return fsspec.core.url_to_fs(url, **options)  # type: ignore[no-any-return]
    except ImportError as error:
        raise InputError(
            f"{url} needs a package that is not installed: {error} "
            "(for s3://, pip install 'meta-reward[s3]')"
        ) from error


def _get_s3_options() -> dict[str, Any]:
    endpoint = read_settings().s3_endpoint
    return {"config_kwargs": _S3_TIMEOUTS, **({"endpoint_url": endpoint} if endpoint else {})}


@contextlib.contextmanager
def translate_errors(doing: str) -> Iterator[None]:
    """Translate the errors of a remote file system, except for existing and missing files.

    Args:
        doing: the operation, such as "read bucket/folder/file".

    Raises:
        ArtifactError: the file system refuses the operation.
        StorageUnreachableError: the file system does not respond, or is temporarily unavailable.
    """
    try:
        yield
    except (FileNotFoundError, ArtifactError):
        raise
    except PermissionError as error:
        raise ArtifactError(
            f"no permission to {doing}: {error}. Check the credentials and their permissions"
        ) from error
    except Exception as error:
        if isinstance(error, FileExistsError) or _get_error_code(error) in _PRECONDITION_CODES:
            raise FileExistsError from error
        if type(error).__name__ == "NoCredentialsError":
            raise ArtifactError(
                f"cannot {doing}: there are no credentials in the environment or in a file"
            ) from error
        raise StorageUnreachableError(
            f"cannot {doing}: {error or type(error).__name__}. Once the store is up and "
            f"reachable from here, rerun the command"
        ) from error


def _get_error_code(error: Exception) -> str:
    """Return the S3 error code; not every server reports the condition that failed."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
