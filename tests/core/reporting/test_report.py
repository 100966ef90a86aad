"""A report: every table and figure of the paper, or the reason why it is not there."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from meta_reward_core.evaluation.scorecard import DataIssue
from meta_reward_core.reporting.assemble import build_report
from meta_reward_core.reporting.document import (
    Absent,
    Block,
    Document,
    HeatPlot,
    Notes,
    ReportTable,
)
from meta_reward_core.reporting.markdown import write_markdown
from meta_reward_core.reporting.run_loader import Arm, ExperimentRun, group_runs
from tests.core.reporting.fixtures import (
    cells,
    finding,
    make_card,
    make_run,
    make_summary,
    with_values,
)

TABLES = [
    "Table 1: AlpacaEval 2",
    "Table 2: Arena-Hard",
    "Table 3: agreement of the judge with a stronger judge",
    "Table 4: length control",
    "Table 5: biases of the meta-judge",
    "Table 6: MT-Bench",
    "Table 7: agreement of the judge with humans",
]


def report(runs: Sequence[ExperimentRun]) -> Document:
    return build_report(group_runs(runs), title="A report")


def section(document: Document, title: str) -> Sequence[Block]:
    return next(part.blocks for part in document.sections if part.title == title)


def grid(document: Document, part: str, title: str) -> ReportTable:
    blocks = section(document, part)
    return next(one for one in blocks if isinstance(one, ReportTable) and one.title == title)


def absent(document: Document, part: str) -> dict[str, str]:
    return {one.title: one.reason for one in section(document, part) if isinstance(one, Absent)}


def test_all_seven_tables_are_there_in_the_papers_order() -> None:
    titles = [part.title for part in report([make_run("a")]).sections]
    assert [title for title in titles if title.startswith("Table")] == TABLES


@pytest.mark.parametrize("table", [TABLES[0], TABLES[1], TABLES[2], TABLES[5], TABLES[6]])
def test_what_was_not_evaluated_is_absent_with_the_command_that_would_do_it(table: str) -> None:
    """The paper's own figures stay, so that one sees what is missing."""
    document = report([make_run("a")])
    (reason,) = [
        why for title, why in absent(document, table).items() if "of these models" in title
    ]
    assert "manage.py evaluate" in reason
    assert "--save-to" in reason
    theirs = [one for one in section(document, table) if isinstance(one, ReportTable)][-1]
    assert theirs.outside == len(theirs.rows) > 0


def test_a_kept_scorecard_stands_above_the_papers_rows_with_its_interval() -> None:
    card = make_card(
        "alpaca_eval_2",
        {"length_controlled_winrate": 30.0, "win_rate": 31.5, "avg_length": 1800},
    )
    document = report([make_run("mine", cards={2: [card]})])
    table = grid(document, TABLES[0], "AlpacaEval 2, percent and characters")
    assert cells(table.rows, "mine M2") == [
        "30.00 (29.00 to 31.00)",
        "31.50 (30.50 to 32.50)",
        "1,800 (1,799 to 1,801)",
    ]
    assert cells(table.rows, "paper: Meta-Rewarding, iteration 4") == ["39.44", "39.45", "2,003"]


def test_arena_hard_stands_in_table_2_by_version_and_category() -> None:
    cards = [
        make_card(name, {"score": score})
        for name, score in (
            ("arena_hard_0.1", 20.0),
            ("arena_hard_2.0", 30.0),
            ("arena_hard_2.0_hard_prompt", 40.0),
            ("arena_hard_2.0_creative_writing", 50.0),
        )
    ]
    document = report([make_run("mine", cards={2: cards})])
    table = grid(document, TABLES[1], "Arena-Hard, score and its band")
    for label, score in (
        ("version 0.1", "20.0"),
        ("version 2.0", "30.0"),
        ("version 2.0, hard_prompt", "40.0"),
        ("version 2.0, creative_writing", "50.0"),
    ):
        assert cells(table.rows, f"mine M2, {label}")[0].startswith(score)


def test_the_judge_against_people_and_against_a_model_are_two_tables() -> None:
    """Agreement is a share in the scorecard and percent in the paper."""
    card = make_card("judge_agreement", {"agreement": 0.6, "spearman": 0.3}, reference="humans")
    document = report([make_run("mine", cards={1: [card]})])
    table = grid(document, TABLES[6], "Agreement of the judge with people, percent")
    assert cells(table.rows, "mine M1")[0].startswith("60.00")
    stronger = grid(document, TABLES[2], "Agreement of the judge with a stronger model, percent")
    assert len(stronger.rows) == stronger.outside


def test_one_run_has_intervals_over_items_where_all_judgments_of_a_response_are_one() -> None:
    """0.6 of 300 responses: Wilson 0.5437 to 0.6539, although 500 judgments were counted."""
    document = report([make_run("a", metrics={("M2", "judge", "single_judgment_exact", "oracle"):
                                              (0.6, 1500)})])  # fmt: skip
    table = grid(document, TABLES[2], "Table 3 in the miniature: miniature")
    cell = cells(table.rows, "share of single judgments that are exact")[2]
    assert cell == "0.600 (0.544 to 0.654)"


def test_an_interval_over_seeds_never_leaves_what_the_figure_can_be() -> None:
    """0.9 and 1.0 of two runs: Student's interval would reach from 0.31 to 1.59."""
    exact = ("judge", "single_judgment_exact")
    runs = [with_values(make_run(f"a{s}", seed=s), {exact: 0.9 + s / 10}) for s in (0, 1)]
    table = grid(report(runs), TABLES[2], "Table 3 in the miniature: miniature")
    cell = cells(table.rows, "share of single judgments that are exact")[2]
    assert cell == "0.950 (0.315 to 1.000)"


def test_a_figure_that_was_never_measured_is_named() -> None:
    document = report([make_run("a")])
    assert "Table 1 in the miniature: win rate by its own judge, %" in absent(document, TABLES[0])


def test_length_control_needs_two_arms_of_different_rho() -> None:
    one = report([make_run("a")])
    assert "pairing.rho" in str(absent(one, TABLES[3]))
    two = report([make_run("a"), make_run("b", recipe="miniature-no-length-control")])
    assert not absent(two, TABLES[3])
    title = "Length of responses with and without length control, in characters"
    rows = grid(two, TABLES[3], title).rows
    assert [row[1] for row in rows[:2]] == ["0.3", "0"]


def test_biases_take_all_battles_of_a_response_as_one() -> None:
    """70% of 100 responses: Wilson 60.4 to 78.1."""
    table = grid(report([make_run("a")]), TABLES[4], "Biases of battle outcomes, percent")
    assert cells(table.rows, "miniature, iteration 1")[0] == "70.0 (60.4 to 78.1)"


def test_points_of_the_judge_are_shares_by_iteration() -> None:
    plots = [one for one in section(report([make_run("a")]), "Figures")
             if isinstance(one, HeatPlot)]  # fmt: skip
    assert plots[0].shares["M0", "5"] == 0.25
    assert plots[0].shares["M1", "2"] == 0.75


def test_compute_is_told_by_tokens_pairs_steps_and_seconds() -> None:
    document = report([make_run("a")])
    (table,) = [one for one in section(document, "Compute") if isinstance(one, ReportTable)]
    assert cells(table.rows, "miniature") == [
        *("1", "200", "4,000", "1,000", "5,200"),
        *("480", "60", "20"),
    ]


def test_seconds_that_nobody_knows_are_a_dash_and_not_zero() -> None:
    summary = make_summary(1)
    for stage in summary["stages"]:
        stage["seconds"] = None
    run = make_run("a", iterations=1, summaries=[summary])
    (table,) = [one for one in section(report([run]), "Compute") if isinstance(one, ReportTable)]
    assert cells(table.rows, "miniature")[-1] == "–"


def test_null_models_copies_and_instructions_to_the_judge_are_flagged() -> None:
    card = make_card("alpaca_eval_2", {"win_rate": 90.0}, findings=[
        finding("constant_answers", "800 of 805 answers are the same"),
        finding("copies_baseline", "all of them"),
        finding("verdict_marks", "[[A>B]]"),
        finding("addresses_judge", "3 of them"),
    ])  # fmt: skip
    text = write_markdown(report([make_run("a", cards={1: [card]})]))
    for name in ("constant\\_answers", "copies\\_baseline", "verdict\\_marks", "addresses\\_judge"):
        assert f"a M1, alpaca\\_eval\\_2: {name}" in text


def test_answers_of_the_loop_that_play_the_judge_are_flagged() -> None:
    gaming = {1: [DataIssue("verdict_marks", "Answers with marks: 4.", "Read them.", 4)]}
    text = write_markdown(report([make_run("a", gaming=gaming)]))
    assert "a, iteration 1: verdict\\_marks. Answers with marks: 4. Read them." in text
    unread = report([make_run("a")])
    assert "Responses that manipulate the judge" in absent(unread, "Limitations")


def test_alarms_of_many_runs_are_counted() -> None:
    alarm = {"name": "judge_collapse", "sentence": "It collapsed.", "advice": "Stop."}
    rang = [make_summary(1, alarms=[alarm])]
    runs = [make_run("a", iterations=1, summaries=rang), make_run("b", seed=2, iterations=1)]
    notes = [one for one in section(report(runs), "Limitations")
             if isinstance(one, Notes)]  # fmt: skip
    assert notes[0].items == ["miniature: judge_collapse in iteration 1 of 1 of 2 runs"]


def arms_that_differ(by: Sequence[float]) -> list[ExperimentRun]:
    """Two arms over as many seeds as there are differences of the judge's exactness."""
    exact = ("judge", "single_judgment_exact")
    base = [make_run(f"sr{s}", recipe="miniature-self-rewarding", seed=s)
            for s, _ in enumerate(by)]  # fmt: skip
    arm = [with_values(make_run(f"mr{s}", seed=s), {exact: 0.6 + d}) for s, d in enumerate(by)]
    return [*base, *arm]


def sentence(document: Document, begins: str) -> str:
    blocks = section(document, "What follows")
    notes = next(one for one in blocks if isinstance(one, Notes))
    return next(item for item in notes.items if item.startswith(begins))


def test_a_claim_stands_where_the_interval_excludes_zero_and_says_for_whom() -> None:
    """.2, .21, .22: mean .21, deviation .01, half width 4.3027 * .01 / sqrt(3) = .0248."""
    document = report(arms_that_differ([0.20, 0.21, 0.22]))
    said = sentence(document, "share of single judgments")
    assert "miniature is 0.210 higher than miniature-self-rewarding (3 pairs, 1 seed model)" in said
    assert (
        "For these seed models the difference is shown: the interval 0.185 to 0.235 excludes 0."
        in said
    )
    assert "For other seed models no claim is possible: one seed model." in said


def test_a_claim_whose_interval_includes_zero_does_not_stand() -> None:
    said = sentence(report(arms_that_differ([0.2, -0.1, 0.0])), "share of single judgments")
    assert "the difference is not shown: the interval" in said
    assert "includes 0" in said


def test_two_pairs_are_too_few_to_claim_anything() -> None:
    """.2 and .2001: half width 12.7062 * .00005 = .0006."""
    said = sentence(report(arms_that_differ([0.2, 0.2001])), "share of single judgments")
    assert "excludes 0, but 2 pairs are too few to claim it" in said


def test_what_is_not_proven_is_said() -> None:
    text = write_markdown(report(arms_that_differ([0.1, 0.2])))
    assert "Limits of these results" in text
    assert "planted" in text


def test_runs_that_are_not_finished_are_named() -> None:
    arm = Arm("miniature", [make_run("a")], {"b": "2 of 4 iterations are finished"}, 5)
    text = write_markdown(build_report([arm], title="x"))
    assert "b is not in the tables: 2 of 4 iterations are finished" in text
    assert "1 of 5" in text


def test_nothing_finished_is_a_report_of_reasons() -> None:
    document = build_report([Arm("miniature", [], {}, 5), Arm("other", [], {}, 5)], title="x")
    assert "finished runs of the baseline" in str(absent(document, "What follows"))
    assert "no iteration is finished" in str(absent(document, "Compute"))


def moved(run: ExperimentRun, model: str) -> ExperimentRun:
    return replace(run, recipe=run.recipe.model_copy(update={"model": model}))


def test_recipes_that_differ_only_in_where_m0_lies_are_one_arm() -> None:
    runs = [
        make_run("a"),
        moved(make_run("b", seed=2), "elsewhere"),
        make_run("c", recipe="miniature-self-rewarding"),
    ]
    assert [(arm.label, len(arm.runs)) for arm in group_runs(runs)] == [
        ("miniature", 2),
        ("miniature-self-rewarding", 1),
    ]


def test_two_recipes_of_one_name_are_two_arms() -> None:
    other = make_run("b")
    other = replace(other, recipe=other.recipe.model_copy(update={"prompts_per_shard": 7}))
    labels = [arm.label for arm in group_runs([make_run("a"), other])]
    assert labels == ["miniature (a)", "miniature (b)"]


def test_versions_hashes_and_settings_are_told_without_places_of_a_machine() -> None:
    text = write_markdown(report([moved(make_run("a"), "/home/somebody/models/m0")]))
    for expected in ("torch 2.13.0", "bbbbbbbbbbbb", "learning_rate: 0.0001", "model: m0"):
        assert expected in text
    assert "/home/somebody" not in text


def test_markdown_escapes_what_names_and_findings_say() -> None:
    hostile = "| <script>alert(1)</script> [x](javascript:1) `"
    gaming = {1: [DataIssue("constant_answers", hostile, "Read.", 1)]}
    text = write_markdown(report([make_run("a", gaming=gaming)]))
    assert "<script>" not in text
    assert "\\[x\\](javascript" in text
