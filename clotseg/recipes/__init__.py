"""Recipes: a name in; the settings of a way of training, as data, out."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from clotseg.errors import ConfigError

DEFAULT_RECIPE = "default"


def recipe_names() -> list[str]:
    """The recipes that come with clotseg."""
    return sorted(name.removesuffix(".toml") for name in _files() if name.endswith(".toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by section.

    Raises:
        ConfigError: there is no such recipe; those that there are, are named.
    """
    if name not in recipe_names():
        raise ConfigError(
            f"there is no recipe {name!r}", where="--recipe", fix=f"choose one of {', '.join(recipe_names())}"
        )
    return tomllib.loads(_files()[f"{name}.toml"].read_text(encoding="utf-8"))


def _files() -> dict[str, Traversable]:
    return {entry.name: entry for entry in resources.files(__name__).iterdir()}
