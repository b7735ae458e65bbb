"""Tokenizers for tasks that have symbols of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def character_tokenizer(symbols: Iterable[str]) -> Any:
    """One token for each symbol, a character, with `<eos>` and `<pad>` of their own; what else a text holds becomes padding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *symbols])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", padding_side="left")
