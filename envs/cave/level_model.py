"""DRED's model of levels (Garcin et al. 2024): a variational autoencoder of a level's graph, and new levels by it.

The encoder reads a level as a graph over its inner cells, the decoder gives every cell's tile and where the
goal and the start lie. New levels come from between the latents of two known ones.
Shapes: S seeds, L levels, B batch, K generated levels, G a level's side with its border, n = (G - 2)^2 inner
cells numbered as x (G - 2) + y, Z latent size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.cave.placement import statistics
from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, TILES, WALL
from rlreg.errors import NonFiniteError, UserError, require
from rlreg.networks import MLP, Params, linear, named, part, uniform_init
from rlreg.optim import Adam, gradients
from rlreg.rng import Rng
from rlreg.vae import VAE, Posterior, kl_to_standard_normal, log_softplus

NODE_TILES = (LAVA, MOSS, WALL, EMPTY, START, GOAL)
"""Tiles in the order of a node's one-hot features; the first four are what the decoder's layout tells apart."""
LAYOUT_TILES = NODE_TILES[:4]

LAYOUT_WEIGHT, GOAL_WEIGHT, START_WEIGHT, KL_WEIGHT = 0.04, 0.013, 0.013, 0.0448
GIN_LAYERS, GIN_WIDTH = 3, 12
LERP_ABOVE = 0.955
"""Between vectors whose |cosine| is larger `slerp` interpolates linearly."""

Metrics = dict[str, Tensor]


# ------------------------------------------------------------------ graphs


class Graphs(NamedTuple):
    """Levels as graphs of their n = m * m inner cells, with what the loss compares. The leading axes are one or more.

    Edges, undirected and each once: neighbours that are both navigable or both not, and from the goal to all
    lava, all moss and the start.
    """

    nodes: Tensor
    """(..., n, 6) float: one-hot `NODE_TILES`."""
    along_x: Tensor
    """(..., m - 1, m) float: 1 where (x, y) and (x + 1, y) are joined."""
    along_y: Tensor
    """(..., m, m - 1) float: 1 where (x, y) and (x, y + 1) are joined."""
    hub: Tensor
    """(..., n) float: 1 for the goal's neighbours that are none by the above."""
    goal: Tensor
    """(...) int64: its cell."""
    start: Tensor
    """(...) int64: its cell."""

    def take(self, index: Tensor) -> Graphs:
        """Graphs number `index` (S, B), of (L, ...) -> (S, B, ...)."""
        return Graphs(*(part[index] for part in self))


def graphs(levels: Tensor) -> Graphs:
    """The graphs of levels (..., G, G), which hold one goal and one start each."""
    inner = levels[..., 1:-1, 1:-1]
    m = inner.shape[-1]
    cells = inner.flatten(-2)
    nodes = torch.stack([cells == tile for tile in NODE_TILES], dim=-1)
    lava, moss, wall, _, start, goal = nodes.unbind(-1)
    navigable = ~(lava | wall).unflatten(-1, (m, m))
    along_x = navigable[..., 1:, :] == navigable[..., :-1, :]
    along_y = navigable[..., :, 1:] == navigable[..., :, :-1]
    goal, start = goal.int().argmax(-1), start.int().argmax(-1)
    place = torch.arange(m * m, device=levels.device)
    x, y = place // m - (goal // m).unsqueeze(-1), place % m - (goal % m).unsqueeze(-1)
    beside_goal = x.abs() + y.abs() == 1
    hub = lava | ((moss | nodes[..., NODE_TILES.index(START)]) & ~beside_goal)
    return Graphs(nodes.float(), along_x.float(), along_y.float(), hub.float(), goal, start)


class _Neighbours(torch.autograd.Function):
    """A h for the adjacency A of `Graphs`, by shifts of the grid. A is symmetric: so is A g the gradient."""

    @staticmethod
    def forward(h: Tensor, along_x: Tensor, along_y: Tensor, hub: Tensor, goal: Tensor) -> Tensor:
        m = along_x.shape[-1]
        grid, along_x, along_y = h.unflatten(-2, (m, m)), along_x.unsqueeze(-1), along_y.unsqueeze(-1)
        out = torch.zeros_like(grid)
        out[..., :-1, :, :].addcmul_(along_x, grid[..., 1:, :, :])
        out[..., 1:, :, :].addcmul_(along_x, grid[..., :-1, :, :])
        out[..., :, :-1, :].addcmul_(along_y, grid[..., :, 1:, :])
        out[..., :, 1:, :].addcmul_(along_y, grid[..., :, :-1, :])
        out = out.flatten(-3, -2)
        at_goal = goal[..., None, None].expand(*goal.shape, 1, h.shape[-1])
        out.addcmul_(hub.unsqueeze(-1), h.gather(-2, at_goal))
        return out.scatter_add_(-2, at_goal, hub.unsqueeze(-2) @ h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Neighbours.apply(grad.contiguous(), *ctx.saved_tensors), None, None, None, None


def sum_of_neighbours(h: Tensor, graph: Graphs) -> Tensor:
    """Every node's sum over its neighbours: (..., n, C) -> (..., n, C)."""
    return _Neighbours.apply(h, graph.along_x, graph.along_y, graph.hub, graph.goal)


# ---------------------------------------------------------------- networks


class BatchNorm:
    """Batch normalisation of C channels over the rows, every seed's by itself, as `torch.nn.BatchNorm1d` has it.

    `running_mean` and `running_var` lie among the parameters and learn by no gradient: a pass with `training`
    moves them in place, one without normalises by them.
    """

    STATISTICS = ("running_mean", "running_var")

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        self.channels, self.momentum, self.eps = channels, momentum, eps

    def init(self, rng: Rng) -> Params:
        shape = (len(rng.seeds), 1, self.channels)
        start = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        return {name: torch.full(shape, value, device=rng.seeds.device) for name, value in start.items()}

    def __call__(self, params: Mapping[str, Tensor], name: str, x: Tensor, training: bool) -> Tensor:
        """(S, rows, C) -> (S, rows, C), with the parameters `<name>.weight` and so on."""
        seeds, rows, channels = x.shape
        parts = ("running_mean", "running_var", "weight", "bias")
        stacked = [params[f"{name}.{part}"].view(seeds * channels) for part in parts]
        x = x.transpose(0, 1).reshape(rows, seeds * channels)  # a channel a seed: no copy where S = 1
        x = F.batch_norm(x, *stacked, training=training, momentum=self.momentum, eps=self.eps)
        return x.view(rows, seeds, channels).transpose(0, 1)


class NormalizedMLP:
    """Linear layers with ReLU and then batch normalisation between."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes`: in, hidden..., out."""
        self.sizes = tuple(sizes)
        self.norms = [BatchNorm(width) for width in self.sizes[1:-1]]

    def init(self, rng: Rng, name: str) -> Params:
        params = MLP(self.sizes).init(rng, name)
        for layer, norm in enumerate(self.norms):
            params |= {f"norm{layer}.{part}": value for part, value in norm.init(rng).items()}
        return params

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, training: bool = False) -> Tensor:
        """(S, B, in) -> (S, B, out)."""
        for layer, norm in enumerate(self.norms):
            x = F.relu(linear(x, params[f"{layer}.weight"], params[f"{layer}.bias"]))
            x = norm(params, f"norm{layer}", x, training)
        last = len(self.norms)
        return linear(x, params[f"{last}.weight"], params[f"{last}.bias"])


class GraphEncoder:
    """Graph isomorphism layers (Xu et al. 2019), and an MLP on all nodes of all layers.

    A layer is h <- ReLU(BN(ReLU(BN(MLP((1 + eps) h + A h))))), its MLP Linear, BN, ReLU, Linear without biases.
    Nodes are not pooled: a level is more than its graph, it has places.
    """

    def __init__(self, nodes: int, hidden: int, out: int) -> None:
        self.widths = (len(NODE_TILES), *[GIN_WIDTH] * GIN_LAYERS)
        self.norm = BatchNorm(GIN_WIDTH)
        self.mlp = NormalizedMLP((nodes * sum(self.widths), hidden, out))

    def init(self, rng: Rng, name: str) -> Params:
        params = named("mlp", self.mlp.init(rng, name))
        for layer, width in enumerate(self.widths[:-1]):
            gin = f"gin{layer}"
            params[f"{gin}.eps"] = torch.zeros(len(rng.seeds), 1, 1, device=rng.seeds.device)
            for layer_name, fan_in in (("first", width), ("second", GIN_WIDTH)):
                stream = f"init/{name}/{gin}.{layer_name}"
                params[f"{gin}.{layer_name}"] = uniform_init(rng, stream, fan_in, (fan_in, GIN_WIDTH))
            for norm in ("norm0", "norm1", "norm2"):
                params |= {f"{gin}.{norm}.{part}": value for part, value in self.norm.init(rng).items()}
        return params

    def __call__(self, params: Mapping[str, Tensor], x: Graphs, training: bool = False) -> Tensor:
        """Graphs (S, B, ...) -> (S, B, out)."""
        seeds, batch, nodes = x.hub.shape
        h, layers = x.nodes, [x.nodes]
        for layer in range(GIN_LAYERS):
            gin = f"gin{layer}"
            eps = params[f"{gin}.eps"].unsqueeze(-1)
            h = ((1.0 + eps) * h + sum_of_neighbours(h, x)).flatten(1, 2)  # (S, rows, C), a row a node
            h = F.relu(self.norm(params, f"{gin}.norm0", _product(h, params[f"{gin}.first"]), training))
            h = F.relu(self.norm(params, f"{gin}.norm1", _product(h, params[f"{gin}.second"]), training))
            h = F.relu(self.norm(params, f"{gin}.norm2", h, training))
            h = h.reshape(seeds, batch, nodes, GIN_WIDTH)
            layers.append(h)
        features = torch.cat(layers, dim=-1).flatten(2)
        return self.mlp(part(params, "mlp"), features, training)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """(S, rows, in), (S, in, out) -> (S, rows, out); for one seed a plain product, as in `rlreg.networks.linear`."""
    return (x[0] @ weight[0]).unsqueeze(0) if len(weight) == 1 else x @ weight


# -------------------------------------------------------------- likelihood


class Logits(NamedTuple):
    """What the decoder says of a level: three kinds of categorical distributions."""

    layout: Tensor
    """(..., n, 4): of each cell, over `LAYOUT_TILES`."""
    goal: Tensor
    """(..., n): over the cells."""
    start: Tensor
    """(..., n): over the cells."""


def split_logits(out: Tensor) -> Logits:
    """The decoder's 6 n numbers a level, named."""
    n = out.shape[-1] // 6
    layout, goal, start = out.split((4 * n, n, n), dim=-1)
    return Logits(layout.unflatten(-1, (n, 4)), goal, start)


def log_likelihood(logits: Logits, graph: Graphs) -> tuple[Tensor, Tensor, Tensor]:
    """log p of layout (the mean over the nodes), goal and start: (...) each.

    What lies under goal and start is not known: there the layout's target is half moss, half empty. The goal is
    known not to lie on lava or wall, and the start neither there nor on the goal.
    """
    lava, moss, wall, empty, start, goal = graph.nodes.unbind(-1)
    half = 0.5 * (start + goal)
    target = torch.stack([lava, moss + half, wall, empty + half], dim=-1)
    layout = (target * logits.layout.log_softmax(-1)).sum(-1).mean(-1)
    blocked = (lava + wall).bool()
    return (
        layout,
        _log_probability(logits.goal, blocked, graph.goal),
        _log_probability(logits.start, blocked | goal.bool(), graph.start),
    )


def _log_probability(logits: Tensor, blocked: Tensor, cell: Tensor) -> Tensor:
    """log p of `cell` (...) under logits (..., n) without the `blocked` cells."""
    return logits.masked_fill(blocked, -math.inf).log_softmax(-1).gather(-1, cell.unsqueeze(-1)).squeeze(-1)


def elbo_loss(logits: Logits, posterior: Posterior, graph: Graphs) -> tuple[Tensor, Metrics]:
    """-mean_B [.04 mean_n log p(layout) + .013 log p(goal) + .013 log p(start) - .0448 mean_Z KL]: (S,), and its parts.

    Means where an ELBO has sums: in that form KL would weigh (.0448 / Z) / (.04 / n) against the layout.
    """
    layout, goal, start = (part.mean(-1) for part in log_likelihood(logits, graph))
    kl = kl_to_standard_normal(posterior).mean((-2, -1))
    loss = -(LAYOUT_WEIGHT * layout + GOAL_WEIGHT * goal + START_WEIGHT * start - KL_WEIGHT * kl)
    metrics = {"loss": loss, "log_layout": layout, "log_goal": goal, "log_start": start, "kl": kl}
    return loss, {name: value.detach() for name, value in metrics.items()}


# --------------------------------------------------------------- generation


def slerp(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spherical interpolation, sin((1 - t) w) / sin w a + sin(t w) / sin w b, w the angle between a and b.

    Of vectors (..., Z) as they are, at the T points `t` in [0, 1]: (..., T, Z). Linear between those that are nearly
    parallel (`LERP_ABOVE`).
    """
    cosine = F.cosine_similarity(a, b, dim=-1)[..., None, None]
    angle, t = torch.arccos(cosine.clamp(-1.0, 1.0)), t.unsqueeze(-1)
    parallel = cosine.abs() > LERP_ABOVE
    of_a = torch.where(parallel, 1.0 - t, torch.sin((1.0 - t) * angle) / torch.sin(angle))
    of_b = torch.where(parallel, t, torch.sin(t * angle) / torch.sin(angle))
    return of_a * a.unsqueeze(-2) + of_b * b.unsqueeze(-2)


def sample_levels(logits: Logits, rng: Rng, stream: str, step: int | Tensor) -> Tensor:
    """Levels (S, K, G, G) uint8 drawn from the distributions of (S, K, n) `logits`, S the seeds of `rng`.

    A cell is navigable if moss and empty together are likelier than not; its tile is drawn among the two, else
    between lava and wall. The goal is drawn among the navigable cells; the start among those that are left without
    the goal and without the goal's likeliest cell. If there is no such cell: uniformly among the navigable
    ones, if there is none either among all, but never the goal's.
    """
    cells = logits.goal.shape[1:]
    n = cells[-1]
    m = math.isqrt(n)
    lava, moss, wall, empty = logits.layout.softmax(-1).unbind(-1)
    navigable = moss + empty > 0.5
    uniform = rng.uniform(f"{stream}/layout", step, cells)
    walkable = torch.where(uniform * (moss + empty) < moss, MOSS, EMPTY)
    tiles = torch.where(navigable, walkable, torch.where(uniform * (lava + wall) < lava, LAVA, WALL))

    place = torch.arange(n, device=navigable.device)
    goal = _draw(logits.goal, [navigable, torch.ones_like(navigable)], rng.uniform(f"{stream}/goal", step, cells))
    likeliest = logits.goal.masked_fill(~navigable, -math.inf).argmax(-1, keepdim=True)
    others = place != goal
    allowed = [navigable & others & (place != likeliest), navigable & others, others]
    start = _draw(logits.start, allowed, rng.uniform(f"{stream}/start", step, cells))

    tiles = torch.where(place == goal, GOAL, torch.where(place == start, START, tiles))
    return F.pad(tiles.to(torch.uint8).unflatten(-1, (m, m)), (1, 1, 1, 1), value=WALL)


def _draw(logits: Tensor, allowed: list[Tensor], uniform: Tensor) -> Tensor:
    """A cell (..., 1) by Gumbel's maximum: of `allowed[0]` by the logits, or uniformly of the next mask with a cell."""
    allowed_now, values = allowed[0], logits
    for wider in allowed[1:]:
        none = ~allowed_now.any(-1, keepdim=True)
        allowed_now, values = torch.where(none, wider, allowed_now), values.masked_fill(none, 0.0)
    gumbel = -torch.log(-torch.log(uniform))
    return (values + gumbel).masked_fill(~allowed_now, -math.inf).argmax(-1, keepdim=True)


# -------------------------------------------------------------------- model


class LevelModel:
    """S independent models of levels of one size; DRED has one for each run, and the published settings."""

    def __init__(
        self,
        seeds: Sequence[int],
        size: int = 15,
        latent: int = 1024,
        hidden: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        """`size`: G, the side of a level with its border."""
        require(size >= 4, "size", size, "the side of a level with its border, at least 4")
        self.size, self.latent = size, latent
        nodes = (size - 2) ** 2
        self.rng = Rng(seeds, device)
        self.vae = VAE(
            encoder=GraphEncoder(nodes, hidden, 2 * latent),
            decoder=NormalizedMLP((latent, hidden, hidden, 6 * nodes)),
            log_std=log_softplus,
        )
        everything = self.vae.init(self.rng, "level_model")
        is_statistic = {name: name.endswith(BatchNorm.STATISTICS) for name in everything}
        self.params = {name: value for name, value in everything.items() if not is_statistic[name]}
        self.statistics = {name: value for name, value in everything.items() if is_statistic[name]}

    # -------------------------------------------------------------- learning

    def fit(
        self,
        levels: Tensor,
        epochs: int = 200,
        batch_size: int = 64,
        learning_rate: float = 3.976022969069069e-4,
        progress: Callable[[int, Metrics], None] | None = None,
    ) -> Metrics:
        """Learn levels (L, G, G): all seeds the same ones, each with its own split, order and noise.

        A tenth of the levels is set aside for validation, with running statistics and one sample of z. `progress`
        is told the number of epochs done and the metrics (S,) of the last.
        Returns each metric's course (S, epochs): `train/` and `validation/` of the names in `elbo_loss`.
        Raises `UserError` for what are no such levels, and where a seed's loss turns non-finite.
        """
        self._check(levels)
        require(len(levels) >= 3, "levels", f"<{len(levels)} levels>", "at least 3")
        require(epochs >= 1, "epochs", epochs, "a number >= 1")
        require(batch_size >= 2, "batch_size", batch_size, "a number >= 2, for batch normalisation")
        data = graphs(levels.to(self.rng.seeds.device))
        num_train = len(levels) * 9 // 10  # 460 of 512
        split = self.rng.bits("level_model/split", 0, (len(levels),)).argsort(dim=-1, stable=True)
        train, held_out = split[:, :num_train], data.take(split[:, num_train:])

        optimizer = Adam(self.params, learning_rate)
        alive = torch.ones(len(self.rng.seeds), dtype=torch.bool, device=self.rng.seeds.device)
        course: list[Metrics] = []
        step = 0
        for epoch in range(epochs):
            order = self.rng.bits("level_model/order", epoch, (num_train,)).argsort(dim=-1, stable=True)
            total: Metrics = {}
            seen = 0
            for index in train.gather(1, order).split(batch_size, dim=1):
                size = index.shape[1]
                if size == 1:  # one row has no variance to normalise by
                    continue
                noise = self.rng.normal("level_model/noise", step, (size, self.latent))
                batch = data.take(index)
                grads, losses, metrics = gradients(self.loss, self.params, batch, noise, True)
                optimizer.step(self.params, grads, losses, alive)
                total = {name: total.get(name, 0.0) + size * value for name, value in metrics.items()}
                seen += size
                step += 1
            noise = self.rng.normal("level_model/validation", epoch, (held_out.hub.shape[1], self.latent))
            with torch.no_grad():
                _, validation = self.loss(self.params, held_out, noise)
            metrics = {f"train/{name}": value / seen for name, value in total.items()}
            course.append(metrics | {f"validation/{name}": value for name, value in validation.items()})
            if progress is not None:
                progress(epoch + 1, course[-1])
        if not alive.all():
            dead = self.rng.seeds[~alive].tolist()
            raise NonFiniteError(f"level model: the loss of seeds {dead} is not finite; lower the learning rate")
        return {name: torch.stack([metrics[name] for metrics in course], dim=-1) for name in course[0]}

    def loss(self, params: Params, graph: Graphs, noise: Tensor, training: bool = False) -> tuple[Tensor, Metrics]:
        """`elbo_loss` of graphs (S, B, ...) with z drawn by standard normal `noise` (S, B, Z)."""
        params = {**params, **self.statistics}
        posterior = self.vae.encode(params, graph, training=training)
        logits = split_logits(self.vae.decode(params, posterior.sample(noise), training=training))
        return elbo_loss(logits, posterior, graph)

    # ------------------------------------------------------------ generating

    @torch.no_grad()
    def encode(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | level) for levels (L, G, G): (S, L, Z) each."""
        self._check(levels)
        graph = graphs(levels.to(self.rng.seeds.device))
        seeds = len(self.rng.seeds)
        mean, log_std = self.vae.encode(
            self.params | self.statistics, Graphs(*(part.expand(seeds, *part.shape) for part in graph))
        )
        return mean, log_std.exp()

    @torch.no_grad()
    def decode(self, z: Tensor) -> Logits:
        """(S, K, Z) -> logits (S, K, n), for the model's S seeds; a model of one seed decodes those of any number."""
        seeds = len(self.rng.seeds)
        out = self.vae.decode(self.params | self.statistics, z.reshape(seeds, -1, self.latent))
        return split_logits(out.reshape(*z.shape[:2], -1))

    @torch.no_grad()
    def generate(
        self,
        parents_mean: Tensor,
        parents_std: Tensor,
        rng: Rng,
        stream: str,
        step: int | Tensor,
        pairs: int = 6,
        points: int = 6,
    ) -> Tensor:
        """New levels (S, pairs * points, G, G) uint8, from between `encode`'s latents (1 or S, L, Z).

        Each of the S seeds of `rng` draws 2 * pairs parents, uniformly and distinct. Pair k is the k-th from the front
        and the k-th from the end; between the two lie `points` latents, parents included, with means by `slerp`
        and deviations linearly. Each latent gives one level. A model of one seed serves every seed of `rng`.
        """
        require(
            2 <= 2 * pairs <= parents_mean.shape[1], "pairs", pairs, f"1 to {parents_mean.shape[1] // 2} of the parents"
        )
        chosen = rng.bits(f"{stream}/parents", step, parents_mean.shape[1:2]).topk(2 * pairs, dim=-1).indices
        front, back = chosen[:, :pairs], chosen[:, pairs:].flip(-1)
        seed = torch.arange(len(parents_mean), device=chosen.device).unsqueeze(-1)  # (1 or S, 1)
        t = torch.linspace(0.0, 1.0, points, device=chosen.device)
        mean = slerp(t, parents_mean[seed, front], parents_mean[seed, back])
        std = torch.lerp(parents_std[seed, front].unsqueeze(-2), parents_std[seed, back].unsqueeze(-2), t.unsqueeze(-1))
        noise = rng.normal(f"{stream}/latent", step, (pairs * points, self.latent))
        z = mean.flatten(1, 2) + std.flatten(1, 2) * noise
        return sample_levels(self.decode(z), rng, stream, step)

    # ------------------------------------------------------------- measuring

    def report(self, levels: Tensor, rounds: int = 60) -> dict[str, Metrics]:
        """What the model makes, beside what it learned: `envs.cave.placement.statistics` of three kinds of levels.

        `data`: `levels` (L, G, G) themselves. `slerp`: what `generate` makes of them with its standard numbers of pairs
        and points, `rounds` times. `prior`: as many with z ~ N(0, I). Each statistic is (S,), for `data` ().
        With `copies`, the share of levels that are some level of the data.
        """
        mean, std = self.encode(levels)
        made = [self.generate(mean, std, self.rng, "level_model/report", step) for step in range(rounds)]
        slerped = torch.cat(made, dim=1)
        z = self.rng.normal("level_model/prior", 0, (slerped.shape[1], self.latent))
        kinds = {"slerp": slerped, "prior": sample_levels(self.decode(z), self.rng, "level_model/prior", 0)}
        table = {"data": statistics(levels.to(z.device)) | {"copies": torch.ones((), device=z.device)}}
        known = {level.tobytes() for level in levels.cpu().numpy()}
        for kind, of_kind in kinds.items():
            copies = [[level.tobytes() in known for level in of_seed] for of_seed in of_kind.cpu().numpy()]
            table[kind] = statistics(of_kind) | {"copies": torch.tensor(copies, device=z.device).float().mean(-1)}
        return table

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Params]:
        """The live tensors."""
        return {"params": self.params, "statistics": self.statistics}

    def _check(self, levels: Tensor) -> None:
        shape, side = tuple(levels.shape), self.size
        is_maps = levels.dtype == torch.uint8 and len(shape) == 3 and shape[1:] == (side, side)
        require(is_maps, "levels", f"<{levels.dtype} {shape}>", f"uint8 maps (L, {side}, {side})")
        known = torch.isin(levels, torch.tensor(TILES, dtype=torch.uint8, device=levels.device)).flatten(1).all(1)
        inner = levels[:, 1:-1, 1:-1].flatten(1)
        border = (levels == WALL).flatten(1).sum(1) - (inner == WALL).sum(1) == 4 * (side - 1)
        single = ((inner == GOAL).sum(1) == 1) & ((inner == START).sum(1) == 1)
        wrong = torch.nonzero(~(known & border & single)).flatten().tolist()
        if wrong:
            valid = "known tiles in a wall border, with one goal and one start"
            raise UserError(f"levels: number {wrong[0]} is no level; give {valid}")
