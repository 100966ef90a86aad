"""All errors of this project, grouped by the boundary at which they occur.

MetaRewardError
├── InputError            a user's input is wrong
│   ├── MalformedInputError external bytes that fail the input checks
│   ├── SettingsError       environment variables, `.env`, files of secrets
│   ├── RecipeError         a recipe file, key or value
│   ├── PromptFileError     a file of prompts
│   ├── EvaluationFileError a file of outputs, annotations, judgments or scores
│   ├── ModelFolderError    a model that may not or cannot be loaded
│   ├── EndpointError       a named server, its address, key or model
│   ├── TaskError           a task that is not installed, or does not fit
│   └── TemplateError       a prompt template
├── HubError              the Hub did not respond, or refused a request
├── EngineError           a model could not produce tokens
├── TrainingError         a training refused to start, or failed
├── ArtifactError         files of an experiment
│   ├── StorageFullError    not enough disk space for a write
│   ├── StorageUnreachableError  a remote store does not respond
│   └── DamagedArtifactError  a file does not match its hash in the manifest
├── AuditWaitsError       an iteration may not train before an audit of it has passed
├── NeedsAttentionError   a judge probe or a circuit breaker stopped an iteration
├── ExperimentBusyError   another process works on the same experiment
└── NoPairsError          an iteration ended without a preference pair

There is also one warning, `DeprecatedNameWarning`.
"""

from typing import ClassVar, Self


class MetaRewardError(Exception):
    """Base class of all errors that this project raises intentionally.

    Attributes:
        retryable: whether the same call may succeed later without a change by a user.
        exit_code: exit code of a command that ends with this error.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class DeprecatedNameWarning(FutureWarning):
    """A deprecated name of a recipe key or command option was used; it still works."""


class InputError(MetaRewardError):
    """A user's input is wrong; the message gives the location and the remedy."""

    exit_code = 2


class MalformedInputError(InputError, ValueError):
    """External bytes are not valid text, JSON or YAML, or exceed a limit (`untrusted_input`).

    The message is a predicate; the caller that reads the bytes prepends the subject.
    """


class SettingsError(InputError):
    """Settings of this installation are wrong; the message has a line for each."""


class RecipeError(InputError):
    """A recipe file, key or value is wrong."""


class PromptFileError(InputError):
    """A file of prompts is missing, unreadable or contains no prompt."""


class EvaluationFileError(InputError):
    """A file of outputs, annotations, judgments or scores cannot be evaluated."""


class ModelFolderError(InputError):
    """A model folder is missing, incomplete, unsafe or outside the allowed root.

    Attributes:
        file: path of the faulty file; empty if unknown.
        problem: what is wrong with it, as a clause.
        remedy: what to do, as a clause.
    """

    def __init__(
        self, message: str, *, file: str = "", problem: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.file, self.problem, self.remedy = file, problem or message.rstrip("."), remedy

    @classmethod
    def from_parts(cls, file: object, problem: str, remedy: str) -> Self:
        """Write the message as one sentence: file, problem and remedy."""
        return cls(f"{file} {problem}: {remedy}.", file=str(file), problem=problem, remedy=remedy)


class EndpointError(InputError):
    """A named server is not configured here, or it rejects its settings."""


class TaskError(InputError):
    """A task is not installed here, or does not meet the registry's requirements."""


class TemplateError(InputError):
    """A prompt template lacks a required placeholder or contains an unknown one."""


class HubError(MetaRewardError):
    """The Hub did not respond, refused a request, or sent a damaged model."""

    retryable = True


class EngineError(MetaRewardError):
    """A model could not produce tokens."""

    retryable = True


class TrainingError(MetaRewardError):
    """Training refused to start, diverged, or lost rows."""


class ArtifactError(MetaRewardError):
    """The files of an experiment are missing or wrong."""


class StorageFullError(ArtifactError):
    """There is not enough disk space for a write."""

    retryable = True
    exit_code = 4


class StorageUnreachableError(ArtifactError):
    """A remote store does not respond, at least for now: the state of its files is unknown."""

    retryable = True
    exit_code = 4


class DamagedArtifactError(ArtifactError):
    """A file does not match its hash in the manifest."""

    retryable = True


class ExperimentBusyError(MetaRewardError):
    """Another process works on the same experiment."""

    retryable = True
    exit_code = 5


class AuditWaitsError(MetaRewardError):
    """An iteration may not train yet: an audit of its battles has not passed.

    Finished shards are kept; the same command resumes once the audit has passed or a user has
    overridden the gate.
    """

    retryable = True
    exit_code = 6


class NeedsAttentionError(MetaRewardError):
    """An iteration stopped because its results would be useless; a user must decide.

    Finished shards are kept. The same command resumes after a change of the settings, or once a
    user has accepted the finding.
    """

    retryable = True
    exit_code = 7


class NoPairsError(MetaRewardError):
    """An iteration ended without a preference pair: there is nothing to train on.

    This is a finding about the data, not a fault, and has its own exit code.
    """

    exit_code = 3
