"""The contract of an agent: what every one of ours keeps, and how near the loop is to an agent's losses."""

from __future__ import annotations

import inspect

import pytest
import torch
from conftest import SHIPPED, TINY
from test_runner import main

import agents
from agents.a2pr import A2PR
from agents.iql import IQL
from agents.td3 import TD3
from rlreg.agent import Agent, BatchAgent, CurriculumAgent
from rlreg.buffers import Batch
from rlreg.build import locate
from rlreg.regularizers import Regularizer
from rlreg.task import Loop
from rlreg.training.base import BatchTraining

CLASSES = sorted({locate(schema._target_) for schema in agents.SCHEMAS.values()}, key=lambda kind: kind.__name__)
OFFLINE = ["env=d4rl/hopper-medium-expert-v2", f"env.path={SHIPPED}", "train.total_steps=4", "train.log_every=2"]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_agent_is_one_by_the_contract_and_names_its_settings_and_its_loop(kind):
    assert issubclass(kind, Agent) and not inspect.isabstract(kind)
    assert kind.Training.loop in Loop
    assert {"_target_", "name"} <= set(kind.Config.__dataclass_fields__)
    assert (kind.Training.loop is Loop.CURRICULUM) == issubclass(kind, CurriculumAgent)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, BatchAgent)])
def test_what_an_agent_says_of_a_batch_has_the_documented_shapes(kind):
    agent = kind(kind.Config(hidden=[8, 8], batch_size=6), Regularizer(), 3, 2, (4, 9))
    batch = [torch.rand(2, 6, *shape) for shape in ((3,), (2,), (), (3,), ())]
    batch = Batch(*batch[:-1], torch.zeros(2, 6))
    assert agent.act(batch.obs, torch.randn(2, 6, 2)).abs().max() <= 1
    assert agent.q_value(batch.obs, batch.action).shape == (2, 6)
    features, advantage = agent.critic_features(agent.critic_params, batch), agent.advantage(batch)
    assert features is None or features.feature.shape[::2] == (2, 6)
    assert advantage is None or advantage.shape == (2, 6)
    assert (features is None) == (agent.discount is None) == agent.q_value(batch.obs, batch.action).isnan().all().item()
    metrics = agent.update(batch, torch.tensor(1), *agent.variant(1))
    assert metrics and all(metric.shape == (2,) and not metric.requires_grad for metric in metrics.values())


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        (TD3, ["agent=td3", "env=gym/Pendulum-v1", "train.total_steps=104", "train.warmup_steps=100"]),
        (IQL, ["agent=iql", *OFFLINE]),
        (A2PR, ["agent=a2pr", "agent.critic_hidden=[8]", "agent.vae_hidden=[8]", *OFFLINE]),
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else "",
)
def test_a_batch_is_at_most_six_calls_from_the_loop_to_the_critics_loss(monkeypatch, tmp_path, kind, overrides):
    whole, paths = kind.critic_loss, []

    def critic_loss(self, *args):
        path = []
        for frame in inspect.stack(context=0)[1:]:
            path.append(frame.function)
            if frame.frame.f_code is BatchTraining._learn.__code__:
                break
        paths.append(path)
        return whole(self, *args)

    monkeypatch.setattr(kind, "critic_loss", critic_loss)
    own = ("train.total_steps", "train.warmup_steps", "train.log_every")
    shared = [s for s in TINY if s.split("=")[0] not in own]
    small = [*shared, "train.log_every=2", "train.checkpoint_every=104", "eval.every=104"]
    assert main(monkeypatch, *small, *overrides, f"run_dir={tmp_path}/run") == 0
    assert len(paths) == 4
    for path in paths:  # each entry calls the one before it, the first of all calls `critic_loss`
        assert path[-1] == "_learn" and len(path) <= 6, path
