"""Check the prepared problems with Great Expectations before anything is trained on them.

Reads `data/prepared/{train,validation,test}.jsonl` and demands, per split: rows, the required columns as non-empty text,
unique ids, no id and no question shared with an earlier split, no control characters, no question of endless length, every
gold answer accepted by its own verifier, and noisy labels only in train and only as many as `prepare.label_noise` declares.
Repeated questions inside a split, answers that only stand in for one ("N/A") and labels that no verifier reads warn.

Writes `data/validation/summary.json` and `data/validation/docs/` (Data Docs, readable without network), also when a check
fails. A breach stops the pipeline with one line per breach.
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import read_jsonl, write_atomically, write_json
from pipeline.params import Params
from pipeline.stages.stage import main
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from vrpo.tasks.base import Task

SPLITS = ("train", "validation", "test")
REQUIRED = ("id", "question", "answer", "source", "licence")
REPEATED = "questions are not repeated within the split"
TEMPLATES = Path(__file__).parents[1] / "reporting" / "templates"
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)  # of every page, so that the same data give the same pages

LONGEST_QUESTION = 20_000  # characters, some 5,000 tokens: beyond that a row is a whole file by mistake
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline; halves of characters
PLACEHOLDER = re.compile(r"\?+|-+|\.+|_+|n/?a|nan|nil|null|unknown|tbd|todo|see (?:the )?(?:solution|above|below)\.?", re.IGNORECASE)

Row = dict[str, Any]


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, float | int | str]:
    """Validate all splits.

    Raises:
        UserError: a file is missing or malformed, or a check is breached (one line per breach: split, check, number of
            offending rows, up to three example ids).
    """
    from pipeline.domains import load_task

    splits = {split: _read_split(workspace.prepared / f"{split}.jsonl") for split in SPLITS}
    checks, noise = validate(splits, load_task(params), params.prepare.label_noise, workspace.validation / "docs")
    breaches = [check for check in checks if not check["success"] and check["severity"] == "critical"]
    warnings = [check for check in checks if not check["success"] and check["severity"] != "critical"]
    metrics: dict[str, float | int | str] = {f"rows_{split}": len(rows) for split, rows in splits.items()}
    metrics |= {"checks": len(checks), "breaches": len(breaches), "warnings": len(warnings), "label_noise": noise}
    metrics["duplicate_questions"] = sum(
        check["offending"] for check in warnings if check["name"] == REPEATED and check["split"] == "train"
    )
    summary = workspace.validation / "summary.json"
    write_json(summary, {"success": not breaches, **metrics, "declared_label_noise": params.prepare.label_noise, "expectations": checks})
    record.artifact(summary)
    for check in warnings:
        print(f"warning: {_line(check)}")
    if breaches:
        counts, page = f"{len(breaches)} of {len(checks)} checks", workspace.validation / "docs/index.html"
        head = f"{workspace.prepared} fails {counts} ({page}); correct the data, or `prepare` in params.yaml"
        raise UserError("\n".join([head, *map(_line, breaches)]))
    print(f"{len(checks)} checks passed on {sum(map(len, splits.values()))} rows; label noise {noise:.1%}")
    return metrics


def validate(splits: dict[str, list[Row]], task: Task, declared_noise: float, docs: Path) -> tuple[list[dict[str, Any]], float]:
    """Run one suite per split and rebuild the Data Docs in `docs`.

    Returns:
        One dictionary per check ("name", "split", "expectation", "severity", "success", "observed", "offending" rows, up to
        three "examples"), and the share (0..1) of train rows whose label differs from the answer.
    """
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    shutil.rmtree(docs, ignore_errors=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
    context.add_data_docs_site("prepared", {"class_name": "SiteBuilder", "store_backend": store})
    source = context.data_sources.add_pandas("prepared")

    checks = []
    frames: dict[str, pd.DataFrame] = {}
    for split, rows in splits.items():
        frame = _frame(rows, task, earlier=frames)
        batch = source.add_dataframe_asset(split).add_batch_definition_whole_dataframe(split)
        suite = context.suites.add(gx.ExpectationSuite(name=split, expectations=_expectations(split, frame, list(frames), declared_noise)))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=split, data=batch, suite=suite))
        outcome = definition.run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
            run_id=RunIdentifier(run_time=NO_TIME),
        )
        checks += [_check(split, frame, result) for result in outcome.results]
        frames[split] = frame
    context.build_data_docs()
    _make_offline(docs, checks)
    noisy = frames["train"].get("label_differs", [])
    return checks, float(sum(noisy) / max(len(noisy), 1))


def _read_split(path: Path) -> list[Row]:
    """Like `read_jsonl`, but an empty file is left to the suite, which reports it with everything else."""
    if path.is_file() and not path.read_bytes().strip():
        return []
    return read_jsonl(path)


def _text(value: Any) -> str | None:
    """A text that is not blank, as files can hold it."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value.strip() else None


def _frame(rows: list[Row], task: Task, earlier: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Lay the rows out for the suite: a value that is not text, or blank, becomes missing; derived facts get columns.

    The index holds the ids (or "row 17"), so that Great Expectations names offending rows by them.
    """
    import pandas as pd

    texts = {column: [_text(row.get(column)) for row in rows] for column in REQUIRED}
    index = [CONTROL.sub("?", name or f"row {number}") for number, name in enumerate(texts["id"], 1)]
    columns = {column: texts[column] for column in REQUIRED if any(column in row for row in rows)}
    columns["question_text"] = texts["question_text"] = [question and " ".join(question.split()) for question in texts["question"]]
    frame = pd.DataFrame(columns, index=index, dtype=object)
    for split, other in earlier.items():
        for column in ("id", "question_text"):
            known = set(other[column].dropna()) if column in other else set()
            frame[f"{column}_in_{split}"] = [value in known for value in texts[column]]

    frame["clean"] = [not any(CONTROL.search(value) for value in row.values() if isinstance(value, str)) for row in rows]
    frame["of_a_length"] = [len(question or "") <= LONGEST_QUESTION for question in texts["question"]]
    answers = texts["answer"]
    frame["answer_given"] = [not PLACEHOLDER.fullmatch((answer or "").strip()) for answer in answers]
    frame["gold_accepted"] = _accepted(task, answers, answers)
    # A label that only looks different ("1/2", "0.5") is no noise: where the texts differ, the verifier decides.
    unlike = [i for i, row in enumerate(rows) if "label" in row and row["label"] != row.get("answer")]
    labels = [_text(rows[i]["label"]) for i in unlike]
    agree = _accepted(task, labels, [answers[i] for i in unlike])
    unread = {i for i, read in zip(unlike, _accepted(task, labels, labels), strict=True) if not read}
    noisy = {i for i, same in zip(unlike, agree, strict=True) if not same}
    frame["label_read"] = [i not in unread for i in range(len(rows))]
    frame["label_differs"] = [int(i in noisy) for i in range(len(rows))]
    return frame


def _accepted(task: Task, stated: list[str | None], answers: list[str | None]) -> list[bool]:
    """Whether the verifier accepts a response that states `stated[i]` as the answer to a problem with gold `answers[i]`."""
    known = [i for i, (said, gold) in enumerate(zip(stated, answers, strict=True)) if said is not None and gold is not None]
    scores = task.verify([task.canonical_response(stated[i]) for i in known], [answers[i] for i in known]) if known else []
    verdicts = [False] * len(answers)
    for i, score in zip(known, scores, strict=True):
        verdicts[i] = score is not None and score >= 0.5
    return verdicts


def _expectations(split: str, frame: pd.DataFrame, earlier: list[str], declared_noise: float) -> list[Any]:
    """The suite of one split. An empty split is only asked for rows, an absent column only for its presence."""
    import great_expectations.expectations as gxe

    suite: list[Any] = [gxe.ExpectTableRowCountToBeBetween(min_value=1, description="the split holds rows")]
    if frame.empty:
        return suite
    for column in REQUIRED:
        suite.append(gxe.ExpectColumnToExist(column=column, description=f"column {column} is present"))
        if column in frame:
            suite.append(gxe.ExpectColumnValuesToNotBeNull(column=column, description=f"{column} is non-empty text"))
    if "id" in frame:
        suite.append(gxe.ExpectColumnValuesToBeUnique(column="id", description="ids are unique"))
    for other in earlier:
        for column, noun in (("id", "ids"), ("question_text", "questions")):
            title = f"{noun} are not in {other}"
            suite.append(gxe.ExpectColumnValuesToBeInSet(column=f"{column}_in_{other}", value_set=[False], description=title))
    title = "texts hold no control characters (NUL, form feed: a JSON backslash is written twice)"
    suite.append(gxe.ExpectColumnValuesToBeInSet(column="clean", value_set=[True], description=title))
    title = f"questions have at most {LONGEST_QUESTION} characters"
    suite.append(gxe.ExpectColumnValuesToBeInSet(column="of_a_length", value_set=[True], description=title))
    title = "the verifier accepts the gold answer"
    suite.append(gxe.ExpectColumnValuesToBeInSet(column="gold_accepted", value_set=[True], description=title))
    if split == "train":
        title = f"labels that differ from the answer are at most the declared share (prepare.label_noise = {declared_noise:g})"
        suite.append(gxe.ExpectColumnMeanToBeBetween(column="label_differs", max_value=declared_noise, description=title))
    else:
        title = "no label differs from the answer (noisy labels belong in train only)"
        suite.append(gxe.ExpectColumnValuesToBeInSet(column="label_differs", value_set=[0], description=title))
    suite.append(gxe.ExpectColumnValuesToBeUnique(column="question_text", severity="warning", description=REPEATED))
    title = 'answers do not stand in for one ("N/A", "???")'
    suite.append(gxe.ExpectColumnValuesToBeInSet(column="answer_given", value_set=[True], severity="warning", description=title))
    title = "the verifier can read the label"
    suite.append(gxe.ExpectColumnValuesToBeInSet(column="label_read", value_set=[True], severity="warning", description=title))
    return suite


def _check(split: str, frame: pd.DataFrame, result: Any) -> dict[str, Any]:
    """One entry of the summary from one Great Expectations result."""
    config, facts = result.expectation_config, result.result
    if config.type == "expect_column_mean_to_be_between":
        examples = list(frame.index[frame["label_differs"] == 1])
    elif config.type == "expect_column_to_exist":
        examples = list(frame.index)
    else:
        examples = [str(name) for name in facts.get("unexpected_index_list") or []]
    observed = facts.get("observed_value", facts.get("unexpected_count"))
    offending = 0 if result.success else int(facts.get("unexpected_count", len(examples)))
    return {
        "name": config.description,
        "split": split,
        "expectation": config.type,
        "severity": str(getattr(config.severity, "value", config.severity)),
        "success": bool(result.success),
        "observed": observed.item() if hasattr(observed, "item") else observed,
        "offending": offending,
        "examples": [] if result.success else list(dict.fromkeys(examples))[:3],
    }


def _line(check: dict[str, Any]) -> str:
    share = f", observed share {check['observed']:.4g}" if isinstance(check["observed"], float) else ""
    examples = f", e.g. {', '.join(check['examples'])}" if check["examples"] else ""
    return f'{check["split"]}: "{check["name"]}" does not hold: {check["offending"]} rows{share}{examples}'


def _make_offline(docs: Path, checks: list[dict[str, Any]]) -> None:
    """Make the site readable without network, and the same for the same data.

    Great Expectations' pages load styles, scripts and a logo from outside, and its index is filled by such a script. Take
    those out, put in a small style sheet, and write an index that is plain HTML. Times and random names go too.
    """
    from jinja2 import Environment, FileSystemLoader

    style = (TEMPLATES / "data_docs.css").read_text(encoding="utf-8")
    outside = re.compile(r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>", re.DOTALL)
    passing = re.compile(
        rf"-[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|\b(?!1970)\d{{8}}T\d{{6}}\.\d{{6}}Z|{NO_TIME:%Y-%m-%dT%H:%M:%SZ}"
    )
    for page in docs.rglob("*.html"):
        text = passing.sub("", outside.sub("", page.read_text(encoding="utf-8")))
        page.write_text(text.replace("</head>", f"<style>{style}</style></head>"), encoding="utf-8")
    shutil.rmtree(docs / "static", ignore_errors=True)
    pages = {split: next(docs.glob(f"validations/{split}/**/*.html")).relative_to(docs).as_posix() for split in SPLITS}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    index = environment.get_template("data_docs_index.html").render(checks=checks, pages=pages, style=style)
    write_atomically(docs / "index.html", index)


if __name__ == "__main__":
    main("validate", run, __doc__)
