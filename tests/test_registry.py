"""A configuration that was read from a file only chooses among what the package knows; the user's own may name more."""

import ast
import base64
import json
import pickle
import re
import shutil
import sys
import zipfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import stable_baselines3
import yaml
from conftest import ROOT, TINY
from omegaconf import DictConfig, OmegaConf
from test_runner import main

import rlreg.sb3
from rlreg.build import build_task, load_agent
from rlreg.errors import UserError
from rlreg.library import compose, run
from rlreg.modes.runs import Found, find
from rlreg.naming import existing
from rlreg.registry import CONSTRUCTED, known, register
from rlreg.report.cell import Cell
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


@cache
def composed() -> DictConfig:
    """The trained run's configuration, composed as its command was."""
    return compose(*TINY, "train.total_steps=200", "env=gym/Pendulum-v1", "agent=ddpg")


def composed_with(**changes) -> DictConfig:
    """The same with other values, by dotted key."""
    cfg = composed().copy()
    for key, value in changes.items():
        OmegaConf.update(cfg, key, str(value) if isinstance(value, Path) else value)
    return cfg


@pytest.fixture
def told(trained, tmp_path, monkeypatch):
    """`told('agent._target_=os.system', ...)` is a copy of the trained run's folder, whose config says so instead."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strange.py").write_text(STRANGE)

    def folder(*said: str) -> RunFolder:
        path = tmp_path / "runs" / "run"
        shutil.copytree(trained, path)
        cfg = RunFolder(trained).read_config()
        for key, value in (text.split("=", 1) for text in said):
            OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
        (path / "config.yaml").write_text(OmegaConf.to_yaml(cfg).replace("MARK", str(tmp_path / "imported")))
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
    "agent={_target_: os.system, command: touch MARK}": "unknown agent._target_ 'os.system'",
    "env._target_=strange.Task": "unknown env._target_ 'strange.Task'",
    "env={_target_: os.system, command: touch MARK, name: x}": "unknown env._target_ 'os.system'",
    "env._target_=[os.system, touch MARK]": "cannot be read",
    "regularizer._target_=strange.Regularizer": "unknown regularizer._target_ 'strange.Regularizer'",
    "regularizer={_target_: os.system, command: touch MARK}": "unknown regularizer._target_ 'os.system'",
    "regularizer={_target_: rlreg.build.locate, target: strange.Agent}": "unknown regularizer._target_ 'rlreg.build",
    "regularizer={_target_: rlreg.regularizers.BEER, beta: {_target_: os.system, command: touch MARK}}":
        "regularizer.beta._target_=os.system names code",
    "agent.student._target_=strange.Agent": "agent.student._target_=strange.Agent names code",
    "agent.levels=[{_target_: os.system, command: touch MARK}]": "agent.levels.0._target_=os.system names code",
    "agent.hidden=[{_target_: os.system, _args_: [touch MARK]}]": "agent.hidden.0._target_=os.system names code",
    "env.space={_target_: strange.Task, _partial_: true}": "env.space._target_=strange.Task names code",
    "env.settings={schedule: {_target_: strange.Task}}": "env.settings.schedule._target_=strange.Task names code",
    "env.id=strange:Strange-v0": "env.id=strange:Strange-v0 names code",
    "env={_target_: envs.d4rl.D4RLTask, id: hopper-medium-v2, name: x, path: 'd4rl:strange:x-v0'}":
        "env.path=d4rl:strange:x-v0 names code",
    "env.name=${oc.env:HOME}": "env.name=${oc.env:HOME} looks something up",
    "env.id=${oc.decode:strange}": "env.id=${oc.decode:strange} looks something up",
    "agent.hidden=['${oc.create:[8]}']": "looks something up",
    "train.total_steps=${eval:200}": "train.total_steps=${eval:200} looks something up",
    "seeds=${hydra:runtime.cwd}": "seeds=${hydra:runtime.cwd} looks something up",
}  # fmt: skip
"""What a folder may say, and what is said of it where it is to be built from."""
IGNORED = [
    "collect._target_=strange.Agent",
    "launcher._target_=strange.Agent",
    "levels._target_=strange.Agent",
    "hydra={job: {env_set: {PATH: x}}, callbacks: {one: {_target_: strange.Agent}}}",
    "defaults=[{agent: strange}]",
    "table={_target_: strange.Agent, name: x}",
    "mixture={_target_: strange.Agent}",
    "differs={x: {_target_: strange.Agent}}",
]
"""What no mode takes from a folder."""


def use(mode: str, folder: RunFolder, tmp_path: Path) -> None:
    """What a mode does with a run's folder, or a piece of the library."""
    if mode == "sb3.load":
        rlreg.sb3.load(folder.path).get_env().close()
    elif mode == "load_agent":
        load_agent(folder)
    elif mode == "table":  # finds the runs of its cells, and reads them
        cell = Cell("row", "column", [], composed_with(runs_root=folder.path.parent.parent), folder)
        existing(cell.cfg), cell.status(), cell.complete and cell.values("return")
    elif mode == "runs":
        list(map(Found.row, find(folder.path.parent)))
    else:
        collect = {"collect.kind": "random", "collect.steps": 20, "out": tmp_path / "set.hdf5"}
        given = {"mode": mode, "run_dir": folder.path} | (collect if mode == "collect" else {})
        run(composed_with(**given))


BUILD = ("load_agent", "sb3.load", "evaluate", "export", "collect", "video")
"""What builds from a folder's configuration."""
READ = ("train", "table", "runs")
"""What only compares it, or shows it."""


@pytest.mark.parametrize("said", CODE)
def test_a_folder_that_names_code_is_refused_in_one_line_and_nothing_of_it_is_called(told, tmp_path, capsys, said):
    folder = told(said)
    for mode in BUILD:
        with pytest.raises(UserError, match=re.escape(CODE[said])) as error:
            use(mode, folder, tmp_path)
        assert str(error.value).startswith(f"{folder.config}: ") and "\n" not in str(error.value)
        if "looks something up" not in CODE[said] and "cannot be read" not in CODE[said]:
            assert "where you trust this one, give trust=true" in str(error.value)
        assert not (tmp_path / "imported").exists() and "strange" not in sys.modules, mode
    for mode in READ:
        try:
            use(mode, folder, tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
        assert not (tmp_path / "imported").exists() and "strange" not in sys.modules, mode


@pytest.mark.parametrize("said", IGNORED)
def test_what_no_mode_takes_from_a_folder_is_not_called_either(told, tmp_path, said):
    folder = told(said)
    for mode in ("evaluate", "collect", "train", "table", "runs"):
        unknown = mode == "train" and said.startswith(("hydra", "defaults"))  # keys that the run asked for has not
        with pytest.raises(UserError, match="holds a run with") if unknown else nullcontext():
            use(mode, folder, tmp_path)
        assert not (tmp_path / "imported").exists() and "strange" not in sys.modules, mode


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [touch MARK]", "!!python/name:strange.Agent ''"])
def test_yaml_makes_no_objects(told, tmp_path, text):
    folder = told()
    folder.config.write_text(folder.config.read_text() + f"extra: {text}\n".replace("MARK", str(tmp_path / "imported")))
    for mode in (*BUILD, "train"):
        with pytest.raises(UserError, match="cannot be read"):
            use(mode, folder, tmp_path)
    use("table", folder, tmp_path)
    assert not find(folder.path.parent) and not (tmp_path / "imported").exists()


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


# ------------------------------------------------------------------- what is read of files at all


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_zips_and_pickles_in_a_folder_are_never_opened(told, tmp_path):
    """Stable-Baselines3's own zips are pickles in part: whoever opens one with its `load` runs what it says."""
    folder, mark = told(), tmp_path / "imported"
    evil = base64.b64encode(pickle.dumps(Touches(mark))).decode()
    (folder.path / "sb3").mkdir()
    path = folder.path / "sb3" / "seed-0.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps({"learning_rate": {":type:": "x", ":serialized:": evil}}))
    with pytest.raises(Exception):  # noqa: B017  the rest of it is missing
        stable_baselines3.DDPG.load(path)
    assert mark.exists()  # so it would
    mark.unlink()
    for where in (folder.path, folder.checkpoints, next(folder.checkpoints.glob("step-*"))):
        for name in ("state.pt", "policy.pth", "data.pkl", "replay_buffer.pkl"):
            (where / name).write_bytes(pickle.dumps(Touches(mark)))
    for mode in ("load_agent", "sb3.load", "evaluate", "export", "collect", "train", "table", "runs"):
        use(mode, folder, tmp_path)
        assert not mark.exists(), mode
    assert stable_baselines3.DDPG.load(path).gamma == 0.99 and not mark.exists()  # exported anew


LIBRARIES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "np", "numpy", "yaml", "pd"}
LOAD = {"load", "loads", "Unpickler", "unsafe_load", "full_load", "load_all", "read_pickle", "open"}
RUN = {"eval", "exec", "__import__", "instantiate"}
SB3 = {"stable_baselines3", "DDPG", "TD3", "SAC", "PPO", "BaseAlgorithm", "ReplayBuffer"}
OWN_PIPES = {"rlreg/video/film.py", "rlreg/video/worker.py"}
"""Between a film and the process that it starts itself."""


def test_nothing_in_the_sources_reads_files_that_can_hold_code():
    """No `pickle.load`, `torch.load`, `np.load`, `yaml.load`, `eval`, Hydra's `instantiate` or `TD3.load`."""
    found = []
    for path in (ROOT / "run.py", *(p for name in ("rlreg", "agents", "envs") for p in (ROOT / name).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                owner, _, name = ast.unparse(node.func).rpartition(".")
                first = owner.partition(".")[0]
                if (first in LIBRARIES and name in LOAD) or (first in SB3 and name == "load") or name in RUN:
                    found.append((path.relative_to(ROOT).as_posix(), f"{owner}.{name}"))
    assert {place for place, _ in found} == OWN_PIPES, found
