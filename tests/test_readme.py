"""The README is short, and what it names and links to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_files_named_in_the_map_exist() -> None:
    block = re.search(r"## Where things are\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL).group(1)
    names = re.findall(r"\b\w+\.(?:py|yaml)\b", block)
    assert len(names) > 20
    assert [
        name
        for name in names
        if not any(list(ROOT.glob(place)) for place in (f"vrpo/**/{name}", f"pipeline/**/{name}", name, f"docs/{name}"))
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text())
    assert targets
    for path, anchor in targets:
        target = page.parent / path if path else page
        assert target.is_file(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, f"{path}#{anchor}"


def test_its_picture_is_small() -> None:
    assert (ROOT / "docs/picture.png").stat().st_size < 150_000
