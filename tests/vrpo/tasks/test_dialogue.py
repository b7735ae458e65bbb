"""The simulated world, the metrics on hand-made dialogues, and real ones where the data is there."""

import json
import random
from pathlib import Path

import pytest

from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.errors import UserError
from vrpo.tasks.dialogue import damage as replays
from vrpo.tasks.dialogue import sgd
from vrpo.tasks.dialogue.assistant import converse_script
from vrpo.tasks.dialogue.canonical import canonical
from vrpo.tasks.dialogue.metrics import Goal, pass_hat_k, score_dialogue, summarise
from vrpo.tasks.dialogue.scenario import dump_scenario, load_scenario, new_scenario, scored_goals
from vrpo.tasks.dialogue.services import CANONICAL, SERVICES, SURFACES
from vrpo.tasks.dialogue.simulator import parse, play
from vrpo.tasks.dialogue.task import DialogueTask, is_transactional, new_tokenizer

DATA = Path(__file__).parents[4] / "shared/data"
real = pytest.mark.skipif(not (DATA / "sgd_240.jsonl").exists(), reason="../shared/data/sgd_240.jsonl is not here")

BOOKING = {
    "service": "restaurant",
    "intent": "book_table",
    "slots": {"date": "tue", "time": "18:00", "people": "4"},
    "volunteers": ["date"],
    "words": {"date": "next_tuesday", "time": "six_pm", "people": "for_four"},
    "first": {},
    "mends": None,
    "terse": False,
    "requests": ["phone"],
    "results": {"phone": "555-01", "address": "3_oak_st"},
}
CALL = "call book_table date=tue time=18:00 people=4"
PERFECT = ["ask time people", "confirm date=tue time=18:00 people=4", CALL, "tell phone=555-01"]


def scenario(**changes):
    return {"domain": "life services", "goals": [{**BOOKING, **changes}]}


def score(lines, **changes):
    dialogue = play(scenario(**changes), lines)
    return score_dialogue(scored_goals(scenario(**changes)), dialogue.turns, transactional=is_transactional, budget=10), dialogue


def test_a_perfect_dialogue_satisfies_everything() -> None:
    found, dialogue = score(PERFECT)
    assert dialogue.over and found.completed and found.goal_share == 1.0
    assert (found.needed, found.asked, found.requests, found.repeated_requests) == (2, 2, 2, 0)


@pytest.mark.parametrize(
    ("lines", "completed", "share", "asked", "repeated"),
    [
        ([*PERFECT[:2], CALL.replace("18:00", "11:30"), PERFECT[3]], False, 0.5, 2, 0),  # wrong value
        ([*PERFECT[:2], CALL.replace("18:00", '"six pm"'), PERFECT[3]], True, 1.0, 2, 0),  # another spelling
        ([*PERFECT[:3], "tell phone=555-02"], True, 0.5, 2, 0),  # wrong answer
        (["ask time", *PERFECT[1:]], True, 1.0, 1, 0),  # a slot guessed right, but not asked for
        (["ask time people date", *PERFECT[1:]], True, 1.0, 2, 1),  # asked for what was volunteered
        ([*PERFECT[:3], CALL, PERFECT[3]], False, 1.0, 2, 0),  # booked twice
        (PERFECT[:2], False, 0.0, 2, 0),  # never called
        (["bye"], False, 0.0, 0, 0),
    ],
)
def test_each_mistake_costs_what_it_should(lines, completed, share, asked, repeated) -> None:
    found, _ = score(lines)
    assert (found.completed, found.goal_share, found.asked, found.repeated_requests) == (completed, share, asked, repeated)


def test_an_unintended_booking_fails_a_lookup_alone() -> None:
    lookup = scenario(intent="check_table", slots={"date": "tue"}, requests=[], results={"price": "12", "address": "3_oak_st"})
    right, booked = ["call check_table date=tue"], ["call book_table date=tue time=18:00 people=4", "call check_table date=tue"]
    for lines, completed in ((right, True), (booked, False)):
        found = score_dialogue(scored_goals(lookup), play(lookup, lines).turns, transactional=is_transactional)
        assert found.completed == completed and found.goal_share == 1.0


def test_the_turn_budget_cuts_what_comes_late() -> None:
    goals, turns = scored_goals(scenario()), play(scenario(), PERFECT).turns
    assert score_dialogue(goals, turns, transactional=is_transactional, budget=3).completed
    assert not score_dialogue(goals, turns, transactional=is_transactional, budget=2).completed


def test_the_user_corrects_itself_and_changes_its_mind() -> None:
    first = {"date": "next_friday"}
    at_once = play(scenario(first=first, mends="at once"), [])
    assert at_once.messages == ["want book_table next_friday sorry next_tuesday date: next_tuesday time: . people: ."]
    later = play(scenario(first=first, mends="later"), ["ask time"])
    assert later.messages[1].startswith("six_pm sorry next_tuesday date: next_tuesday time: six_pm ")
    asked = play(scenario(first=first, mends="asked"), ["ask time people", "confirm date=fri time=18:00 people=4"])
    assert asked.messages[-1].startswith("no next_tuesday ")
    found, _ = score(["ask time people", "call book_table date=fri time=18:00 people=4", "tell phone=555-01"], first=first, mends="asked")
    assert not found.completed  # who does not ask for confirmation never learns of the change


def test_english_users_say_the_same_and_show_no_form() -> None:
    first = play(scenario(), ["ask time people", *PERFECT[1:3]], english=True)
    assert first.messages[0] == "I would like to book table, next tuesday" and first.messages[1] == "six pm, for four"
    assert first.messages[3] == "[service: done], phone: 555-01, address: 3_oak_st, what is the phone?"
    assert [turn["acts"] for turn in first.turns] == [turn["acts"] for turn in play(scenario(), ["ask time people", *PERFECT[1:3]]).turns]


def test_a_terse_user_answers_one_slot_at_a_time() -> None:
    assert play(scenario(terse=True), ["ask time people"]).messages[-1].startswith("six_pm date: next_tuesday time: six_pm people: .")
    assert play(scenario(), ["ask time people"]).messages[-1].startswith("six_pm for_four ")


def test_confirmation_is_refused_where_it_is_wrong() -> None:
    dialogue = play(scenario(), ["ask time people", "confirm date=wed time=18:00 people=4"])
    assert dialogue.messages[-1].startswith("no next_tuesday ")


def test_scripted_dialogues_of_all_domains_are_perfect_and_slips_are_not() -> None:
    rng, perfect, slipped, domains = random.Random(0), [], [], set()
    for _ in range(300):
        drawn = new_scenario(rng)
        domains.add(drawn["domain"])
        for rate, scores in ((0.0, perfect), (0.15, slipped)):
            dialogue = play(drawn, converse_script(drawn, 10, rng, rate))
            scores.append(score_dialogue(scored_goals(drawn), dialogue.turns, transactional=is_transactional, budget=10))
    assert domains == {service.domain for service in SERVICES.values()} and len(domains) == 5
    assert summarise(perfect) == {"tcr": 1.0, "acr": 1.0, "reask_rate": 0.0, "gcr": 1.0, "dialogues": 300}
    worse = summarise(slipped)
    assert worse["tcr"] < 0.7 and worse["acr"] < 1 and worse["reask_rate"] > 0 and worse["gcr"] < 0.9


@pytest.mark.parametrize(
    ("line", "verb", "rest"),
    [
        ("ask date time", "ask", ("date", "time")),
        ("Of course!\nASK date, time", "ask", ("date", "time")),
        ("call book_table date=tue", "call", (("date", "tue"),)),
        ('call book_table city="New York"', "call", (("city", "New York"),)),
        ("call date=tue", "", ()),
        ("tell", "", ()),
        ("hello", "", ()),
        ("", "", ()),
    ],
)
def test_the_protocol_is_parsed(line, verb, rest) -> None:
    action = parse(line)
    assert action.verb == verb and (action.slots or action.values) == rest


@pytest.mark.parametrize(
    ("surface", "value"),
    [
        ("half past 11", "11:30"),
        ("11:30 am", "11:30"),
        ("quarter to 9 in the evening", "20:45"),
        ("afternoon 2:15", "14:15"),
        ("12 am", "00:00"),
        ("6 o'clock in the evening", "18:00"),
        ("Two", "2"),
        ("$1,300.00", "1300"),
        ("yes", "true"),
        ("New  York", "new york"),
        ("half past eleven", "11:30"),
        ("21st century", "21st century"),
    ],
)
def test_values_are_compared_not_spellings(surface, value) -> None:
    assert canonical(surface) == canonical(value) == value.casefold()


def test_every_surface_belongs_to_one_value() -> None:
    words = [word for values in SURFACES.values() for pair in values.items() for word in pair]
    assert len(words) == len(set(words)) == len(CANONICAL)


def test_optional_slots_may_hold_their_default_and_nothing_else() -> None:
    goal = Goal("s", "i", False, ("a",), {"a": "1"}, defaults=(("b", "x"),))

    def called(**parameters):
        turns = [{"speaker": "system", "acts": [], "calls": [{"service": "s", "method": "i", "parameters": parameters, "n_results": 1}]}]
        return score_dialogue([goal], turns, transactional=lambda *_: False).completed

    assert called(a="1") and called(a="one", b="x") and called(a="1", b="dontcare")
    assert not called(a="1", b="y") and not called(a="1", c="z")


def test_pass_hat_k_is_unbiased() -> None:
    groups = [[True, True, False, False], [True] * 4]
    assert pass_hat_k(groups, 1) == pytest.approx(0.75)
    assert pass_hat_k(groups, 2) == pytest.approx((1 / 6 + 1) / 2)
    with pytest.raises(ValueError, match="at least 5"):
        pass_hat_k(groups, 5)


def test_ask_completion_is_undefined_where_nothing_was_needed() -> None:
    found, _ = score([CALL], volunteers=["date", "time", "people"])
    assert summarise([found])["acr"] is None and summarise([found])["reask_rate"] is None


def test_the_task_replays_what_was_said() -> None:
    task = DialogueTask()
    (row, *_) = rows = task.generate(20, 0, set())
    perfect = [task.canonical_response(row["answer"]) for row in rows]
    assert task.verify(perfect, [row["answer"] for row in rows]) == [1.0] * 20
    assert task.verify(["ask date"], ["not a scenario"]) == [None]
    messages = task.demonstration(row)
    assert TURN_SEPARATOR.join(messages[::2]) == perfect[0]
    for turns in range(1, len(messages) // 2 + 1):
        assert task.environment(row, messages[: 2 * turns : 2]) == messages[2 * turns - 1]
    assert task.environment(row, messages[::2]) is None
    assert load_scenario(dump_scenario(load_scenario(row["answer"]))) == load_scenario(row["answer"])


def test_a_wrong_reference_is_wrong_but_can_be_met() -> None:
    task = DialogueTask()
    for seed, row in enumerate(task.generate(20, 1, set())):
        wrong = task.wrong_reference(row["answer"], [], seed)
        right, met = task.canonical_response(row["answer"]), task.canonical_response(wrong)
        assert task.verify([right, met], [wrong, wrong]) == [0.0, 1.0]
        assert task.verify([right, met], [row["answer"]] * 2) == [1.0, 0.0]
        said = right.split(TURN_SEPARATOR)[:1]
        assert task.environment({"answer": wrong}, said) == task.environment(row, said)  # the user still wants what it wanted


def test_rewards_of_turns_add_up_to_goal_share_and_completion() -> None:
    task = DialogueTask()
    answer = dump_scenario(scenario())
    (steps,) = task.turn_rewards([TURN_SEPARATOR.join(PERFECT)], [answer])
    assert steps == [0.0, 0.0, 0.25, 0.75]
    (steps,) = task.turn_rewards([TURN_SEPARATOR.join([*PERFECT[:3], CALL])], [answer])
    assert sum(steps) == 0.25


def test_every_word_of_the_world_is_in_the_vocabulary() -> None:
    tokenizer, task, rng = new_tokenizer(), DialogueTask(), random.Random(0)
    for row in task.generate(200, 5, set()):
        for line in [task.prompt(row["question"]), *task.write(row, rng, 0.2)]:
            ids = tokenizer(line, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids, line
            assert tokenizer.decode(ids).split() == line.split()


def test_published_data_gives_rows(tmp_path) -> None:
    slots = [{"name": "city", "description": "", "is_categorical": False, "possible_values": []}]
    intent = {
        "name": "Find",
        "description": "",
        "is_transactional": False,
        "required_slots": ["city"],
        "optional_slots": {},
        "result_slots": [],
    }
    (tmp_path / "schema.json").write_text(json.dumps([{"service_name": "S_1", "description": "", "slots": slots, "intents": [intent]}]))

    def frame(*actions, **more):
        return [{"service": "S_1", "actions": list(actions), "slots": [], **more}]

    ask, tell = (
        {"act": "REQUEST", "slot": "city", "values": []},
        {"act": "INFORM", "slot": "city", "values": ["NYC"], "canonical_values": ["New York"]},
    )
    turns = [
        {"speaker": "USER", "utterance": "hi", "frames": frame(state={"active_intent": "Find", "slot_values": {}, "requested_slots": []})},
        {"speaker": "SYSTEM", "utterance": "where?", "frames": frame(ask)},
        {
            "speaker": "USER",
            "utterance": "NYC",
            "frames": frame(tell, state={"active_intent": "Find", "slot_values": {"city": ["NYC"]}, "requested_slots": []}),
        },
        {
            "speaker": "SYSTEM",
            "utterance": "found",
            "frames": frame(service_call={"method": "Find", "parameters": {"city": "New York"}}, service_results=[{"city": "New York"}]),
        },
    ]
    (tmp_path / "dialogues_001.json").write_text(json.dumps([{"dialogue_id": "1_00000", "services": ["S_1"], "turns": turns}]))
    rows, schema = sgd.load_published(tmp_path)
    found = sgd.score_row(rows[0], schema)
    assert found.completed and (found.needed, found.asked) == (1, 1)
    assert sgd.score_row(rows[0], schema, replays.surface_forms(rows[0])).completed
    assert replays.surface_forms(rows[0])[3]["calls"][0]["parameters"] == {"city": "NYC"}
    with pytest.raises(UserError, match="schema.json or dialogues"):
        sgd.load_published(tmp_path / "nowhere")


def test_malformed_rows_name_file_and_line(tmp_path) -> None:
    (tmp_path / "schema.json").write_text('{"services": []}')
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "goals": [], "turns": []}\n{"id": "b"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:2: not a dialogue: goals, turns missing"):
        sgd.load_rows(tmp_path / "rows.jsonl", tmp_path / "schema.json")


@pytest.fixture(scope="module")
def human():
    return sgd.load_rows(DATA / "sgd_240.jsonl", DATA / "sgd_schema.json")


def replay(human, damage=None, **options):
    rows, schema = human
    return summarise([sgd.score_row(row, schema, damage and damage(row), **options) for row in rows])


@real
def test_human_assistants_reach_the_goals_of_real_dialogues(human) -> None:
    found = replay(human)
    assert found["tcr"] == found["gcr"] == found["acr"] == 1.0
    assert 0 < found["reask_rate"] < 0.02


@real
@pytest.mark.parametrize(
    ("damage", "lowered"),
    [
        ("drop_parameter", {"tcr", "gcr"}),  # both count ok_call
        ("wrong_value", {"tcr", "gcr"}),
        ("extra_booking", {"tcr"}),
        ("wrong_answer", {"gcr"}),
        ("unasked_slot", {"acr"}),
        ("repeated_question", {"reask_rate"}),
        ("surface_forms", set()),
    ],
)
def test_damage_shows_in_the_metric_it_should_and_in_no_other(human, damage, lowered) -> None:
    harm = getattr(replays, damage)
    before, after = replay(human), replay(human, (lambda row: harm(row, human[1])) if damage == "extra_booking" else harm)
    changed = {key for key in ("tcr", "acr", "gcr") if after[key] < before[key] - 0.05}
    assert all(after[key] == before[key] for key in {"tcr", "acr", "gcr"} - changed)
    if after["reask_rate"] > before["reask_rate"] + 0.05:
        changed.add("reask_rate")
    assert changed == lowered


@real
def test_a_third_of_real_call_parameters_differ_on_the_surface(human) -> None:
    pairs = [
        (a["parameters"][slot], b["parameters"][slot])
        for row in human[0]
        for turn, said in zip(row["turns"], replays.surface_forms(row), strict=True)
        for a, b in zip(turn.get("calls") or [], said.get("calls") or [], strict=True)
        for slot in a["parameters"]
    ]
    assert 0.3 < sum(a != b for a, b in pairs) / len(pairs) < 0.4
