"""The offline loop: updates from a dataset that lies on the device, and no environment but the evaluation's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from rlreg.agent import BatchAgent
from rlreg.buffers import DatasetBuffer
from rlreg.config import Config, EvalConfig, TrainConfig
from rlreg.errors import UserError
from rlreg.purpose import Purpose
from rlreg.run_folder import RunFolder
from rlreg.task import Loop, Task, VectorEnv
from rlreg.training.base import BatchTraining

if TYPE_CHECKING:
    from rlreg.task import Score


ACTING = (
    *("warmup_steps", "num_envs", "updates_per_step", "updates_per_iteration", "n_step", "least_noise", "most_noise"),
    *("buffer_capacity", "keep_replay", "max_bad_share"),
)
"""Settings of acting in worlds and of remembering it."""


class OfflineTraining(BatchTraining):
    """One run of S seeds that learn from the same data. Steps are updates."""

    unit = "update"
    loop = Loop.OFFLINE
    unused = ACTING

    @classmethod
    def of(cls, agent: BatchAgent, task: Task, settings: Config, folder: RunFolder) -> Self:
        data = task.dataset(agent.seeds, agent.device)
        sizes = agent.obs_dim, agent.action_dim
        for kind, size, right in zip(("observations", "actions"), data.widths[:2], sizes, strict=True):
            if size != right:
                raise UserError(
                    f"dataset {data.source}: {kind} of {size} numbers, but those of env={task.name} have {right}"
                )
        make_env, score = partial(task.vector_env, agent.seeds, device=agent.device), task.score()
        how = settings.compile, data, score, settings.products
        return cls(agent, make_env, settings.train, settings.eval, folder, *how)

    def __init__(
        self,
        agent: BatchAgent,
        make_env: Callable[[int, Purpose], VectorEnv],
        train: TrainConfig,
        evaluation: EvalConfig,
        folder: RunFolder,
        compile: str,
        data: DatasetBuffer,
        score: Score | None = None,
        products: str = "auto",
    ) -> None:
        """`score` adds a column to eval.csv: the mean return, normalised."""
        self.data, self.score, self.stride = data, score, train.updates_per_call
        self.columns = (*self.columns, "score") if score is not None else self.columns
        updates, per_call = train.total_steps, train.updates_per_call
        super().__init__(agent, make_env, train, evaluation, folder, compile, data, updates, per_call, products)

    def _begin(self) -> None:
        self.agent.fit(self.data)

    def _iterate(self) -> None:
        self._learn()
        self.step += self.stride

    def _measure(self) -> dict[str, Tensor]:
        values = super()._measure()
        return values if self.score is None else values | {"score": self.score(values["return"])}

    def _evaluate(self, bar: Any) -> None:
        super()._evaluate(bar)
        advantage = self.agent.advantage(self.data.sample("measure", self.step, self.eval_cfg.samples))
        if advantage is not None:
            self.logger.histograms(self.step, "behaviour/advantage_histogram", advantage)

    def _results(self) -> dict[str, Any]:
        data = {"source": self.data.source, "transitions": self.data.inserted, "checksum": self.data.checksum}
        return super()._results() | {"dataset": data}

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"dataset": self.data.checksum}

    def _restore_info(self, info: dict[str, Any]) -> None:
        super()._restore_info(info)
        require_same_data(self.data, info["dataset"], self.folder)


def require_same_data(data: DatasetBuffer, checksum: int, folder: RunFolder) -> None:
    """Raise `UserError` unless `data` are those, by their checksum, that the run in `folder` learns from."""
    if data.checksum != checksum:
        raise UserError(
            f"dataset {data.source}: not the data that the run in {folder.path} began with; "
            "bring those back, give another run_dir, or delete that folder"
        )
