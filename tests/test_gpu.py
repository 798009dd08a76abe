"""What only a GPU shows (`pytest -m gpu`): captured updates equal eager ones, and no update waits for the host."""

import numpy as np
import pytest
import torch

from agents.a2pr import A2PR, A2PRConfig
from agents.iql import IQL, IQLConfig
from agents.td3 import TD3, TD3Config
from rlreg.buffers import Batch, DatasetBuffer, Replay
from rlreg.checkpoint import flatten
from rlreg.compilation import CudaGraph, _several, prepare
from rlreg.regularizers import BEER
from rlreg.rng import Rng

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SEEDS, OBS, ACT = (0, 4, 7), 6, 2


def offline(kind, device):
    """A2PR or IQL, a dataset, and its update by number."""
    agent_class, config = {"a2pr": (A2PR, A2PRConfig), "iql": (IQL, IQLConfig)}[kind]
    small = {"critic_hidden": [32, 32], "vae_hidden": [32]} if kind == "a2pr" else {}
    agent = agent_class(config(hidden=[32, 32], batch_size=64, **small), BEER(beta=1.0), OBS, ACT, SEEDS, device)
    rng = Rng((0,))
    obs, next_obs = (rng.normal(name, 0, (500, OBS))[0] for name in ("obs", "next"))
    action, reward = torch.tanh(rng.normal("action", 0, (500, ACT))[0]), rng.normal("reward", 0, (500,))[0]
    terminated = (rng.uniform("end", 0, (500,))[0] < 0.1).float()
    columns = Batch(*(x.numpy() for x in (obs, action, reward, next_obs, terminated)))
    data = DatasetBuffer(SEEDS, columns, device, returns=np.array([-3.0, 7.0]))
    agent.fit(data)
    return agent, lambda number, variant: agent.update(data.sample("replay", number, 64), number, *variant)


def learner(device, kind="beer"):
    """An agent and its update by number: TD3 with BEER on a filled ring, or what `offline` makes."""
    if kind != "beer":
        return offline(kind, device)
    agent = TD3(TD3Config(hidden=[32, 32], batch_size=64), BEER(beta=1.0), OBS, ACT, SEEDS, device)
    replay = Replay(SEEDS, 500, OBS, ACT, device)
    rows = Rng(SEEDS).normal("rows", 0, (500, replay.rows.shape[-1]))
    rows[..., -2:] = (rows[..., -2:] > 1).float()  # terminated, truncated
    replay.write(0, rows.to(device))
    return agent, lambda number, variant: agent.update(replay.sample("replay", number, 64), number, *variant)


def run(agent, update, updates=12):
    number = torch.zeros((), dtype=torch.int64, device=agent.device)
    for i in range(1, updates + 1):
        number.fill_(i)
        update(number, agent.variant(i))
    return {k: v.cpu().clone() for k, v in flatten(agent.state()).items()}


def run_together(agent, updates, calls):
    """`calls` calls of four updates each."""
    number = torch.zeros((), dtype=torch.int64, device=agent.device)
    for i in range(calls):
        number.fill_(4 * i + 1)
        updates(number, tuple(agent.variant(4 * i + k) for k in range(1, 5)))
    return {k: v.cpu().clone() for k, v in flatten(agent.state()).items()}


KINDS = pytest.mark.parametrize("kind", ["beer", "a2pr", "iql"])


@KINDS
def test_a_captured_update_equals_the_eager_one_to_the_bit(kind):
    agent, update = learner("cuda", kind)
    eager = run(agent, update)
    agent, update = learner("cuda", kind)
    captured = run(agent, CudaGraph(update))
    assert all(torch.equal(eager[k], captured[k]) for k in eager)


@KINDS
def test_several_updates_in_one_graph_equal_as_many_calls(kind):
    agent, update = learner("cuda", kind)
    eager = run(agent, update, updates=40)
    agent, update = learner("cuda", kind)
    captured = run_together(agent, CudaGraph(_several(update, 4)), calls=10)
    assert all(torch.equal(eager[k], captured[k]) for k in eager)


def test_the_graph_of_the_compiled_update_equals_the_eager_one():
    agent, update = learner("cuda")
    eager = run(agent, update)
    agent, update = learner("cuda")
    captured = run(agent, prepare(update, "graph", agent.device))
    for k in eager:
        torch.testing.assert_close(captured[k], eager[k], rtol=1e-3, atol=1e-4)


def test_gpu_and_cpu_learn_the_same():
    gpu, cpu = run(*learner("cuda")), run(*learner("cpu"))
    for k in cpu:
        torch.testing.assert_close(gpu[k], cpu[k], rtol=1e-3, atol=1e-4)


@KINDS
def test_an_update_never_waits_for_the_host(kind):
    agent, update = learner("cuda", kind)
    number, variant = torch.ones((), dtype=torch.int64, device="cuda"), agent.variant(2)  # an actor's update
    update(number, variant)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(number, variant)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_random_bits_are_the_same_on_any_device():
    ours, theirs = Rng(SEEDS, "cuda").bits("a", 2**33 + 5, (1001,)), Rng(SEEDS).bits("a", 2**33 + 5, (1001,))
    assert torch.equal(ours.cpu(), theirs)


def test_a_run_on_the_gpu(runner, tmp_path):
    done = runner(
        "agent=beer", "env=gym/Pendulum-v1", "seeds=3", "device=cuda", "compile=graph", "train.total_steps=600",
        "train.warmup_steps=100", "eval.every=300", "eval.episodes=2", f"run_dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
