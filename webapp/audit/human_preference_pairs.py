"""Human-preferred judgments as preference pairs for training the judge."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, cast

from meta_reward_core.errors import InputError
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from webapp.audit.batch_report import is_stale
from webapp.audit.batch_sampling import read_experiment_templates
from webapp.audit.gate import is_complete
from webapp.audit.models import HAND_PICKED, Answer, Batch, Item, ItemKind
from webapp.experiments.models import Experiment

Row = dict[str, Any]
Side = Literal["first", "second"]

_OTHER: Final[dict[Side, Side]] = {"first": "second", "second": "first"}


def build_human_pairs(experiment: Experiment, *, before: int) -> list[Row]:
    """Build the rows of the table `human_pairs` from audits of earlier iterations.

    A complete batch counts unless its battles were rerun since, or its items were hand-picked by a
    user, who could see the verdicts of the meta-judge. If two batches have different winners for
    the same two judgments, neither counts. A judgment that the token limit cut off is never
    chosen, even if auditors prefer it.

    Args:
        before: the iteration that may train on them.
    """
    batches = experiment.audits.filter(kind=ItemKind.JUDGMENTS, iteration__lt=before).exclude(
        strategy=HAND_PICKED
    )
    found: dict[tuple[int, str], list[tuple[Batch, Item, Side]]] = {}
    for batch in batches.order_by("iteration", "pk"):
        if is_complete(batch) and not is_stale(batch):
            for item, winner in iter_preferred(batch):
                found.setdefault((batch.iteration, item.key), []).append((batch, item, winner))
    firsts = [same[0] for same in found.values() if len({side for *_, side in same}) == 1]
    ask = make_judge_prompt_renderer(experiment)
    return [
        build_pair_row(batch, item, winner, ask)
        for batch, item, winner in firsts
        if can_be_chosen(item, winner)
    ]


def iter_preferred(batch: Batch) -> Iterator[tuple[Item, Side]]:
    """Yield the items on whose winner all auditors agree, or that were adjudicated.

    Raises:
        InputError: the batch contains responses, which have no preferred judgments.
    """
    if batch.kind != ItemKind.JUDGMENTS:
        raise InputError(
            "only batches of judgments have preferred judgments; choose another format"
        )
    said: dict[int, set[str]] = {}
    answers = Answer.objects.filter(item__batch=batch)
    for answered, original, choice in answers.values_list("item", "item__original", "choice"):
        said.setdefault(original or answered, set()).add(choice)
    for item in batch.items.filter(repeat_kind="").select_related("hidden_verdict"):
        names = {item.adjudicated} if item.adjudicated else said.get(item.pk, set())
        if len(names) == 1 and names <= _OTHER.keys():
            yield item, cast("Side", next(iter(names)))


def can_be_chosen(item: Item, winner: Side) -> bool:
    """Whether the preferred judgment was not cut off by the token limit, as far as known.

    Older batches did not record this; their judgments can be chosen.
    """
    return not item.hidden_verdict.facts.get(f"cut_off_{winner}", False)


def make_judge_prompt_renderer(experiment: Experiment | None) -> Callable[[Item], str]:
    """Return a function that renders the judge prompt of an item.

    Raises:
        InputError: the experiment no longer exists.
    """
    if experiment is None:
        raise InputError("the experiment and its judge prompt were deleted")
    words = read_experiment_templates(experiment)
    template = PromptTemplate("judge", words["judge"])
    return lambda item: template.fill(
        rubric=words["rubric"], instruction=item.instruction, response=item.response
    )


def build_pair_rows(batch: Batch) -> Iterable[Row]:
    """Convert a batch's usable preferred judgments to rows of the table `human_pairs`."""
    ask = make_judge_prompt_renderer(batch.experiment)
    return (
        build_pair_row(batch, item, winner, ask)
        for item, winner in iter_preferred(batch)
        if can_be_chosen(item, winner)
    )


def build_pair_row(batch: Batch, item: Item, winner: Side, ask: Callable[[Item], str]) -> Row:
    """Convert one preferred judgment to a row of the table `human_pairs`."""
    facts, loser = item.hidden_verdict.facts, _OTHER[winner]
    texts = {"first": item.first, "second": item.second}
    return {
        "prompt": [{"role": "user", "content": ask(item)}],
        "chosen": [{"role": "assistant", "content": texts[winner]}],
        "rejected": [{"role": "assistant", "content": texts[loser]}],
        "kind": "human",
        "iteration": batch.iteration,
        "prompt_id": facts["prompt_id"],
        "score_chosen": 1.0,
        "score_rejected": 0.0,
        "response_id": facts["response_id"],
        "chosen_judgment_id": facts[f"{winner}_judgment_id"],
        "rejected_judgment_id": facts[f"{loser}_judgment_id"],
    }
