"""What every loop shares: the course of a run, its evaluations, logs and checkpoints. A loop adds its iteration."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from tqdm import tqdm

from rlreg.agent import Agent, BatchAgent
from rlreg.checkpoint import Checkpoints, Damaged, copy_into, flatten
from rlreg.compilation import WORTHWHILE_UPDATES, Update, check_mode, prepare
from rlreg.compile_costs import LEAST_UPDATES, CostBook, Seconds, Watched, choice, time_eager
from rlreg.config import Config, EvalConfig, TrainConfig
from rlreg.errors import UserError
from rlreg.eval_table import EvalTable
from rlreg.evaluation import COLUMNS, REPRESENTATION, evaluate, representation
from rlreg.files import save_tensors
from rlreg.interrupts import Interrupted, interrupts
from rlreg.learner import Learner, Memory
from rlreg.logger import Logger
from rlreg.metrics import metric
from rlreg.naming import hparams_of
from rlreg.precision import require_instructions
from rlreg.product_choice import ProductChoice
from rlreg.purpose import Purpose
from rlreg.run_folder import RunFolder
from rlreg.run_times import RunTimes
from rlreg.task import Loop, Task, VectorEnv
from rlreg.training.speed import Speed

FEWEST_STEPS = 200
"""`train.max_bad_share` is taken of so many steps at least, so that a single bad one at the start stops nothing."""


class Training(ABC):
    """One run of S seeds. Everything that it needs to continue is in `save` and `restore`.

    A loop gives `of`, `_begin`, `_iterate` and `_measure`, and whatever more it holds to `_tensors`, `_info` and
    `_restore_info`.
    """

    unit: ClassVar[str] = "step"
    """What `train.total_steps` counts."""
    loop: ClassVar[Loop] = Loop.ONLINE
    """The kind of tasks that it takes."""
    unused: ClassVar[tuple[str, ...]] = ("updates_per_call",)
    """Settings of `train` that mean nothing to it."""
    stride: int = 1
    """Steps of an iteration."""
    columns: Sequence[str] = COLUMNS
    """What `_measure` gives, in the order of eval.csv; `rlreg.metrics` describes each."""

    @classmethod
    @abstractmethod
    def of(cls, agent: Agent, task: Task, settings: Config, folder: RunFolder) -> Self:
        """The loop of a configuration, with all that it needs of `task`. Writes nothing into `folder` yet.

        Raises `UserError` for what does not fit together. `close` it, also where it never runs.
        """

    def __init__(self, agent: Agent, train: TrainConfig, evaluation: EvalConfig, folder: RunFolder) -> None:
        self.agent, self.cfg, self.eval_cfg, self.folder = agent, train, evaluation, folder
        self.checkpoints = Checkpoints(folder.checkpoints, train.keep_checkpoints)
        self.best = Checkpoints(folder.best, 1)
        self.task: Task | None = None
        """Where to film, for `train.video_every`; whoever builds the loop may set it."""
        self.closing = ExitStack()  # what closes at the end of `run`, however that comes

        self.step = 0
        self.updates = 0
        self.seconds_before = 0.0  # of the parts of a resumed run before this one, up to the checkpoint
        self.metrics: dict[str, Tensor] = {}
        self.saved_evaluations: list[list[str]] | None = None
        self.stopped: dict[int, str] = {}
        """Why a seed learns no more, by its value; what was said of it."""

    # ------------------------------------------------------------- the loop

    def run(self) -> dict[str, Any]:
        """Train to the end, continuing from the newest checkpoint. Returns the final figures, per seed."""
        with self.closing:
            self._train()
            return self._results()

    def close(self) -> None:
        """Release worlds and writers; for a second time nothing happens."""
        self.closing.close()

    def _train(self) -> None:
        resumed = self.restore()
        if not resumed:
            self._begin()
        self.logger = Logger(self.folder.tensorboard, self.agent.seeds, self.loop, self.step + 1 if resumed else 0)
        self.closing.callback(self.logger.close)
        self._hparams()
        last_step = self.step if resumed else None
        self.eval_table = EvalTable(
            self.folder.eval_csv, self.agent.seeds, self.columns, last_step, self.saved_evaluations
        )
        self.times = RunTimes(self.folder.times, last_step)
        self.started, self.speed = time.perf_counter(), Speed(self.step)
        self._end_without_seeds()
        if resumed:
            print(f"resuming from step {self.step}", flush=True)
        with interrupts() as interrupted, self._progress() as bar:
            if not resumed:
                self._evaluate(bar)
            while self.step < self.cfg.total_steps:
                self._iterate()
                bar.update(self.stride)
                if self._passed(self.cfg.log_every):
                    self._log()
                if self._passed(self.eval_cfg.every) or self.step >= self.cfg.total_steps:
                    self._evaluate(bar)
                if self.cfg.video_every and self._passed(self.cfg.video_every):
                    self._film()
                stop = interrupted()
                if stop or self._passed(self.cfg.checkpoint_every) or self.step >= self.cfg.total_steps:
                    self.save()
                self._end_without_seeds()
                if stop:
                    raise Interrupted(f"stopped at step {self.step}; the same command goes on from there")

    @abstractmethod
    def _begin(self) -> None:
        """What comes before the first step of a run that is not resumed."""

    @abstractmethod
    def _iterate(self) -> None:
        """Go on by `stride` steps."""

    def _passed(self, interval: int) -> bool:
        """Whether the last iteration crossed a multiple of `interval`."""
        return self.step // interval > (self.step - self.stride) // interval

    # --------------------------------------------------- what is looked at

    def _evaluate(self, bar: tqdm) -> None:
        values = self._measure()
        self.eval_table.add(self.step, values)
        self.times.add(self.step, self._seconds())
        self.logger.scalars(self.step, {metric(name).tag: value for name, value in values.items()})
        self.logger.flush()
        if self.cfg.keep_best:
            self._keep_best()
        shown = [name for name in ("return", "score", "solved") if name in values]
        found = ", ".join(f"{name} {values[name].mean():.4g}" for name in shown)
        bar.set_postfix_str(found)
        if bar.disable:
            print(f"step {self.step}: {found}, {self.speed.at(self.step):.3g} {self.unit}s/s", flush=True)

    @abstractmethod
    def _measure(self) -> dict[str, Tensor]:
        """The columns of eval.csv: (S,) each."""

    def _log(self) -> None:
        self.logger.scalars(self.step, self.metrics)
        self.logger.scalar(self.step, "time/fps", self.speed.at(self.step))
        self.logger.scalar(self.step, "train/n_updates", self.updates)
        self._look_after_seeds()

    def _hparams(self, done: bool = False) -> None:
        if self.folder.config.exists():  # a loop that a library's user built by hand has none
            self.logger.hparams(hparams_of(self.folder.read_config()), done)

    def _keep_best(self) -> None:
        """Keep the agent of this evaluation where it is the best so far, by its mean over the seeds."""
        name = next(name for name in ("score", "solved", "return") if name in self.columns)
        means = self.eval_table.column(name).nanmean(dim=1)
        if len(means) == 1 or means[-1] > means[:-1].max():
            self.best.save(self.step, flatten({"agent": self.agent.state()}), {"step": self.step})

    def _film(self) -> None:
        """Film the first seed, for TensorBoard and as `videos/step-<n>.mp4`; what goes wrong costs only the film."""
        if self.task is None:
            return
        from rlreg.video.film import film_now  # here: only a run that is filmed pays for the import
        from rlreg.video.writer import gif

        try:
            footage = film_now(self.agent, self.task, self.folder.path / "videos" / f"step-{self.step}", self.step)
        except UserError as error:
            tqdm.write(f"warning: no film: {error}", file=sys.stderr)
            self.task = None
            return
        frames = footage.frames[0]
        self.logger.film(self.step, "film/episode", gif(frames, footage.fps), *frames[0].shape[:2])

    def _look_after_seeds(self) -> None:
        """Say once of each seed whose loss turned non-finite that it learns no more."""
        for i in (~self.agent.alive.cpu()).nonzero().flatten().tolist():
            if self.agent.seeds[i] not in self.stopped:
                self._stop_seed(i, f"the loss turned non-finite at or before step {self.step}")

    def _stop_seed(self, i: int, reason: str) -> None:
        """Have seed number i learn no more, write what it held to a file and say so."""
        seed = self.agent.seeds[i]
        path = self.folder.path / f"diverged-seed-{seed}-step-{self.step}.safetensors"
        save_tensors({k: v[i].contiguous() for k, v in flatten(self.agent.state()).items() if v.dim()}, path)
        self.agent.alive[i] = False
        self.stopped[seed] = reason
        warn(f"seed {seed}: {reason}; this seed learns no more, its state is in {path}, the others go on")

    def _end_without_seeds(self) -> None:
        """Raise `UserError` where no seed learns any more: such a run is never complete, however often started."""
        if len(self.stopped) == len(self.agent.seeds):
            if self.checkpoints.steps()[-1:] != [self.step]:
                self.save()
            end_without_seeds(self.stopped, self.agent.seeds, self.folder)

    def _results(self) -> dict[str, Any]:
        columns = {name: self.eval_table.column(name) for name in self.columns}  # (evaluations, S)
        final = {name: column[-1].tolist() for name, column in columns.items()}
        averaged = [name for name in ("return", "score") if name in columns]
        self._hparams(done=True)
        return {
            "seeds": list(self.agent.seeds),
            "steps": self.step,
            "final": final,
            # without the untrained policy's, where there are not as many
            **{f"{name}_last_ten": columns[name][1:][-10:].mean(dim=0).tolist() for name in averaged},
            "diverged": [s for s, alive in zip(self.agent.seeds, self.agent.alive.tolist(), strict=True) if not alive],
            "seconds": round(self._seconds(), 1),
        }

    def _seconds(self) -> float:
        """Time the run has taken, over all of its parts."""
        return self.seconds_before + time.perf_counter() - self.started

    def _progress(self) -> tqdm:
        return tqdm(
            total=self.cfg.total_steps,
            initial=self.step,
            unit=self.unit,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )

    # --------------------------------------------------------------- resume

    def _tensors(self) -> dict[str, Any]:
        """Every tensor of a checkpoint, live and nested by name."""
        return {"agent": self.agent.state()}

    def _info(self) -> dict[str, Any]:
        """The rest of a checkpoint."""
        stopped = {str(seed): reason for seed, reason in self.stopped.items()}
        return {
            "step": self.step,
            "updates": self.updates,
            "seconds": self._seconds(),
            "stopped": stopped,
            "evaluations": self.eval_table.saved(),
        }

    def save(self) -> None:
        """Write a checkpoint of this moment. There is no generator to save: random numbers are counted."""
        self._look_after_seeds()  # a resumed run takes those of its checkpoint for reported
        self.logger.flush()  # no point older than the checkpoint is lost with this process
        self.checkpoints.save(self.step, flatten(self._tensors()), self._info())

    def restore(self) -> bool:
        """Continue from the newest checkpoint that is whole; False where there is none at all."""
        return bool(self.checkpoints.first_that(self._take_up))

    def _take_up(self, step: int, tensors: dict[str, Tensor], info: dict[str, Any]) -> bool:
        self.step = step
        copy_into(self._tensors(), self._as_today(tensors), str(self.folder.checkpoints))
        try:
            self.updates, self.seconds_before = info["updates"], info.get("seconds", 0.0)
            self.saved_evaluations = info.get("evaluations")
            self._restore_info(info)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise Damaged(f"{self.folder.checkpoints}: the state of step {step} lacks something ({error})") from None
        self.stopped = {}
        reasons = info.get("stopped", {})
        for seed, alive in zip(self.agent.seeds, self.agent.alive.tolist(), strict=True):
            if not alive:
                self.stopped[seed] = reasons.get(str(seed), "the loss turned non-finite")
        return True

    def _as_today(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, those of an earlier version by what stands for them now."""
        return tensors

    def _restore_info(self, info: dict[str, Any]) -> None:  # noqa: B027 (optional)
        """Take up what a loop's own `_info` has put by."""


class BatchTraining(Training):
    """A run that learns from batches of stored transitions, and is evaluated in worlds."""

    agent: BatchAgent

    def __init__(
        self,
        agent: BatchAgent,
        make_env: Callable[[int, Purpose], VectorEnv],
        train: TrainConfig,
        evaluation: EvalConfig,
        folder: RunFolder,
        compile: str,
        memory: Memory,
        num_updates: int,
        per_call: int = 1,
        products: str = "auto",
    ) -> None:
        """`make_env(num_envs, Purpose.EVALUATE)` gives the worlds to evaluate in.

        A run makes `num_updates` updates in all, `per_call` of them each time it learns.
        """
        super().__init__(agent, train, evaluation, folder)
        self.memory, self.learner = memory, Learner(agent, memory)
        self.eval_env = make_env(evaluation.episodes, Purpose.EVALUATE)
        self.closing.callback(self.eval_env.close)
        self.columns = (*self.columns, *self.eval_env.measures)
        self.eval_env.reset()
        self.eval_start = self.eval_env.state_dict()
        self.told_of_starts = False
        self.per_call = per_call
        check_mode(compile, agent.device)
        require_instructions(agent.precision, agent.device)
        self.compile, self.num_updates = compile, num_updates
        self.products = ProductChoice(products, agent.device, num_updates >= LEAST_UPDATES)
        self.update: Update | None = None
        """Made when there is something to learn from, by which it is measured whether compiling pays."""
        self.compiled: dict[str, Any] = {}
        """Whether that was found to pay, for a run of how many updates."""
        self.update_number = torch.zeros((), dtype=torch.int64, device=agent.device)

    def _learn(self) -> None:
        """The next `per_call` updates."""
        if self.update is None:
            self.update = self._prepared()
        numbers = range(self.updates + 1, self.updates + 1 + self.per_call)
        variants = tuple(self.agent.variant(number) for number in numbers)
        self.updates += self.per_call
        self.update_number.fill_(numbers[0])
        with self.products.using():
            self.metrics |= self.update(self.update_number, variants if self.per_call > 1 else variants[0])

    def _prepared(self) -> Update:
        """The learner's update as the run makes it, compiled or not."""
        device, worthwhile, watch = self.agent.device, self.num_updates > WORTHWHILE_UPDATES, None
        may_compile = self.compile == "compile" or (self.compile != "eager" and self.num_updates >= LEAST_UPDATES)
        parts = self.learner.seed_by_seed() if may_compile else []
        if self.products.open:
            learners = self.learner, *parts[:1]
            print(self.products.choose(lambda: [learner.rehearse() for learner in learners]), flush=True)
        if device.type == "cpu" and self.compile != "eager":
            book = CostBook(self.agent)
            worthwhile = self.compile == "compile" or self._pays(book)
            watch = partial(Watched, book=book, time_eager=self._time_eager)
        if worthwhile and self.compile != "eager":  # the compiler's import takes a second
            torch.compiler.reset()  # an earlier run of this process has used up Dynamo's recompilations
        return prepare(self.learner.update, self.compile, device, worthwhile, self.per_call, watch, parts)

    def _pays(self, book: CostBook) -> bool:
        """Whether `compile=auto` compiles: decided once in a run, so that a resumed one goes on by the same program."""
        if self.num_updates < LEAST_UPDATES:
            return False

        def time_one() -> Seconds:
            with self.products.using():
                return self._time_eager()

        self.compiled = choice(self.compiled, self.num_updates, book, time_one)
        return self.compiled["pays"]

    def _time_eager(self) -> Seconds:
        return time_eager(self.agent, self.learner.update, self.learner.variants())

    def _results(self) -> dict[str, Any]:
        return super()._results() | {"products": self.products.told()}

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"compiled": self.compiled, "products": self.products.saved()}

    def _restore_info(self, info: dict[str, Any]) -> None:
        # An earlier version went by the number of updates alone.
        earlier = {"updates": self.num_updates, "pays": self.num_updates > WORTHWHILE_UPDATES}
        self.compiled = info.get("compiled", earlier)
        self.products.restore(info.get("products"))

    def _measure(self) -> dict[str, Tensor]:
        cfg, agent = self.eval_cfg, self.agent
        values = evaluate(agent, self.eval_env, self.eval_start)
        self.eval_env.check()
        self._tell_of_evaluation(values.pop("bad_steps"))
        if self.memory.inserted:
            batch = self.memory.sample("measure", self.step, cfg.samples)
            return values | representation(agent, batch, cfg.rank_epsilon)
        # nothing to measure on before the first step
        nothing = torch.full_like(values["return"], torch.nan)
        return values | dict.fromkeys(REPRESENTATION, nothing)


    def _tell_of_evaluation(self, bad_steps: Tensor) -> None:
        """Log how many episodes (S,) a bad step cut, and say so, and where evaluations do not begin alike."""
        problems = self.eval_env.problems()
        if bad_steps.any():
            self.logger.scalars(self.step, {"eval/bad_steps": bad_steps})
            which = ", ".join(
                f"{n:.0f} of seed {seed}" for n, seed in zip(bad_steps.tolist(), self.agent.seeds, strict=True) if n
            )
            why = f", such as this one: {problems[0]}" if problems else ""
            warn(f"evaluation at step {self.step}: episodes cut by a bad step: {which}{why}")
        elif problems and not self.told_of_starts:
            self.told_of_starts = True
            warn(f"evaluations do not begin from the same states every time: {problems[0]}")


def end_without_seeds(stopped: Mapping[int, str], seeds: Sequence[int], folder: RunFolder) -> None:
    """Raise `UserError` where every one of `seeds` was `stopped`, for the reasons given there."""
    if len(stopped) == len(seeds):
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in stopped.items())
        raise UserError(f"no seed is left that learns ({reasons}); see {folder.path}, and delete it to start anew")


def warn(text: str) -> None:
    """One line on stderr, beside the progress bar."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
