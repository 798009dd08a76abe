"""The curricula's cycles: what is played, what is learned from, what enters the buffer; runs of the command line."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_runner import main

from agents.level_replay import EditReplay, EditReplayConfig, LevelReplay, edited
from agents.ppo import PPOConfig
from envs.cave.space import CaveEscape
from rlreg.checkpoint import Checkpoints
from rlreg.levels import LevelsConfig
from rlreg.regularizers import Regularizer

METHODS = ("uniform", "plr", "dr", "robust_plr", "accel", "accel_d", "el_dred", "vae_dred")
TINY = [
    "env=cave_escape",
    "env.count=12",
    "env.evaluate_count=6",
    "env.max_episode_steps=40",
    "env.evaluate_on=[cave_escape_512_4ts_varp:test,cave_escape_112_14ts_varp:test]",
    "agent.student={hidden_dim: 8, filters: 2, head_dim: 4, num_worlds: 4, rollout_length: 48, epochs: 1}",
    "agent.information={every: 2, num_worlds: 2, length: 16}",
    "train.total_steps=4",
    "train.checkpoint_every=2",
    "train.log_every=1",
    "eval.every=2",
    "threads=1",
]
OF = {
    "robust_plr": ["agent.levels.capacity=16"],
    "accel": ["agent.levels.capacity=16"],
    "vae_dred": [
        "agent.pairs=2",
        "agent.interpolations=2",
        "agent.model={latent: 8, hidden: 16, epochs: 2, batch_size: 4}",
    ],
}


@pytest.fixture(scope="module")
def space():
    return CaveEscape("cave_escape_512_4ts_varp", 12, ["cave_escape_512_4ts_varp:test"], 4, max_episode_steps=40)


def curriculum(space, method=EditReplay, seeds=(0, 1), **levels):
    student = PPOConfig(hidden_dim=8, filters=2, head_dim=4, num_worlds=5, rollout_length=48, epochs=1)
    config = EditReplayConfig(student=student, levels=LevelsConfig(**({"capacity": 20} | levels), dataset_levels=12))
    made = method(config, Regularizer(), 75, 7, seeds)
    made.attach(space, 10)
    return made


def params_of(made):
    return {name: p.clone() for name, p in made.student.params.items()}


def test_the_warm_up_sees_every_level_and_learns_nothing(space):
    made = curriculum(space)
    before = params_of(made)
    assert made.warm_up == 3  # 12 levels, 5 worlds
    assert [made.cycle() for _ in range(3)] == [None] * 3
    assert made.buffer.scores.valid[:, :12].all() and not made.buffer.scores.valid[:, 12:].any()
    assert (made.buffer.scores.value_l1[:, :12] > 0).all()
    assert all(torch.equal(p, before[name]) for name, p in made.student.params.items())
    assert made.cycle() is not None
    assert not torch.equal(made.student.params["policy.0.weight"], before["policy.0.weight"])
    assert made.env_steps == (3 + 2) * 5 * 48  # the cycle after the warm-up plays twice


def test_the_paper_s_warm_up_is_15_cycles():
    full = CaveEscape("cave_escape_512_4ts_varp", None, ["cave_escape_512_4ts_varp:test"], 4)
    made = EditReplay(EditReplayConfig(), Regularizer(), 75, 7, (0,))
    made.attach(full, 28_739)
    assert (len(full.dataset), made.warm_up, made.num_cycles) == (512, 15, 28_754)
    assert made.buffer.config.capacity == 4000


def test_episodes_are_scored_on_the_levels_they_were_on(space):
    """Every score in the buffer is that of the last finished episode on its level, world by world."""
    made = curriculum(space, LevelReplay)
    for _ in range(made.warm_up):
        made.cycle()
    rollout = made.replay()
    advantage = made.student.advantage(rollout)
    for s in range(2):
        last = {}
        for t in range(48):
            for n in range(5):
                if rollout.done[s, t, n]:
                    begun = max(u for u in range(t + 1) if rollout.start[s, u, n])
                    last[int(rollout.level[s, t, n])] = advantage[s, begun : t + 1, n].abs().mean()
        assert last
        for level, score in last.items():
            torch.testing.assert_close(made.buffer.scores.value_l1[s, level], score)


def test_edits_are_of_the_levels_with_the_lowest_return_less_value_loss(space):
    made = curriculum(space)
    for _ in range(4):
        made.cycle()
    made.config.edits.num_parents = 2
    rollout = made.replay()
    seen = {}

    class Spy:
        def edit(self, levels, *_):
            seen["levels"] = levels
            return levels

    made.space = Spy()
    edited(made, rollout)
    advantage = made.student.advantage(rollout)
    for s in range(2):
        rank = []
        for n in range(5):
            returns, total = [], 0.0
            for t in range(48):
                total += rollout.reward[s, t, n].item()
                if rollout.done[s, t, n]:
                    returns.append(total)
                    total = 0.0
            rank.append((sum(returns) / max(1, len(returns)) - advantage[s, :, n].abs().mean().clamp_max(1).item(), n))
        parents = [made.buffer.levels[s, rollout.level[s, 0, n]] for _, n in sorted(rank)[:2]]
        for n in range(5):
            assert torch.equal(seen["levels"][s, n].flatten(), parents[n % 2])


def test_only_solved_levels_enter_a_dred_buffer(space):
    made = curriculum(space)
    for _ in range(8):
        made.cycle()
    stored = made.buffer.scores.valid[:, 12:]
    assert (made.buffer.scores.episode_return[:, 12:][stored] > 0).all()
    assert torch.equal(made.buffer.levels[:, :12], space.dataset.flatten(1).expand(2, -1, -1))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_each_method(monkeypatch, tmp_path, method):
    assert main(monkeypatch, f"agent={method}", *TINY, *OF.get(method, []), "seeds=2", f"run_dir={tmp_path}/run") == 0
    table = list(csv.DictReader((tmp_path / "run/eval.csv").open()))
    assert [(int(r["step"]), int(r["seed"])) for r in table] == [(t, s) for t in (0, 2, 4) for s in (0, 1)]
    for row in table:
        assert 0 <= float(row["solved"]) <= 1 and row["solved"] == row["solved/cave_escape_512_4ts_varp:test"]
        assert float(row["gap"]) == pytest.approx(float(row["train_return"]) - float(row["return"]), abs=1e-6)
    assert (float(table[-1]["shift_gap"]) != float(table[-1]["shift_gap"])) == (method in ("dr", "robust_plr", "accel"))
    if method == "uniform":
        assert float(table[-1]["shift_gap"]) == pytest.approx(0, abs=1e-6)
    results = json.loads((tmp_path / "run/summary.json").read_text())
    assert results["steps"] == 4 and results["cycles"] >= 4
    transfer = list(csv.DictReader((tmp_path / "run/transfer.csv").open()))
    assert [r["set"] for r in transfer[::2]] == [
        "train", "cave_escape_512_4ts_varp:test", "cave_escape_112_14ts_varp:test"
    ]  # fmt: skip
    assert all(float(r["solved_low"]) <= float(r["solved"]) <= float(r["solved_high"]) for r in transfer)
    events = EventAccumulator(str(tmp_path / "run/tensorboard/all")).Reload()
    assert {"eval/solved", "transfer/generalisation_gap", "train/value_loss"} <= set(events.Tags()["scalars"])
    shown = {"levels/likeliest"} if method != "dr" else set()
    shown |= {"levels/new"} if method not in ("uniform", "plr") else set()
    assert set(events.Tags()["images"]) == shown


@pytest.mark.parametrize("method", ["vae_dred", "accel"])
def test_a_killed_run_resumes_to_the_same_curve(monkeypatch, tmp_path, method):
    def go(run):
        return main(monkeypatch, f"agent={method}", *TINY, *OF[method], f"run_dir={tmp_path}/{run}")

    def save_and_die(self, *args):
        save(self, *args)
        raise RuntimeError("killed")

    assert go("whole") == 0
    save = Checkpoints.save
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Checkpoints, "save", save_and_die)
        go("killed")
    assert Checkpoints(tmp_path / "killed/checkpoints").steps() == [2]
    assert go("killed") == 0
    for name in ("eval.csv", "transfer.csv"):
        assert (tmp_path / f"killed/{name}").read_text() == (tmp_path / f"whole/{name}").read_text()


MISTAKES = {
    ("agent=vae_dred", "env=gym/Hopper-v4"): "agent=vae_dred learns from a curriculum of levels, and env=gym/Hopper-v4",
    ("agent=td3", "env=cave_escape"): "agent=td3 learns online, and env=cave_escape is a set of levels",
    ("agent=plr", "env=cave_escape", "env.dataset=no_such"): "unknown level set 'no_such'",
    ("agent=plr", "env=cave_escape", "env.dataset=/no/such.npz"): "/no/such.npz",
    ("agent=plr", "env=cave_escape", "env.count=0"): "env.count=0 is not valid",
    ("agent=plr", "env=cave_escape", "agent.student.clip=-1"): "agent.student.clip=-1.0 is not valid",
    ("agent=plr", "env=cave_escape", "agent.levels.rho=2"): "rho=2.0 is not valid",
    ("agent=vae_dred", "env=cave_escape", "agent.pairs=5"): "agent.pairs=5 is not valid",
    ("agent=plr", "env=cave_escape", "agent.studnet.clip=1"): "unknown key",
    ("agent=plr", "env=cave_escape", "compile=compile"): "compile=compile",
    ("agent=plr", "env=cave_escape", "protocol=tall"): "unknown protocol 'tall'",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line(monkeypatch, capsys, tmp_path, overrides):
    assert main(monkeypatch, *overrides, f"run_dir={tmp_path}/run") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and MISTAKES[overrides] in lines[0], lines
