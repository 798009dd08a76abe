"""Curricula of levels: uniform, PLR, domain randomisation, robust PLR, ACCEL, ACCEL-D and EL-DRED.

One student (`agents.ppo`), one buffer of scored levels (`rlreg.level_buffer`), one way to play (`rlreg.rollouts`). A
method is what it does in a cycle: which levels it plays, whether the student learns from that, and which levels are
new. VAE-DRED is in `agents.vae_dred`. After Garcin et al. (ICML 2024); PLR: Jiang et al. 2021a, robust PLR: Jiang et
al. 2021b, ACCEL: Parker-Holder et al. 2022.
Shapes: S seeds, T steps of a rollout, N worlds of each seed, K slots of the buffer; `*level` is a level's own shape.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from agents.ppo import PPO, PPOConfig
from rlreg import checks
from rlreg.agent import AgentConfig, CurriculumAgent
from rlreg.compilation import Function
from rlreg.errors import require
from rlreg.level_buffer import LevelBufferConfig, ScoredLevels, Scores, draw, episode_scores
from rlreg.level_space import Field, LevelSpace
from rlreg.regularizers import Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.rollouts import Rollout, play, play_steps
from rlreg.training.curriculum import CurriculumTraining
from rlreg.training.episodes import EpisodeWindow


@dataclass
class InformationConfig:
    """Measuring the mutual information of the student's features and the training levels (`rlreg.transfer`)."""

    every: int = 10
    """Updates between two measurements, each of which trains the classifier a little further; 0 for none. The authors
    measure at every update, which takes longer than all the rest."""
    num_envs: int = 8
    length: int = 2048
    """Steps of each world in a measurement."""

    def __post_init__(self) -> None:
        checks.whole(self, "agent.information", "every", least=0)
        checks.whole(self, "agent.information", "num_envs", "length")


@dataclass
class CurriculumConfig(AgentConfig):
    """What every curriculum has."""

    _target_: str = "agents.level_replay.LevelReplay"
    name: str = "plr"
    student: PPOConfig = field(default_factory=PPOConfig)
    levels: LevelBufferConfig = field(default_factory=LevelBufferConfig)
    """`dataset_levels` is put right once the dataset is known, for methods that have one."""
    information: InformationConfig = field(default_factory=InformationConfig)


class Curriculum(CurriculumAgent):
    """S students, each with a curriculum of its own."""

    Config = CurriculumConfig
    Training = CurriculumTraining
    grows = True
    """Whether levels are added to the buffer; it has no room beyond the dataset where not."""

    def __init__(
        self,
        config: Any,
        regularizer: Regularizer,
        observation: Mapping[str, Field],
        num_actions: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """`observation` and `num_actions` as a `LevelSpace` has them."""
        self.config = config
        self.student = PPO(config.student, regularizer, observation, num_actions, seeds, device)
        self.seeds, self.device, self.alive = self.student.seeds, self.student.device, self.student.alive
        self.rng = Rng(seeds, device)
        self.play_program: Function | None = None
        """`rlreg.rollouts.play_steps` compiled, if it is."""

    def setup(self, space: LevelSpace, num_updates: int) -> None:
        """Take up the levels of `space`, for a run of `num_updates` updates of the student."""
        self.space = space
        self.num_envs, self.length = self.config.student.num_envs, self.config.student.rollout_length
        self.worlds = space.worlds(self.seeds, self.num_envs)
        limit = self.worlds.max_episode_steps
        valid = f"at least the {limit} steps of an episode: one that is longer than a rollout never ends in it"
        require(self.length >= limit, "agent.student.rollout_length", self.length, valid)
        dataset = space.dataset.flatten(1) if self.uses_dataset else None
        number = len(space.dataset) if self.uses_dataset else 0
        capacity = self.config.levels.capacity if self.grows else max(1, number)
        valid = f"more than the {number} training levels, which stay in it"
        require(not self.grows or capacity > number, "agent.levels.capacity", capacity, valid)
        levels = replace(self.config.levels, capacity=capacity, dataset_levels=number)
        self.buffer = ScoredLevels(levels, len(self.seeds), math.prod(space.level_shape), dataset, self.device)
        self.episodes = EpisodeWindow(len(self.seeds), self.num_envs, self.device)
        self.warm_up = self.buffer.warm_up_cycles(self.num_envs) if self.uses_dataset else 0
        self.num_cycles = self.warm_up + num_updates
        self.cycles = 0
        self.env_steps = 0
        self.last: Metrics = {}
        """What the last cycles have to report of new levels, (S,) each."""
        self.new_levels: Tensor | None = None

    def cycle(self) -> Metrics | None:
        metrics = self.score_dataset() if self.cycles < self.warm_up else self.cycle_after_warm_up()
        self.cycles += 1
        return metrics

    @abstractmethod
    def cycle_after_warm_up(self) -> Metrics | None:
        """A cycle after the warm-up."""

    # ------------------------------------------------------- the common pieces

    def play(self, levels: Tensor, schedule: Tensor, stream: str) -> Rollout:
        """A rollout in `levels` (S, K, bytes) by the indices in `schedule`.

        (S, T, N): of the level for an episode that begins there. (S, N): each world repeats the one.
        """
        maps = levels.view(len(self.seeds), -1, *self.space.level_shape)
        if repeat := schedule.dim() == 2:
            schedule = schedule.unsqueeze(1).expand(-1, self.length, -1)
        self.env_steps += self.length * self.num_envs
        named = self.rng, stream, self.cycles
        return play(self.student, self.worlds, maps, schedule, *named, repeat, program=self.play_program)

    def play_each(self, levels: Tensor, stream: str) -> Rollout:
        """A rollout in new levels (S, N, *level), one per world."""
        self.new_levels = levels
        index = torch.arange(self.num_envs, device=self.device).expand(len(self.seeds), -1)
        return self.play(levels.flatten(2), index, stream)

    def learn(self, rollout: Rollout) -> Metrics:
        """Update the student, and say how the last hundred episodes went that it learnt from."""
        self.episodes.add_rollout(rollout.reward, rollout.done)
        return self.student.update(rollout) | self.episodes.means()

    def scores(self, rollout: Rollout) -> Scores:
        """Of every episode that finished, at its last step, (S, T, N)."""
        return episode_scores(self.student.advantage(rollout), rollout.reward, rollout.done)

    def score_dataset(self) -> None:
        """A cycle of the warm-up: play levels that have not been seen yet, to score them."""
        uniform = self.rng.uniform("levels/unseen", self.cycles, (self.buffer.config.dataset_levels,))
        rollout = self.play(self.buffer.levels, self.buffer.draw_unseen(uniform, self.num_envs), "warm_up")
        self.buffer.update(rollout.level, self.scores(rollout))

    def replay(self) -> Rollout:
        """Play levels drawn from P, a new one for each episode, and score them."""
        uniform = self.rng.uniform("levels/draw", self.cycles, (self.length, self.num_envs))
        schedule = draw(self.buffer.distribution(self.eta), uniform)
        rollout = self.play(self.buffer.levels, schedule, "replay")
        self.buffer.record_draws(rollout.level, rollout.start)
        self.buffer.update(rollout.level, self.scores(rollout))
        return rollout

    def evaluate_candidates(self, levels: Tensor) -> None:
        """Play new levels (S, N, *level), one per world, without learning, and offer them to the buffer."""
        rollout = self.play_each(levels, "audition")
        inserted = self.buffer.insert(levels.flatten(2), self.scores(rollout), self.eta)
        self.last["levels/inserted"] = inserted.float().mean(dim=1)
        self.last["levels/new_solved"] = (rollout.reward > 0).any(dim=1).float().mean(dim=1)

    @property
    def eta(self) -> float:
        """The secondary term's share: j / J in cycle j = 0 .. J - 1 of a run with as many as DRED's, one an update."""
        return min(1.0, self.cycles / self.num_cycles)

    def compile(self, program: Callable[[Function], Function]) -> None:
        self.play_program = program(play_steps)
        self.student.compile(program)

    def practise(self) -> None:
        levels = self.space.dataset[:1].expand(len(self.seeds), 1, *self.space.level_shape)
        schedule = torch.zeros(len(self.seeds), self.length, self.num_envs, dtype=torch.int64, device=self.device)
        named = self.rng, "practice", 0
        self.student.update(play(self.student, self.worlds, levels, schedule, *named, program=self.play_program))

    # ----------------------------------------------------------------- state

    def distribution(self) -> Tensor | None:
        return self.buffer.distribution(self.eta)

    def stored_levels(self, i: int, slots: Tensor) -> Tensor:
        return self.buffer.levels[i, slots].view(-1, *self.space.level_shape)

    def statistics(self) -> Metrics:
        probability = self.distribution()
        return self.last if probability is None else self.last | self.buffer.statistics(probability)

    def state(self) -> dict[str, Any]:
        return self.student.state()

    def progress(self) -> dict[str, Any]:
        return {"levels": self.buffer.state(), "episodes": self.episodes.state()}


class LevelReplay(Curriculum):
    """PLR on a fixed dataset; with equal scores (`primary.score=uniform`, `rho=0`), uniform sampling."""

    grows = False

    def cycle_after_warm_up(self) -> Metrics | None:
        return self.learn(self.replay())


class DomainRandomization(Curriculum):
    """DR: every cycle new random levels, each kept for all episodes of its world's rollout."""

    uses_dataset = grows = False

    def cycle_after_warm_up(self) -> Metrics | None:
        levels = self.space.random_levels(self.rng, "levels/random", self.cycles, self.num_envs)
        return self.learn(self.play_each(levels, "random"))

    def distribution(self) -> None:
        return None


@dataclass
class RobustPLRConfig(CurriculumConfig):
    """Robust PLR's settings."""

    _target_: str = "agents.level_replay.RobustPLR"
    name: str = "robust_plr"
    replay_probability: float = 0.5
    """Share of cycles that replay, once there is enough to replay."""
    least_fill: float = 0.5
    """Share of the buffer that has to be proposed before the first replay."""

    def __post_init__(self) -> None:
        checks.within(self, "agent", "replay_probability", "least_fill", interval="(0, 1]")


class RobustPLR(Curriculum):
    """Random levels enter the buffer by their scores; the student learns from replayed levels only.

    Whether a cycle replays is one toss for all seeds, a function of the cycle's number, and how full the buffer
    is counts proposals instead of what is stored: so all seeds do the same thing at the same time, and none
    depends on which others run beside it.
    """

    Config = RobustPLRConfig
    uses_dataset = False

    def setup(self, space: LevelSpace, num_updates: int) -> None:
        valid = "false: without a dataset, and before any level is solved, there would be none to replay"
        require(not self.config.levels.solved_only, "agent.levels.solved_only", "true", valid)
        super().setup(space, num_updates)
        self.proposed = torch.zeros((), dtype=torch.int64)
        """Levels offered to the buffer so far, per seed."""
        self.coin = Rng([0])

    def cycle_after_warm_up(self) -> Metrics | None:
        if not self.replays():
            self.propose(self.candidates())
            return None
        return self.learn(self.replay())

    def replays(self) -> bool:
        c = self.config
        fill = min(1.0, self.proposed.item() / c.levels.capacity)
        toss = self.coin.uniform("levels/replay", self.cycles, ()).item()
        return fill >= c.least_fill and toss < min(fill, c.replay_probability)

    def candidates(self) -> Tensor:
        return self.space.random_levels(self.rng, "levels/random", self.cycles, self.num_envs)

    def propose(self, levels: Tensor) -> None:
        self.evaluate_candidates(levels)
        self.proposed += self.num_envs

    def progress(self) -> dict[str, Any]:
        return super().progress() | {"proposed": {"count": self.proposed}}


@dataclass
class EditConfig:
    """How levels are edited."""

    num_parents: int = 4
    """Worlds whose levels are edited after a replay: those of the lowest return less value loss."""
    num_edits: int = 5
    """Changes a level."""

    def __post_init__(self) -> None:
        checks.whole(self, "agent.edits", "num_parents", "num_edits")


@dataclass
class ACCELConfig(RobustPLRConfig):
    """Robust PLR's settings and those of the edits."""

    _target_: str = "agents.level_replay.ACCEL"
    name: str = "accel"
    replay_probability: float = 0.8
    edits: EditConfig = field(default_factory=EditConfig)


class ACCEL(RobustPLR):
    """Robust PLR whose new levels are empty rooms, and that edits what it has replayed."""

    Config = ACCELConfig

    def cycle_after_warm_up(self) -> Metrics | None:
        if not self.replays():
            self.propose(self.candidates())
            return None
        rollout = self.replay()
        metrics = self.learn(rollout)
        self.propose(edited(self, rollout))
        return metrics

    def candidates(self) -> Tensor:
        return self.space.empty_levels(self.rng, "levels/empty", self.cycles, self.num_envs)


@dataclass
class EditReplayConfig(CurriculumConfig):
    """Level replay's settings and those of the edits."""

    _target_: str = "agents.level_replay.EditReplay"
    name: str = "el_dred"
    edits: EditConfig = field(default_factory=EditConfig)


class EditReplay(Curriculum):
    """ACCEL-D and EL-DRED: a buffer that begins with the dataset, and edits of what was replayed.

    They differ in `levels`: EL-DRED has DRED's distribution and admits solved levels only.
    """

    Config = EditReplayConfig

    def cycle_after_warm_up(self) -> Metrics | None:
        rollout = self.replay()
        metrics = self.learn(rollout)
        self.evaluate_candidates(edited(self, rollout))
        return metrics


def edited(curriculum: Curriculum, rollout: Rollout) -> Tensor:
    """New levels (S, N, *level): edits of the 'easy' levels of a replay.

    The released code calls the worlds easy in which mean return less mean |A| (clipped to 1) is lowest, and takes
    the levels that they began the rollout with; the same few parents, tiled over all worlds.
    """
    edits = curriculum.config.edits
    episodes = rollout.done.sum(dim=1).clamp_min(1)
    returns = torch.where(rollout.finished, rollout.reward, 0.0).sum(dim=1) / episodes
    value_loss = curriculum.student.advantage(rollout).abs().mean(dim=1).clamp_max(1.0)
    easy = (returns - value_loss).argsort(dim=1, stable=True)[:, : edits.num_parents]
    parents = rollout.level[:, 0].gather(1, easy)
    index = torch.arange(curriculum.num_envs, device=easy.device) % easy.shape[1]
    rows = curriculum.buffer.take(parents[:, index])
    maps = rows.view(*rows.shape[:2], *curriculum.space.level_shape)
    return curriculum.space.edit(maps, curriculum.rng, "levels/edit", curriculum.cycles, edits.num_edits)
