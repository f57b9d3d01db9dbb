"""The recipe of a leaderboard: one training, repeated over a grid."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, NonNegativeInt, field_validator

from attnzoo.emotion.recipe import AttentionField, Recipe
from attnzoo.recipes import Part


class Grid(Part):
    """What is varied; every attention is trained with every seed.

    Attributes:
        attn: attention of each row, in both streams or as the entry says; "none" is the plain network.
        seeds: of each row.
    """

    attn: Annotated[tuple[AttentionField, ...], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)

    @field_validator("attn")
    @classmethod
    def _distinct(cls, attn: tuple[AttentionField, ...]) -> tuple[AttentionField, ...]:
        titles = [a.title for a in attn]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two entries are called {title}; give each a label of its own")
        return attn


class LeaderboardRecipe(Recipe):
    """A training and the grid over which it is repeated; without a grid it is one training."""

    grid: Grid | None = None

    def single(self, attn: AttentionField | None = None, seed: int | None = None) -> Recipe:
        """One training of the grid.

        Args:
            attn: the attention; the model's own if None.
            seed: the seed; the training's own if None.

        >>> LeaderboardRecipe(name="mine").single(seed=3).training.seed
        3
        """
        model = self.model if attn is None else self.model.model_copy(update={"attn": attn})
        training = self.training if seed is None else self.training.model_copy(update={"seed": seed})
        return Recipe(name=self.name, data=self.data, clip=self.clip, audio=self.audio, model=model, training=training)

    def runs(self) -> Iterator[Recipe]:
        """Every training of the grid, seed by seed, so that an interrupted grid has complete comparisons."""
        grid = self.grid or Grid(attn=(self.model.attn,), seeds=(self.training.seed,))
        for seed in grid.seeds:
            for attn in grid.attn:
                yield self.single(attn, seed)
