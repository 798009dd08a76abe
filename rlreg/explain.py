"""One line for what a user got wrong: exceptions of Hydra and the system in plain words, and the key that was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from traceback import extract_tb

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from rlreg.config import CONFIGS, EvalConfig, TrainConfig
from rlreg.errors import UserError, unknown
from rlreg.files import explain_os_error
from rlreg.old_names import renamed
from rlreg.regularizers import SCHEMAS

_HIDDEN = "_schema"  # how base configurations end, of no use by themselves
NO_LIST = "Cannot merge DictConfig with ListConfig", "a list where keys with values belong, or the other way round"
"""What OmegaConf says of either, and what we do."""


def explain(error: BaseException) -> str | None:
    """One line for an exception that a user's mistake caused; None for one that is ours."""
    if isinstance(error, UserError):
        return str(error)
    if line := explain_os_error(error):
        return line
    if line := _want_of_memory(error):
        return line
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        kind, _, name = str(error.missing_cfg_file).partition("/")
        if not name:
            return f"--config-name={kind}: there is no such file; what is to run is said by agent=, env= and the others"
        if name.startswith("published/") and name.count("/") >= 2:
            _, agent, env = name.split("/", 2)
            folder = CONFIGS / kind / "published" / agent
            there = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
            return f"no published setting of {agent} for env={env} (there are: {', '.join(there)}); give agent={agent}"
        choices = [o for o in error.options or () if not o.endswith(_HIDDEN)] + _families(kind)
        of_ones_own = OF_ONES_OWN.get(f"{kind}/{name.partition('/')[0]}", "")
        return f"{unknown(kind, name, choices)}{of_ones_own}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as key=value; where the value has blanks, commas, '=', '~' or brackets, "
            """quote it twice, as in "env.path='~/my data.hdf5'\""""
        )
    if several := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
        return f"{several.group(1)}: several values; --multirun makes a run of each, [...] makes one list of them"
    if isinstance(error, UnicodeDecodeError):
        return f"a file of the configuration is not UTF-8 text ({error.reason})"
    if isinstance(error, RecursionError) and any("omegaconf" in f.filename for f in extract_tb(error.__traceback__)):
        return "a file of the configuration refers to itself"
    if isinstance(error, OverflowError) and (key := re.search(r"full_key: (\S+)", str(error))):
        return f"{key.group(1)}: a number that is too large"
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: no YAML ({error.problem})"
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        composing = lines[0].endswith("raised while composing config:") and len(lines) > 1
        told = f"{lines[0].split(':')[0]}: {lines[1].replace(*NO_LIST)}" if composing else lines[0]
        return _explain_key(error, cause) or told
    return None


OF_ONES_OWN = {"env/gym": "; a task of your own: env=gym env.id=my_module:MyEnv-v0"}
"""What else there is, by the family of choices."""


_ALLOCATION = re.compile(r"(?i)(?:tried to|unable to) allocate ([\d.]+) ?(bytes|[KMGTPE]i?B)")


def _want_of_memory(error: BaseException) -> str | None:
    """A line where torch or numpy got no memory."""
    asked = _ALLOCATION.search(str(error))
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and asked):
        return None
    size = f" ({asked.group(1)} {asked.group(2)} were asked for)" if asked else ""
    return (
        f"not enough memory{size}; give fewer seeds or worlds, or a smaller train.buffer_capacity, agent.hidden or "
        "agent.batch_size"
    )


def choices_of(group: str) -> list[str]:
    """Every choice of a group: its files, and what its families hold."""
    stored = [name.removesuffix(".yaml") for name in ConfigStore.instance().repo.get(group, {}) if "." in name]
    files = [path.stem for path in (CONFIGS / group).glob("*.yaml")]
    return sorted(name for name in {*stored, *files, *_families(group)} if not name.endswith(_HIDDEN))


def _families(group: str) -> list[str]:
    """The choices of a group's families: tasks in Hydra's ConfigStore, such as dmc/*, and files, such as sb3/*."""
    tree = ConfigStore.instance().repo.get(group, {})
    stored = {family: node for family, node in tree.items() if isinstance(node, dict)}
    files = [f"{path.parent.name}/{path.stem}" for path in (CONFIGS / group).glob("*/*.yaml")]
    return [f"{family}/{name.removesuffix('.yaml')}" for family, node in stored.items() for name in node] + files


_OF_A_PRESET = re.compile(r"In '(\w+)/([^']+)': \w+ raised while composing.*\nKey .* not in '(\w+)'\n +full_key: (\S+)")
"""Hydra's words for a file of a group that sets what the rest of the configuration lacks."""


def _explain_key(error: BaseException, cause: BaseException) -> str | None:
    """A misspelt key, with the closest right one, or a value of the wrong type."""
    override = re.match(r"Could not override '([^']+)'", str(error))
    found = getattr(cause, "full_key", None)
    key = found if not override or (found or "").startswith(override.group(1)) else override.group(1)
    schema = getattr(cause, "object_type", None)
    message = str(cause).strip().splitlines()[0]
    message = message.replace(*NO_LIST)
    lacking = re.match(r"Key '([^']+)' not in", message)
    if key and lacking and lacking.group(1) not in key.split("."):  # of a list's element
        key = f"{key}.{lacking.group(1)}"
    if preset := _OF_A_PRESET.match(str(error)):
        group, name, of, setting = preset.groups()
        mend = f"take another {group}, or that out of its file"
        return f"{group}={name} sets '{setting}', which {of} does not have; {mend}"
    if "not in" not in message or not key:
        return _plainly(key, message) if key and message else None
    parent = getattr(cause, "parent_node", None)
    if isinstance(schema, type) and is_dataclass(schema):
        valid = [f.name for f in fields(schema) if not f.name.startswith("_")]
    elif isinstance(parent, DictConfig):
        valid = [str(name) for name in parent]
    else:
        valid = []
    if now := renamed(key):
        return f"'{key}' is now called '{now}'"
    return str(unknown_key(key, valid))


KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def _plainly(key: str, message: str) -> str:
    """OmegaConf's message on a value of a wrong type, in our words."""
    if found := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message):
        return f"{key}={found.group(1)} is not valid; give {KINDS.get(found.group(2), found.group(2))}"
    if "is not Optional" in message:
        return f"{key}=null is not valid; give a value, or leave it out"
    if "is not a ListConfig" in message:
        return f"{key} is not valid; give a list, as in {key}=[256,256]"
    if "missing mandatory value" in message.lower():
        return f"{key} is missing; give {key}=<value>"
    return f"{key}: {message}"


OTHERS_CALL = {
    "lr": "learning_rate",
    "gamma": "discount",
    "polyak": "tau",
    "batch": "batch_size",
    "net_arch": "hidden",
    "hidden_dim": "hidden",
    "hidden_size": "hidden",
    "noise": "exploration_noise",
    "policy_freq": "policy_delay",
    "policy_noise": "target_noise",
    "noise_clip": "target_noise_clip",
    "steps": "total_steps",
    "total_timesteps": "total_steps",
    "max_timesteps": "total_steps",
    "learning_starts": "warmup_steps",
    "start_timesteps": "warmup_steps",
    "buffer_size": "buffer_capacity",
    "n_envs": "num_envs",
    "gradient_steps": "updates_per_step",
    "eval_freq": "every",
    "freq": "every",
    "n_eval_episodes": "episodes",
}
"""What other libraries call settings, and how ours end."""
OF_AGENTS = ("batch_size", "discount", "tau", "hidden", "exploration_noise", "target_noise", "policy_delay")
"""Settings that most agents have."""


def unknown_key(key: str, valid: Sequence[str]) -> UserError:
    """`unknown key 'agent.gamma'; did you mean 'agent.discount'? (valid: ...)`. `valid` are the names in its place."""
    group, dot, last = key.rpartition(".")
    if group == "regularizer" and set(valid) == {"name"}:
        there = " or ".join(f"regularizer={name.removesuffix(_HIDDEN)}" for name in SCHEMAS if name != f"none{_HIDDEN}")
        return UserError(f"{key}: there is no regulariser here; choose one: {there}")
    name = OTHERS_CALL.get(last, last)
    meant = [f"{group}{dot}{found}" for found in valid if found == name or found.endswith(f"_{name}")]
    if not meant:
        homes = {"train": [f.name for f in fields(TrainConfig)], "eval": [f.name for f in fields(EvalConfig)]}
        meant = [f"{home}.{name}" for home, names in ({"agent": OF_AGENTS} | homes).items() if name in names]
        meant = [found for found in meant if found != key]
    if not meant:
        meant = [f"{group}{dot}{close}" for close in difflib.get_close_matches(last, valid, n=1, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    listed = f" (valid: {', '.join(sorted(valid))})" if valid else ""
    return UserError(f"unknown key '{key}'{hint}{listed}")
