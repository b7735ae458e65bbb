"""Training data of users: texts, rows, data sets, conversations."""

import pytest
from datasets import Dataset
from tiny import count_digits, trainer

from vrpo.config import GenerationConfig, UserError
from vrpo.prompts import prompt_rows

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


class ChatTokenizer:
    chat_template = TEMPLATE

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize
        return "".join(f"{m['role'][0]}:{m['content']};" for m in messages) + "a:" * add_generation_prompt


def test_texts_rows_data_sets_and_conversations_become_rows() -> None:
    assert prompt_rows(["1+1", "2+2"], None) == [{"prompt": "1+1"}, {"prompt": "2+2"}]
    rows = [{"prompt": "1+1", "answer": "2"}]
    assert prompt_rows(rows, None) == prompt_rows(Dataset.from_list(rows), None) == rows
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "1+1"}]
    assert prompt_rows([{"prompt": turns, "answer": "2"}], ChatTokenizer()) == [{"prompt": "u:hi;a:ho;u:1+1;a:", "answer": "2"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "training data is empty"),
        ([{"question": "1+1"}], "row 0: prompt is None"),
        (["1+1", ""], "row 1: prompt is ''"),
        ([{"prompt": [{"role": "user", "content": "hi"}]}], "row 0: .*no chat template"),
        ([{"prompt": []}], r"row 0: prompt is \[\]"),
    ],
)
def test_data_that_is_no_training_data_is_named(data, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prompt_rows(data, None)


def test_conversations_train_from_a_folder_without_a_tokenizer_object(tokenizer, problems, tmp_path) -> None:
    """A saved chat model, named by its folder, on conversations: the whole way of a user."""
    from tiny import config, tiny_policy

    from vrpo.models import save_model
    from vrpo.trainer import Trainer

    save_model(tiny_policy(tokenizer), tokenizer, tmp_path / "chat")
    (tmp_path / "chat/chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in problems])
    asked = []

    def reward(prompts, responses, answer, **columns):
        asked.extend(zip(prompts, answer, strict=True))
        return count_digits(prompts, responses)

    run = Trainer(config(), tmp_path / "chat", None, data, reward, generation=GenerationConfig(max_new_tokens=8))
    log = run.run()
    assert set(asked) <= {(row["prompt"], row["answer"]) for row in problems} and len(asked) == 96
    assert log[-1]["iteration"] == 3
    plain = trainer(tokenizer, problems, "vrpo", reward=lambda prompts, responses, **columns: count_digits(prompts, responses))
    plain.validation = []
    assert [row["reward/observed"] for row in plain.run()] == [row["reward/observed"] for row in log]
