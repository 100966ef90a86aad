"""Form fields of a new experiment outside the recipe: name, seed, iterations, model, prompts."""

from typing import Any, Final

from django import forms

from meta_reward_core.models.hf_hub import parse_hub_name
from meta_reward_core.planning.experiment_request import DEFAULT_SEED
from webapp.experiment_form.model_choices import ModelChoices
from webapp.experiments.jobs import PENDING
from webapp.experiments.models import Experiment, Job, JobKind, valid_name
from webapp.experiments.reserved_names import list_reserved_names

MODEL_OF_RECIPE: Final = "recipe"
MODEL_FOLDER: Final = "folder"
MODEL_HUB: Final = "hub"

PROMPTS_OF_TASK: Final = "world"
PROMPTS_OF_ORIGIN: Final = "origin"
PROMPTS_FILE: Final = "file"
PROMPTS_TEXT: Final = "text"

_TAKEN_UNASKED: Final = frozenset(
    {MODEL_OF_RECIPE, PROMPTS_OF_TASK, PROMPTS_OF_ORIGIN, PROMPTS_FILE}
)
"""Choices that may be preselected; another user's model never is."""

_PASTED_CHARS: Final = 1_000_000
_SEED_LIMIT: Final = 2**53
_ITERATIONS_LIMIT: Final = 100


class LaunchForm(forms.Form):
    """Name, seed, iterations, visibility, M0 and prompts."""

    name = forms.CharField(
        max_length=64,
        validators=[valid_name],
        help_text="Cannot be changed later.",
    )
    until = forms.IntegerField(
        label="Iterations to run",
        min_value=1,
        max_value=_ITERATIONS_LIMIT,
        help_text="You can add iterations later.",
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=_SEED_LIMIT,
        initial=DEFAULT_SEED,
        help_text="Random seed. Results are bit-for-bit reproducible on CPU.",
    )
    is_private = forms.BooleanField(
        label="Private",
        required=False,
        help_text="Only you and admins can see the experiment. If not selected, all users can.",
    )
    model_from = forms.ChoiceField(label="Base model (M0)", widget=forms.RadioSelect)
    model_folder = forms.ChoiceField(label="Folder", required=False)
    model_hub = forms.CharField(
        label="Hugging Face id",
        max_length=300,
        required=False,
        help_text="For example org/name, or org/name@revision for a branch, tag or commit. "
        "Downloaded when the experiment starts; safetensors only.",
    )
    prompts_from = forms.ChoiceField(label="Prompts", widget=forms.RadioSelect)
    prompts_file = forms.FileField(label="File", required=False)
    prompts_text = forms.CharField(
        label="One prompt per line",
        required=False,
        strip=False,
        max_length=_PASTED_CHARS,
        widget=forms.Textarea(attrs={"rows": 6}),
    )
    skip_bad_rows = forms.BooleanField(label="Skip these rows", required=False)
    prompts_stored = forms.CharField(max_length=80, required=False, widget=forms.HiddenInput)
    prompts_called = forms.CharField(max_length=255, required=False, widget=forms.HiddenInput)

    def __init__(
        self,
        *args: Any,
        models: ModelChoices,
        has_task_model: bool,
        has_task_prompts: bool,
        task_title: str,
        origin: str,
        recipe_model: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.models = models
        folders = [(one.name, one.name) for one in models.choices]
        self._choose(
            "model_from",
            _list_model_sources(folders, recipe_model, task_title if has_task_model else ""),
        )
        self._choose("model_folder", [("", "choose one"), *folders])
        self._choose(
            "prompts_from", _list_prompt_sources(origin, task_title if has_task_prompts else "")
        )
        for field in self.fields.values():
            field.widget.attrs["autocomplete"] = "off"
        if not self.data.get("name"):
            self.fields["name"].widget.attrs["autofocus"] = True

    def _choose(self, name: str, choices: list[tuple[str, str]]) -> None:
        field = self.fields[name]
        if not isinstance(field, forms.ChoiceField):
            raise TypeError(f"{name} offers no choice")
        field.choices = choices
        if choices[0][0] in _TAKEN_UNASKED:
            field.initial = choices[0][0]

    def clean_name(self) -> str:
        """Refuse a name that is used by, or reserved for, an experiment or a page."""
        return check_new_name(self.cleaned_data["name"])

    def clean(self) -> dict[str, Any]:
        """Require the fields that the choices need."""
        found = super().clean() or {}
        if found.get("model_from") == MODEL_HUB and not parse_hub_name(found.get("model_hub", "")):
            self.add_error("model_hub", "Enter an id such as org/name, or org/name@revision.")
        if found.get("model_from") == MODEL_FOLDER and not found.get("model_folder"):
            self.add_error("model_folder", "Choose a folder.")
        return found


class ForkForm(forms.Form):
    """Form fields of a fork outside the recipe."""

    name = forms.CharField(
        max_length=64, validators=[valid_name], help_text="Cannot be changed later."
    )
    until = forms.IntegerField(
        label="Iterations to run",
        min_value=1,
        max_value=_ITERATIONS_LIMIT,
        help_text="Total, including kept iterations.",
    )
    is_private = forms.BooleanField(
        label="Private",
        required=False,
        help_text="Only you and admins can see the experiment. If not selected, all users can.",
    )

    def clean_name(self) -> str:
        """Refuse a name that is used by, or reserved for, an experiment or a page."""
        return check_new_name(self.cleaned_data["name"])


def check_new_name(name: str) -> str:
    """Return the name of a new experiment if it is free.

    Raises:
        ValidationError: the name is taken or reserved.
    """
    if name in list_reserved_names():
        raise forms.ValidationError(
            "This name is reserved for a page of the site. Choose another name."
        )
    if Experiment.objects.filter(name=name).exists():
        raise forms.ValidationError("An experiment with this name exists. Choose another name.")
    if _is_being_created(name):
        raise forms.ValidationError("An experiment with this name is being created.")
    return name


def _is_being_created(name: str) -> bool:
    return Job.objects.filter(
        kind__in=[JobKind.LAUNCH, JobKind.FORK],
        experiment_name=name,
        status__in=PENDING,
    ).exists()


def _list_model_sources(
    folders: list[tuple[str, str]], recipe_model: str | None, task_title: str
) -> list[tuple[str, str]]:
    sources = [(MODEL_HUB, "from the Hugging Face Hub")]
    if folders:
        sources.insert(0, (MODEL_FOLDER, "a local folder"))
    if recipe_model is not None:
        sources.insert(0, (MODEL_OF_RECIPE, f"the recipe's: {recipe_model}"))
    elif task_title:
        sources.insert(0, (MODEL_OF_RECIPE, f"the base model of {task_title}"))
    return sources


def _list_prompt_sources(origin: str, task_title: str) -> list[tuple[str, str]]:
    sources = [
        (PROMPTS_FILE, "a file: txt, json, jsonl, csv, tsv or parquet"),
        (PROMPTS_TEXT, "pasted text"),
    ]
    if task_title:
        sources.insert(0, (PROMPTS_OF_TASK, f"the prompts of {task_title}"))
    if origin:
        sources.insert(0, (PROMPTS_OF_ORIGIN, f"the same as experiment {origin}"))
    return sources
