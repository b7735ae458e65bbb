"""Training data as the trainer uses it: rows with a `prompt` as text and any other columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vrpo.errors import UserError, shown

TURN_SEPARATOR = "\x1e"  # ASCII's record separator, between the policy's turns in the text of a dialogue
TOKENS = "completion_ids"  # of each response, as a reward gets them
TAKEN = ("prompts", "responses", "completions", TOKENS, "step", "samples")  # what a reward gets beside the columns
EXPECTED = "give a list of texts or of rows with a prompt"


def prompt_rows(
    data: Iterable[Any], tokenizer: Any, what: str = "training data", none: bool = False, messages: str = ""
) -> list[dict[str, Any]]:
    """Rows of a data set, their prompts as text. All rows have the same columns; a value that a row lacks is None.

    Args:
        data: texts, or rows (dictionaries, a `datasets.Dataset`, a table of pandas, polars or pyarrow, a dictionary of columns) whose
            `prompt` is a text or a conversation: a list of messages `{"role", "content"}`, which the tokenizer's chat template turns
            into text that ends where the assistant begins.
        tokenizer: holds the chat template.
        what: the data's name in errors.
        none: whether there may be none.
        messages: a column that keeps the messages of prompts that are conversations; empty: they are not kept.

    Raises:
        UserError: the data is no list of rows, there are no rows, a row has no prompt, a column's name is taken, or a conversation
            meets a tokenizer without a chat template.
    """
    rows = []
    for index, item in enumerate([] if data is None and none else _items(data, what)):
        where = f"{what}, row {index}"
        if not isinstance(item, Mapping | str | list):
            raise UserError(f"{where}: {shown(item)} is no row; {EXPECTED}")
        row = dict(item) if isinstance(item, Mapping) else {"prompt": item}
        given, row["prompt"] = row.get("prompt"), _prompt_text(row, tokenizer, where)
        if messages and not isinstance(given, str):
            row[messages] = list(given)
        if taken := [name for name in row if name in TAKEN or not isinstance(name, str)]:
            raise UserError(
                f"{where}: a column cannot be called {taken[0]!r}: names are texts other than {', '.join(TAKEN)}; rename or remove it"
            )
        rows.append(row)
    if not rows and not none:
        raise UserError(f"the {what} is empty: at least one prompt is needed")
    columns = dict.fromkeys(name for row in rows for name in row)  # in the order in which they are first seen
    return [row if len(row) == len(columns) else {name: row.get(name) for name in columns} for row in rows]


def _items(data: Any, what: str) -> Iterable[Any]:
    """The rows of tables and dictionaries of columns; other data as it is."""
    if isinstance(data, Mapping):
        return _rows_of_columns(data, what)
    for as_rows in ("to_dicts", "to_pylist"):  # polars, pyarrow
        if hasattr(data, as_rows):
            return getattr(data, as_rows)()
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        return data.to_dict("records")
    try:
        items = iter(data)
    except TypeError:
        items = None
    if items is None or isinstance(data, str | bytes | set | frozenset):
        raise UserError(f"the {what} is {shown(data)}, no list of rows; {EXPECTED}")
    return items


def _rows_of_columns(data: Mapping[str, Any], what: str) -> Iterable[dict[str, Any]]:
    names = ", ".join(map(str, list(data)[:5])) + ", ..." * (len(data) > 5)
    columns = {
        name: column for name, column in data.items() if hasattr(column, "__len__") and not isinstance(column, str | bytes | Mapping)
    }
    if "prompt" not in data and columns:
        raise UserError(
            f"the {what} is a {type(data).__name__} of {names}, none of which is a column `prompt`; "
            f"take one split, data[{next(iter(data))!r}], or rename the column with the prompts"
        )
    if len(columns) < len(data) or not data:
        raise UserError(f"the {what} is one {type(data).__name__} of {names or 'nothing'}, no list of rows; {EXPECTED}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"the {what} has columns of different lengths: {', '.join(f'{name} {length}' for name, length in lengths.items())}")
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _prompt_text(row: Mapping[str, Any], tokenizer: Any, where: str) -> str:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) and hasattr(prompt, "tolist"):  # numpy's array of messages, as tables hold them
        prompt = prompt.tolist()
    if isinstance(prompt, list | tuple) and prompt and all(isinstance(message, Mapping) and "role" in message for message in prompt):
        return _conversation_text(list(prompt), tokenizer, where)
    if not isinstance(prompt, str) or not prompt:
        found = "" if prompt is not None else f", its columns are {', '.join(map(str, row))}: rename the one with the prompt"
        raise UserError(f"{where}: prompt is {shown(prompt)}; it must be a text or a list of messages with role and content{found}")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: prompt holds half a character (a lone surrogate) at {error.start}; remove it") from None
    return str(prompt)


def _conversation_text(messages: list[Mapping[str, Any]], tokenizer: Any, where: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{where}: its prompt is a conversation, but the tokenizer has no chat template; set one or give text")
    for place, message in enumerate(messages):
        if message.get("content") is None and not message.get("tool_calls"):
            raise UserError(f"{where}: message {place} of its prompt has no content: {shown(dict(message))}; give it some or remove it")
    if messages[-1]["role"] == "assistant":
        raise UserError(
            f"{where}: its conversation ends with the assistant; a prompt ends before the assistant speaks, remove the last message"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise what they like
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: the chat template refuses its conversation ({reason}); change the messages or the template") from error
