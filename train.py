"""Train, validate and test one task with one cell on one data set: see `python train.py --help`."""

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from launch import (
    describe,
    hold_requeue,
    keep_memory,
    name_task,
    place_tests,
    quote_plain_values,
    run_time,
)
from tasks.secrets import refuse_line

OmegaConf.register_new_resolver("run_time", run_time, use_cache=True)


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config: DictConfig) -> float | None:
    """Fit (unless fit=false) and test; returns the monitored metric of the best checkpoint."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from sweeping import devices  # POSIX alone has its locks

        check_sweep(config)
        devices.hold(config.trainer)
        return run(config)
    try:
        return run(config)
    except ValueError as error:  # said here, before Hydra adds the whole command line to it
        with contextlib.suppress(OSError):
            Path(config.paths.run_dir).rmdir()  # nothing was made of it
        sys.exit(f"error: {error}")


def run(config: DictConfig) -> float | None:
    """One run: everything that may be refused is tried before any training."""
    keep_memory()
    import lightning
    import torch

    import build
    import resume
    import verify
    from building import budget, parts
    from building.checks import check_run, check_stream
    from building.find_rate import find_rate
    from building.trained import of_checkpoint

    quiet()
    from tasks import checkpoint as checkpoints
    from tasks import secrets
    from tasks.console import (
        say,
        show_audit,
        show_classes,
        show_metrics,
        show_report,
        show_samples,
    )
    from tasks.loggers import log_config
    from tasks.stopping import Stopped, requeue
    from tasks.transfer import begin_from

    secrets.refuse(build.plain(config))
    torch.set_float32_matmul_precision("high")
    config = parts.composed(config)
    check_run(config)
    build.check_device(config.trainer)
    build.precision(config.precision, config.trainer)
    if config.model.get("budget") is not None:
        budget.parameters(config.model.budget)
    if not config.fit and config.ckpt is None:
        raise ValueError("fit=false tests a trained run: say which with ckpt=RUN_OR_FILE")
    resume.check(config)
    if config.verify:
        if not verify.alike(config, overrides()):
            sys.exit(1)
        return None
    if config.find_lr:
        find_rate(config)
    if config.ckpt is not None and config.init is not None:
        raise ValueError("ckpt goes on with a run, init begins a new one: leave one of them out")
    checkpoint = None if config.ckpt is None else checkpoints.read(config.ckpt)
    beginning = None if config.init is None else checkpoints.read(config.init)
    if checkpoint is not None and config.fit:
        checkpoints.check_goes_on(checkpoint)
    if checkpoint is not None:
        config = of_checkpoint(config, checkpoint["unroll"]["config"], overrides())
    check_stream(config)
    lightning.seed_everything(config.seed, workers=True, verbose=False)

    codec = None if checkpoint is None else build.codec(checkpoint["unroll"])
    data = build.data(config, codec)
    build.choose_monitor(config, data.spec)
    show_report(config.data.name, data.report())
    task = build.task(config, data.spec, data.codec, data.fingerprint, trains=config.fit)
    earlier = resume.earlier(config, data.fingerprint)
    if earlier is not None:
        with contextlib.suppress(OSError):
            Path(config.paths.run_dir).rmdir()  # this run goes on in the earlier one's directory
        config.paths.run_dir = str(earlier.folder)
        checkpoint = earlier.checkpoint
    if checkpoint is not None:
        checkpoints.restore(task, checkpoint)
    else:
        task.initialise()
    if config.fit:
        build.bring_teacher(task)
    if beginning is not None and earlier is None:
        say(f"init: {begin_from(task, beginning, where=config.init)}")
    trainer = build.trainer(config)
    folder = Path(config.paths.run_dir)
    if trainer.is_global_zero:
        if earlier is not None:
            earlier.reopen()
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / ".config.yaml.new"  # killed here, a run that goes on keeps its own
        OmegaConf.save(OmegaConf.create(build.plain(config)), aside)
        aside.replace(folder / "config.yaml")
    log_config(trainer.loggers, {**build.plain(config), "data_report": data.report()})
    say(f"run directory: {folder}")

    value = None
    if config.fit:
        start = None if checkpoint is None else checkpoint["path"]
        try:
            trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True)
        except Stopped as stopped:
            say(f"{stopped}{requeue(stopped) if trainer.is_global_zero else ''}")
            sys.exit(stopped.code)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if config.find_lr:
            return None
        best = build.best_checkpoint(trainer)
        if best is not None:
            trainer.strategy.barrier()
            checkpoints.restore(task, checkpoints.read(best.best_model_path))
            value = None if best.best_model_score is None else best.best_model_score.item()
    trainer.test(task, datamodule=data, verbose=False)
    metrics = task.measured
    if value is None:
        value = metrics.get(task.monitor.replace("val/", "test/", 1))
    show_metrics(metrics, getattr(task, "signatures", []))
    show_classes(getattr(task, "classes", None))
    show_audit(getattr(task, "audited", None))
    show_samples(task.shown)
    for logger in trainer.loggers:
        logger.finalize("success")
    if trainer.is_global_zero:
        result = {"run": str(folder), "monitor": task.monitor, "value": value, "test": metrics}
        print(json.dumps(finite(result)), flush=True)
    return value


def overrides() -> list[str]:
    """What the command line sets, apart from Hydra's own keys."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


def check_sweep(config: DictConfig) -> None:
    """Under --multirun Lightning would start the whole sweep again in each process it launches."""
    devices = config.trainer.devices
    alone = (
        devices in (1, "1", "auto") or "WORLD_SIZE" in os.environ or "SLURM_NTASKS" in os.environ
    )
    if not alone:
        raise ValueError(
            f"--multirun with trainer.devices={devices} would start a sweep in every process: "
            "launch the processes yourself (torchrun --nproc-per-node ... train.py --multirun ...)"
        )


def quiet() -> None:
    """Leave out what libraries say about themselves; warnings about the run stay."""
    import logging
    import warnings

    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_utilities"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*is recommended to use `?sync_dist.*|.*sync_dist=True.*",
        r".*smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*using `DistributedSampler` with the dataloaders.*|.*Using `DistributedSampler`.*",
        r".*torch\.jit\.script.*|.*isinstance\(treespec, LeafSpec\).*",
        r".*Detected call of `lr_scheduler\.step\(\)` before.*",
        r".*Trying to infer the `batch_size`.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.argv[1:] = name_task(place_tests(quote_plain_values(sys.argv[1:])))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors are described below
    try:
        refuse_line(sys.argv)
        hold_requeue()
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")
