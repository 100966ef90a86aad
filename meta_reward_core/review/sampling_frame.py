"""What answered items were drawn from: one sample, or several that are pooled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meta_reward_core.review.stratified_estimators import SurveyDesign


@dataclass(frozen=True, slots=True)
class SamplingFrame:
    """What the answered items were drawn from.

    Attributes:
        sizes: items of each stratum in the population.
        factors: where several samples are pooled, how much each stratum counts; else empty.
    """

    sizes: Mapping[str, int]
    factors: Mapping[str, float] = field(default_factory=dict)

    def make_design(self, strata: Iterable[str]) -> SurveyDesign:
        """Say from which strata answered items are, in their order."""
        return SurveyDesign(tuple(strata), self.sizes, self.factors)


def pool_frames(frames: Mapping[str, SamplingFrame], answers: Mapping[str, int]) -> SamplingFrame:
    """Put samples of one population together; each counts by its share of the answers.

    Args:
        frames: by name; a stratum is then called as `name_sample_stratum` says.
        answers: how many items of each sample are answered.
    """
    total = sum(answers.values())
    sizes = {
        name_sample_stratum(name, stratum): size
        for name, frame in frames.items()
        if answers[name]
        for stratum, size in frame.sizes.items()
    }
    factors = {name_sample_stratum(name, stratum): answers[name] / total
               for name, frame in frames.items() if answers[name]
               for stratum in frame.sizes}  # fmt: skip
    return SamplingFrame(sizes, factors)


def name_sample_stratum(sample: str, stratum: str) -> str:
    """Name a stratum of one of several samples."""
    return f"{sample}: {stratum}"
