"""The commands of docs/trust.md do what it says."""

import re
import shlex

from conftest import ROOT, TINY, main


def test_the_commands_of_trust_md(monkeypatch, capsys, tmp_path) -> None:
    """A folder with an environment of one's own is refused, and followed with trust=true."""
    monkeypatch.chdir(tmp_path)
    world = ["env=gym/Pendulum-v1", "env.id=worlds:rlreg-test/Walk-v0", "env.workers=0"]
    settings = [*TINY, *world, "agent=ddpg", "train.total_steps=100", "train.warmup_steps=50"]
    assert main(monkeypatch, *settings, "run_dir=runs/theirs") == 0
    text = (ROOT / "docs/trust.md").read_text()
    commands = [shlex.split(line.split("#")[0]) for line in re.findall(r"^python run\.py .*", text, re.M)]
    assert len(commands) == 2
    capsys.readouterr()
    assert main(monkeypatch, *commands[0][2:]) == 2
    said = capsys.readouterr().err.strip()
    assert "env.id=worlds:rlreg-test/Walk-v0 names code" in said and "trust=true" in said and "\n" not in said
    assert main(monkeypatch, *commands[1][2:]) == 0
    assert "seed 0: return" in capsys.readouterr().out
