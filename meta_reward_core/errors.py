"""The one error tree, named by the boundary that was crossed.

MetaRewardError
├── InputError            what a person gave us is wrong
│   ├── MalformedInputError bytes from outside that the gate does not let through
│   ├── SettingsError       environment variables, `.env`, files of secrets
│   ├── RecipeError         a recipe file, key or value
│   ├── PromptFileError     a file of prompts
│   ├── EvaluationFileError a file of outputs, annotations, judgments or scores
│   ├── ModelFolderError    a model that may not or cannot be loaded
│   ├── EndpointError       a named server, its address, key or model
│   ├── TaskError           a task that is not installed, or does not fit
│   └── TemplateError       a prompt template
├── HubError              a hub of models did not answer, or did not do what was asked
├── EngineError           a model could not produce tokens
├── TrainingError         a training refused to start, or went wrong
├── ArtifactError         files of an experiment
│   ├── StorageFullError    no room for what is to be written
│   ├── StorageUnreachableError  a remote store does not answer
│   └── DamagedArtifactError  bytes differ from what the manifest promises
├── AuditWaitsError       an iteration may not train before people have audited it
├── NeedsAttentionError   a judge probe or a circuit breaker stopped an iteration
├── ExperimentBusyError   another process works on the same experiment
└── NoPairsError          an iteration ended without one preference pair

Beside it stands one warning, `DeprecatedNameWarning`.
"""

from typing import ClassVar, Self


class MetaRewardError(Exception):
    """Base of everything this project raises on purpose.

    Attributes:
        retryable: whether the same call may succeed later without a change by a person.
        exit_code: what a command exits with when this error ends it.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class DeprecatedNameWarning(FutureWarning):
    """An old name of a recipe key or of a command's option was used; it still works."""


class InputError(MetaRewardError):
    """What a person gave us is wrong; the message says where and what to do."""

    exit_code = 2


class MalformedInputError(InputError, ValueError):
    """Bytes from outside are no text, JSON or YAML, or break a limit (`untrusted_input`).

    The message is a predicate: whoever reads the bytes says before it what they are.
    """


class SettingsError(InputError):
    """Settings of this installation are wrong; the message has a line for each."""


class RecipeError(InputError):
    """A recipe file, key or value is wrong."""


class PromptFileError(InputError):
    """A file of prompts is missing, unreadable or holds no prompt."""


class EvaluationFileError(InputError):
    """A file of outputs, annotations, judgments or scores cannot be evaluated as it is."""


class ModelFolderError(InputError):
    """A model folder is absent, incomplete, unsafe or outside the allowed root.

    Attributes:
        file: path of what is at fault; empty where it is not known.
        finding: what is wrong with it, as a clause.
        remedy: what to do, as a clause.
    """

    def __init__(
        self, message: str, *, file: str = "", finding: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.file, self.finding, self.remedy = file, finding or message.rstrip("."), remedy

    @classmethod
    def from_parts(cls, file: object, finding: str, remedy: str) -> Self:
        """Write the message as one sentence: file, finding and remedy."""
        return cls(f"{file} {finding}: {remedy}.", file=str(file), finding=finding, remedy=remedy)


class EndpointError(InputError):
    """A named server is not known here, or it refuses what its settings say."""


class TaskError(InputError):
    """A task is not installed here, or it is not what the registry asks for."""


class TemplateError(InputError):
    """A prompt template misses a placeholder or names an unknown one."""


class HubError(MetaRewardError):
    """A hub of models did not answer, did not take a model, or sent a damaged one."""

    retryable = True


class EngineError(MetaRewardError):
    """A model could not produce tokens."""

    retryable = True


class TrainingError(MetaRewardError):
    """A training refused to start, diverged, or lost rows."""


class ArtifactError(MetaRewardError):
    """The files of an experiment are not as they should be."""


class StorageFullError(ArtifactError):
    """There is no room for what is to be written."""

    retryable = True
    exit_code = 4


class StorageUnreachableError(ArtifactError):
    """A remote store does not answer, or not now: nothing is known of the files in it."""

    retryable = True
    exit_code = 4


class DamagedArtifactError(ArtifactError):
    """The bytes of a file differ from what its manifest promises."""

    retryable = True


class ExperimentBusyError(MetaRewardError):
    """Another process works on the same experiment."""

    retryable = True
    exit_code = 5


class AuditWaitsError(MetaRewardError):
    """An iteration may not train yet: an audit of its battles has not passed.

    What is finished is kept; the same command goes on once the audit has passed, or somebody has
    decided otherwise.
    """

    retryable = True
    exit_code = 6


class NeedsAttentionError(MetaRewardError):
    """An iteration stopped because what it makes would be of no use; a person decides.

    What is finished is kept. The same command continues after a change of the settings, or once
    somebody has accepted what was found.
    """

    retryable = True
    exit_code = 7


class NoPairsError(MetaRewardError):
    """An iteration ended without one preference pair: there is nothing to train on.

    A finding about the data, not a fault; it has an exit code of its own.
    """

    exit_code = 3
