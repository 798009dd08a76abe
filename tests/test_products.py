"""Every way of taking a matrix product gives the plain one's result and gradients; runs stay with what they chose."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, main
from test_compilation import COMPILER, train

from rlreg import product_choice, products
from rlreg.checkpoint import Checkpoints
from rlreg.product_choice import ChoiceBook, ProductChoice, fastest
from rlreg.products import PLAIN, WAYS, Layer, Ways, gradient_of_weight, layer, using, watching

CPU = torch.device("cpu")
MIXED = Ways("plain", "transposed", "onednn transposed")
ONEDNN = Ways("onednn", "onednn", "onednn")
EVERY = [ONEDNN, MIXED, Ways("loop", "loop", "loop"), Ways("transposed", "onednn", "transposed")]
needs_onednn = pytest.mark.skipif(not products.has_onednn(torch.zeros(1)), reason="a torch without oneDNN")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch, tmp_path):
    monkeypatch.setattr(product_choice, "cache_folder", lambda: tmp_path / "programs")


def operands(stack: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    lead = (stack,) if stack > 1 else ()
    generator = torch.Generator().manual_seed(0)
    shapes = (9, 5), (5, 6), (1, 6)
    return [torch.randn(*lead, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.fixture
def onednns(monkeypatch) -> list[int]:
    """A list that grows with each of oneDNN's products."""
    calls, linear = [], products._LINEAR

    def counted(*args):
        calls.append(1)
        return linear.default(*args)

    if linear is not None:
        monkeypatch.setattr(products, "_LINEAR", SimpleNamespace(default=counted))
    return calls


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_product(way: str, stack: int, dtype: torch.dtype, relu: bool) -> None:
    x, weight, bias = operands(stack, dtype)
    expected = x.double() @ weight.double()
    with_bias = expected + bias.double()
    close = {"rtol": 2e-2, "atol": 4e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for given, wanted in ((bias, with_bias), (None, expected)):
        out = WAYS[way](x, weight, given, relu)
        assert out.dtype == dtype and out.is_contiguous()
        torch.testing.assert_close(out.double(), wanted.relu() if relu else wanted, **close)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("ways", EVERY)
def test_gradients_are_those_of_the_plain_way(ways: Ways, stack: int, relu: bool) -> None:
    exact = [x.requires_grad_() for x in operands(stack, torch.float64)]
    with using({}, ways):
        assert torch.autograd.gradcheck(lambda *leaves: layer(*leaves, relu), exact)
    leaves = [x.requires_grad_() for x in operands(stack)]
    by_ways = {}
    for name, used in (("plain", PLAIN), ("ways", ways)):
        with using({}, used):
            loss = (layer(*leaves, relu) * torch.linspace(-1.0, 1.0, 6)).square().sum()
        by_ways[name] = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(by_ways["ways"], by_ways["plain"])


@needs_onednn
def test_each_product_is_taken_where_it_was_chosen_and_only_if_asked_for(onednns) -> None:
    x, weight, bias = (t.requires_grad_() for t in operands(1))
    with using({Layer("float32", 1, 9, 5, 6, False): ONEDNN}):
        layer(x, weight, bias)
        assert len(onednns) == 1
        layer(x, weight, bias, True)  # another layer, which nothing was chosen for
        layer(x[:8], weight, bias)
        assert len(onednns) == 1
        layer(x, weight.detach(), bias.detach()).sum().backward()
        assert len(onednns) == 3  # the input's gradient alone
        layer(x.detach(), weight, bias).sum().backward()
        assert len(onednns) == 5
    layer(x, weight, bias).sum().backward()
    assert len(onednns) == 5


@needs_onednn
@pytest.mark.parametrize("stack", [1, 3])
def test_a_backward_pass_that_is_written_out_takes_the_ways_of_its_layer(onednns, stack: int) -> None:
    x = torch.randn(stack, 9, 5, generator=torch.Generator().manual_seed(1))
    grad = torch.randn(stack, 9, 6, generator=torch.Generator().manual_seed(2))
    key = Layer("float32", stack, 9, 5, 6, False)
    with watching() as seen, using({key: ONEDNN}):
        torch.testing.assert_close(gradient_of_weight(x, grad), x.mT @ grad)
    assert len(onednns) == stack and seen == {key: (False, True)}


@needs_onednn
def test_what_onednn_has_no_product_for_is_taken_the_plain_way(monkeypatch, onednns) -> None:
    with using({}, ONEDNN):
        layer(*operands(1, torch.float64))
        assert not onednns
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(*operands(3)).dtype == torch.bfloat16
        assert len(onednns) == 3
        monkeypatch.setattr(products, "_LINEAR", None)  # a torch that was built without it
        x, weight, bias = operands(3)
        torch.testing.assert_close(layer(x, weight, bias), x @ weight + bias)
        assert len(onednns) == 3


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_compiled_updates_take_their_products_as_chosen(onednns) -> None:
    torch.compiler.reset()
    eager, _ = train(range(2), 1, "eager", 6)
    with using({}, Ways("onednn", "transposed", "onednn transposed")):
        agent, _ = train(range(2), 1, "compile", 6)
    torch.compiler.reset()
    assert onednns or not products.has_onednn(torch.zeros(1))
    for name in ("actor_params", "critic_params", "actor_target", "critic_target"):
        torch.testing.assert_close(getattr(agent, name), getattr(eager, name), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- choice

LAYER = Layer("float32", 2, 64, 32, 16, True)


def slowed(monkeypatch, *names: str, seconds: float = 0.002) -> None:
    def slow(way):
        def computing(*args):  # not asleep, which costs no CPU time
            until = time.process_time() + seconds
            while time.process_time() < until:
                pass
            return way(*args)

        return computing

    monkeypatch.setattr(product_choice, "WAYS", {k: slow(w) if k in names else w for k, w in WAYS.items()})


def test_the_fastest_way_is_found_and_the_plain_one_kept_where_nothing_is_gained(monkeypatch) -> None:
    slowed(monkeypatch, *(name for name in WAYS if name != "loop"))
    assert fastest(LAYER, True, True) == Ways("loop", "loop", "loop")
    assert fastest(LAYER, False, True) == Ways("loop", "plain", "loop")
    slowed(monkeypatch, *(name for name in WAYS if name != "plain"))
    assert fastest(LAYER, True, True) == PLAIN
    slowed(monkeypatch, "plain")
    monkeypatch.setattr(product_choice, "LEAST_SAVED", 1.0)
    assert fastest(LAYER, True, True) == PLAIN


def test_measuring_draws_no_random_number_and_is_done_once_for_a_machine(monkeypatch) -> None:
    measured, said = [], []
    monkeypatch.setattr(product_choice, "fastest", lambda *a: measured.append(a) or fastest(*a))
    leaves = [x.requires_grad_() for x in operands(3)]
    before = torch.get_rng_state()
    for _ in range(2):
        choice = ProductChoice("auto", CPU, True)
        assert choice.open
        said.append(choice.choose(lambda: layer(*leaves, True)))
        assert not choice.open and list(choice.chosen) == [Layer("float32", 3, 9, 5, 6, True)]
    assert torch.equal(torch.get_rng_state(), before)
    assert measured == [(Layer("float32", 3, 9, 5, 6, True), True, True)]
    assert "(measured in" in said[0] and "(as measured earlier)" in said[1]
    torch.set_num_threads(2)
    try:
        assert ChoiceBook().read() == {}  # with as many threads nothing is known
    finally:
        torch.set_num_threads(1)


def test_only_a_long_run_on_a_cpu_that_may_choose_measures() -> None:
    assert not ProductChoice("auto", CPU, False).open
    assert not ProductChoice("onednn", CPU, True).open
    assert not ProductChoice("auto", torch.device("cuda"), True).open


NONSENSE = ["", "{", "3", "[3]", '["abcdefghi"]', '[["float32",1,2,3,4,true,"plain","plain"]]']
NONSENSE += ['[["float32",1,2,3,4,true,"plain","plain","os.system"]]']
NONSENSE += ['[["float32",1,-2,3,4,true,"plain","plain","plain"]]']
NONSENSE += ['[["float32",1,2,3,4,"yes","plain","plain","plain"]]', "\0"]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_file_of_choices_that_makes_no_sense_is_no_knowledge(text) -> None:
    book = ChoiceBook()
    book.add({LAYER: MIXED})
    assert book.read() == {LAYER: MIXED}
    book.path.write_text(text)
    assert book.read() == {}
    book.add({LAYER: MIXED})
    assert book.read() == {LAYER: MIXED}


RUN = ["agent=td3", "env=gym/Pendulum-v1", *TINY, "train.total_steps=200", "train.checkpoint_every=1000"]


def test_a_resumed_run_takes_its_products_as_it_began_to(monkeypatch, capsys, tmp_path) -> None:
    """To the bit, where what was known when it began is gone by then, and another choice would be made."""
    monkeypatch.setattr(product_choice, "fastest", lambda layer, *_: MIXED if layer.relu else ONEDNN)
    monkeypatch.setattr("rlreg.training.base.LEAST_UPDATES", 100)

    @contextmanager
    def interrupted():
        seen = iter(range(10**6))
        yield lambda: next(seen) > 150

    assert main(monkeypatch, *RUN, f"run_dir={tmp_path / 'whole'}") == 0
    with monkeypatch.context() as patch:
        patch.setattr("rlreg.training.base.interrupts", interrupted)
        assert main(monkeypatch, *RUN, f"run_dir={tmp_path / 'run'}") == 130
    assert "products=auto: torch's own for 0 layers; output/input's gradient/weight's" in capsys.readouterr().out
    ChoiceBook().path.unlink()
    monkeypatch.setattr(product_choice, "fastest", lambda *_: PLAIN)
    assert main(monkeypatch, *RUN, f"run_dir={tmp_path / 'run'}") == 0
    assert "products=auto" not in capsys.readouterr().out
    _, tensors, info = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert {row[-1] for row in info["products"]} == {"onednn", "onednn transposed"}
    whole = Checkpoints(tmp_path / "whole" / "checkpoints").load()[1]
    torch.testing.assert_close(tensors, whole, rtol=0, atol=0, equal_nan=True)
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["products"]
    assert told.startswith("torch's own for 0 layers")


def test_the_setting_is_checked_and_what_is_forced_is_told(monkeypatch, capsys, tmp_path) -> None:
    assert main(monkeypatch, *RUN, "products=mkl", f"run_dir={tmp_path / 'run'}") == 2
    assert capsys.readouterr().err.strip().endswith("products=mkl is not valid; give one of auto, aten, onednn")
    assert not (tmp_path / "run").exists()
    for setting, told in (("onednn", "oneDNN's wherever it can"), ("aten", "torch's own"), ("auto", "torch's own")):
        assert main(monkeypatch, *RUN, f"products={setting}", f"run_dir={tmp_path / setting}") == 0
        assert json.loads((tmp_path / setting / "summary.json").read_text())["products"] == told
