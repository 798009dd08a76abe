"""The curriculum loop: cycles of a method that chooses levels, and what its student can do on levels of its own choice.

Steps are the student's updates: cycles that only look at levels count for nothing, so that all methods are compared
after the same number of gradient steps, as the DRED paper does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rlreg.agent import CurriculumAgent
from rlreg.checkpoint import flatten
from rlreg.compilation import check_mode, compiled_or_eager
from rlreg.compile_costs import EXPECTED_CYCLE_SHARE, CostBook, Seconds, choice, least, put_back, seconds, share
from rlreg.config import Config, EvalConfig, TrainConfig
from rlreg.errors import UserError
from rlreg.files import write_atomic
from rlreg.level_space import LevelSpace
from rlreg.memory import keep_freed
from rlreg.metrics import OF_A_SET
from rlreg.product_choice import ProductChoice
from rlreg.run_folder import RunFolder
from rlreg.stats import mean_interval
from rlreg.task import Loop, Task
from rlreg.training.base import Training
from rlreg.training.offline import ACTING
from rlreg.transfer import LevelClassifier, Outcome, attempt, shift_gap

COLUMNS = (
    *("return", "solved", "length", "train_return", "train_solved"),
    *("gap", "shift_gap", "information", "env_steps"),
)
"""What eval.csv has of every curriculum; `solved` and `return` of each evaluation set follow."""
LEAST_UPDATES = 20
"""Of a run that measures how to take its products, and whether compiling pays: that costs a few updates."""
SHOWN_LEVELS = 12
"""Levels on a sheet in TensorBoard."""


class CurriculumTraining(Training):
    """One run of S students on curricula of their own."""

    unit = "update"
    loop = Loop.CURRICULUM
    unused = (*ACTING, "updates_per_call")
    agent: CurriculumAgent

    @classmethod
    def of(cls, agent: CurriculumAgent, task: Task, settings: Config, folder: RunFolder) -> Self:
        check_mode(settings.compile, agent.device)
        if agent.device.type != "cpu" and settings.compile not in ("auto", "eager"):
            reason = "a recurrent student's updates run eagerly on a GPU"
            raise UserError(f"compile={settings.compile}: {reason}; give auto or eager")
        space = task.level_space(agent.device)
        agent.setup(space, settings.train.total_steps)
        return cls(agent, space, settings.train, settings.eval, folder, settings.compile, settings.products)

    def __init__(
        self,
        agent: CurriculumAgent,
        space: LevelSpace,
        train: TrainConfig,
        evaluation: EvalConfig,
        folder: RunFolder,
        compile: str = "eager",
        products: str = "auto",
    ) -> None:
        """`agent` has been set up for `space`."""
        super().__init__(agent, train, evaluation, folder)
        self.products = ProductChoice(products, agent.device, train.total_steps >= LEAST_UPDATES)
        self.compile = compile
        self.prepared = False
        self.compiled: dict[str, Any] = {}
        """What `compile=auto` decided: see `rlreg.compile_costs.choice`."""
        self.space = space
        of_sets = (f"{kind}/{name}" for name in space.evaluation for kind in OF_A_SET)
        self.columns = (*COLUMNS, *of_sets)
        settings = agent.information
        self.classifier = LevelClassifier(agent.rng, agent.student.feature_dim, len(self.space.dataset))
        self.classifier_worlds = self.space.worlds(agent.seeds, settings.num_envs)
        self.information = torch.full((len(agent.seeds),), torch.nan, device=agent.device)
        """(S,): the newest bound on the mutual information of features and levels."""
        self.outcomes: dict[str, Outcome] = {}

    # ------------------------------------------------------------- the loop

    def _begin(self) -> None:
        self.agent.begin(lambda text: tqdm.write(text))

    def _iterate(self) -> None:
        """Cycles, until one of them is an update."""
        if not self.prepared:
            self._prepare()
        metrics = None
        while metrics is None:
            with self.products.using():
                metrics = self.agent.cycle()
        self.metrics |= metrics
        self.updates += 1
        self.step += 1
        settings = self.agent.information
        if settings.every and self.step % settings.every == 0:
            bound = self.classifier.measure(
                self.agent.student, self.classifier_worlds, self.space.dataset, settings.length, self.step
            )
            self.information.copy_(bound)

    def _prepare(self) -> None:
        """What makes cycles faster: memory kept, and what plays and learns compiled where asked for or it pays."""
        self.prepared = True
        keep_freed()  # an update's tensors are larger than what is kept of its own accord
        with put_back(self.agent.state):
            if self.products.open:
                tqdm.write(self.products.choose(self.agent.practise))
            with self.products.using():
                self._compile()

    def _compile(self) -> None:
        """Compile what plays and learns, where that is asked for or pays."""
        mode, total = self.compile, self.cfg.total_steps
        if mode == "eager" or self.agent.device.type != "cpu" or (mode == "auto" and total < LEAST_UPDATES):
            return
        book, eager = CostBook(self.agent.student, EXPECTED_CYCLE_SHARE), None

        def time_one() -> Seconds:
            nonlocal eager
            eager = least([seconds(self.agent.practise) for _ in range(2)])
            return eager

        if mode == "auto":
            self.compiled = choice(self.compiled, total, book, time_one)
        if mode == "compile" or self.compiled["pays"]:
            torch.compiler.reset()  # an earlier run of this process has used up Dynamo's recompilations
            self.agent.compile(partial(compiled_or_eager, strict=mode == "compile"))
            first, *later = [seconds(self.agent.practise) for _ in range(3)]
            taken = share(least(later), eager) if eager else None
            book.note(share=taken, seconds=max(first.clock - least(later).clock, 0.0))

    # --------------------------------------------------- what is looked at

    def _measure(self) -> dict[str, Tensor]:
        self.outcomes = attempts(self.agent, self.space, self.step)
        values = summary(self.outcomes)
        probability = self.agent.distribution() if self.agent.uses_dataset else None
        if probability is not None:
            probability = probability[:, : len(self.space.dataset)]
        return values | {
            "shift_gap": shift_gap(self.outcomes["train"], probability).float(),
            "information": self.information.clone(),
            "env_steps": torch.full_like(self.information, self.agent.env_steps, dtype=torch.float64),
        }

    def _evaluate(self, bar: Any) -> None:
        super()._evaluate(bar)
        if self.agent.new_levels is not None:
            self._show("levels/new", self.agent.new_levels)
        probability = self.agent.distribution()
        if probability is not None and probability.any(dim=1).all():
            mass, likeliest = probability.topk(min(SHOWN_LEVELS, probability.shape[1]), dim=1)
            chosen = enumerate(zip(mass, likeliest, strict=True))
            self._show("levels/likeliest", [self.agent.stored_levels(i, k[share > 0]) for i, (share, k) in chosen])

    def _show(self, tag: str, levels: Iterable[Tensor]) -> None:
        """The first of each seed's levels as one picture."""
        pictures = [self.space.sheet(own[:SHOWN_LEVELS]) for own in levels]
        if all(picture is not None for picture in pictures):
            self.logger.images(self.step, tag, pictures)

    def _log(self) -> None:
        self.logger.scalars(self.step, self.agent.statistics())
        super()._log()

    def _results(self) -> dict[str, Any]:
        # There are none yet if the process before was killed after its last checkpoint.
        outcomes = self.outcomes or attempts(self.agent, self.space, self.step)
        write_atomic(self.folder.path / "transfer.csv", _intervals(outcomes, self.agent.seeds))
        own = {"cycles": self.agent.cycles, "env_steps": self.agent.env_steps, "products": self.products.told()}
        return super()._results() | own

    # --------------------------------------------------------------- resume

    def _tensors(self) -> dict[str, Any]:
        return super()._tensors() | {
            "curriculum": self.agent.progress(),
            "classifier": self.classifier.state(),
            "information": {"bound": self.information},
        }

    def _as_today(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # An earlier version kept no window of episodes: it begins anew.
        window = {k: v for k, v in flatten(self._tensors()).items() if k.startswith("curriculum/episodes/")}
        return window | tensors

    def _info(self) -> dict[str, Any]:
        own = {"cycles": self.agent.cycles, "env_steps": self.agent.env_steps, "total_steps": self.cfg.total_steps}
        return super()._info() | own | {"compiled": self.compiled, "products": self.products.saved()}

    def _restore_info(self, info: dict[str, Any]) -> None:
        # Before there were compiled students, runs were eager: such a one stays so.
        self.compiled = info.get("compiled", {"updates": self.cfg.total_steps, "pays": False})
        self.products.restore(info.get("products"))
        before = info.get("total_steps", self.cfg.total_steps)
        if before != self.cfg.total_steps and self.agent.config.levels.secondary is not None:
            print(
                f"the schedule of eta, which goes from 0 to 1 over a run, is that of {self.cfg.total_steps} updates "
                f"from here on; up to step {info['step']} it was that of {before}",
                flush=True,
            )
        self.agent.cycles, self.agent.env_steps = info["cycles"], info["env_steps"]


def transfer(agent: CurriculumAgent, space: LevelSpace, number: int) -> dict[str, Tensor]:
    """What `eval.csv` has of an agent's solve rates and returns on all of a space's sets, (S,) each."""
    return summary(attempts(agent, space, number))


def attempts(agent: CurriculumAgent, space: LevelSpace, number: int) -> dict[str, Outcome]:
    """One episode on each training level and each level of each set; evaluation `number` decides the random numbers."""
    outcomes = {}
    for name, levels in {"train": space.dataset, **space.evaluation}.items():
        worlds = space.worlds(agent.seeds, len(levels), tuple(levels.shape[1:]))
        outcomes[name] = attempt(agent.student, worlds, levels, agent.rng, f"transfer/{name}", number)
    return outcomes


def summary(outcomes: Mapping[str, Outcome]) -> dict[str, Tensor]:
    """Means (S,) of outcomes by set: `train`, the held-out set and any others, in this order."""
    values = {}
    for name, outcome in outcomes.items():
        solved, mean_return = outcome.solved.float().mean(dim=1), outcome.episode_return.mean(dim=1)
        if name == "train":
            values |= {"train_return": mean_return, "train_solved": solved}
            continue
        if "return" not in values:  # the held-out set
            length = outcome.length.float().mean(dim=1)
            values |= {"return": mean_return, "solved": solved, "length": length}
            values["gap"] = values["train_return"] - mean_return
        values |= {f"solved/{name}": solved, f"return/{name}": mean_return}
    return values


def _intervals(outcomes: Mapping[str, Outcome], seeds: Sequence[int]) -> str:
    """A row a set and seed: solve rate and return with 95 % bootstrap intervals over the set's levels."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measures = ("solved", "return")
    writer.writerow(["set", "seed", "levels", *(f"{m}{end}" for m in measures for end in ("", "_low", "_high"))])
    for name, outcome in outcomes.items():
        kinds = [outcome.solved.double().cpu().numpy(), outcome.episode_return.double().cpu().numpy()]
        intervals = [mean_interval(kind, np.random.default_rng(0), resamples=2000) for kind in kinds]
        for i, seed in enumerate(seeds):
            figures = [f"{end[i]:.6f}" for interval in intervals for end in interval]
            writer.writerow([name, seed, kinds[0].shape[1], *figures])
    return out.getvalue()
