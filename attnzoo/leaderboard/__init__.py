"""Recipes -> runs -> results store -> statistics -> report page."""
