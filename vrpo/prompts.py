"""Training data as the trainer uses it: rows with a `prompt` as text and any other columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vrpo.config import UserError

TURN_SEPARATOR = "\x1e"  # ASCII's record separator, between the policy's turns in the text of a dialogue


def prompt_rows(data: Iterable[Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Rows of a data set, their prompts as text.

    Args:
        data: texts, or rows (dictionaries, a `datasets.Dataset`) whose `prompt` is a text or a conversation: a list of messages
            `{"role", "content"}`, which the tokenizer's chat template turns into text that ends where the assistant begins.
        tokenizer: holds the chat template.

    Raises:
        UserError: there are no rows, a row has no prompt, or a conversation meets a tokenizer without a chat template.
    """
    rows = []
    for index, item in enumerate(data):
        row = dict(item) if isinstance(item, Mapping) else {"prompt": item}
        prompt = row.get("prompt")
        if isinstance(prompt, list) and prompt and all(isinstance(message, Mapping) and "role" in message for message in prompt):
            if not getattr(tokenizer, "chat_template", None):
                raise UserError(f"row {index}: its prompt is a conversation, but the tokenizer has no chat template; set one or give text")
            row["prompt"] = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        elif not isinstance(prompt, str) or not prompt:
            raise UserError(f"row {index}: prompt is {prompt!r}; it must be a text or a list of messages with role and content")
        rows.append(row)
    if not rows:
        raise UserError("the training data is empty: at least one prompt is needed")
    return rows
