"""`find_lr=true`: a run's config, made one of a few steps at rates that grow."""

from typing import Any

from omegaconf import OmegaConf

from building.instantiate import plain

RATES = {"lowest": 1e-7, "highest": 1.0, "steps": 100}  # that find_lr tries


def find_rate(config: Any) -> None:
    """Make of a run's config one of a few steps, at rates that grow, which leaves a picture alone.

    ValueError where the run is not a new one.
    """
    if config.ckpt is not None or config.resume or not config.fit:
        raise ValueError(
            "find_lr=true tries rates on a new model: leave out ckpt, resume and fit=false "
            "(init=RUN begins with the weights of another run)"
        )
    kept = {name: part for name, part in plain(config.callbacks).items() if name == "progress"}
    finder = {"_target_": "tasks.rate_finder.RateFinder"}
    OmegaConf.update(config, "callbacks", {**kept, "finder": finder}, merge=False)
    growing = {"_target_": "tasks.rate_finder.growing", "_partial_": True, **RATES}
    OmegaConf.update(config, "scheduler", growing, merge=False)
    OmegaConf.update(config, "logger", {}, merge=False)
    steps = {"max_steps": RATES["steps"], "max_epochs": -1, "limit_val_batches": 0}
    for name, value in {**steps, "enable_checkpointing": False}.items():
        OmegaConf.update(config.trainer, name, value, force_add=True)
