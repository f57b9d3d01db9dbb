"""What a leaderboard repeats: the rows of a table of the paper, or of your own, over seeds and folds."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from attnzoo.emotion.experiment import Experiment
from attnzoo.emotion.recipe import AttentionField, Recipe
from attnzoo.recipes import Count, Part, put
from attnzoo.registry import list_modules


class Row(Part):
    """One row of a table: what it changes in the recipe.

    Attributes:
        label: what it is called.
        set: dotted field -> value.
        x: its place on the axis of a curve.
        paper: the accuracy in the paper, %, by data set.

    >>> Row(label="two branches", set={"model.attn.options.dilations": [1, 3]}, x=2, paper={"ve8": 55.68}).x
    2.0
    """

    label: str
    set: dict[str, Any] = Field(default_factory=dict)
    x: float | None = None
    paper: dict[str, float] = Field(default_factory=dict)


class Paper(Part):
    """Where the rows' paper figures come from.

    Attributes:
        source: table or figure.
        dataset: the data set whose figures stand beside ours, a key of `Row.paper`.
        rows: the figures themselves by row and metric, as a finished run has them; from the grid's rows otherwise.

    >>> Paper(source="Table 3", dataset="ve8").source
    'Table 3'
    """

    source: str
    dataset: str
    rows: dict[str, dict[str, float]] = Field(default_factory=dict)


class Grid(Part):
    """What is varied; every row is trained with every seed on every fold.

    Attributes:
        rows: written out, or
        attn: one for each attention, in both streams or as the entry says; "none" is the plain network. "all" is that
            and every module of `attnzoo.list_modules()`.
        vary: dotted field -> values; each row becomes one for every combination of them.
        seeds: of each row; `training.seed` alone if None.
        folds: of the protocol; `data.fold` alone if None.
        axis: what the rows' x is.
        baseline: label of the row that the others are compared with; the plain network, if there is one, if None.

    >>> [entry.title for entry in Grid(attn=["none", "mpe"]).attn]
    ['none', 'mpe']
    """

    rows: tuple[Row, ...] = ()
    attn: tuple[AttentionField, ...] = ()
    vary: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    folds: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    axis: str | None = None
    baseline: str | None = None

    @field_validator("attn", mode="before")
    @classmethod
    def _every(cls, attn: Any) -> Any:
        return ["none", *list_modules()] if attn == "all" else attn

    @field_validator("attn")
    @classmethod
    def _distinct(cls, attn: tuple[AttentionField, ...]) -> tuple[AttentionField, ...]:
        titles = [a.title for a in attn]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two entries are called {title}; give each a label of its own")
        return attn

    @model_validator(mode="after")
    def _something(self) -> "Grid":
        if not (self.rows or self.attn or self.vary):
            raise ValueError("give rows, attn or vary")
        labels = [row.label for row in self.table()]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two rows are called {label}; give each a label of its own")
        # The recipe of a stored run is a grid of its row alone.
        if self.baseline is not None and self.baseline not in labels and len(labels) > 1:
            raise ValueError(f"baseline {self.baseline!r} is none of the rows: {', '.join(labels)}")
        return self

    def table(self) -> tuple[Row, ...]:
        """All rows.

        >>> [row.label for row in Grid(attn=["se", "mpe"], vary={"model.fusion": ["concat", "gmu"]}).table()]
        ['se, concat', 'se, gmu', 'mpe, concat', 'mpe, gmu']
        """
        # Without defaults, among which are fields that only models of videos have.
        placed = {a.title: a.model_dump(mode="json", exclude_defaults=True) for a in self.attn}
        rows = [*self.rows, *(Row(label=title, set={"model.attn": attn}) for title, attn in placed.items())]
        combined = []
        for row in rows or [Row(label="")]:
            for values in itertools.product(*self.vary.values()):
                label = ", ".join(filter(None, (row.label, *map(_named, values))))
                changes = {**row.set, **dict(zip(self.vary, values, strict=True))}
                combined.append(Row(label=label, set=changes, x=row.x, paper=row.paper))
        return tuple(combined)


def _named(value: Any) -> str:
    return str(value.get("label") or value.get("name") or value) if isinstance(value, dict) else str(value)


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a grid.

    Attributes:
        label: of its row.
        factors: what the row varies, as in {"attn": "mpe"} or {"branches": "3"}.
        recipe: all its settings.
        origin: what the grid says of the row, with which its recipe makes a grid of one row again.

    >>> Trial("mine", {}, Recipe(name="mine", data={"protocol": "kfold(3)", "fold": 2}), {}).title
    'mine seed 0 fold 2'
    """

    label: str
    factors: dict[str, str]
    recipe: Experiment
    origin: dict[str, Any]

    @property
    def title(self) -> str:
        """Row, seed and, of a protocol with several, the fold."""
        fold = f" fold {self.recipe.data.fold}" if self.recipe.data.protocol else ""
        return f"{self.label} seed {self.recipe.training.seed}{fold}"


class Gridded(Experiment):
    """A training and the grid over which a leaderboard repeats it; without a grid it is one training.

    Attributes:
        SINGLE: the recipe of one training.
        TINY: dotted field -> value, with which any recipe runs through in minutes on two cores, and every module fits.
        grid: what is varied.
        paper: where figures to compare with come from.
    """

    SINGLE: ClassVar[type[Experiment]]
    TINY: ClassVar[dict[str, Any]]

    grid: Grid | None = None
    paper: Paper | None = None

    @model_validator(mode="after")
    def _rows_are_recipes(self) -> Self:
        for row in self.table():
            self.single(row)
        return self

    def table(self) -> tuple[Row, ...]:
        """The rows of the grid, or the one of the recipe itself.

        >>> [row.label for row in GridRecipe(name="mine", model={"attn": "se"}).table()]
        ['se']
        """
        return self.grid.table() if self.grid else (Row(label=self.model.attn.title),)

    def single(self, row: Row | None = None, seed: int | None = None, fold: int | None = None) -> Any:
        """One training of the grid.

        Args:
            row: changes to the recipe; none if None.
            seed: the seed; the training's own if None.
            fold: of the protocol; the recipe's own if None.

        Raises:
            ValueError: a row that changes what is no field, or to what it cannot be.

        >>> GridRecipe(name="mine").single(Row(label="long", set={"training.epochs": 99}), seed=3).training.epochs
        99
        """
        content = self.model_dump(mode="json", exclude={"grid", "paper"})
        changes = dict(row.set) if row else {}
        changes |= {} if seed is None else {"training.seed": seed}
        changes |= {} if fold is None else {"data.fold": fold}
        for dotted, value in changes.items():
            put(content, dotted, value)
        try:
            return self.SINGLE.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
            reason = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"row {row.label if row else self.name}: {field}: {reason}") from None

    def repetitions(self) -> tuple[tuple[int, int], ...]:
        """Seed and fold of each repetition of all rows.

        >>> GridRecipe(name="mine", data={"protocol": "kfold(3)"}, grid={"attn": ["se"], "folds": [0, 2]}).repetitions()
        ((0, 0), (0, 2))
        """
        seeds, folds = (self.grid.seeds, self.grid.folds) if self.grid else (None, None)
        return tuple(itertools.product(seeds or (self.training.seed,), folds or (self.data.fold,)))

    def trials(self) -> Iterator[Trial]:
        """Every training of the grid, repetition by repetition, so that an interrupted grid has whole comparisons."""
        paper = self.paper.model_dump(mode="json") if self.paper else None
        if self.paper and paper and not self.paper.rows:
            printed = {row.label: row.paper.get(self.paper.dataset) for row in self.table()}
            paper["rows"] = {label: {"accuracy": figure} for label, figure in printed.items() if figure is not None}
        axis, baseline = (self.grid.axis, self.grid.baseline) if self.grid else (None, None)
        for seed, fold in self.repetitions():
            for row in self.table():
                recipe = self.single(row, seed, fold)
                grid = {"axis": axis, "baseline": baseline, "rows": [{"label": row.label, "x": row.x}]}
                yield Trial(row.label, _factors(row, axis, recipe), recipe, {"grid": grid, "paper": paper})

    def repeated(self, count: int) -> Self:
        """The same grid with another number of repetitions: folds first, then further seeds.

        Args:
            count: of the repetitions of each row; at least 1.

        >>> grid = {"attn": ["mpe"], "seeds": [5], "folds": [0, 1]}
        >>> GridRecipe(name="mine", data={"protocol": "kfold(2)"}, grid=grid).repeated(4).repetitions()
        ((5, 0), (5, 1), (6, 0), (6, 1))
        """
        grid = self.grid or Grid(rows=self.table())
        folds = (grid.folds or (self.data.fold,))[:count]
        seeds = grid.seeds or (self.training.seed,)
        further = itertools.chain(seeds, itertools.count(max(seeds) + 1))
        grid = grid.model_copy(
            update={"folds": folds, "seeds": tuple(itertools.islice(further, -(-count // len(folds))))}
        )
        return self.model_copy(update={"grid": grid})


class GridRecipe(Recipe, Gridded):
    """A training on videos and the grid over which a leaderboard repeats it.

    >>> [t.recipe.training.seed for t in GridRecipe(name="mine", grid={"attn": ["mpe"], "seeds": [0, 1]}).trials()]
    [0, 1]
    """

    SINGLE = Recipe
    TINY: ClassVar[dict[str, Any]] = {
        "clip.segments": 3,
        "clip.frames": 4,
        "clip.size": 32,
        "model.visual": {"backbone": "resnet3d/14", "options": {"stem_size": 3}},
        "model.audio": {"backbone": "timm/resnet14t"},
        "model.width": 32,
        "training.epochs": 2,
        "training.batch": 8,
        "training.lr": 2e-3,
        "training.workers": 2,
    }


G = TypeVar("G", bound=Gridded)


def tiny(recipe: G) -> G:
    """The same grid with small networks and samples and two epochs, to see that it runs; its accuracies mean nothing.

    Args:
        recipe: any.

    >>> tiny(GridRecipe(name="mine", grid={"attn": ["se", "mpe"]})).model.visual.backbone
    'resnet3d/14'
    """
    content = recipe.model_dump(mode="json")
    for dotted, value in recipe.TINY.items():
        put(content, dotted, value)
    return type(recipe).model_validate(content | {"name": f"{recipe.name}-tiny"})


def _factors(row: Row, axis: str | None, recipe: Experiment) -> dict[str, str]:
    if axis and row.x is not None:
        return {axis: f"{row.x:g}"}
    factors = {dotted.rpartition(".")[2]: _named(value) for dotted, value in row.set.items()}
    return (
        {"attn": recipe.model.attn.title}
        if not factors
        else factors | ({"attn": recipe.model.attn.title} if "attn" in factors else {})
    )
