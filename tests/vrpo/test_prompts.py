"""Training data of users: texts, rows, data sets, conversations."""

import numpy
import pandas
import pytest
from datasets import Dataset, DatasetDict
from tiny import config, count_digits, tiny_policy, trainer

from vrpo.config import GenerationConfig
from vrpo.data.prompts import TAKEN, prompt_rows
from vrpo.errors import UserError
from vrpo.training.trainer import Trainer

ONE = Dataset.from_list([{"prompt": "1+1"}])

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
        ([{"question": "1+1", "answer": 2}], "its columns are question, answer: rename the one with the prompt"),
        ("1+1", "the training data is '1.1', no list of rows"),
        (b"1+1", "the training data is b'1.1'"),
        (None, "the training data is None"),
        (7, r"the training data is 7 \(int\)"),
        ({"1+1", "2+2"}, r"the training data is .* \(set\)"),
        ({"prompt": "1+1"}, "the training data is one dict of prompt, no list of rows"),
        ({}, "the training data is one dict of nothing"),
        (dict.fromkeys("abcdef", "1"), "the training data is one dict of a, b, c, d, e, ..., no list of rows"),
        ([numpy.array([["1"], ["2"]])], r"row 0: array\(\[\['1'\], \['2'\]\], dtype='<U1'\) \(ndarray\) is no row"),
        (
            {"train": ["1+1"], "test": ["2+2"]},
            r"a dict of train, test, none of which is a column `prompt`; take one split, data\['train'\]",
        ),
        (DatasetDict(train=ONE, test=ONE), r"a DatasetDict of train, test.*take one split, data\['train'\]"),
        ({"prompt": ["1+1", "2+2"], "answer": ["2"]}, "columns of different lengths: prompt 2, answer 1"),
        (pandas.DataFrame({"question": ["1+1"]}), "row 0: prompt is None.*its columns are question"),
        (["1+1", ("2+2", "4")], r"row 1: \('2\+2', '4'\) \(tuple\) is no row"),
        (["1+1", 3], r"row 1: 3 \(int\) is no row"),
        ([b"1+1"], "row 0: b'1\\+1'"),
        ([{"prompt": b"1+1"}], "row 0: prompt is b'1"),
        ([{"prompt": ["1+1", "2+2"]}], "row 0: prompt is "),
        (["1+\ud8001"], "row 0: prompt holds half a character .* at 2"),
        *(([{"prompt": "1", name: 1}], f"row 0: a column cannot be called '{name}'") for name in TAKEN),
        ([{"prompt": "1", 0: 1}], "row 0: a column cannot be called 0"),
    ],
)
def test_data_that_is_no_training_data_is_named(data, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prompt_rows(data, None)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user"}], r"row 0: message 0 of its prompt has no content: \{'role': 'user'\}"),
        ([{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}], "row 0: its conversation ends with the assistant"),
        ([{"role": "system", "content": "add"}], "row 0: the chat template refuses its conversation .*no user"),
    ],
)
def test_conversations_that_are_no_prompts_are_named(messages, message: str, tokenizer) -> None:
    template = "{% if messages[-1]['role'] == 'system' %}{{ raise_exception('no user') }}{% endif %}"
    tokenizer.chat_template, before = template, tokenizer.chat_template
    try:
        with pytest.raises(UserError, match=message):
            prompt_rows([messages], tokenizer)
    finally:
        tokenizer.chat_template = before


def test_tables_are_read_as_rows() -> None:
    rows = [{"prompt": "1+1", "answer": "2"}, {"prompt": "2+2", "answer": "4"}]
    frame = pandas.DataFrame(rows)
    columns = {"prompt": numpy.array(["1+1", "2+2"]), "answer": ["2", "4"]}
    for data in (frame, Dataset.from_list(rows).data.table, columns, (row for row in rows), Dataset.from_list(rows).to_iterable_dataset()):
        assert prompt_rows(data, None) == rows
    assert prompt_rows(frame["prompt"], None) == [{"prompt": "1+1"}, {"prompt": "2+2"}]
    assert type(prompt_rows(columns, None)[0]["prompt"]) is str
    messages = numpy.array([{"role": "user", "content": "1+1"}])  # what pandas reads from a nested Parquet column
    assert prompt_rows(pandas.DataFrame({"prompt": [messages]}), ChatTokenizer()) == [{"prompt": "u:1+1;a:"}]


def test_columns_that_some_rows_lack_are_none_there() -> None:
    data = [{"prompt": "1"}, {"prompt": "2", "answer": "2"}, {"hint": "h", "prompt": "3"}]
    rows = prompt_rows(data, None)
    assert [list(row) for row in rows] == [["prompt", "answer", "hint"]] * 3
    assert [row["answer"] for row in rows] == [None, "2", None]


def test_validation_may_be_a_table_or_nothing(tokenizer, problems) -> None:
    frame = pandas.DataFrame(problems[:8])
    for given, count in ((frame, 8), (None, 0), ([], 0), (pandas.DataFrame({"prompt": []}), 0)):
        run = Trainer(config(), tiny_policy(tokenizer), tokenizer, problems, count_digits, validation=given)
        assert len(run.validation) == count
    with pytest.raises(UserError, match="validation data, row 0: prompt is 3"):
        Trainer(config(), tiny_policy(tokenizer), tokenizer, problems, count_digits, validation=[{"prompt": 3}])


def test_conversations_train_from_a_folder_without_a_tokenizer_object(tokenizer, problems, tmp_path) -> None:
    """A saved chat model, named by its folder, on conversations: the whole way of a user."""
    from vrpo.models.loading import save_model

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
