"""A run stopped anywhere goes on to the same end, from a checkpoint that is what it claims to be."""

import copy
import json
import os
from types import SimpleNamespace

import pytest
import torch
from tiny import assert_same, count_digits, timeless, tiny_policy, trainer, weights

from vrpo import files
from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError
from vrpo.models.loading import load_causal_lm, load_tokenizer, save_model
from vrpo.training import checkpoint
from vrpo.training.checkpoint import load_checkpoint, save_checkpoint


def killed(run, saves: int):
    """Run until the checkpoint has been written `saves` times."""
    save, count = run.save, 0

    def counted() -> None:
        nonlocal count
        save()
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    run.save = counted
    with pytest.raises(KeyboardInterrupt):
        run.run()


def count_steps(run) -> list[int]:
    """Fills with the iteration of every optimiser step."""
    steps, step = [], run.updater.step

    def counted(batch, iteration, *passes):
        steps.append(iteration)
        return step(batch, iteration, *passes)

    run.updater.step = counted
    return steps


@pytest.mark.parametrize("method", ["ppo", "vrpo"])
def test_a_kill_in_the_value_warm_up_loses_one_pass_at_most_and_no_bit(tokenizer, problems, tmp_path, method: str) -> None:
    changes, asked = {"critic": {"warmup_epochs": 3, "gae_lambda": 0.9, "clip_range": 0.5}}, []

    def reward(prompts, responses, **columns):
        asked.append(columns["step"])
        return count_digits(prompts, responses)

    unbroken = trainer(tokenizer, problems, method, changes=changes)
    log = unbroken.run()
    for saves in (1, 2, 4):  # after the rollouts, after the first pass, after the last
        path = tmp_path / f"{saves}.safetensors"
        killed(trainer(tokenizer, problems, method, changes=changes, checkpoint=path, reward=reward), saves)
        assert asked == [0]
        asked.clear()
        resumed = trainer(tokenizer, problems, method, changes=changes, checkpoint=path, reward=reward)
        steps = count_steps(resumed)
        assert timeless(resumed.run()) == timeless(log)
        assert_same(weights(resumed), weights(unbroken))
        assert steps.count(0) == 2 * (4 - saves)  # two a pass; those that were done are not done again
        assert asked.count(0) == 2  # validation and Monte Carlo; the rollouts are not scored again
        asked.clear()


def test_passes_that_were_kept_through_a_kill_do_not_lose_their_seconds(tokenizer, problems, tmp_path, monkeypatch) -> None:
    """By a clock that moves at optimiser steps alone, one second each."""
    now = [0.0]
    monkeypatch.setattr("vrpo.timing.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(**options):
        run = trainer(tokenizer, problems, "ppo", changes={"critic": {"warmup_epochs": 3}}, **options)
        step = run.updater.step

        def counted(*arguments):
            now[0] += 1.0
            return step(*arguments)

        run.updater.step = counted
        return run

    unbroken = slow()
    unbroken.run()
    for saves in (1, 2, 3, 4, 5):  # after the rollouts, after each pass, after the warm-up
        killed(slow(checkpoint=tmp_path / f"{saves}"), saves)
        resumed = slow(checkpoint=tmp_path / f"{saves}")
        resumed.run()
        assert resumed.timer.seconds["update"] == pytest.approx(unbroken.timer.seconds["update"]), saves


def test_settings_of_memory_may_change_between_kill_and_resumption(tokenizer, problems, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    log = trainer(tokenizer, problems, "vrpo").run()
    killed(trainer(tokenizer, problems, "vrpo", checkpoint=path), 3)
    changes = {"micro_batch_size": 3, "gradient_checkpointing": True, "checkpoint_every": 2}
    resumed = trainer(tokenizer, problems, "vrpo", changes=changes, batch_size=5, checkpoint=path)
    seen: list = []
    resumed.on_resume = seen.extend
    for one, other in zip(resumed.run(), log, strict=True):
        assert timeless([one])[0] == pytest.approx(timeless([other])[0], rel=1e-3, abs=1e-4)
    assert len(seen) == 1


def test_one_flipped_bit_anywhere_in_a_checkpoint_is_found(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"a": torch.arange(4.0), "b/0": torch.tensor(3)}, {"fingerprint": {"seed": 0}, "log": []})
    whole = path.read_bytes()
    assert load_checkpoint(path, {"seed": 0})[0]["a"].tolist() == [0, 1, 2, 3]
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            tensors, meta = load_checkpoint(path, {"seed": 0})
        except UserError as error:
            assert "state.safetensors" in str(error) and "delete" in str(error)
        else:  # blanks that pad the header say nothing
            assert tensors["a"].tolist() == [0, 1, 2, 3] and meta["log"] == [] and whole[place : place + 1] == b" "
    path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match="broken checkpoint"):
        load_checkpoint(path, {"seed": 0})


def test_a_flipped_bit_in_the_weights_does_not_train_on_to_another_model(tokenizer, problems, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    killed(trainer(tokenizer, problems, "ppo", checkpoint=path), 3)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="state.safetensors: broken checkpoint.*delete it to train from the start"):
        trainer(tokenizer, problems, "ppo", checkpoint=path).run()


def test_a_checkpoint_of_an_older_version_is_refused_by_name(tokenizer, problems, tmp_path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    run = trainer(tokenizer, problems, "ppo")
    meta = {"fingerprint": run.fingerprint, "iteration": 0, "log": []}
    save_file({"a": torch.zeros(1)}, path, metadata={"meta": json.dumps(meta)})
    with pytest.raises(UserError, match="written by another version of this code"):
        trainer(tokenizer, problems, "ppo", checkpoint=path).run()


def test_a_resumption_by_other_code_is_said(tokenizer, problems, tmp_path, monkeypatch, caplog) -> None:
    path = tmp_path / "state.safetensors"
    killed(trainer(tokenizer, problems, "grpo", checkpoint=path), 2)
    trainer(tokenizer, problems, "grpo", checkpoint=path).resume()
    assert "mixture" not in caplog.text
    monkeypatch.setattr("vrpo.training.trainer.code_digest", lambda: "other")
    trainer(tokenizer, problems, "grpo", checkpoint=path).resume()
    assert "written by other code than goes on now" in caplog.text


def test_a_checkpoint_of_another_precision_or_tokenizer_is_refused(tokenizer, problems, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    killed(trainer(tokenizer, problems, "grpo", checkpoint=path), 2)
    with pytest.raises(UserError, match="precision was 'float32', now 'bfloat16'"):
        trainer(tokenizer, problems, "grpo", checkpoint=path, precision="bfloat16").run()
    other = copy.deepcopy(tokenizer)
    other.add_tokens([problems[0]["prompt"][:2]])
    with pytest.raises(UserError, match="tokens was"):
        trainer(other, problems, "grpo", checkpoint=path).run()


def test_two_trainers_never_share_a_checkpoint(tokenizer, problems, tmp_path) -> None:
    path, second = tmp_path / "state.safetensors", []

    def start_another(row) -> None:
        with pytest.raises(UserError, match=f"process {os.getpid()} trains on this checkpoint"):
            trainer(tokenizer, problems, "grpo", checkpoint=path).run()
        second.append(row)

    trainer(tokenizer, problems, "grpo", checkpoint=path, on_log=start_another).run()
    assert len(second) == 4 and sorted(file.name for file in tmp_path.iterdir()) == [path.name]
    trainer(tokenizer, problems, "grpo", checkpoint=path).run()  # free again


def test_a_checkpoint_that_cannot_be_written_stops_before_any_work(tokenizer, problems, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")

    def reward(prompts, responses, **columns):
        raise AssertionError("work began")

    with pytest.raises(UserError, match="file: cannot be written to"):
        trainer(tokenizer, problems, "grpo", checkpoint=tmp_path / "file/state.safetensors", reward=reward).run()


def test_checkpoints_whose_names_differ_in_a_number_do_not_share_a_partial_file(tmp_path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr("safetensors.torch.save_file", lambda tensors, path, metadata: (written.append(path.name), path.write_bytes(b"")))
    for name in ("run.0", "run.1"):
        save_checkpoint(tmp_path / name, {}, {})
    assert len(set(written)) == 2


def test_a_linked_checkpoint_stays_a_link(tmp_path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "big/state")
    checkpoint.save_checkpoint(tmp_path / "state", {"a": torch.zeros(1)}, {"fingerprint": {}})
    assert (tmp_path / "state").is_symlink() and (tmp_path / "big/state").is_file()


def test_a_lock_is_passed_on_and_vanishes(tmp_path) -> None:
    told = []
    with files.hold(tmp_path / "lock", told.append):
        pass
    (tmp_path / "lock").write_text("99")  # left by a killed process, whose lock ended with it
    with files.hold(tmp_path / "lock", told.append):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
    assert told == [] and not (tmp_path / "lock").exists()


def test_a_model_is_found_after_a_kill_between_the_renames(policy, tokenizer, tmp_path) -> None:
    save_model(policy, tokenizer, tmp_path / "policy")
    (tmp_path / "policy").rename(tmp_path / ".policy.old")
    assert_same(load_causal_lm(tmp_path / "policy").state_dict(), policy.state_dict())
    assert load_tokenizer(tmp_path / "policy").get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("kinds", [("file", "folder"), ("folder", "file"), ("folder", "folder")])
def test_a_checkpoint_takes_the_place_of_another_of_either_kind(tmp_path, kinds: tuple[str, str], monkeypatch) -> None:
    """And until it has, `present` finds the old one."""

    def write(path, kind: str, text: str):
        (path / "content" if kind == "folder" else path).parent.mkdir(exist_ok=True)
        (path / "content" if kind == "folder" else path).write_text(text)
        return path

    def read(path) -> str:
        return (path / "content" if path.is_dir() else path).read_text()

    path, partial = (write(tmp_path / name, kind, name) for name, kind in zip(("state", "partial"), kinds, strict=True))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        files.take_place(partial, path)
    assert not path.exists() and read(files.present(path)) == "state"
    files.take_place(partial, path)
    assert read(files.present(path)) == "partial" and [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_value_model_half_written_leaves_the_earlier_one_whole(policy, tmp_path, monkeypatch) -> None:
    critic = ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=0)
    critic.save_pretrained(tmp_path / "value")
    other = ValueModel.from_policy(tiny_policy_of(policy, 7), shared=False, depth=1, latent_size=4, seed=1)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("safetensors.torch.save_file", full)
        other.save_pretrained(tmp_path / "value")
    assert_same(ValueModel.from_pretrained(tmp_path / "value").state_dict(), critic.state_dict())
    assert [folder.name for folder in tmp_path.iterdir()] == ["value"]


def tiny_policy_of(policy, seed: int):
    torch.manual_seed(seed)
    return type(policy)(policy.config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded_nor_trained(tokenizer, problems, tmp_path, value: float) -> None:
    policy = tiny_policy(tokenizer)
    critic = ValueModel.from_policy(policy, shared=False, depth=0, latent_size=1, seed=0)
    policy.save_pretrained(tmp_path / "good")
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight[0, 0] = value
        critic.head.decoder[0].bias[1] = value
    with pytest.raises(
        UserError, match="policy: the model to be saved has 1 weights that are not finite in model.layers.0.mlp.up_proj.weight"
    ):
        save_model(policy, tokenizer, tmp_path / "policy")
    with pytest.raises(UserError, match="the value model to be saved has 1 weights that are not finite in head.decoder.0.bias"):
        critic.save_pretrained(tmp_path / "value")
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match="policy: the model has 1 weights that are not finite"):
        load_causal_lm(tmp_path / "policy")
    run = trainer(tokenizer, problems, "ppo")
    with pytest.raises(UserError, match="the policy has 1 weights that are not finite"):
        type(run)(run.config, policy, tokenizer, problems, count_digits)
    assert not (tmp_path / "value").exists()


def test_garbage_in_a_model_folder_is_named_with_the_cure(policy, tokenizer, tmp_path) -> None:
    save_model(policy, tokenizer, tmp_path / "policy")
    ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=0).save_pretrained(tmp_path / "value")
    loaders = {
        "policy/model.safetensors": load_causal_lm,
        "policy/config.json": load_causal_lm,
        "policy/tokenizer.json": load_tokenizer,
        "value/value_head.json": ValueModel.from_pretrained,
        "value/value_head.safetensors": ValueModel.from_pretrained,
        "value/backbone/model.safetensors": ValueModel.from_pretrained,
    }
    for name, load in loaders.items():
        file = tmp_path / name
        whole = file.read_bytes()
        for garbage in (b"garbage\n", b"\xfe\x00" * 40, b"", b"{}", b"[1]", whole[: len(whole) // 2]):
            file.write_bytes(garbage)
            with pytest.raises(UserError, match=f"{name.split('/')[0]}: .*(again by `dvc repro`|copy the model again|do not cover)"):
                load(tmp_path / name.split("/")[0])
        file.write_bytes(whole)
        load(tmp_path / name.split("/")[0])
