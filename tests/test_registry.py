"""A configuration that was read from a file only chooses among what the package knows; the user's own may name more."""

import re

import pytest
from conftest import ROOT, TINY
from omegaconf import OmegaConf
from test_runner import main

import rlreg.sb3
from rlreg.build import build_task, load_agent
from rlreg.errors import UserError
from rlreg.registry import CONSTRUCTED, known, register
from rlreg.run_folder import RunFolder

register()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A complete run's folder."""
    folder = tmp_path_factory.mktemp("registry") / "run"
    with pytest.MonkeyPatch.context() as patch:
        settings = [*TINY, "train.total_steps=200", "env=gym/Pendulum-v1", "agent=ddpg", f"run_dir={folder}"]
        assert main(patch, *settings) == 0
    return folder


@pytest.fixture
def told(trained, tmp_path, monkeypatch):
    """`told('agent._target_=os.system', ...)` is a folder beside the trained run's, whose config says so instead."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strange.py").write_text(STRANGE)

    def folder(*said: str) -> RunFolder:
        path = tmp_path / "run"
        path.mkdir()
        for name in ("checkpoints", "eval.csv", "summary.json"):
            (path / name).symlink_to(trained / name)
        cfg = RunFolder(trained).read_config()
        for key, value in (text.split("=", 1) for text in said):
            OmegaConf.update(cfg, key, value, force_add=True)
        (path / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        return RunFolder(path)

    return folder


# A module that leaves a mark wherever it is imported, with an agent, a task and a Gymnasium environment of its own.
STRANGE = """
from pathlib import Path
import gymnasium
Path(__file__).with_name("imported").touch()
from agents.td3 import TD3 as Agent
from envs.gym import GymTask as Task
from rlreg.regularizers import Regularizer
gymnasium.register("Strange-v0", "gymnasium.envs.classic_control.pendulum:PendulumEnv", max_episode_steps=200)
"""
CODE = {
    "agent._target_=strange.Agent": "unknown agent._target_ 'strange.Agent'",
    "agent._target_=os.system": "unknown agent._target_ 'os.system'",
    "agent._target_=envs.gym.GymTask": "unknown agent._target_ 'envs.gym.GymTask'",  # known, as something else
    "env._target_=strange.Task": "unknown env._target_ 'strange.Task'",
    "regularizer._target_=strange.Regularizer": "unknown regularizer._target_ 'strange.Regularizer'",
    "agent.student._target_=strange.Agent": "agent.student._target_=strange.Agent names code",
    "env.id=strange:Strange-v0": "env.id=strange:Strange-v0 names code",
    "env.name=${oc.env:HOME}": "env.name=${oc.env:HOME} looks something up",
}


@pytest.mark.parametrize("said", CODE)
def test_a_folder_that_names_code_is_refused_in_one_line_and_nothing_of_it_is_imported(told, tmp_path, said):
    folder = told(said)
    for use in (folder.load_config, lambda: load_agent(folder), lambda: rlreg.sb3.load(folder.path)):
        with pytest.raises(UserError, match=re.escape(CODE[said])) as error:
            use()
        assert str(error.value).startswith(f"{folder.config}: ") and "\n" not in str(error.value)
        assert "where you trust this one, give trust=true" in str(error.value)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    "said", ["agent._target_=strange.Agent", "env._target_=strange.Task", "env.id=strange:Strange-v0"]
)
def test_trust_on_the_command_line_follows_it(told, tmp_path, monkeypatch, capsys, said):
    folder = told(said, "trust=true")  # what the folder itself says of trust counts for nothing
    given = ["mode=evaluate", f"run_dir={folder.path}", "eval.episodes=1"]
    assert main(monkeypatch, *given) == 2 and "give trust=true" in capsys.readouterr().err
    assert main(monkeypatch, *given, "trust=true") == 0 and "seed 0: return -" in capsys.readouterr().out


def test_what_the_user_types_may_name_code_of_its_own(told, tmp_path, monkeypatch, capsys):
    told()
    own = ["env._target_=strange.Task", "agent._target_=strange.Agent", "env.id=strange:Strange-v0"]
    tiny = [*TINY, "train.total_steps=200", "env=gym/Pendulum-v1", f"run_dir={tmp_path}/own"]
    assert main(monkeypatch, *tiny, *own) == 0
    assert main(monkeypatch, *tiny, *own) == 0 and "this run is complete" in capsys.readouterr().out


def test_settings_of_a_file_have_the_types_and_names_of_todays(told):
    with pytest.raises(UserError, match=r"config.yaml: .*action_repea"):
        told("env._target_=envs.dmc.DMControlTask", "env.task=cartpole-swingup", "env.action_repea=2").load_config()


def test_what_the_own_configurations_name_is_known():
    """So that every run of theirs can be read again."""
    for group in CONSTRUCTED:
        written = {
            target
            for path in (ROOT / "configs" / group).rglob("*.yaml")
            for target in re.findall(r"^_target_: *(\S+)", path.read_text(), re.M)
        }
        assert written <= known(group).keys()
    assert {"envs.dmc.DMControlTask", "envs.cave.space.CaveTask"} <= known("env").keys()
    assert {"agents.td3.TD3", "agents.level_replay.DomainRandomization"} <= known("agent").keys()
    assert {"rlreg.regularizers.BEER", "rlreg.regularizers.InFeR"} <= known("regularizer").keys()


KEPT_RESULTS = [path.parent for path in ROOT.glob("results/**/config.yaml")]


@pytest.mark.parametrize("folder", KEPT_RESULTS, ids=lambda path: path.name)
def test_a_kept_result_is_read_by_todays_names(folder):
    assert build_task(RunFolder(folder).load_config()).name
