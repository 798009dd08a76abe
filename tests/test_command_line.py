"""`--help`, `--describe`, `mode=runs` and `--multirun`: what a person reads, and that it is so."""

import re
import shlex

import pytest
from conftest import TINY
from hydra.core.config_store import ConfigStore
from test_runner import main

from rlreg.command import MODES
from rlreg.config import CONFIGS, TrainConfig
from rlreg.describe import field_docs
from rlreg.naming import read_config

SHORT = ["train.total_steps=100", "train.warmup_steps=40"]
PENDULUM = [*TINY, "env=gym/Pendulum-v1", *SHORT, "env.max_episode_steps=20"]


def test_help_is_short_and_what_it_names_is_there(monkeypatch, capsys):
    assert main(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 75 and "schema" not in text
    modes = text.split("== Modes ==")[1].split("==")[0]
    assert {line.split()[0] for line in modes.splitlines() if line.strip()} == set(MODES)
    agents = set(re.findall(r"[\w/]+", text.split("agent  ")[1].split("regularizer  ")[0])) - {"offline", "levels"}
    there = {path.relative_to(CONFIGS / "agent").with_suffix("") for path in (CONFIGS / "agent").rglob("*.yaml")}
    assert agents == {path.as_posix() for path in there if path.parts[0] != "published"}
    assert set(ConfigStore.instance().repo["env"]) >= {"dmc", "gym", "d4rl", "cave_escape.yaml"}
    settings = [line.split()[0] for line in text.split("change most ==")[1].splitlines() if "=" in line[:40]]
    assert len(settings) == 20
    for setting in settings:
        env = ["env=d4rl/hopper-medium-v2", "agent=td3_bc"] if setting.startswith("env.") else []
        assert main(monkeypatch, *env, setting, "--cfg", "job") == 0, setting
        assert not capsys.readouterr().err


def test_describe_tells_every_setting_of_a_composition(monkeypatch, capsys):
    assert main(monkeypatch, "--describe", "agent=ddpg", "env=dmc/cheetah-run", "agent.tau=0.01") == 0
    text = capsys.readouterr().out
    assert "agent.tau=0.01 (schema's default: 0.005)\n    Step of the target networks towards the online ones." in text
    assert "agent.num_critics=1 (schema's default: 2)" in text and "== agent: ddpg. TD3 (Fujimoto" in text
    for name, said in field_docs(TrainConfig).items():
        assert (f"train.{name}=" in text and said.split()[0] in text) == (name != "updates_per_call"), name
    for key in ("env.action_repeat=1", "eval.every=10000", "seeds=1"):
        assert key in text
    assert main(monkeypatch, "--describe", "mode=collect") == 0
    assert "collect.kind=medium" in capsys.readouterr().out


@pytest.mark.parametrize(
    "agent, env, of_use, of_none",
    [
        ("iql", "d4rl/hopper-medium-v2", "updates_per_call", "num_envs"),
        ("plr", "cave_escape", "checkpoint_every", "warmup_steps"),
        ("sb3/ppo", "gym/Pendulum-v1", "num_envs", "n_step"),
    ],
)
def test_settings_that_mean_nothing_to_an_agents_loop_are_not_described_and_refused(
    monkeypatch, capsys, agent, env, of_use, of_none
):
    given = [f"agent={agent}", f"env={env}"]
    assert main(monkeypatch, "--describe", *given) == 0
    text = capsys.readouterr().out
    assert f"train.{of_use}=" in text and f"train.{of_none}=" not in text
    assert main(monkeypatch, *given, f"train.{of_none}=2") == 2
    assert f"error: train.{of_none} means nothing to agent=" in capsys.readouterr().err


def test_runs_are_listed_newest_first(monkeypatch, capsys, tmp_path):
    root = f"runs_root={tmp_path}"
    assert main(monkeypatch, "mode=runs", root) == 0
    assert "no such run" in capsys.readouterr().out
    assert main(monkeypatch, *PENDULUM, root, "agent=ddpg", "seeds=2") == 0
    assert main(monkeypatch, *PENDULUM, root, "agent=beer", "agent.tau=0.01") == 0
    (tmp_path / "gym/config.yaml.d").mkdir()
    (tmp_path / "other/run").mkdir(parents=True)
    (tmp_path / "other/run/config.yaml").write_text("no: run\n")
    capsys.readouterr()
    assert main(monkeypatch, "mode=runs", root) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "env", "seeds", "steps", "return", "when", "folder"]
    assert first.startswith("beer (") and "tau=0.01" in first
    assert re.search(r"gym/Pendulum-v1 +1 +100 +-\d", first)
    assert second.startswith("ddpg (")
    assert re.search(r"gym/Pendulum-v1 +2 +100 ", second) and str(tmp_path / "gym/Pendulum-v1/ddpg-") in second
    assert main(monkeypatch, "mode=runs", root, "agent=ddpg") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(monkeypatch, "mode=runs", root, "env=dmc/cheetah-run") == 0
    assert "no such run" in capsys.readouterr().out


def test_a_sweep_runs_several_at_once_and_says_which(runner, tmp_path):
    sweep = [*PENDULUM, "agent=ddpg,td3", "train.warmup_steps=50,60", "--multirun"]
    done = runner(*sweep, "launcher.jobs=2")
    assert done.returncode == 0, done.stderr
    for agent in ("ddpg", "td3"):
        for steps in (50, 60):
            name = f"train.warmup_steps={steps} agent={agent}"
            assert f"] {name}: started" in done.stdout and f"] {name}: done" in done.stdout
            assert (tmp_path / f"runs/multirun/logs/train.warmup_steps={steps}-agent={agent}.log").exists()
    found = list((tmp_path / "runs/gym/Pendulum-v1").iterdir())
    assert len(found) == 4 and all((folder / "summary.json").exists() for folder in found)
    assert {read_config(folder / "config.yaml").agent.name for folder in found} == {"ddpg", "td3"}
    one_by_one = runner(*sweep)
    assert one_by_one.stdout.count("this run is complete") == 4
    first = shlex.split(re.search(r"== job 1: (.*)", one_by_one.stdout).group(1))
    assert "agent=ddpg" in first and "train.warmup_steps=50" in first
