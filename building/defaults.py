"""What keys of a config are where nobody sets them: for runs that are older than a key."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from building.instantiate import plain
from building.leaves import leaves

# groups that stand in every run; what another one adds (callbacks=ema) is nobody's default
PARTS = ("task", "data", "model", "cell", "tokenizer", "optimizer", "scheduler")


def older(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier run's values by key, and for keys that it did not know those that they had.

    An object that the run had as well (the same `_target_`) has the defaults of its own file; one
    that it had not, those of the groups that stand in every run. What an experiment sets, or the
    command line, is no default.
    """
    parents = {key[:i] for key in was for i, sign in enumerate(key) if sign == "."}
    unknown = {key for key in now.keys() - was.keys() - parents if not _within(key, was)}
    if not unknown or not HydraConfig.initialized():
        return dict(was)
    own = {key for key in unknown if (of := _target(key, now)) and was.get(of) == now[of]}
    choices = HydraConfig.get().runtime.choices
    groups = {g: c for g, c in choices.items() if not g.startswith("hydra/") and g != "experiment"}
    found = dict(was)
    for keys, chosen in ((own, groups), (unknown - own, {g: groups[g] for g in PARTS})):
        values = _composed(chosen, unknown) if keys else {}
        found |= {key: values[key] for key in keys & values.keys()}
    return found


def placeless(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values by their keys; its own folders, `paths`, stand there by their names, so
    that nothing differs where only they do: on another machine, or after a move.
    """
    inner_first = sorted(config["paths"].items(), key=lambda one: -len(str(one[1])))
    return {key: _named(key, value, inner_first) for key, value in leaves(config)}


def _named(key: str, value: Any, places: Iterable[tuple[str, str | None]]) -> Any:
    for name, place in places:
        if key.endswith(f".{name}") and value == place:  # nowhere is a place, too
            return name
        if isinstance(value, str) and place != "" and f"{value}/".startswith(f"{place}/"):
            return name + value[len(str(place)) :]
    return value


def _within(key: str, values: Collection[str]) -> bool:
    """Whether a key lies below one of `values`, which was no mapping then."""
    return any(key[:i] in values for i, sign in enumerate(key) if sign == ".")


def _target(key: str, values: Mapping[str, Any]) -> str | None:
    """The `_target_` of the object that a key belongs to."""
    while "." in key:
        key = key.rpartition(".")[0]
        if f"{key}._target_" in values:
            return f"{key}._target_"
    return None


def _composed(groups: Mapping[str, str], without: Iterable[str]) -> dict[str, Any]:
    """The leaves of these groups under this command line, but for the keys `without`."""
    choices = HydraConfig.get().runtime.choices
    given = [text.lstrip("+~") for text in HydraConfig.get().overrides.task]
    keys = {text: text.partition("=")[0].partition("@")[0] for text in given}
    values = [
        f"++{text}" for text, key in keys.items()
        if key not in choices and not any(k == key or k.startswith(f"{key}.") for k in without)
    ]  # fmt: skip
    try:
        config = compose("config", [*(f"{g}={c}" for g, c in groups.items() if c), *values])
        return placeless(plain(config))
    except (HydraException, OmegaConfBaseException):  # a key of what was not chosen here
        return {}
