"""Write the tables of docs/trl.md anew from `vrpo/adapters`: python -m docs.trl. What is around them is written by hand."""

from __future__ import annotations

from pathlib import Path

from vrpo.adapters.config import FIELDS, SETTINGS
from vrpo.adapters.refused import EARLIER, GRPO, TRAINER, TRANSFORMERS, Refused

PAGE = Path(__file__).with_suffix(".md")
START, END = "<!-- tables: python -m docs.trl -->", "<!-- end of tables -->"
OURS = {  # that TRL has not
    *("method", "kl_in", "gamma", "gae_lambda", "length_adaptive_alpha", "critic", "max_turns", "engine", "engine_settings"),
    *("importance_cap", "sharding", "offload", "reward_timeout", "noise", "lora", "monte_carlo_prefixes", "monte_carlo_samples"),
}


def tables() -> str:
    """All arguments, one a row: those that are here, and those that are not."""
    known = [name for name in FIELDS if name not in OURS]
    return "\n".join(
        [
            "### Here too",
            "",
            "| TRL's argument | here | default | what it is |",
            "| --- | --- | --- | --- |",
            *(_row(name) for name in known),
            "",
            "### Ours",
            "",
            "| argument | setting | default | what it is |",
            "| --- | --- | --- | --- |",
            *(_row(name) for name in FIELDS if name in OURS),
            "",
            "### Refused: GRPOConfig's own",
            *_refused(GRPO),
            "### Refused: what it has of transformers' TrainingArguments",
            *_refused(TRANSFORMERS),
            "### Refused: what earlier versions had, PPOConfig's among them",
            *_refused(EARLIER),
            "### Refused: arguments of the trainer",
            *_refused(TRAINER),
        ]
    ).strip()


def _row(name: str) -> str:
    setting = SETTINGS.get(name, "")
    key = setting.rpartition(".")[2]
    here = "same" if not setting or key == name else f"`{setting}`"
    field = FIELDS[name]
    return (
        f"| `{name}` | {here if name not in OURS else f'`{setting}`' if setting else ''} | `{field.default}` | {field.metadata['help']} |"
    )


def _refused(group: dict[str, Refused]) -> list[str]:
    rows: dict[Refused, list[str]] = {}
    for name, entry in group.items():
        rows.setdefault(Refused(entry.cure, tuple(map(repr, entry.holds))), []).append(name)
    return [
        "",
        "| argument | but for | what to use instead |",
        "| --- | --- | --- |",
        *(
            f"| {', '.join(f'`{name}`' for name in names)} | {', '.join(f'`{value}`' for value in entry.holds)} | {entry.cure} |"
            for entry, names in rows.items()
        ),
        "",
    ]


def render(page: str) -> str:
    """The page with its tables of now."""
    before, _, rest = page.partition(START)
    return f"{before}{START}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
