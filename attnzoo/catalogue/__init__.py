"""Finding the right module: which there are, what each is and costs, and several side by side."""

from attnzoo.catalogue.card import Card, card
from attnzoo.catalogue.comparison import side_by_side
from attnzoo.catalogue.listing import Wanted, listing, readme_table

__all__ = ["Card", "Wanted", "card", "listing", "readme_table", "side_by_side"]
