"""What a model cannot read: tokens without a row in its embedding, texts longer than its positions, texts without tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vrpo.errors import UserError

logger = logging.getLogger(__name__)

LIMITS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len", "context_length", "seq_length")
COMPUTED = ("rope_parameters", "rope_theta", "alibi")  # positions that have no table, and so no end


def position_limit(model: Any) -> tuple[str, int] | None:
    """The entry of the model's configuration that limits its positions, and its value; None where there is no limit."""
    config = model.config.get_text_config()
    entries = ((name, getattr(config, name, None)) for name in LIMITS)
    return next(((name, value) for name, value in entries if isinstance(value, int) and value > 0), None)


def table_end(model: Any) -> int | None:
    """Positions after which the model has no numbers at all. Rotary ones are computed and go on, if less well: None."""
    limit, config = position_limit(model), model.config.get_text_config()
    return None if limit is None or any(getattr(config, name, None) for name in COMPUTED) else limit[1]


def check_tokens(model: Any, texts: Sequence[Sequence[int]], new_tokens: int, what: str, *, training: bool) -> None:
    """Make sure that a model can read texts and write `new_tokens` after them.

    Args:
        texts: token ids.
        new_tokens: length of what is to follow, 0 where nothing is.
        what: names a text in the error, before its place: "training data, row".
        training: whether the model is to learn from them. If not, one whose positions are computed may read on where they end, with a warning.

    Raises:
        UserError: a text has no tokens, a token that the model's embedding lacks, or more than there are positions for.
    """
    rows, limit = model.get_input_embeddings().weight.shape[0], position_limit(model)
    for place, ids in enumerate(texts):
        if not len(ids):
            raise UserError(
                f"{what} {place}: becomes no tokens, so nothing can follow it; remove it or give it text that the tokenizer knows"
            )
        if max(ids) >= rows:
            raise UserError(
                f"{what} {place}: holds token {max(ids)}, but the model's embedding has {rows} rows; "
                "use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer)) and train the new rows"
            )
        if limit and len(ids) + new_tokens > limit[1]:
            longer = f" and generation.max_new_tokens = {new_tokens} make {len(ids) + new_tokens}" if new_tokens else ""
            message = (
                f"{what} {place}: {len(ids)} tokens{longer}, more than the model's {limit[1]} positions (config.{limit[0]}); "
                f"shorten it{', lower generation.max_new_tokens' * bool(new_tokens)} or take a model that reads more"
            )
            if training or table_end(model) is not None:
                raise UserError(message)
            logger.warning("%s", message)
            limit = None  # said once


def check_prompts(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, what: str = "prompt", *, training: bool = False
) -> None:
    """Make sure that a model can answer prompts: what `check_tokens` asks for, and rows for the tokens of padding and end.

    Raises:
        UserError: see `check_tokens`; or the model has no embedding for the tokenizer's end-of-text or padding token.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    for name in ("eos_token", "pad_token"):
        token = getattr(tokenizer, f"{name}_id")
        if token is not None and token >= rows:
            raise UserError(
                f"the tokenizer's {name} {getattr(tokenizer, name)!r} has id {token}, but the model's embedding has {rows} rows; set "
                f"tokenizer.{name} to a token that the model knows, or call model.resize_token_embeddings(len(tokenizer))"
            )
    check_tokens(model, prompts, max_new_tokens, what, training=training)
