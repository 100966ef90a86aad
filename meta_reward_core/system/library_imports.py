"""Import torch, transformers and TRL in less time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CHECKS_OF_UNUSED_LIBRARIES: Final = ("is_scipy_available", "is_sklearn_available")


@contextmanager
def import_libraries_quickly() -> Iterator[None]:
    """Context manager that lets transformers be imported without SciPy and scikit-learn.

    transformers uses them only for object detection and assisted generation, and they account for a
    quarter of its import time.
    """
    with pause_garbage_collection():
        from transformers import utils

        found = {name: getattr(utils, name) for name in _CHECKS_OF_UNUSED_LIBRARIES}
        for name in found:
            setattr(utils, name, lambda: False)
        try:
            yield
        finally:
            for name, check in found.items():
                setattr(utils, name, check)


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Context manager for imports of large libraries, which leave no garbage.

    Garbage collection accounts for a quarter of the time in which torch and TRL are imported.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
