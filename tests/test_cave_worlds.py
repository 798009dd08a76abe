"""CaveEscape's batched worlds in hand-made corners, and the Gymnasium environments over them."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs.cave
from envs.cave.gym_env import CaveEnv, CaveVectorEnv
from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, WALL
from envs.cave.worlds import CaveWorlds, act, look
from rlreg.errors import UserError

LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
EAST, SOUTH, WEST, NORTH = range(4)
SYMBOLS = {"#": WALL, ".": EMPTY, "o": MOSS, "G": GOAL, "~": LAVA, "S": START}


def level(picture: str) -> np.ndarray:
    """(G, G) of lines as they look: a line is a y, a column an x."""
    return np.array([[SYMBOLS[symbol] for symbol in line] for line in picture.split()], np.uint8).T


CORRIDOR = level("##### #S.G# #~o.# #...# #####")
OTHER = level("##### #..o# #oS~# #G..# #####")


def begin(levels: list[np.ndarray], direction: list[int], **options) -> CaveWorlds:
    """Worlds (1, N) in these levels."""
    worlds = CaveWorlds([0], len(levels), levels[0].shape[0], **options)
    worlds.set_levels(torch.from_numpy(np.stack(levels))[None], torch.tensor([direction]))
    return worlds


def step(worlds: CaveWorlds, *actions: int) -> tuple[list, list, list]:
    reward, terminated, truncated = worlds.step(torch.tensor([actions]))
    assert reward.dtype == torch.float32 and terminated.dtype == truncated.dtype == torch.bool
    return reward[0].tolist(), terminated[0].tolist(), truncated[0].tolist()


def cell(x: int, y: int, size: int = 5) -> int:
    return x * size + y


def test_goal_lava_wall_moss_and_what_does_nothing() -> None:
    worlds = begin([CORRIDOR] * 4, [EAST, SOUTH, WEST, EAST], max_episode_steps=10)
    assert step(worlds, FORWARD, FORWARD, FORWARD, DONE) == ([0] * 4, [False, True, False, False], [False] * 4)
    assert worlds.cell[0].tolist() == [cell(2, 1), cell(1, 2), cell(1, 1), cell(1, 1)]  # on; on the lava; walled in
    reward, terminated, _ = step(worlds, FORWARD, RIGHT, RIGHT, FORWARD)
    assert reward == [np.float32(1 - 0.9 * 2 / 10), 0, 0, 0] and terminated == [True, False, False, False]
    assert worlds.direction[0].tolist() == [EAST, WEST, NORTH, EAST]
    step(worlds, LEFT, LEFT, LEFT, RIGHT)
    assert worlds.direction[0].tolist() == [NORTH, SOUTH, WEST, SOUTH]
    step(worlds, *[FORWARD] * 4)  # the last one onto the moss
    assert worlds.cell[0, 3] == cell(2, 2) and worlds.steps.tolist() == [[4] * 4]
    for action in range(3, 7):
        before = [x.tolist() for x in worlds._state()[:3]]
        assert step(worlds, *[action] * 4) == ([0] * 4, [False] * 4, [False] * 4)
        assert [x.tolist() for x in worlds._state()[:3]] == before


def test_terminated_wins_at_the_last_step() -> None:
    worlds = begin([CORRIDOR] * 3, [EAST, SOUTH, NORTH], max_episode_steps=2)
    step(worlds, FORWARD, DONE, DONE)
    reward, terminated, truncated = step(worlds, *[FORWARD] * 3)
    assert reward == [np.float32(0.1), 0, 0]  # 1 - 0.9: the goal is worth something to the last
    assert terminated == [True, True, False] and truncated == [False, False, True]
    assert step(worlds, DONE, DONE, DONE)[2] == [True] * 3  # left alone they go on, past the limit


@pytest.mark.parametrize("size, limit", [(15, 250), (45, 2250)])
def test_time_limits_of_the_paper(size: int, limit: int) -> None:
    assert CaveWorlds([0], 1, size).max_episode_steps == limit


def test_view_by_hand() -> None:
    """From (2, 2), looking down and to the right: ahead is up in the image, the agent's right is right."""
    worlds = begin([OTHER, OTHER], [SOUTH, EAST])
    image, direction = worlds.observe()
    assert image.shape == (1, 2, 5, 5, 3) and image.dtype == torch.uint8 and direction.tolist() == [[SOUTH, EAST]]
    south = level("##### ##### ##### #..G# #~.o#").T  # rows of the image: second axis; columns: first axis
    np.testing.assert_array_equal(image[0, 0, :, :, 0].T, south)
    east = level("##### ##### ##### #o~.# #...#").T
    np.testing.assert_array_equal(image[0, 1, :, :, 0].T, east)
    colors = {EMPTY: 0, WALL: 5, MOSS: 2, GOAL: 1, LAVA: 0}
    np.testing.assert_array_equal(image[0, 0, :, :, 1].T, np.vectorize(colors.get)(south))
    assert not image[..., 2].any()


def test_own_cell_is_empty_and_the_map_ends_in_walls() -> None:
    """On moss the agent does not see moss; at an edge without a wall (a malformed level) it stays on the map."""
    bare = np.full((5, 5), EMPTY, np.uint8)
    bare[0, 0], bare[4, 4] = START, GOAL
    worlds = begin([bare] * 2, [NORTH, WEST])
    step(worlds, FORWARD, FORWARD)
    assert worlds.cell.tolist() == [[cell(0, 0)] * 2]
    image = worlds.observe().image[0, :, :, :, 0]
    assert (image[0, :2] == WALL).all() and (image[0, :, :4] == WALL).all()
    assert (image[1, 3:, :4] == WALL).all() and (image[1, :, :4] == WALL).all()
    moss = np.where(OTHER == EMPTY, MOSS, OTHER)
    worlds = begin([moss], [NORTH])
    step(worlds, FORWARD)
    assert worlds.cell.tolist() == [[cell(2, 1)]] and worlds.levels[0, 0, 2, 1] == MOSS
    assert worlds.observe().image[0, 0, 2, 4].tolist() == [EMPTY, 0, 0]


@pytest.mark.parametrize("found_by", ["cpu", "cuda"])
def test_new_levels_only_where_asked(found_by: str) -> None:
    """On the CPU only the worlds asked for are written; the way of a GPU, which computes all, must do the same."""
    worlds = begin([CORRIDOR, CORRIDOR, OTHER], [EAST, EAST, NORTH])
    worlds.device = torch.device(found_by)  # its tensors stay where they are
    step(worlds, FORWARD, RIGHT, FORWARD)
    before = [x.clone() for x in worlds._state()]
    new = torch.from_numpy(np.stack([OTHER, OTHER, CORRIDOR]))[None]
    worlds.set_levels(new, torch.tensor([[WEST, WEST, WEST]]), torch.tensor([[True, False, True]]))
    fresh = begin([OTHER, CORRIDOR, CORRIDOR], [WEST, EAST, WEST])
    for state, old, expected in zip(worlds._state(), before, fresh._state(), strict=True):
        assert torch.equal(state[:, 1], old[:, 1])
        assert torch.equal(state[:, [0, 2]], expected[:, [0, 2]])
    assert worlds.cell.tolist() == [[cell(2, 2), cell(1, 1), cell(1, 1)]]
    shown = torch.from_numpy(np.stack([OTHER, CORRIDOR, CORRIDOR]))
    assert torch.equal(worlds.levels[0], shown.masked_fill(shown == START, EMPTY))


def random_walk(worlds: CaveWorlds, steps: int, seed: int) -> list[torch.Tensor]:
    """Observations and outcomes of random actions (the same for every seed of the worlds)."""
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        action = torch.randint(0, 7, (1, worlds.num_envs), generator=generator)
        seen += [*worlds.step(action.expand(len(worlds.seeds), -1)), *worlds.observe()]
    return seen


def test_state_dict_round_trip() -> None:
    worlds = begin([CORRIDOR, OTHER], [EAST, NORTH])
    random_walk(worlds, 7, 0)
    state, seen = worlds.state_dict(), worlds.observe()
    expected = random_walk(worlds, 30, 1)
    others = CaveWorlds([0], 2, 5)
    restored = others.load_state_dict(state)
    assert all(map(torch.equal, restored, seen))
    assert all(map(torch.equal, random_walk(others, 30, 1), expected))
    with pytest.raises(UserError, match=r"'grid' has shape \(1, 2, 126\), not \(1, 3, 126\)"):
        CaveWorlds([0], 3, 5).load_state_dict(state)


def test_worlds_do_not_touch_each_other() -> None:
    """Two seeds of two worlds at once equal each of the four alone."""
    levels = torch.from_numpy(np.stack([CORRIDOR, OTHER, OTHER, CORRIDOR])).view(2, 2, 5, 5)
    direction = torch.tensor([[EAST, WEST], [SOUTH, NORTH]])
    together = CaveWorlds([4, 9], 2, 5, 20)
    together.set_levels(levels, direction)
    seen = random_walk(together, 25, 0)
    for s in range(2):
        alone = CaveWorlds([s], 2, 5, 20)
        alone.set_levels(levels[s : s + 1], direction[s : s + 1])
        assert all(torch.equal(a[s : s + 1], b) for a, b in zip(seen, random_walk(alone, 25, 0), strict=True))


def test_pure_functions_trace_whole_and_leave_their_arguments() -> None:
    worlds = begin([CORRIDOR, OTHER], [EAST, NORTH])
    state = [x.clone() for x in worlds._state()]
    action = torch.tensor([[FORWARD, LEFT]])
    whole = torch.compile(lambda *state: (act(*state, action, worlds._tables), look(*state[:3], worlds._tables)),
                          fullgraph=True, backend="eager")  # fmt: skip
    (position, direction, steps), _ = whole(*worlds._state())[0]
    assert all(map(torch.equal, worlds._state(), state))
    worlds.step(action)
    assert all(map(torch.equal, worlds._state()[1:], (position, direction, steps)))


@pytest.mark.gpu
def test_on_a_gpu_and_in_a_cuda_graph() -> None:
    """The same walk on the GPU, new levels in some worlds included, once plain and once as one captured graph."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.from_numpy(np.stack([CORRIDOR, OTHER]))[torch.randint(0, 2, (3, 64), generator=generator)]
    direction = torch.randint(0, 4, (3, 64), generator=generator)
    actions = torch.randint(0, 4, (60, 3, 64), generator=generator)

    def turn(worlds: CaveWorlds, action: torch.Tensor) -> list[torch.Tensor]:
        outcome = worlds.step(action)
        on = worlds.device
        worlds.set_levels(levels.to(on), direction.to(on), outcome[1] | outcome[2])
        return [*outcome, *worlds.observe()]

    def fresh(device: str) -> CaveWorlds:
        worlds = CaveWorlds(range(3), 64, 5, 20, device)
        worlds.set_levels(levels.to(device), direction.to(device))
        return worlds

    host, plain, graphed = fresh("cpu"), fresh("cuda"), fresh("cuda")
    levels, direction = levels.cuda(), direction.cuda()
    action = actions[0].cuda()
    begun = [x.clone() for x in graphed._state()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        turn(graphed, action)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = turn(graphed, action)
    for state, value in zip(graphed._state(), begun, strict=True):
        state.copy_(value)
    for now in actions:
        expected = turn(host, now)
        action.copy_(now)
        graph.replay()
        for a, b, c in zip(expected, turn(plain, now.cuda()), out, strict=True):
            assert torch.equal(a, b.cpu()) and torch.equal(a, c.cpu())


def test_mistakes_of_the_worlds_are_named() -> None:
    with pytest.raises(UserError, match="size=3 is not valid"):
        CaveWorlds([0], 1, 3)
    with pytest.raises(UserError, match="num_envs=0 is not valid"):
        CaveWorlds([0], 0)
    with pytest.raises(UserError, match="max_episode_steps=0 is not valid"):
        CaveWorlds([0], 1, max_episode_steps=0)
    worlds = CaveWorlds([0, 1], 3, 5)
    levels = torch.from_numpy(CORRIDOR).expand(2, 3, 5, 5)
    with pytest.raises(UserError, match=r"direction has shape \(3,\) of torch.int64; give \(2, 3\) of int64"):
        worlds.set_levels(levels, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match=r"levels has shape \(2, 3, 5, 5\) of torch.int64; give .* of uint8"):
        worlds.set_levels(levels.long(), torch.zeros(2, 3, dtype=torch.int64))


# Gymnasium


def test_registration_is_light() -> None:
    code = "import sys, envs.cave; assert 'torch' not in sys.modules and 'minigrid' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=envs.__path__[0] + "/..")


def test_gymnasiums_checker_has_nothing_to_say() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("rlreg/CaveEscape-v0", levels=CORRIDOR).unwrapped)


def test_the_single_world_starts_walks_and_draws_as_told() -> None:
    levels = np.stack([CORRIDOR, OTHER])
    env = gymnasium.make("rlreg/CaveEscape-v0", levels=levels, max_steps=8, render_mode="rgb_array")
    obs, info = env.reset(seed=0, options={"direction": EAST})
    assert info["level"] in (0, 1) and obs["direction"] == EAST
    assert {env.reset()[1]["level"] for _ in range(20)} == {0, 1}
    assert {int(env.reset()[0]["direction"]) for _ in range(40)} == {0, 1, 2, 3}
    _, info = env.reset(options={"level": CORRIDOR, "direction": EAST})
    assert info["level"] == -1 and env.render().shape == (160, 160, 3)
    env.step(FORWARD)
    obs, reward, terminated, truncated, _ = env.step(FORWARD)
    assert terminated is True and truncated is False and reward == pytest.approx(1 - 0.9 * 2 / 8)
    red = (env.render() == (255, 0, 0)).all(-1)
    assert red[32:64, 96:128].any() and red.sum() == red[32:64, 96:128].sum()  # on the goal, at (3, 1)
    env.reset(seed=5)
    again = [env.reset(seed=7), env.reset(seed=7)]
    assert again[0][1] == again[1][1] and np.array_equal(again[0][0]["image"], again[1][0]["image"])


def test_vector_environment_is_gymnasiums_own_of_single_ones() -> None:
    """Beside SyncVectorEnv of CaveEnv: equal spaces, and equal observations, ends and infos, key by key."""
    n, levels = 6, np.stack([CORRIDOR, OTHER])
    ours = CaveVectorEnv(n, levels, max_steps=12)
    theirs = SyncVectorEnv([lambda: CaveEnv(levels, max_steps=12)] * n, autoreset_mode=AutoresetMode.SAME_STEP)
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(theirs, space)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    obs, infos = ours.reset(seed=3)
    assert infos.keys() == theirs.reset(seed=3)[1].keys() and infos["_level"].all()
    rng, ends = np.random.default_rng(0), 0
    levels_now = infos["level"].copy()
    for _ in range(150):
        # Theirs draw other levels: put them where ours are.
        for row, env in enumerate(theirs.envs):
            if ours._worlds.steps[0, row] == 0:
                env.reset(options={"level": levels[levels_now[row]], "direction": obs["direction"][row]})
        action = rng.choice(3, n, p=[0.2, 0.2, 0.6])
        obs, reward, terminated, truncated, infos = ours.step(action)
        their_obs, their_reward, their_terminated, their_truncated, their_infos = theirs.step(action)
        assert ours.observation_space.contains(obs)
        for mine, other in ((reward, their_reward), (terminated, their_terminated), (truncated, their_truncated)):
            np.testing.assert_array_equal(mine, other)
        done = terminated | truncated
        assert infos.keys() == their_infos.keys() and bool(infos) == done.any()
        for key in ("image", "direction"):
            np.testing.assert_array_equal(obs[key][~done], their_obs[key][~done])
        if infos:
            for key in ("_final_obs", "_final_info", "_level"):
                np.testing.assert_array_equal(infos[key], their_infos[key])
            assert infos["final_info"] == their_infos["final_info"]
            for row in range(n):
                mine, other = infos["final_obs"][row], their_infos["final_obs"][row]
                assert (mine is None) == (other is None) == (not done[row])
                if mine:
                    np.testing.assert_array_equal(mine["image"], other["image"])
                    assert mine["direction"] == other["direction"]
            levels_now[done] = infos["level"][done]
            ends += done.sum()
    assert ends > 50


def walk(env: CaveVectorEnv, steps: int, worlds: int) -> np.ndarray:
    """Images of the first `worlds` worlds over a walk of random actions."""
    rng, images = np.random.default_rng(0), []
    for _ in range(steps):
        action = np.zeros(env.num_envs, int)
        action[:worlds] = rng.choice(3, worlds)
        images.append(env.step(action)[0]["image"][:worlds])
    return np.stack(images)


def test_vector_environment_draws_by_seed_and_world_alone() -> None:
    levels = np.stack([CORRIDOR, OTHER, CORRIDOR[::-1].copy(), OTHER[::-1].copy()])
    few, many = (CaveVectorEnv(n, levels, max_steps=5) for n in (3, 7))
    few.reset(seed=11), many.reset(seed=11)
    seen = walk(few, 40, 3)
    np.testing.assert_array_equal(walk(many, 40, 3), seen)
    few.reset(seed=[11, 12, 13])
    np.testing.assert_array_equal(walk(few, 40, 3), seen)
    few.reset(seed=12)
    assert not np.array_equal(walk(few, 40, 3), seen)

    env = CaveVectorEnv(4000, levels)
    _, infos = env.reset(seed=0)
    counts = np.bincount(infos["level"], minlength=4)
    assert (np.abs(counts - 1000) < 110).all()  # four standard deviations
    assert (infos["level"] != env.reset()[1]["level"]).mean() > 0.6  # a reset without a seed goes on


def test_vector_environment_by_make_vec() -> None:
    env = gymnasium.make_vec(
        "rlreg/CaveEscape-v0", 2, "vector_entry_point", levels=CORRIDOR, render_mode="rgb_array", tile_size=8
    )
    obs, infos = env.reset(seed=0, options={"level": np.stack([OTHER, CORRIDOR]), "direction": [NORTH, EAST]})
    assert infos["level"].tolist() == [-1, -1] and obs["direction"].tolist() == [NORTH, EAST]
    assert [picture.shape for picture in env.render()] == [(40, 40, 3)] * 2


def test_the_gymnasium_world_takes_a_level_set_by_its_name() -> None:
    env = CaveEnv("cave_escape_512_4ts_varp", "test")
    assert env.reset(seed=0)[0]["image"].shape == (5, 5, 3) and len(env._levels) == 2048
    with pytest.raises(UserError, match="unknown level set 'cave_escape'"):
        CaveEnv("cave_escape")


def test_mistakes_of_the_environments_are_named() -> None:
    env, vector = CaveEnv(CORRIDOR), CaveVectorEnv(2, CORRIDOR)
    env.reset(seed=0)
    with pytest.raises(UserError, match="action=7 is not valid; give 0 to 6"):
        env.step(7)
    with pytest.raises(UserError, match="unknown reset option 'levle'; did you mean 'level'"):
        env.reset(options={"levle": OTHER})
    with pytest.raises(UserError, match=r"options\['level'\] has shape \(1, 15, 15\); give \(5, 5\)"):
        env.reset(options={"level": np.pad(CORRIDOR, 5, constant_values=WALL)})
    with pytest.raises(UserError, match=r"options\['direction'\]=4 is not valid"):
        env.reset(options={"direction": 4})
    with pytest.raises(UserError, match="levels: level 0 has 0 start tiles"):
        CaveEnv(np.where(CORRIDOR == START, EMPTY, CORRIDOR))
    with pytest.raises(UserError, match="unknown render mode 'human'"):
        CaveEnv(CORRIDOR, render_mode="human")
    with pytest.raises(UserError, match="step before the first reset"):
        vector.step(np.zeros(2, int))
    vector.reset(seed=0)
    with pytest.raises(UserError, match=r"actions of shape \(3,\), int64; give \(2,\) whole numbers 0 to 6"):
        vector.step(np.zeros(3, int))
