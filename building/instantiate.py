"""What a part of a config describes, made: from allowed packages only."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import hydra
from omegaconf import OmegaConf

from tasks.arguments import check_arguments

# A config may come from somebody else's checkpoint, so what it can name is a short list:
# this project's packages and the parts of libraries that build networks and optimisers.
ALLOWED = (
    "models.", "tasks.", "data.", "torch.nn.", "torch.optim.", "lightning.Trainer",
    "lightning.pytorch.callbacks.", "lightning.pytorch.strategies.", "lightning.pytorch.loggers.",
)  # fmt: skip

MADE_IN = ("models.", "tasks.", "data.", "torch.nn.", "torch.optim.", "lightning.pytorch.")


def check_targets(node: Any, where: str = "") -> None:
    """Refuse a `_target_` outside `ALLOWED`, and text that OmegaConf would still fill in (from the
    environment, say). ValueError names the key and the value.
    """
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and not _is_allowed(str(target)):
            raise ValueError(
                f"{where or 'the config'} names {target!r}: only {', '.join(ALLOWED)} are built"
            )
        for key, value in node.items():
            check_targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            check_targets(value, f"{where}[{i}]")
    elif isinstance(node, str) and "${" in node:
        raise ValueError(f"{where} holds {node!r}: nothing is filled in here")


def named(target: str) -> Any:
    """What a `_target_` names; None where it names nothing, which is told when it is built."""
    try:
        return hydra.utils.get_object(str(target))
    except Exception:
        return None


@cache
def _is_allowed(target: str) -> bool:
    """Whether it is named and also made in an allowed place: many modules import os."""
    if not target.startswith(ALLOWED):
        return False
    try:
        found = hydra.utils.get_object(target)
    except Exception:  # named when it is built, with what is wrong about it
        return True
    made_in = f"{getattr(found, '__module__', '')}."
    return made_in.startswith(MADE_IN) and callable(found)


def plain(config: Any) -> dict[str, Any]:
    """A composed config → resolved dictionaries, lists, strings and numbers."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return config  # type: ignore[no-any-return]


def instantiate(node: Any, where: str = "") -> Any:
    """What `node`, the config's part at `where`, describes.

    ValueError names the key of a value of a wrong type, or an argument that nothing takes.
    """
    node = plain(node)
    check_targets(node)
    check_arguments(node, where, find=named)
    try:
        return hydra.utils.instantiate(OmegaConf.create(_without_budget(node)), _convert_="all")
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__
        said = str(cause) if isinstance(cause, ValueError) else str(error)
        raise ValueError("; ".join(filter(None, said.splitlines()))) from error


def _without_budget(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {key: _without_budget(value) for key, value in node.items() if key != "budget"}
