"""Every task as a Hydra choice: `env=dmc/<domain>-<task>`, `gym/<id>`, `d4rl/<dataset>` and `cave_escape`."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any

from omegaconf import MISSING

from envs.cave.level_set_tool import LevelSetOptions
from envs.d4rl import dataset_names
from envs.d4rl.settings import CollectConfig, MixtureConfig
from envs.dmc import task_names
from envs.gridworld import LAYOUTS
from envs.gym import gym_ids, other_gym_ids
from envs.mujoco_gym.settings import IDS, settings
from rlreg import checks
from rlreg.schemas import store


@dataclass(kw_only=True)
class BatchConfig:
    """How the worlds of a task that has a batched version are stepped."""

    backend: str = "auto"
    """What steps the worlds: mujoco (batched, in C++ threads), warp (batched, on a GPU), one by one by the original
    itself (dm_control, gymnasium: the same seed gives its trajectory), or auto: the fastest for that many a seed."""
    spread: bool = False
    """Cut the first episodes of batched worlds at different times, so that later ones do not all end at once."""
    deterministic: bool = False
    """With backend=warp: mujoco_warp takes sums and orders contacts in a fixed order, at a price. On an H100 two runs
    still differed in their last digits after some steps (results/speed/gpu.md): closer, and no promise."""
    nconmax: int | None = None
    """With backend=warp: room for contacts per world; by default mujoco_warp's own guess."""
    njmax: int | None = None
    """With backend=warp: room for constraints per world; by default a guess by the joints. A run says where it is too
    little, as for contacts."""
    workers: Any = "auto"
    """Threads of batched worlds, or processes of others: 0 stays in this one, auto starts as many as pay."""

    def __post_init__(self) -> None:
        checks.whole_or_null(self, "env", "nconmax", "njmax")


@dataclass(kw_only=True)
class DMCConfig(BatchConfig):
    """A task of the DeepMind Control Suite."""

    task: str
    _target_: str = "envs.dmc.DMControlTask"
    name: str = "dmc/${.task}"
    """What run folders and tables call the environment."""
    action_repeat: int = 1
    """Simulator steps per action; rewards are summed. The BEER paper has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(self, "env", "action_repeat")


@dataclass(kw_only=True)
class GymConfig(BatchConfig):
    """A task of Gymnasium, with continuous or discrete actions."""

    id: str
    """Any registered task whose observations are vectors, also one that is no choice of `env=` itself."""
    _target_: str = "envs.gym.GymTask"
    name: str = "gym/${.id}"
    """What run folders and tables call the environment."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; empty for the task's own limit."""
    settings: Any = field(default_factory=dict)
    """The task's own settings, such as env.settings.ctrl_cost_weight=0.1; empty for the task's own defaults."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole_or_null(self, "env", "max_episode_steps")


def _settings_schema(id: str) -> Any:
    """An instance with a field, None, for each setting that Gymnasium's task `id` takes; {} where that is not known."""
    if id not in IDS:
        return {}
    return make_dataclass(f"{id.partition('-')[0]}Settings", [(name, Any, None) for name in settings(id)])()


@dataclass(kw_only=True)
class D4RLConfig(BatchConfig):
    """A dataset of D4RL, and its task to evaluate in."""

    id: str
    """D4RL's name; it decides on the task and on the reference scores."""
    _target_: str = "envs.d4rl.D4RLTask"
    name: str = ""
    """What run folders and tables call the environment."""
    path: str | None = None
    """An HDF5 file of your own in D4RL's format, a folder of files of D4RL's names, minari:<id> or d4rl:<name>. By
    default D4RL's file, downloaded if need be."""
    mirror: str | None = None
    """An address to download from instead of D4RL's: a folder with files of the same names, or the file itself."""
    stored_next_observations: bool = False
    """Train on the file's own `next_observations`, time-outs included; by default on the next row, as D4RL does."""
    clip_actions: bool = False
    """Clip actions beyond [-1, 1], as environments do, instead of refusing them; how many and how far is told."""


@dataclass
class CaveConfig:
    """CaveEscape: levels to train on, and levels to measure transfer on."""

    _target_: str = "envs.cave.space.CaveTask"
    name: str = "cave_escape"
    """What run folders and tables call the environment."""
    dataset: str = "cave_escape_512_4ts_varp"
    """The training levels: the train split of a set of DRED's by its name, or a level-set file."""
    count: int | None = None
    """So many of its levels only, balanced over its structures."""
    evaluate_on: list[str] = field(
        default_factory=lambda: [
            "cave_escape_512_4ts_varp:test",
            "cave_escape_112_14ts_varp:test",
            "cave_escape_112_14ts_varpl_p5m:test",
            "cave_escape_112_14ts_p50l_p5m:test",
        ]
    )
    """Sets to measure on, `<name>:<split>` or a file; the first is the held-out set of the generalisation gap."""
    evaluate_count: int | None = None
    """At most so many levels of each, balanced over its structures."""
    layouts: str | None = None
    """A file or folder of wall layouts, for sets that the package has none for (45 x 45)."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut; by default 250 for levels of 15 x 15, 2250 for 45 x 45."""

    def __post_init__(self) -> None:
        checks.whole_or_null(self, "env", "count", "evaluate_count", "max_episode_steps")


@dataclass
class GridConfig:
    """A small grid world with known values, for agents with discrete actions."""

    _target_: str = "envs.gridworld.GridTask"
    name: str = "gridworld/${.layout}"
    """What run folders and tables call the environment."""
    layout: str = "four_rooms"
    """One of `envs.gridworld.LAYOUTS`: open, four_rooms or corridor."""
    max_episode_steps: int = 100
    """Steps after which an episode is cut."""

    def __post_init__(self) -> None:
        checks.one_of(self, "env", "layout", *LAYOUTS)
        checks.whole(self, "env", "max_episode_steps")


def register_schemas() -> None:
    """Make every task a choice of `env=`."""
    for task in task_names():
        store("env/dmc", task, DMCConfig, partial(DMCConfig, task=task), "env")
    for gym_id in (*gym_ids(), *other_gym_ids()):
        store("env/gym", gym_id, GymConfig, partial(_gym_config, gym_id), "env")
    store("env", "gym", GymConfig, partial(GymConfig, id=MISSING), "env")  # env.id says which
    for dataset in dataset_names():
        store("env/d4rl", dataset, D4RLConfig, partial(D4RLConfig, id=dataset, name=f"d4rl/{dataset}"), "env")
    store("env", "cave_escape", CaveConfig, CaveConfig, "env")
    store("env", "gridworld", GridConfig, GridConfig, "env")
    store("level_set", "cave_escape", LevelSetOptions, package="level_set")
    store("collect", "d4rl", CollectConfig, package="collect")
    store("mixture", "mixture_schema", MixtureConfig)


def _gym_config(id: str) -> GymConfig:
    return GymConfig(id=id, settings=_settings_schema(id))
