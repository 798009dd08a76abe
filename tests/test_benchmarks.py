"""What the benchmarks race against computes the same updates as ours."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from agents.a2pr import A2PR, A2PRConfig
from rlreg.buffers import Batch
from rlreg.regularizers import Regularizer
from rlreg.rng import Rng

OBS, ACT, BATCH = 5, 2, 32


def load(module: torch.nn.Module, params: dict[str, torch.Tensor], *index: int) -> None:
    """Our stacked parameters, one entry of them, into `nn.Linear` layers."""
    for layer, linear in enumerate(m for m in module if isinstance(m, torch.nn.Linear)):
        linear.weight.data.copy_(params[f"{layer}.weight"][(0, *index)].T)
        linear.bias.data.copy_(params[f"{layer}.bias"][(0, *index)].squeeze(0))


def test_the_plain_a2pr_of_the_benchmark_makes_our_updates(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from offline import Plain

    config = A2PRConfig(hidden=[16, 16], critic_hidden=[16, 16], vae_hidden=[24], mask=0.7, vae_weight=1.5)
    ours, rng = A2PR(config, Regularizer(), OBS, ACT, [3]), Rng([3])
    theirs = Plain(config, OBS, ACT)
    vae = {
        name: {k.removeprefix(f"{name}."): v for k, v in ours.vae_params.items() if k.startswith(name)}
        for name in ("encoder", "decoder")
    }

    def pairs():
        """Their modules beside our parameters."""
        yield theirs.actor, ours.actor_params, ()
        yield theirs.actor_target, ours.actor_target, ()
        yield theirs.value, ours.value_params, ()
        yield theirs.encoder, vae["encoder"], ()
        yield theirs.decoder, vae["decoder"], ()
        for e in range(2):
            yield theirs.critics[e], ours.critic_params, (e,)
            yield theirs.critics_target[e], ours.critic_target, (e,)

    for module, params, index in pairs():
        load(module, params, *index)
    for number in range(1, 9):
        obs, next_obs = (rng.normal(name, number, (BATCH, OBS)) for name in ("obs", "next_obs"))
        action, reward = torch.tanh(rng.normal("action", number, (BATCH, ACT))), rng.normal("reward", number, (BATCH,))
        terminated = (rng.uniform("terminated", number, (BATCH,)) < 0.2).float()
        batch = Batch(obs, action, reward, next_obs, terminated)
        ours.update(batch, torch.tensor(number), number % 2 == 0)
        streams = (("target_noise", ACT), ("vae/data", 2 * ACT), ("vae/policy", 2 * ACT))
        noises = [rng.normal(stream, number, (BATCH, width))[0] for stream, width in streams]
        theirs.update(Batch(*(field[0] for field in batch)), noises, number % 2 == 0)

    for module, params, index in pairs():
        for layer, linear in enumerate(m for m in module if isinstance(m, torch.nn.Linear)):
            for part, value in (("weight", linear.weight.T), ("bias", linear.bias[None])):
                torch.testing.assert_close(params[f"{layer}.{part}"][(0, *index)], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "sections",
    [("machine", "updates", "worlds"), pytest.param(("tests", "loop", "walk", "table"), marks=pytest.mark.slow)],
)
def test_what_is_measured_on_a_gpu_is_rehearsed_on_the_cpu(sections: tuple[str, ...], forks, tmp_path) -> None:
    pytest.importorskip("mujoco_warp")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--rehearse", "--minutes", "12"]
    done = forks.run([*command, "--out", str(tmp_path), "--sections", *sections], timeout=800)
    log = (tmp_path / "gpu.log").read_text()
    assert done.returncode == 0, done.stderr + log
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "failed" in line or line.get("failed_tests")], log
    outcomes = {line["section"]: line["outcome"] for line in lines if "outcome" in line}
    assert outcomes == dict.fromkeys(sections, "done"), log
    assert all(f"## {section}" in (tmp_path / "gpu.md").read_text() for section in sections)
    telling = {
        "machine": "copy_gb_per_second", "updates": "seed_updates_per_second", "worlds": "share_of_bare",
        "tests": "result", "loop": "frames_per_second", "walk": "mean_return", "table": "returns",
    }  # fmt: skip
    for section in sections:
        assert [line for line in lines if line["section"] == section and telling[section] in line], (section, log)


def test_a_section_that_fails_or_hangs_is_told_and_the_others_go_on(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import gpu

    context = gpu.Context("worlds", tmp_path, 0.0, True)
    context.attempt(lambda: 1 / 0, task="some")
    assert json.loads((tmp_path / "gpu.jsonl").read_text())["failed"] == "ZeroDivisionError: division by zero"
    hanging = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    assert gpu.finish(hanging, 0.5) == "stopped after 0 s" and hanging.poll() is not None
    failing = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True)
    assert gpu.finish(failing, 30) == "failed with status 3"


def test_the_worlds_benchmark_writes_its_tables(forks, tmp_path) -> None:
    out = tmp_path / "worlds.json"
    given = ["--tasks", "reacher-easy", "Hopper-v4", "--num-envs", "1", "4", "--rounds", "1", "--seconds", "0.02"]
    command = [sys.executable, str(ROOT / "benchmarks/worlds.py"), *given, "--out", str(out)]
    done = forks.run(command)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    names = {(row["task"], row["contestant"]) for row in found["rows"]}
    assert {("reacher-easy", "dm_control"), ("Hopper-v4", "make_vec"), ("Hopper-v4", "ours")} <= names
    assert all(row["steps_per_cpu_second"] > 0 for row in found["rows"]) and len(found["parts"]) == 4
    assert "| Hopper-v4 | 4 | 1 |" in done.stdout


def test_tricks_for_speed_are_raced_and_compute_what_the_plain_way_does(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import tricks

    for make in (lambda: tricks.narrow(6), tricks.one_matrix, tricks.masking):
        torch.manual_seed(0)
        plain, _ = make()
        torch.manual_seed(0)
        _, ours = make()
        assert len(tricks.ratios((plain, ours), 2, 1e-4)) == 2
    x, weight, bias = torch.randn(9, 5), torch.randn(5, 3), torch.randn(1, 3)
    products = tricks.products
    torch.testing.assert_close(products.transposed(x, weight, bias), products.plain(x, weight, bias))
    mask, bad = torch.tensor([True, False])[:, None], torch.tensor([[1.0, -0.0], [torch.nan, torch.inf]])
    assert tricks.optim._where(mask, bad).tolist() == [[1.0, -0.0], [0.0, 0.0]]


def test_an_updates_products_are_counted_one_by_one(monkeypatch) -> None:
    """DDPG's, by hand: layers of 67 x 256 x 256 x 21 and of 88 x 256 x 256 x 1, batch 256."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import updates

    counted = updates.products_of("ddpg")
    # Forward: actor as target and to learn; critic as target, online, and for the actor.
    assert counted[256, 67, 256] == 2 and counted[256, 88, 256] == 3
    # The same and a weight's gradient; of 21 columns also the gradient that goes down to the action.
    assert counted[256, 256, 21] == 2 + 1 + 1 and counted[256, 256, 1] == 3 + 1
    # Forward; inputs' gradients, in the critic's and twice in the actor's step; two weights'.
    assert counted[256, 256, 256] == 5 + 3 + 2
    assert counted[67, 256, 256] == 1 and counted[88, 256, 256] == 1
    assert counted[256, 21, 256] == 1 and counted[256, 1, 256] == 2
    assert sum(counted.values()) == 2 * 3 + 3 * 3 + (3 + 3) + (2 + 2 + 2) + 1
    layers = updates.LayerProducts([(4, 3, 2), (2, 2, 2)], xla=False)
    layers.seconds = {(4, 3, 2): {"plain": [3.0, 1.0, 9.0], "onednn": [2.0, 2.0, 2.0]}, (2, 2, 2): {"plain": [0.5]}}
    assert layers.least_seconds(updates.Products({(4, 3, 2): 2, (2, 2, 2): 0.5})) == 4.25


@pytest.mark.skipif(importlib.util.find_spec("jax") is not None, reason="jax is installed")
@pytest.mark.parametrize("script", [("updates", "sbx"), ("offline", "jax_corl"), ("end_to_end", "sbx")])
def test_a_peer_that_is_not_installed_is_one_line(script) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script[0]}.py"), "--peers", script[1]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    expected = f"--peers {script[1]} needs jax, which is not installed: pip install -c constraints.txt -e \".[bench]\""
    assert done.stderr.strip() == expected


@pytest.mark.parametrize("name", ["td3_bc", "iql"])
def test_the_peers_in_jax_make_our_updates(monkeypatch, name) -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import offline
    import peers

    kind, config = offline.LEARNERS[name]
    settings = {"target_noise": 0.0} if name == "td3_bc" else {"schedule_steps": 10**9}
    ours = kind(config(**settings), Regularizer(), OBS, ACT, [3])
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jax.numpy.zeros(shape))
    init, update = getattr(peers, name)(jax, optax, OBS, ACT)

    def layers(params: dict[str, torch.Tensor], *index: int) -> list[tuple]:
        parts = ((params[f"{k}.weight"][(0, *index)], params[f"{k}.bias"][(0, *index)][0]) for k in range(3))
        return [tuple(jax.numpy.asarray(part.numpy().copy()) for part in layer) for layer in parts]

    def critics(params: dict[str, torch.Tensor]) -> list[list[tuple]]:
        return [layers(params, e) for e in range(2)]

    state, adam = init(jax.random.PRNGKey(0)), optax.adam(3e-4)
    nets = {"actor": layers(ours.actor_params), "q": critics(ours.critic_params)}
    if name == "iql":
        nets = {"actor": {"mean": nets["actor"], "log_std": jax.numpy.zeros(ACT)}, "q": nets["q"]}
        nets["v"] = layers(ours.value_params)
        state = {"nets": nets, "target": critics(ours.critic_target)}
    else:
        state = {"nets": nets, "targets": {"actor": layers(ours.actor_target), "q": critics(ours.critic_target)}}
    state["optimizers"] = {part: adam.init(params) for part, params in nets.items()}
    rng = Rng([3])
    for number in range(1, 5):
        obs, next_obs = (rng.normal(stream, number, (BATCH, OBS)) for stream in ("obs", "next_obs"))
        action, reward = torch.tanh(rng.normal("action", number, (BATCH, ACT))), rng.normal("reward", number, (BATCH,))
        terminated = (rng.uniform("terminated", number, (BATCH,)) < 0.2).float()
        batch = Batch(obs, action, reward, next_obs, terminated)
        ours.update(batch, torch.tensor(number), *ours.variant(number))
        columns = tuple(jax.numpy.asarray(field[0].numpy()) for field in (obs, action, reward, next_obs, terminated))
        state = update(state, columns, jax.random.PRNGKey(number), number)
    # What the networks give, since Adam's first steps turn the rounding of a gradient near 0 into a step's length.
    theirs, target = state["nets"], state["target"] if name == "iql" else state["targets"]["q"]
    actor = theirs["actor"]["mean"] if name == "iql" else theirs["actor"]
    obs, action = columns[0], columns[1]
    pairs = [(jax.numpy.tanh(peers.apply(jax, actor, obs)), ours.actor(ours.actor_params, batch.obs)[0])]
    for params, our_params in ((theirs["q"], ours.critic_params), (target, ours.critic_target)):
        our_q = ours.critic(our_params, batch.obs, batch.action)[0]
        pairs += [(peers.apply(jax, q, obs, action)[:, 0], our_q[e]) for e, q in enumerate(params)]
    if name == "iql":
        pairs.append((peers.apply(jax, theirs["v"], obs)[:, 0], ours.value(ours.value_params, batch.obs)[0]))
    for found, expected in pairs:
        torch.testing.assert_close(torch.tensor(found.tolist()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_checkouts_are_compared_turn_by_turn(tmp_path) -> None:
    given = ["--learners", "ddpg", "--modes", "eager", "--rounds", "3", "--seconds", "0.02"]
    command = [sys.executable, str(ROOT / "benchmarks/before_and_after.py"), str(ROOT), str(ROOT), *given]
    done = subprocess.run([*command, "--out", str(tmp_path / "ratios.md")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in (tmp_path / "ratios.md").read_text().splitlines() if line.startswith("| ddpg"))
    assert 0.2 < float(line.split("|")[4]) < 5
