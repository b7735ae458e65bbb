"""The sampler in a process of its own, against an engine that speaks vLLM's part; the last test is against vLLM itself, after `make vllm`."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from tiny import assert_same, config, count_digits, timeless, tiny_policy, weights

from vrpo.config import GenerationConfig, LoRAConfig
from vrpo.data.text import encode
from vrpo.errors import UserError
from vrpo.models.forward import read_logprobs
from vrpo.models.loading import new_llama
from vrpo.models.lora import add_lora, without_lora
from vrpo.rollout import process
from vrpo.rollout.conversation import converse
from vrpo.rollout.engines import vllm
from vrpo.rollout.sampler import new_sampler
from vrpo.training.trainer import Trainer

FAKE = Path(__file__).with_name("fake_engine.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "WORKER", FAKE)
    monkeypatch.setenv("VRPO_VLLM_PYTHON", sys.executable)


def settings(**wrong) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=8, engine="vllm", engine_settings=wrong or None)


@pytest.fixture
def make(tokenizer):
    """Samplers of the tiny policy whose engines end with the test."""
    made = []

    def new(model=None, **wrong):
        made.append(new_sampler(model or tiny_policy(tokenizer), tokenizer, settings(**wrong)))
        return made[-1]

    yield new
    for sampler in made:
        sampler.close()


@pytest.fixture
def light(make, monkeypatch):
    """The same with an engine that starts at once and has no model, so that it can prove nothing."""
    monkeypatch.setitem(vllm.PROBE_NATS, "float32", 1e9)
    return lambda **wrong: make(light=True, **wrong)


@pytest.fixture(scope="module")
def healthy(tokenizer):
    """One engine with a model for the tests that leave it alive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VRPO_VLLM_PYTHON", sys.executable)
        sampler = new_sampler(tiny_policy(tokenizer), tokenizer, settings())
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return encode(tokenizer, ["1+2.:", "3.:", "4-5*6.:", "7+8.:"] * 3)


def change(model) -> list[tuple[str, torch.Tensor]]:
    """Other weights, as a step would leave them."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return list(model.state_dict().items())


def ended(pid: int, seconds: float = 60) -> bool:
    """Whether a process is gone, at the latest after a while."""
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_samples_are_the_policys_whatever_stands_beside_them_and_follow_its_weights(healthy, prompts) -> None:
    sampler = healthy
    whole = sampler.sample(prompts, seed=3)
    assert sampler.exact_logprobs is False and whole.lengths.min() >= 1 and len(set(whole.lengths.tolist())) > 1
    assert (whole.logprobs - read_logprobs(sampler.model, whole, 1.0, 12)).abs().max() < 1e-5
    part = sampler.sample(prompts[2:4], seed=3, places=[2, 3], limits=[3, 8])
    length = int(whole.lengths[2])
    assert part.responses[0, : min(length, 3)].tolist() == whole.responses[2, : min(length, 3)].tolist() and part.lengths[0] <= 3
    assert part.responses[1, : part.lengths[1]].tolist() == whole.responses[3, : whole.lengths[3]].tolist()
    assert not torch.equal(sampler.sample(prompts, seed=4).responses, whole.responses)
    pid, changed = sampler.engine.process.pid, change(sampler.model)
    sampler.update(changed, 7)
    new = sampler.sample(prompts, seed=3)
    assert sampler.engine.process.pid == pid and sampler.loaded == 7  # the same engine, with other weights
    assert (new.logprobs - read_logprobs(sampler.model, new, 1.0, 8)).abs().max() < 1e-5
    assert not torch.equal(new.responses, whole.responses)
    sampler.update(iter([]), 7)  # a known version is not read
    assert torch.equal(sampler.sample(prompts, seed=3).responses, new.responses)


def test_an_engine_that_is_killed_is_started_again_and_samples_the_same(light, prompts, caplog) -> None:
    sampler = light(slow=2)
    first = sampler.sample(prompts, seed=3)
    sampler.update(change(sampler.model), 1)
    wanted = sampler.sample(prompts, seed=3)
    pid = sampler.engine.process.pid
    os.kill(pid, signal.SIGKILL)
    again = sampler.sample(prompts, seed=3)
    assert torch.equal(again.responses, wanted.responses) and torch.equal(again.logprobs, wanted.logprobs)
    assert not torch.equal(again.responses, first.responses)
    assert "died (killed by signal 9" in caplog.text and "weights of version 1" in caplog.text
    pid = sampler.engine.process.pid
    sampler.close()
    assert ended(pid) and torch.equal(sampler.sample(prompts, seed=3).responses, wanted.responses)  # taken up again


def run(tokenizer, problems, checkpoint=None, **wrong) -> Trainer:
    options = {"method": "grpo", "generation": settings(**wrong), "validation": problems[:4], "checkpoint": checkpoint}
    return Trainer(config(rollouts=48, measure_every=3), tiny_policy(tokenizer), tokenizer, problems, count_digits, **options)


def test_a_run_pushes_its_weights_and_logs_how_far_the_engine_is_from_them(tokenizer, problems) -> None:
    whole, versions = run(tokenizer, problems), []
    load = whole.collector.sampler._load
    whole.collector.sampler._load = lambda: load() or versions.append(whole.collector.sampler.loaded)
    log = whole.run()
    assert whole.collector.sampler.engine is None  # it has ended with the run
    assert versions == [0, 2, 4, 6] and [row["iteration"] for row in log] == [0, 1, 2, 3]
    for row in log[1:]:
        assert 0 < row["rollout/engine_mismatch"] <= row["rollout/engine_mismatch_max"] < 1e-5


def test_a_run_whose_engine_dies_twice_stops_by_name_and_goes_on_from_its_checkpoint(
    tokenizer, problems, light, tmp_path, monkeypatch
) -> None:
    whole, pids = run(tokenizer, problems, light=True), []
    log = whole.run()
    start = vllm.VLLMSampler._start
    monkeypatch.setattr(vllm.VLLMSampler, "_start", lambda self: pids.append(start(self)) or pids[-1])
    dies = run(tokenizer, problems, tmp_path / "state", light=True, die=[2, 5, 6])
    with pytest.raises(UserError, match=r"the engine died again after it was started anew \(killed by signal 9.*checkpoint is kept"):
        dies.run()
    assert len(pids) == 3 and all(ended(engine.process.pid) for engine in pids)
    assert dies.iteration == 2  # the first death cost nothing
    resumed = run(tokenizer, problems, tmp_path / "state", light=True, die=[2, 5, 6])
    monkeypatch.setattr(vllm.VLLMSampler, "_start", start)
    resumed.collector.sampler.generation = settings(light=True)
    assert timeless(resumed.run()) == timeless(log)
    assert_same(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("stale", "said"),
    {"told": r"has weights of version 0, the policy is at 1: stale", "hidden": r"nats from the model's own.*float32.*half loaded"}.items(),
)
def test_an_engine_that_has_kept_its_weights_is_stale(make, prompts, stale, said, monkeypatch) -> None:
    if stale == "told":
        monkeypatch.setitem(vllm.PROBE_NATS, "float32", 1e9)
    sampler = make(stale=stale, light=stale == "told")
    sampler.sample(prompts, seed=3)
    pid = sampler.engine.process.pid
    sampler.update(change(sampler.model), 1)
    with pytest.raises(UserError, match=said):
        sampler.sample(prompts, seed=3)
    assert ended(pid)


@pytest.mark.parametrize(
    ("wrong", "said"),
    {
        "malformed": r"it answered '\[\"no\", \"samples\"\]', which is no JSON object",
        "count": "they are 11 responses to 12 prompts",
        "lengths": "not one log-probability a token",
        "vocabulary": r"token \d+ is outside of the vocabulary of \d+",
        "nan": "a log-probability is not finite",
        "cut": "ends neither at an end-of-text token nor at its limit",
        "version": "of weights of version -1, the policy is at 0",
    }.items(),
)
def test_wrong_answers_are_errors_by_name(light, prompts, wrong, said) -> None:
    sampler = light(wrong=wrong)
    with pytest.raises(UserError, match=f"^generation.engine: .*{said}"):
        sampler.sample(prompts, seed=3)
    assert sampler.engine is None


def test_an_engine_that_does_not_start_says_why(make, prompts) -> None:
    with pytest.raises(
        UserError, match=r"the engine does not start \(exit code 1; its log ends: TypeError: unexpected settings \['memory'\]"
    ):
        make(light=True, memory=1).sample(prompts, seed=3)


def test_an_engine_that_says_nothing_counts_as_dead_and_an_interrupt_leaves_no_answer_behind(light, prompts, monkeypatch) -> None:
    sampler = light(hang=2)
    first = sampler.sample(prompts, seed=3)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            sampler.sample(prompts, seed=4)
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.equal(sampler.sample(prompts, seed=3).responses, first.responses)
    monkeypatch.setattr(process, "SILENT_SECONDS", 1.0)
    with pytest.raises(process.EngineDied, match=r"silent for 1 seconds; its log ends: hangs"):
        sampler.engine.ask("sample", prompts, [1] * 12, [8] * 12, 1.0, sampler.ends)


@pytest.mark.parametrize("busy", [False, True])
def test_the_engine_does_not_survive_a_trainer_that_is_killed(busy, tmp_path) -> None:
    script = f"""
import sys, time
sys.path[:0] = {[str(ROOT), str(FAKE.parent)]!r}
from tiny import tiny_policy
from test_vllm import settings
from vrpo.rollout.engines import vllm
from vrpo.tasks.math.chain import new_tokenizer
from pathlib import Path
vllm.WORKER, tokenizer = Path({str(FAKE)!r}), new_tokenizer()
vllm.PROBE_NATS["float32"] = 1e9
sampler = vllm.VLLMSampler(tiny_policy(tokenizer), tokenizer, settings(light=True, hang=2))
sampler.sample([[1, 2]], seed=0)
print(sampler.engine.process.pid, sampler.folder.name, flush=True)
sampler.sample([[1, 2]], seed=0) if {busy} else time.sleep(600)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    pid, folder = parent.stdout.readline().split()
    assert psutil.pid_exists(int(pid)) and (Path(folder) / "model.safetensors").is_file()
    parent.kill()
    parent.wait()
    assert ended(int(pid)) and not Path(folder).exists()


def test_without_its_environment_the_engine_is_refused_with_the_cure(tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("VRPO_VLLM_PYTHON", "/nowhere/python")
    with pytest.raises(UserError, match=r"there is no /nowhere/python; run `make vllm`"):
        new_sampler(tiny_policy(tokenizer), tokenizer, settings())
    monkeypatch.delenv("VRPO_VLLM_PYTHON")
    monkeypatch.setattr(sys, "prefix", "/project/.venv")
    with pytest.raises(UserError, match="there is no /project/.venv-vllm/bin/python"):
        new_sampler(tiny_policy(tokenizer), tokenizer, settings())


def test_temperatures_and_lengths_that_vllm_would_change_are_refused(tokenizer, make, prompts) -> None:
    with pytest.raises(UserError, match=r"generation.temperature = 0.001: vLLM samples at 0.01 or more"):
        new_sampler(tiny_policy(tokenizer), tokenizer, settings().model_copy(update={"temperature": 0.001}))
    with pytest.raises(UserError, match=r"may have 68 tokens, the model 64 positions \(config.max_position_embeddings\)"):
        make().sample([[1] * 60], seed=0)


def test_adapters_are_folded_in_and_a_head_that_they_untie_is_sent(tokenizer, make, prompts) -> None:
    policy = add_lora(tiny_policy(tokenizer), LoRAConfig(rank=2, target_modules=["q_proj", "lm_head"]), 0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    sampler = make(policy)
    sampler.update(without_lora(policy).state_dict().items(), 1)
    found = sampler.sample(prompts, seed=3)
    assert (found.logprobs - read_logprobs(policy, found, 1.0, 8)).abs().max() < 1e-5


def test_in_half_precision_the_engine_computes_in_it_too(make, prompts) -> None:
    sampler = make()
    with torch.autocast("cpu", torch.bfloat16):
        found = sampler.sample(prompts, seed=3)
    assert sampler.dtype == "bfloat16"
    apart = (found.logprobs - read_logprobs(sampler.model, found, 1.0, 8)).abs().max()
    assert 1e-3 < apart < 0.5


def test_turns_of_a_dialogue_keep_to_their_limits(healthy, prompts, tokenizer) -> None:
    sampler = healthy
    begun = [([3, 4, 5], [True, True, True]), ([], [])]
    found = converse(sampler, prompts[:2], seed=3, prefixes=begun)
    assert found.responses[0, :3].tolist() == [3, 4, 5] and found.lengths.max() <= 8
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
    try:
        talk = converse(sampler, prompts, lambda row, turns: "1+" if len(turns) < 2 else None, seed=3)
        alone = converse(sampler, prompts[1:2], lambda row, turns: "1+" if len(turns) < 2 else None, seed=3, places=[1])
    finally:
        tokenizer.chat_template = None
    assert talk.environment_mask.any() and talk.responses[1][talk.written[1]].tolist() == alone.responses[0][alone.written[0]].tolist()
    read = read_logprobs(sampler.model, talk, 1.0, 8)
    assert (talk.logprobs - read)[talk.response_mask].abs().max() < 1e-5


def test_processes_with_an_engine_each_sample_what_one_does(tokenizer, problems, light, monkeypatch) -> None:
    alone, rows = run(tokenizer, problems, light=True), problems[:5]
    whole = alone.sample(rows, seed=3)
    parts = []
    for mine in (slice(0, 2), slice(2, 5)):
        monkeypatch.setattr(alone.processes, "share", lambda size, mine=mine: mine)
        parts.append(alone.sample(rows, seed=3))
    assert [len(part) for part in parts] == [2, 3]
    for part, mine in zip(parts, (slice(0, 2), slice(2, 5)), strict=True):
        width = part.responses.shape[1]
        assert torch.equal(part.responses, whole.responses[mine, :width]) and torch.equal(
            part.response_mask, whole.response_mask[mine, :width]
        )


def test_an_engines_process_is_on_its_trainers_device_and_knows_nothing_of_its_launcher(monkeypatch) -> None:
    for name in ("RANK", "MASTER_PORT", "PYTHONPATH"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    found = vllm._environment("/there/bin/python", "/folder", torch.device("cuda:1"))
    assert found["CUDA_VISIBLE_DEVICES"] == "6" and found["PATH"].startswith("/there/bin:") and not {"RANK", "PYTHONPATH"} & found.keys()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert vllm._environment("python", "/folder", torch.device("cuda:1"))["CUDA_VISIBLE_DEVICES"] == "1"
    assert vllm._environment("python", "/folder", torch.device("cpu"))["OMP_NUM_THREADS"] == str(torch.get_num_threads())


def test_settings_of_an_engine_are_refused_where_it_has_none_and_change_no_name_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="the engine transformers has none"):
        GenerationConfig(engine_settings={"dtype": "float32"})
    assert "engine_settings" not in GenerationConfig().model_dump() and "engine_settings" in settings(slow=1).model_dump()


@pytest.mark.skipif(not os.environ.get("VRPO_TEST_VLLM"), reason="VRPO_TEST_VLLM is not set to a Python that has vLLM (`make vllm`)")
def test_vllm_itself_is_the_policy_in_float32(make, prompts, tokenizer, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("VRPO_VLLM_PYTHON", os.environ["VRPO_TEST_VLLM"])
    sampler = make(new_llama(tokenizer, 64, 1, 2, 0))  # heads of at least 32 on a CPU
    whole = sampler.sample(prompts, seed=3)
    assert (whole.logprobs - read_logprobs(sampler.model, whole, 1.0, 12)).abs().max() < 1e-4
    part = sampler.sample(prompts[2:4], seed=3, places=[2, 3])
    assert [row[mask].tolist() for row, mask in zip(part.responses, part.response_mask, strict=True)] == [
        row[mask].tolist() for row, mask in zip(whole.responses[2:4], whole.response_mask[2:4], strict=True)
    ]
    sampler.update(change(sampler.model), 1)
    new = sampler.sample(prompts, seed=3)
    assert sampler.loaded == 1 and (new.logprobs - read_logprobs(sampler.model, new, 1.0, 8)).abs().max() < 1e-4
    assert not torch.equal(new.responses, whole.responses)
    pid = sampler.engine.process.pid
    os.kill(pid, signal.SIGKILL)
    assert torch.equal(sampler.sample(prompts, seed=3).responses, new.responses) and sampler.engine.process.pid != pid
