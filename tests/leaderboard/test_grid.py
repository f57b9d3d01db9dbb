"""Grids: rows, factors and repetitions, and that a finished run's recipe makes the same run again."""

from pathlib import Path
from typing import Any

import pytest

import attnzoo
from attnzoo.emotion.datasets import Folder
from attnzoo.emotion.grid import GridRecipe, tiny
from attnzoo.emotion.model import check
from attnzoo.leaderboard.plan import plan
from attnzoo.leaderboard.record import run_id
from attnzoo.recipes import load

TABLES = ("table2", "table3", "table4", "fig5", "fig6", "zoo")
EMPTY = Folder(Path("videos"), ("calm", "joy"), (), ())


def grid(**fields: Any) -> GridRecipe:
    return GridRecipe.model_validate({"name": "mine", "data": {"protocol": "kfold(3)"}, "grid": fields})


def test_every_repetition_trains_all_rows_before_the_next_begins() -> None:
    recipe = grid(attn=["se", "mpe"], vary={"model.fusion": ["concat", "gmu"]}, seeds=[4, 5], folds=[0, 2])
    trials = list(recipe.trials())
    assert len(trials) == 2 * 2 * 2 * 2
    assert [(t.recipe.training.seed, t.recipe.data.fold) for t in trials[::4]] == [(4, 0), (4, 2), (5, 0), (5, 2)]
    assert [t.label for t in trials[:4]] == ["se, concat", "se, gmu", "mpe, concat", "mpe, gmu"]
    assert [t.factors for t in trials[:2]] == [{"attn": "se", "fusion": "concat"}, {"attn": "se", "fusion": "gmu"}]
    assert [(t.recipe.model.attn.name, t.recipe.model.fusion.name) for t in trials[:2]] == [
        ("se", "concat"),
        ("se", "gmu"),
    ]
    assert len({run_id(t.recipe, EMPTY) for t in trials}) == len(trials)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(7, 0)]),
        (2, [(7, 0), (7, 1)]),
        (4, [(7, 0), (7, 1), (8, 0), (8, 1)]),
    ],
)
def test_trials_take_the_folds_first_and_then_further_seeds(count: int, expected: list[tuple[int, int]]) -> None:
    assert list(grid(attn=["se"], seeds=[7], folds=[0, 1]).repeated(count).repetitions()) == expected


@pytest.mark.parametrize("name", TABLES)
def test_the_recipe_of_a_run_makes_that_run_again(name: str) -> None:
    recipe = load(name, GridRecipe)
    for trial in list(recipe.trials())[-3:]:
        stored = trial.recipe.model_dump(mode="json") | trial.origin
        (again,) = GridRecipe.model_validate(stored).trials()
        assert again.recipe == trial.recipe
        assert run_id(again.recipe, EMPTY) == run_id(trial.recipe, EMPTY)
        assert (again.label, again.origin["paper"]) == (trial.label, trial.origin["paper"])
        assert again.origin["grid"] == trial.origin["grid"]


def test_a_baseline_is_one_of_the_rows() -> None:
    recipe = grid(attn=["se", "mpe"], baseline="se")
    assert [t.origin["grid"]["baseline"] for t in recipe.trials()] == ["se", "se"]
    with pytest.raises(ValueError, match="baseline 'sa' is none of the rows: se, mpe"):
        grid(attn=["se", "mpe"], baseline="sa")


def test_the_tables_vary_what_the_paper_varies() -> None:
    rows = {name: {t.label: t.recipe.model for t in load(name, GridRecipe).trials()} for name in TABLES}
    dilations = {label: model.attn.options.get("dilations") for label, model in rows["table3"].items()}
    assert dilations == {"0": None, "1": [1], "2": [1, 3], "3": [1, 3, 5], "4": [1, 3, 5, 7]}
    assert rows["table3"]["0"].attn.name == "none"
    assert [m.attn.options["fusion"] for m in rows["table4"].values()] == ["mean", "max", "static", "dynamic"]
    assert [m.attn.options["groups"] for m in rows["fig5"].values()] == [1, 2, 4, 8, 16]
    for label, model in rows["fig6"].items():
        assert str(model.attn.options["dilations"]) in label
    assert len({model.fusion.name for label, model in rows["table2"].items() if label != "MPE"}) == 6
    assert set(rows["zoo"]) == {"none", *attnzoo.list_modules()}


def test_the_papers_figures_go_with_the_data_set() -> None:
    for dataset, ours in (("ve8", 57.60), ("ek6", 61.25)):
        recipe = load("table3", GridRecipe, {"paper.dataset": dataset})
        paper = next(recipe.trials()).origin["paper"]
        assert (paper["source"], paper["rows"]["3"]) == ("Table 3", {"accuracy": ours})
        assert list(paper["rows"]) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_tiny_grid_makes_a_model(name: str) -> None:
    small = tiny(load(name, GridRecipe))
    assert small.name == f"{name}-tiny"
    assert [row.label for row in small.table()] == [row.label for row in load(name, GridRecipe).table()]
    for row in small.table():
        check(small.single(row))


def test_a_plan_counts_runs_parameters_and_work() -> None:
    small = tiny(GridRecipe.model_validate({"name": "mine", "grid": {"attn": ["none", "se"], "seeds": [0, 1, 2]}}))
    none, se = plan(small)
    assert [(row.label, row.runs, row.finished, row.seconds) for row in (none, se)] == [
        ("none", 3, 0, None),
        ("se", 3, 0, None),
    ]
    # SE adds 2 C^2 / 16 weights behind each block of either network, whose stages end in 256, 512, 1024 and 2048.
    assert se.params - none.params == 2 * sum(2 * c * c // 16 for c in (256, 512, 1024, 2048))
    assert se.macs > none.macs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": [{"label": "a", "set": {"training.epohcs": 3}}]}, "row a: training.epohcs: "),
        ({"rows": [{"label": "a", "set": {"model.attn": "see"}}]}, "row a: model.attn.*no attention module"),
        ({"rows": [{"label": "a"}, {"label": "a"}]}, "two rows are called a; give each a label of its own"),
        ({"seeds": [1]}, "give rows, attn or vary"),
        ({"attn": ["se"], "folds": [3]}, "fold"),
    ],
)
def test_rows_that_cannot_be_are_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(grid(**fields).trials())
