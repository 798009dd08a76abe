"""VAE-DRED (Garcin et al., "DRED", ICML 2024, section 1.2 of its specification as released).

Level replay on a dataset, and after every update levels that a VAE grounded in the dataset makes from between two of
them. What the student can already solve of these, and what scores high enough, enters the buffer; a second term of
the distribution over levels, on the whole buffer, takes over from the dataset's as the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from agents.level_replay import Curriculum, CurriculumConfig
from rlreg import checks
from rlreg.errors import require
from rlreg.level_space import LevelSpace
from rlreg.regularizers import Metrics


@dataclass
class LevelModelConfig:
    """The level model's settings; the defaults are the paper's."""

    seed: int = 20211201
    """Of its initialisation and training, which are the same for all seeds of a run."""
    latent: int = 1024
    hidden: int = 256
    epochs: int = 200
    batch_size: int = 64
    learning_rate: float = 3.976022969069069e-4

    def __post_init__(self) -> None:
        checks.whole(self, "agent.model", "latent", "hidden", "epochs")
        checks.whole(self, "agent.model", "batch_size", least=2)
        checks.positive(self, "agent.model", "learning_rate")
        checks.random_seed(self, "agent.model", "seed")


@dataclass
class VAEDREDConfig(CurriculumConfig):
    """Level replay's settings and those of the generator."""

    _target_: str = "agents.vae_dred.VAEDRED"
    name: str = "vae_dred"
    pairs: int = 6
    """Pairs of dataset levels per cycle, drawn uniformly and without replacement."""
    interpolations: int = 6
    """New levels a pair, evenly spaced between its two, which are the first and the last."""
    model: LevelModelConfig = field(default_factory=LevelModelConfig)

    def __post_init__(self) -> None:
        checks.whole(self, "agent", "pairs", "interpolations")
        made, worlds = self.pairs * self.interpolations, self.student.num_envs
        require(made == worlds, "agent.pairs", self.pairs, f"pairs * interpolations = {worlds} worlds, not {made}")


class VAEDRED(Curriculum):
    """S students that share one level model."""

    Config = VAEDREDConfig

    def setup(self, space: LevelSpace, num_updates: int) -> None:
        super().setup(space, num_updates)
        c = self.config.model
        enough = len(space.dataset) >= 2 * self.config.pairs
        require(enough, "agent.pairs", self.config.pairs, f"at most half of the {len(space.dataset)} training levels")
        self.model = space.level_model([c.seed], c.latent, c.hidden)
        shape = (1, len(space.dataset), c.latent)
        self.latents = {name: torch.zeros(shape, device=self.device) for name in ("mean", "std")}
        """Of q(z | level) for each training level."""

    def begin(self, report: Callable[[str], None]) -> None:
        """Train the level model, and encode the dataset."""
        c = self.config.model
        report(f"training the level model on {len(self.space.dataset)} levels, {c.epochs} epochs")
        course = self.model.fit(self.space.dataset, c.epochs, c.batch_size, c.learning_rate)
        log_likelihood = {name: course[f"{name}/log_layout"][0, -1].item() for name in ("train", "validation")}
        report("level model: log p of a tile {train:.3f}, {validation:.3f} in validation".format(**log_likelihood))
        for name, latent in zip(("mean", "std"), self.model.encode(self.space.dataset), strict=True):
            self.latents[name].copy_(latent)

    def cycle_after_warm_up(self) -> Metrics | None:
        # Replay and learn
        metrics = self.learn(self.replay())

        # Generate, and see how the student fares
        c, latents = self.config, self.latents
        levels = self.model.generate(
            latents["mean"], latents["std"], self.rng, "levels/generate", self.cycles, c.pairs, c.interpolations
        )
        self.evaluate_candidates(levels)
        return metrics

    def progress(self) -> dict[str, Any]:
        return super().progress() | {"model": self.model.state(), "latents": self.latents}
