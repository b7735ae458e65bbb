"""docs/extend.md: recipes of one form, a table that counts their files, and the floors as they are."""

import re

import pytest

from tests.extend.page import PAGE, RECIPES, ROOT
from tests.test_rooms import FLOORS


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_to_write_how_to_choose_it_what_it_promises_and_what_is_tested(name: str) -> None:
    text = RECIPES[name].text
    assert re.findall(r"^\*\*(\w+)\*\*", text, re.MULTILINE) == ["Write", "Choose", "Promise", "Tested"]
    promise = text.partition("**Promise**")[2].partition("**Tested**")[0]
    assert 3 <= promise.count("\n- ") <= 6 and re.search(r"^ \(\[[\w.]+\]\(\.\./(vrpo|pipeline)/", promise)
    assert len(re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()) <= 40


def test_the_table_counts_what_the_recipes_touch() -> None:
    rows = {row[0].split()[-1]: row[2] for row in re.findall(r"^\| \[(an? [\w ]+)\]\(#([\w-]+)\) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE)}
    assert rows.keys() == RECIPES.keys()
    assert {name: int(re.match(r"\d+", row)[0]) for name, row in rows.items()} == {
        name: len(recipe.touched) for name, recipe in RECIPES.items()
    }
    for recipe in RECIPES.values():
        assert all((ROOT / path).parent.is_dir() for path in recipe.touched)


def test_the_floors_are_those_of_the_house() -> None:
    (shown,) = re.findall(r"^```\n(.*?)^```$", PAGE.partition("## Which room")[2], re.DOTALL | re.MULTILINE)
    assert tuple(tuple(line.split()) for line in shown.splitlines()) == FLOORS
