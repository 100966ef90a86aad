"""Renamed options: old names work for one version, hidden, with a warning on stderr."""

import argparse
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from meta_reward_core.errors import DeprecatedNameWarning
from meta_reward_core.recipes.renamed_keys import describe_renamed


class ArgumentContainer(Protocol):
    """A parser, or an argument group of a parser."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Declare an argument."""


class _OldArgument(argparse.Action):
    """Accepts a value under an old name, warns, and passes it to the current argument."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, target: argparse.Action, **settings: Any
    ) -> None:
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **settings)
        self._target = target

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Accept one value; for positional names any number."""
        new = self._target.option_strings[-1]
        if option_string is None:
            if not values:
                return
            old, new = f"{self.metavar} without an option", f"{new} {self.metavar}"
        else:
            old = self.option_strings[0]
        warnings.warn(describe_renamed(old, new), DeprecatedNameWarning, stacklevel=2)
        self._target.required = False
        for value in values if option_string is None else [values]:
            self._target(parser, namespace, value, option_string)


def add_old_option(where: ArgumentContainer, old: str, target: argparse.Action) -> None:
    """Declare the old name of an option.

    Args:
        where: the parser, or the group that `target` belongs to.
        old: the old name, such as `--out`.
    """
    where.add_argument(
        old,
        action=_OldArgument,
        target=target,
        nargs=target.nargs,
        const=target.const,
        default=argparse.SUPPRESS,
        type=target.type,
        choices=target.choices,
    )


def add_old_positionals(where: ArgumentContainer, target: argparse.Action) -> None:
    """Declare positional values as the old form of a repeatable option."""
    where.add_argument(
        f"{target.dest}_by_position",
        action=_OldArgument,
        target=target,
        nargs="*",
        default=argparse.SUPPRESS,
        type=target.type,
        metavar=target.metavar,
    )


def show_deprecations_briefly() -> None:
    """Print deprecation warnings as one line, without the location in our code."""
    usual = warnings.formatwarning

    def format_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, DeprecatedNameWarning):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
