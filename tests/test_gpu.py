"""What only a GPU shows (`pytest -m gpu`): captured updates equal eager ones, and no update waits for the host."""

import pytest
import torch

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Replay
from rlreg.checkpoint import flatten
from rlreg.graphs import CudaGraph, prepare
from rlreg.regularizers import BEER
from rlreg.rng import Rng

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SEEDS, OBS, ACT = (0, 4, 7), 6, 2


def learner(device):
    """TD3 with BEER, a filled ring, and its update by number."""
    agent = TD3(TD3Config(hidden=[32, 32], batch_size=64), BEER(beta=1.0), OBS, ACT, SEEDS, device)
    replay = Replay(SEEDS, 500, OBS, ACT, device)
    rows = Rng(SEEDS).normal("rows", 0, (500, replay.rows.shape[-1]))
    rows[..., -1] = (rows[..., -1] > 1).float()
    replay.write(0, rows.to(device))
    return agent, lambda number, flag: agent.update(replay.sample("replay", number, 64), number, flag)


def run(agent, update, updates=12):
    number = torch.zeros((), dtype=torch.int64, device=agent.device)
    for i in range(1, updates + 1):
        number.fill_(i)
        update(number, i % 2 == 0)
    return {k: v.cpu().clone() for k, v in flatten(agent.state()).items()}


def test_a_captured_update_equals_the_eager_one_to_the_bit():
    agent, update = learner("cuda")
    eager = run(agent, update)
    agent, update = learner("cuda")
    captured = run(agent, CudaGraph(update))
    assert all(torch.equal(eager[k], captured[k]) for k in eager)


def test_the_graph_of_the_compiled_update_equals_the_eager_one():
    agent, update = learner("cuda")
    eager = run(agent, update)
    agent, update = learner("cuda")
    captured = run(agent, prepare(update, "graph", agent.device, 10**6))
    for k in eager:
        torch.testing.assert_close(captured[k], eager[k], rtol=1e-3, atol=1e-4)


def test_gpu_and_cpu_learn_the_same():
    gpu, cpu = run(*learner("cuda")), run(*learner("cpu"))
    for k in cpu:
        torch.testing.assert_close(gpu[k], cpu[k], rtol=1e-3, atol=1e-4)


def test_an_update_never_waits_for_the_host():
    _, update = learner("cuda")
    number = torch.ones((), dtype=torch.int64, device="cuda")
    update(number, True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(number, True)
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
