"""Run folders and commands of earlier versions: their names are understood, or told what they are called now."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, TINY, main
from omegaconf import OmegaConf

from rlreg.old_names import renamed, with_new_names, with_old_names
from rlreg.run_folder import RunFolder, flat_settings


def test_an_old_configuration_is_read_by_today_s_names_and_keeps_its_folder(tmp_path):
    old = {"train": {"num_worlds": 3}, "agent": {"_target_": "agents.sb3.SB3", "name": "sb3_td3"}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(old)))
    read = OmegaConf.to_container(RunFolder(tmp_path).read_config())
    assert read == {"train": {"num_envs": 3}, "agent": {"_target_": "agents.sb3_baselines.SB3", "name": "sb3_td3"}}
    assert with_new_names(read) == read and with_old_names(flat_settings(read)) == flat_settings(old)


def test_old_figures_are_found_by_today_s_names(tmp_path):
    (tmp_path / "summary.json").write_text('{"seeds": [0, 7], "frozen": [7], "steps": 9, "final": {}}')
    assert RunFolder(tmp_path).results() == {"seeds": [0, 7], "diverged": [7], "steps": 9, "final": {}}


def test_an_old_key_is_told_its_new_name():
    assert renamed("agent.student.num_worlds") == "agent.student.num_envs"
    assert renamed("levels") == "level_set" and renamed("levels.out") == "level_set.out"
    assert renamed("train.num_envs") is None and renamed("agent.levels.rho") is None


@pytest.mark.parametrize(
    "typed, now",
    [
        ("mode=levels", "mode=level_set"),
        ("levels.out=mine.npz", "'level_set.out'"),
        ("levels=cave_escape", "'level_set'"),
        ("train.num_worlds=2", "'train.num_envs'"),
    ],
)
def test_an_old_word_on_the_command_line_is_told_what_it_is_called_now(monkeypatch, capsys, typed, now):
    assert main(monkeypatch, typed) == 2
    assert re.fullmatch(rf"error: \S+ is now called {now}\n", capsys.readouterr().err)


def test_the_tool_and_the_launcher_of_an_old_configuration_are_read_by_today_s_names():
    old = {"levels": {"_target_": "envs.cave.level_set_tool.levels"}, "launcher": {"_target_": "rlreg.launch.ray"}}
    old["agent"] = {"levels": {"rho": 0.3}}
    assert with_new_names(old) == {
        "level_set": {"_target_": "envs.cave.level_set_tool.run"},
        "launcher": {"_target_": "rlreg.launchers.ray"},
        "agent": {"levels": {"rho": 0.3}},
    }


def test_an_old_run_goes_on_with_the_worlds_it_had_and_keeps_its_folder(tmp_path):
    """Before there was a choice dm_control stepped them; `auto` finds the same folder and takes what it finds there."""
    new = {"_target_": "envs.dmc.DMControlTask", "name": "dmc/cheetah-run", "backend": "auto", "spread": False}
    old = {"_target_": "envs.dmc.make", "name": "dmc/cheetah-run"}
    assert with_old_names(flat_settings({"env": new})) == flat_settings({"env": old})
    assert with_old_names(flat_settings({"env": new | {"backend": "mujoco"}})) != flat_settings({"env": old})
    folder, cfg = RunFolder(tmp_path), OmegaConf.create({"env": new})
    folder.adopt(cfg)
    assert cfg.env.backend == "auto"
    folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create({"env": old})))
    folder.adopt(cfg)
    assert cfg.env.backend == "dm_control"


def test_kept_results_are_found_by_their_settings():
    """Whatever was renamed since: a figure that was paid for is found, and not made again."""
    kept = [path.parent for path in sorted(ROOT.glob("results/**/config.yaml"))]
    kept = [folder for folder in kept if re.fullmatch("[0-9a-f]{10}", folder.name)]
    assert len(kept) > 100
    for folder in kept[::7]:  # some of each: reading them all takes a while
        cfg = RunFolder(folder).read_config()
        cfg.run_dir = None
        cfg.runs_root = str(folder.parents[1 + len(Path(cfg.env.name).parts)])
        if "backend" in cfg.env:
            cfg.env.backend = "auto"  # as the command that made it had it, when there was no choice
        assert RunFolder.of(cfg).path == folder


def test_an_old_run_of_iql_began_as_pytorch_does_and_keeps_its_folder():
    old = {"_target_": "agents.iql.IQL", "tau": 0.005}
    new = with_new_names({"agent": old})
    assert new == {"agent": old | {"initialization": "pytorch"}}
    assert with_old_names(flat_settings(new)) == flat_settings({"agent": old})
    new["agent"]["initialization"] = "orthogonal"
    assert with_old_names(flat_settings(new)) != flat_settings({"agent": old})


def test_an_unfinished_run_of_before_a_setting_was_added_is_gone_on_with(monkeypatch, tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    run = ["agent=dqn", "env=gridworld", *TINY, f"run_dir={folder.path}"]
    assert main(monkeypatch, *run) == 0
    kept = [line for line in folder.config.read_text().splitlines() if "clip_error" not in line]
    folder.config.write_text("\n".join(kept) + "\n")
    assert main(monkeypatch, *run, "train.total_steps=500") == 0
    assert folder.results()["steps"] == 500
    assert main(monkeypatch, *run, "train.total_steps=600", "agent.clip_error=true") == 2
