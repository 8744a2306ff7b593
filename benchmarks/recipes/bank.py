"""All recipes by name."""

from recipes import generating, images, language, tables
from recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for kind in (images, generating, language, tables)
    for recipe in kind.RECIPES
}
