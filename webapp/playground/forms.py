"""Forms for trying two models, and for publishing one."""

import secrets
from collections.abc import Sequence
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from meta_reward_core.data.prompt_files import REJECT_TEXT, find_reject_reason
from meta_reward_core.recipes.schema import Recipe

MAX_PROMPT_CHARS: Final = 20_000
MAX_REPLY_TOKENS: Final = 2048
MAX_JUDGMENTS: Final = 11
_SEEDS: Final = 2**31

_valid_repository = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\Z",
    "Use owner/name, with letters, digits and - _ . only.",
)


class TurnForm(forms.Form):
    """A turn: the prompt, sampling settings, and the judges of both responses."""

    prompt = forms.CharField(
        max_length=MAX_PROMPT_CHARS,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6}),
        help_text=f"Up to {MAX_PROMPT_CHARS:,} characters.",
    )
    temperature = forms.FloatField(
        min_value=0, max_value=2, help_text="0: always the most likely token."
    )
    top_p = forms.FloatField(
        label="Top-p",
        min_value=0.01,
        max_value=1,
        help_text="Probability mass of nucleus sampling.",
    )
    max_new_tokens = forms.IntegerField(
        label="Maximum tokens",
        min_value=1,
        max_value=MAX_REPLY_TOKENS,
        help_text=f"Maximum tokens per response, up to {MAX_REPLY_TOKENS:,}.",
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=_SEEDS - 1,
        help_text="Random seed. On a CPU the same seed gives the same responses.",
    )
    judgments = forms.IntegerField(
        label="Judgments per response",
        min_value=1,
        max_value=MAX_JUDGMENTS,
        help_text="Per judge. The experiment's judge prompt and settings are used.",
    )

    def clean_prompt(self) -> str:
        """Normalize line ends like a prompt file, and refuse an invalid prompt."""
        prompt = str(self.cleaned_data["prompt"]).replace("\r\n", "\n")
        reason = find_reject_reason(prompt)
        if reason is not None:
            raise ValidationError(REJECT_TEXT[reason])
        return prompt

    def build_payload_for(self, models: Sequence[int], judges: Sequence[int]) -> dict[str, Any]:
        """Build the payload of a job from a valid form; `workers.jobs.playground` reads it."""
        values = self.cleaned_data
        return {
            **{name: values[name] for name in ("prompt", "seed", "judgments")},
            "sampling": {name: values[name] for name in ("temperature", "top_p", "max_new_tokens")},
            "models": list(models),
            "judges": list(judges),
        }


class ChatForm(TurnForm):
    """The first turn, which chooses two models."""

    first = forms.TypedChoiceField(label="First model", coerce=int)
    second = forms.TypedChoiceField(label="Second model", coerce=int)
    judges = forms.MultipleChoiceField(
        label="Judges of both responses",
        choices=[("first", "The first model"), ("second", "The second model")],
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )

    def __init__(self, *args: Any, made: Sequence[int], **kwargs: Any) -> None:
        """Offer the existing models.

        Args:
            made: numbers of the existing models; M0 is 0.
        """
        super().__init__(*args, **kwargs)
        for name in ("first", "second"):
            _set_model_choices(self.fields[name], made)

    def clean(self) -> dict[str, Any]:
        """Require two different models."""
        values = super().clean() or self.cleaned_data
        if "second" in values and values.get("first") == values["second"]:
            self.add_error("second", "Choose a model other than the first.")
        return values

    def build_payload(self) -> dict[str, Any]:
        """Build the payload of a job from a valid form."""
        values = self.cleaned_data
        judges = [values[name] for name in ("first", "second") if name in values["judges"]]
        return self.build_payload_for([values["first"], values["second"]], judges)


class FollowForm(TurnForm):
    """A follow-up turn for the models of the conversation."""

    judges = forms.TypedMultipleChoiceField(
        label="Judges of all responses",
        coerce=int,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )

    def __init__(self, *args: Any, models: Sequence[int], **kwargs: Any) -> None:
        """Keep the models of the conversation.

        Args:
            models: numbers of the models.
        """
        super().__init__(*args, **kwargs)
        self._models = models
        self.fields["prompt"].label = "Next message"
        self.fields["prompt"].help_text = ""
        self.fields["prompt"].widget.attrs["rows"] = 2
        _set_model_choices(self.fields["judges"], models)

    def build_payload(self) -> dict[str, Any]:
        """Build the payload of a job from a valid form."""
        return self.build_payload_for(self._models, self.cleaned_data["judges"])


def _set_model_choices(field: forms.Field, models: Sequence[int]) -> None:
    assert isinstance(field, forms.ChoiceField)  # noqa: S101 for the types
    field.choices = [(number, f"M{number}") for number in models]


def get_initial_values(recipe: Recipe, made: Sequence[int]) -> dict[str, Any]:
    """Return the initial values: the latest model against M0, with the actor's settings."""
    actor = recipe.actor
    return {
        "first": made[0],
        "second": made[-1],
        "judges": ["first", "second"],
        "temperature": actor.temperature,
        "top_p": actor.top_p,
        "max_new_tokens": min(actor.max_new_tokens, MAX_REPLY_TOKENS),
        "seed": secrets.randbelow(10_000),
        "judgments": min(recipe.judge.samples, 3),
    }


def build_payload_for_all(recipe: Recipe, made: Sequence[int], prompt: str) -> dict[str, Any]:
    """Let every model respond with the actor's settings, and the latest model judge."""
    values = get_initial_values(recipe, made)
    return {
        "prompt": prompt,
        "models": list(made),
        "sampling": {name: values[name] for name in ("temperature", "top_p", "max_new_tokens")},
        "seed": values["seed"],
        "judges": [made[-1]],
        "judgments": values["judgments"],
    }


def get_form_values(payload: dict[str, Any]) -> dict[str, Any]:
    """Convert a payload to the form values of a first turn."""
    first, second = payload["models"][0], payload["models"][-1]
    judges = [
        name
        for name, number in (("first", first), ("second", second))
        if number in payload["judges"]
    ]
    return get_turn_values(payload) | {"first": first, "second": second, "judges": judges}


def get_turn_values(payload: dict[str, Any]) -> dict[str, Any]:
    """Convert a payload to the form values of a follow-up turn."""
    said = {name: payload[name] for name in ("prompt", "seed", "judgments", "judges")}
    return {**said, **payload["sampling"]}


class PublishForm(forms.Form):
    """Where to publish a model, in addition to the local folder."""

    repository = forms.CharField(
        label="Hugging Face repository",
        required=False,
        max_length=193,
        validators=[_valid_repository],
        help_text="owner/name. Leave empty to create only the folder and the archive.",
    )
    is_public = forms.BooleanField(
        label="Public repository",
        required=False,
        initial=False,
        help_text="Otherwise the repository is private.",
    )

    def __init__(self, *args: Any, has_hub: bool, **kwargs: Any) -> None:
        """Remove the repository field if no token is configured."""
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        if not has_hub:
            del self.fields["repository"], self.fields["is_public"]

    def build_payload(self, *, number: int) -> dict[str, Any]:
        """Build the payload of a job from a valid form; `workers.jobs.publish_model` reads it."""
        values = self.cleaned_data
        return {
            "number": number,
            "repository": values.get("repository", ""),
            "is_public": values.get("is_public", False),
        }
