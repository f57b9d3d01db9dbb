"""Recipes -> runs -> results store -> statistics -> report page."""

from attnzoo.extras import need

need("leaderboard", "sqlalchemy", "scipy", "jinja2")
