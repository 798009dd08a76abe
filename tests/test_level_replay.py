"""The curricula's cycles: what is played, what is learned from, what enters the buffer; runs of the command line."""

from __future__ import annotations

import csv
import json
from functools import cache

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_runner import main

from agents.level_replay import (
    ACCEL,
    ACCELConfig,
    Curriculum,
    DomainRandomization,
    EditReplay,
    EditReplayConfig,
    LevelReplay,
    RobustPLR,
    RobustPLRConfig,
    edited,
)
from agents.ppo import PPOConfig
from agents.vae_dred import VAEDRED, LevelModelConfig, VAEDREDConfig
from envs.cave.space import CaveEscape
from envs.cave.tiles import EMPTY, GOAL, START, WALL
from rlreg.checkpoint import Checkpoints
from rlreg.level_buffer import LevelBufferConfig, Priority
from rlreg.regularizers import Regularizer

METHODS = ("uniform", "plr", "dr", "robust_plr", "accel", "accel_d", "el_dred", "vae_dred")
TINY = [
    "env=cave_escape",
    "env.count=12",
    "env.evaluate_count=6",
    "env.max_episode_steps=40",
    "env.evaluate_on=[cave_escape_512_4ts_varp:test,cave_escape_112_14ts_varp:test]",
    "agent.student={hidden_dim: 8, filters: 2, head_dim: 4, num_envs: 4, rollout_length: 48, epochs: 1}",
    "agent.information={every: 2, num_envs: 2, length: 16}",
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


def curriculum(space, method=EditReplay, config=EditReplayConfig, seeds=(0, 1), num_envs=5, more=None, **levels):
    student = PPOConfig(hidden_dim=8, filters=2, head_dim=4, num_envs=num_envs, rollout_length=48, epochs=1)
    levels = LevelBufferConfig(**({"capacity": 20} | levels))
    made = method(config(student=student, levels=levels, **(more or {})), Regularizer(), space.observation, 7, seeds)
    made.setup(space, 10)
    return made


NO_DATASET = {
    "dataset_levels": 0,
    "primary": Priority("positive_value_loss", temperature=0.3, support="buffer"),
    "secondary": None,
    "staleness": Priority("staleness", "power", 1.0, "buffer"),
    "solved_only": False,
}


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
    made = EditReplay(EditReplayConfig(), Regularizer(), full.observation, 7, (0,))
    made.setup(full, 28_739)
    assert (len(full.dataset), made.warm_up, made.num_cycles) == (512, 15, 28_754)
    assert made.buffer.config.capacity == 4000


def test_episodes_are_scored_on_the_levels_they_were_on(space):
    """Every score in the buffer is that of the last finished episode in the highest world on its level."""
    made = curriculum(space, LevelReplay)
    for _ in range(made.warm_up):
        made.cycle()
    rollout = made.replay()
    advantage = made.student.advantage(rollout)
    for s in range(2):
        last = {}
        for n in range(5):
            for t in range(48):
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
        level_shape = space.level_shape

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


def rooms(kinds):
    """(2, N, 15, 15), all different: where `kinds` is true a start with goals on all sides, else one walled in."""
    levels = torch.full((2, len(kinds), 15, 15), WALL, dtype=torch.uint8)
    for n, solvable in enumerate(kinds):
        levels[:, n, 7, 7], levels[:, n, 1, 1 + n] = START, EMPTY
        for x, y in ((6, 7), (8, 7), (7, 6), (7, 8)):
            levels[:, n, x, y] = GOAL if solvable else WALL
    return levels


def test_only_solved_levels_enter_a_dred_buffer(space):
    made, admits_all = curriculum(space), curriculum(
        space, primary=Priority("grounded_value_l1", support="buffer"), secondary=None, solved_only=False
    )  # fmt: skip
    kinds = [True, False, False, True, False]
    for c in (made, admits_all):
        c.evaluate_candidates(rooms(kinds))
    expected = rooms(kinds).flatten(2)[:, kinds]
    stored = made.buffer.scores.valid[:, 12:]
    assert (stored.sum(dim=1) == 2).all() and made.last["levels/inserted"].tolist() == pytest.approx([0.4, 0.4])
    held = made.buffer.levels[:, 12:14]
    for s in range(2):
        assert {bytes(x) for x in held[s].numpy()} == {bytes(x) for x in expected[s].numpy()}
    assert (made.buffer.scores.episode_return[:, 12:][stored] > 0).all()
    assert (admits_all.buffer.scores.valid[:, 12:].sum(dim=1) == 5).all()
    for c in (made, admits_all):
        assert torch.equal(c.buffer.levels[:, :12], space.dataset.flatten(1).expand(2, -1, -1))


def test_eta_goes_from_0_to_1_by_cycles(space, monkeypatch):
    """j / J in cycle j, those of the warm-up among them: 3 + 10 cycles here."""
    made = curriculum(space)
    seen = []
    distribution, insert = made.buffer.distribution, made.buffer.insert

    def distribution_at(eta):
        seen.append((made.cycles, eta))
        return distribution(eta)

    def insert_at(levels, episodes, eta):
        seen.append((made.cycles, eta))
        return insert(levels, episodes, eta)

    monkeypatch.setattr(made.buffer, "distribution", distribution_at)
    monkeypatch.setattr(made.buffer, "insert", insert_at)
    for _ in range(13):
        made.cycle()
    assert seen == [(j, j / 13) for j in range(3, 13) for _ in range(2)]
    assert made.eta == 1.0


def test_random_levels_teach_in_dr_and_only_audition_in_robust_plr(space):
    made = curriculum(space, DomainRandomization, **NO_DATASET)
    before = params_of(made)
    assert made.cycle() is not None and made.env_steps == 5 * 48
    assert not torch.equal(made.student.params["policy.0.weight"], before["policy.0.weight"])

    made = curriculum(space, RobustPLR, RobustPLRConfig, capacity=30, **NO_DATASET)
    learned = []
    for number in range(40):
        before, proposed = params_of(made), made.proposed.item()
        metrics = made.cycle()
        changed = not torch.equal(made.student.params["policy.0.weight"], before["policy.0.weight"])
        assert changed == (metrics is not None) and made.proposed == proposed + (0 if changed else 5)
        learned.append(changed)
        assert made.env_steps == (number + 1) * 5 * 48
    assert not any(learned[:3])  # 15 of 30 levels first
    assert 0.25 < sum(learned[3:]) / 37 < 0.75
    # Seeds replay at the same time, but not the same levels.
    assert not torch.equal(made.buffer.levels[0], made.buffer.levels[1])


def test_accel_edits_after_every_replay(space):
    made = curriculum(space, ACCEL, ACCELConfig, capacity=30, **NO_DATASET)
    for number in range(12):
        learned = made.cycle() is not None
        assert made.proposed == (number + 1) * 5
        # Only edited rooms have anything in them.
        bare = ((made.new_levels == EMPTY) | (made.new_levels == WALL)).flatten(2).sum(dim=2) == 15 * 15 - 2
        inner_walls = (made.new_levels[:, :, 1:-1, 1:-1] == WALL).flatten(2).any(dim=2)
        assert (bare & ~inner_walls).all().item() is not learned


POWERS = {
    "accel_d": ("agent.levels.primary.transform=power", "agent.levels.rho=0"),
    "el_dred": ("agent.levels.primary.transform=power", "agent.levels.secondary.transform=power"),
    "plr": ("agent.levels.primary={score: grounded_value_l1, transform: power}", "agent.levels.rho=0"),
}


@pytest.mark.parametrize("method", POWERS)
def test_nobody_plays_an_empty_slot(monkeypatch, tmp_path, method):
    """Where nothing is solved yet all these scores are 0: an untrained student plays the dataset, all of it alike."""
    played = []
    replay = Curriculum.replay

    def spied(self):
        rollout = replay(self)
        played.append((self.buffer.filled.gather(1, rollout.level.flatten(1)).all().item(), rollout.level.unique()))
        return rollout

    monkeypatch.setattr(Curriculum, "replay", spied)
    unsolvable = "env.max_episode_steps=1"  # no goal is one step away
    assert main(monkeypatch, f"agent={method}", *TINY, *OF.get(method, []), *POWERS[method], unsolvable,
                f"run_dir={tmp_path}/run") == 0  # fmt: skip
    assert len(played) >= 4 and all(filled for filled, _ in played)
    assert len(torch.cat([levels for _, levels in played]).unique()) > 3


@pytest.mark.parametrize("method", ["el_dred", "vae_dred", "accel"])
def test_a_seed_s_curriculum_is_the_same_beside_others(space, method):
    small = LevelModelConfig(latent=8, hidden=16, epochs=2, batch_size=4)
    kind, config, more = {
        "el_dred": (EditReplay, EditReplayConfig, {}),
        "accel": (ACCEL, ACCELConfig, {}),
        "vae_dred": (VAEDRED, VAEDREDConfig, {"pairs": 2, "interpolations": 3, "model": small}),
    }[method]
    levels = {"capacity": 30} | (NO_DATASET if method == "accel" else {})
    together, alone = (
        curriculum(space, kind, config, seeds, num_envs=6, more=more, **levels) for seeds in ((3, 7), (7,))
    )
    for made in (together, alone):
        made.begin(lambda text: None)
        for _ in range(7):
            made.cycle()
    assert torch.equal(together.new_levels[1], alone.new_levels[0])
    assert not torch.equal(together.new_levels[0], together.new_levels[1])
    assert torch.equal(together.buffer.levels[1], alone.buffer.levels[0])
    assert torch.equal(together.buffer.staleness[1], alone.buffer.staleness[0])
    for kept, own in zip(together.buffer.scores, alone.buffer.scores, strict=True):
        torch.testing.assert_close(kept[1], own[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`whole(method)`: the folder of a run of two seeds, made once."""

    @cache
    def made(method):
        folder = tmp_path_factory.mktemp(method) / "run"
        with pytest.MonkeyPatch.context() as patch:
            assert main(patch, f"agent={method}", *TINY, *OF.get(method, []), "seeds=2", f"run_dir={folder}") == 0
        return folder

    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_each_method_leaves_whole_results(whole, method):
    run = whole(method)
    table = list(csv.DictReader((run / "eval.csv").open()))
    assert [(int(r["step"]), int(r["seed"])) for r in table] == [(t, s) for t in (0, 2, 4) for s in (0, 1)]
    for row in table:
        assert 0 <= float(row["solved"]) <= 1 and row["solved"] == row["solved/cave_escape_512_4ts_varp:test"]
        assert float(row["gap"]) == pytest.approx(float(row["train_return"]) - float(row["return"]), abs=1e-6)
    assert (float(table[-1]["shift_gap"]) != float(table[-1]["shift_gap"])) == (method in ("dr", "robust_plr", "accel"))
    if method == "uniform":
        assert float(table[-1]["shift_gap"]) == pytest.approx(0, abs=1e-6)
    results = json.loads((run / "summary.json").read_text())
    assert results["steps"] == 4 and results["cycles"] >= 4
    transfer = list(csv.DictReader((run / "transfer.csv").open()))
    assert [r["set"] for r in transfer[::2]] == [
        "train", "cave_escape_512_4ts_varp:test", "cave_escape_112_14ts_varp:test"
    ]  # fmt: skip
    assert all(float(r["solved_low"]) <= float(r["solved"]) <= float(r["solved_high"]) for r in transfer)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"eval/solved", "transfer/generalisation_gap", "train/value_loss"} <= set(events.Tags()["scalars"])
    shown = {"levels/likeliest"} if method != "dr" else set()
    shown |= {"levels/new"} if method not in ("uniform", "plr") else set()
    assert set(events.Tags()["images"]) == {f"{tag}/seed-{seed}" for tag in shown for seed in (0, 1)}


@pytest.mark.parametrize("method", ["vae_dred", "accel"])
def test_a_killed_run_resumes_to_the_same_curve(monkeypatch, whole, tmp_path, method):
    """Killed after each of its two checkpoints, the last among them: the same files, the same tensors."""

    def go(run):
        return main(monkeypatch, f"agent={method}", *TINY, *OF[method], "seeds=2", f"run_dir={tmp_path}/{run}")

    def save_and_die(self, *args):
        save(self, *args)
        raise RuntimeError("killed")

    save, killed = Checkpoints.save, Checkpoints(tmp_path / "killed/checkpoints")
    for steps in ([2], [2, 4]):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(Checkpoints, "save", save_and_die)
            go("killed")
        assert killed.steps() == steps
    assert go("killed") == 0
    for name in ("eval.csv", "transfer.csv"):
        assert (tmp_path / f"killed/{name}").read_text() == (whole(method) / name).read_text()
    _, expected, info = Checkpoints(whole(method) / "checkpoints").load()
    _, tensors, again = killed.load()
    assert info | {"seconds": 0} == again | {"seconds": 0} and tensors.keys() == expected.keys()
    assert all(torch.equal(tensor.nan_to_num(), expected[name].nan_to_num()) for name, tensor in tensors.items())


@pytest.mark.parametrize("method", ["el_dred", "plr"])
def test_an_extended_curriculum_says_what_becomes_of_its_schedule(monkeypatch, capsys, tmp_path, method):
    """One line where a schedule depends on the length: eta of DRED's second term. PLR has none."""
    run = [f"agent={method}", *TINY, f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *run, "train.total_steps=2") == 0
    # as an earlier version left it: without the window of the last episodes
    checkpoints = Checkpoints(tmp_path / "run/checkpoints")
    step, tensors, info = checkpoints.load()
    earlier = {name: tensor for name, tensor in tensors.items() if "/episodes/" not in name}
    assert len(earlier) == len(tensors) - 5
    checkpoints.save(step, earlier, info)
    capsys.readouterr()
    assert main(monkeypatch, *run) == 0
    printed = capsys.readouterr().out
    line = "the schedule of eta, which goes from 0 to 1 over a run, is that of 4 updates from here on; up to step 2 it"
    assert printed.count(line) == (method == "el_dred") and "resuming from step 2" in printed
    assert [row["step"] for row in csv.DictReader((tmp_path / "run/eval.csv").open())] == ["0", "2", "4"]


def test_a_run_evaluated_again_gives_its_last_row_and_has_no_export(monkeypatch, capsys, tmp_path):
    """Its last row again; on other sets, with its own training levels; there is no export."""
    run = f"run_dir={tmp_path}/run"
    assert main(monkeypatch, "agent=plr", *TINY, "train.total_steps=1", run) == 0
    row = list(csv.DictReader((tmp_path / "run/eval.csv").open()))[-1]
    capsys.readouterr()
    assert main(monkeypatch, "mode=evaluate", run) == 0
    shown = capsys.readouterr().out
    for name in ("train_return", "return", "solved", "length", "gap"):
        assert f"{name} {float(row[name]):.2f}" in shown
    other = "cave_escape_112_14ts_p50l_p5m:test"
    evaluate = ("mode=evaluate", run, "env=cave_escape", f"env.evaluate_on=[{other}]", "env.evaluate_count=3")
    assert main(monkeypatch, *evaluate) == 0
    shown = capsys.readouterr().out
    assert f"solved/{other} " in shown and f"train_return {float(row['train_return']):.2f}" in shown
    assert main(monkeypatch, "mode=export", run) == 2
    assert "agent=plr has no counterpart in Stable-Baselines3" in capsys.readouterr().err


MISTAKES = {
    ("agent=vae_dred", "env=gym/Hopper-v4"): "agent=vae_dred learns from a curriculum of levels, and env=gym/Hopper-v4",
    ("agent=td3", "env=cave_escape"): "agent=td3 learns online, and env=cave_escape is a set of levels",
    ("agent=plr", "env=cave_escape", "env.dataset=no_such"): "unknown level set 'no_such'",
    ("agent=plr", "env=cave_escape", "env.dataset=/no/such.npz"): "/no/such.npz",
    ("agent=plr", "env=cave_escape", "env.count=0"): "env.count=0 is not valid",
    ("agent=plr", "env=cave_escape", "env.count=513"): "env.count=513 is not valid; give 1 to 512",
    ("agent=plr", "env=cave_escape", "env.evaluate_on=[]"): "env.evaluate_on=[] is not valid",
    ("agent=plr", "env=cave_escape", "agent.student.rollout_length=249"): "give at least the 250 steps of an episode",
    ("agent=sb3/ppo", "env=cave_escape"): "agent=sb3/ppo learns online, and env=cave_escape is a set of levels",
    ("agent=plr", "env=cave_escape", "agent.student.clip=-1"): "agent.student.clip=-1.0 is not valid",
    ("agent=plr", "env=cave_escape", "agent.levels.rho=2"): "agent.levels.rho=2.0 is not valid",
    ("agent=el_dred", "env=cave_escape", "agent.levels.capacity=512"): "give more than the 512 training levels",
    ("agent=el_dred", "env=cave_escape", "env.count=64", "agent.levels.capacity=60"): "more than the 64 training",
    ("agent=vae_dred", "env=cave_escape", "env.count=8"): "agent.pairs=6 is not valid; give at most half of the 8",
    ("agent=vae_dred", "env=cave_escape", "agent.pairs=5"): "agent.pairs=5 is not valid",
    ("agent=plr", "env=cave_escape", "agent.studnet.clip=1"): "unknown key",
    ("agent=robust_plr", "env=cave_escape", "agent.levels.solved_only=true"): "agent.levels.solved_only=true is not",
    ("agent=plr", "env=cave_escape", "compile=graph"): "compile=graph is not valid; give auto, compile or eager",
    ("agent=plr", "env=cave_escape", "protocol=tall"): "unknown protocol 'tall'",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line(monkeypatch, capsys, tmp_path, overrides):
    assert main(monkeypatch, *overrides, f"run_dir={tmp_path}/run") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and MISTAKES[overrides] in lines[0], lines
    assert not (tmp_path / "run").exists()
