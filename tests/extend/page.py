"""The recipes of docs/extend.md, read out of the page."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extend.md").read_text()
BLOCK = re.compile(r"^`([\w./]+)`[^\n]*\n\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """A section of the page: its text, what it writes by file, and the parameters that choose it."""

    text: str
    files: dict[str, str]
    chosen: list[dict]

    @classmethod
    def of(cls, text: str) -> "Recipe":
        choose = re.search(r"^\*\*Choose\*\* (.*?)^\n", text, re.DOTALL | re.MULTILINE)
        said = re.findall(r"`(\w+: [^`]+)`", choose[1]) if choose else []
        return cls(text, {path: code for path, _, code in BLOCK.findall(text)}, [yaml.safe_load(part) for part in said])

    @property
    def touched(self) -> set[str]:
        """Files of the project that it writes or edits; of a domain its folder."""
        patched = {path for code in self.files.values() for path in re.findall(r"^\+\+\+ b/(\S+)", code, re.MULTILINE)}
        return patched or {re.sub(r"^(vrpo/tasks/\w+)/.*", r"\1", path) for path in self.files}


RECIPES = {
    text.partition("\n")[0].split()[-1]: Recipe.of(text) for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:] if BLOCK.search(text)
}
