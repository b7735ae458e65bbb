"""Score the human assistants of real dialogues (Schema-Guided Dialogue) with the metrics of the dialogue domain.

The human's own turns give the reference scores; damaged replays of them must lower the metric that they damage and no other. This is how
far the metrics can be trusted on data that nobody made for them. Takes a JSONL file with its schema, or a folder of the published data.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.arguments import new_parser
from pipeline.files import write_json
from vrpo.console.arguments import input_file, output_file
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError
from vrpo.tasks.dialogue import damage, sgd
from vrpo.tasks.dialogue.metrics import summarise

METRICS = {"tcr": "TCR", "acr": "ACR", "reask_rate": "re-asks", "gcr": "GCR"}


def replays(rows: list[sgd.Row], schema: sgd.Schema) -> dict[str, dict[str, Any]]:
    """Metrics of the human's turns and of each damaged replay."""
    damages = {
        "human": lambda row: row["turns"],
        "human, values as the user said them": damage.surface_forms,
        "a slot dropped from a call": damage.drop_parameter,
        "a wrong value in a call": damage.wrong_value,
        "an extra booking": partial(damage.extra_booking, schema=schema),
        "a wrong answer": damage.wrong_answer,
        "a question left out": damage.unasked_slot,
        "a question repeated": damage.repeated_question,
    }
    return {name: summarise([sgd.score_row(row, schema, harm(row)) for row in rows]) for name, harm in damages.items()}


def main() -> None:
    """Print the table, and write it as JSON where --out says so."""
    speak_safely()
    parser = new_parser("pipeline.tools.replay", __doc__)
    parser.add_argument("dialogues", type=Path, help="a .jsonl file, or a folder with dialogues_*.json and schema.json")
    parser.add_argument("--schema", type=input_file, help="schema of a .jsonl file (default: sgd_schema.json beside it)")
    parser.add_argument("--out", type=output_file, help="write the figures here as JSON")
    options = parser.parse_args()
    try:
        if options.dialogues.is_dir():
            rows, schema = sgd.load_published(options.dialogues)
        else:
            rows, schema = sgd.load_rows(options.dialogues, options.schema or options.dialogues.parent / "sgd_schema.json")
        found = replays(rows, schema)
        show(len(rows), found)
        if options.out:
            write_json(options.out, found)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def show(dialogues: int, found: dict[str, dict[str, float | None]]) -> None:
    """Print the table."""
    print(f"{dialogues} dialogues, shares in percent\n{'replay':<38}" + "".join(f"{name:>9}" for name in METRICS.values()))
    for name, metrics in found.items():
        print(f"{name:<38}" + "".join("        –" if metrics[key] is None else f"{100 * metrics[key]:9.1f}" for key in METRICS), flush=True)


if __name__ == "__main__":
    main()
