import numpy as np
import torch

from rlreg.rng import Block, Rng, philox4x32


def words(*hexes):
    return [torch.tensor(int(h, 16)) for h in hexes]


def test_philox_known_answers():
    # The Random123 distribution's own test vectors (kat_vectors, philox4x32 10).
    cases = [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]
    for counter, key, expected in cases:
        out = philox4x32(words(*counter.split()), words(*key.split()))
        assert [f"{int(w):08x}" for w in out] == expected.split()


def test_a_seed_does_not_depend_on_its_companions():
    together = Rng([5, 3, 9]).normal("noise", 17, (4, 6))
    alone = Rng([3]).normal("noise", 17, (4, 6))
    assert torch.equal(together[1], alone[0])


def test_streams_steps_and_seeds_differ():
    rng = Rng([0, 1])
    a = rng.uniform("a", 0, (1000,))
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a, rng.uniform("a", 1, (1000,)))
    assert not torch.equal(a, rng.uniform("b", 0, (1000,)))
    assert not torch.equal(rng.uniform("a", 2**32, (1000,)), a)
    assert abs(np.corrcoef(a[0], a[1])[0, 1]) < 0.1


def test_block_is_the_same_as_single_steps():
    rng = Rng([2, 7])
    block = Block(rng, "normal", "explore", (3, 5), length=16)
    for step in (0, 15, 16, 5, 100):
        assert torch.equal(block.at(step), rng.normal("explore", step, (3, 5)))


def test_draws_have_their_laws_moments_and_range():
    rng = Rng([0])
    u = rng.uniform("u", 0, (200_000,))
    assert u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    n = rng.normal("n", 0, (200_000,))
    assert abs(n.mean()) < 0.01 and abs(n.std() - 1) < 0.01
    assert abs((n**4).mean() - 3) < 0.1
    i = rng.integers("i", 0, (100_000,), 7)
    assert i.min() == 0 and i.max() == 6
    counts = torch.bincount(i[0], minlength=7).float()
    assert ((counts - 100_000 / 7).abs() < 5 * (100_000 / 7) ** 0.5).all()
