"""Language models: loaded, adapted, read, and kept within their limits."""

from vrpo.models.loading import load_causal_lm, load_policy, load_tokenizer, new_llama, save_model

__all__ = ["load_causal_lm", "load_policy", "load_tokenizer", "new_llama", "save_model"]
