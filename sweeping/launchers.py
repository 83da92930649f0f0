"""What starts a sweep's workers: this process, processes of this machine, joblib, a cluster."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import sweeping.devices
import sweeping.worker
from sweeping.plan import Plan
from sweeping.training import as_child

ROOT = Path(__file__).resolve().parent.parent


def run(launcher: str, plan: Plan, slurm: dict[str, Any]) -> str | None:
    """Start the workers and wait for them; what stopped the sweep, where something did."""
    if launcher == "joblib":
        return _joblib(plan)
    if launcher in ("local", "slurm"):
        return _submitit(launcher, plan, slurm)
    if plan.workers == 1:
        return _here(plan.folder)
    return _processes(plan)


def _here(folder: str) -> str | None:
    try:
        sweeping.worker.work(folder)
    except sweeping.worker.Terminated:
        return "stopped: the same command goes on"
    except ValueError as error:
        return f"error: {error}"
    return None


def _processes(plan: Plan) -> str | None:
    """A worker that dies is said; the others take over what it had."""
    command = [sys.executable, "-P", "-m", "sweeping.worker", plan.folder]
    places: dict[str, Any] = {"stderr": subprocess.PIPE, "env": os.environ | found_here()}
    started = [
        subprocess.Popen(command, text=True, preexec_fn=as_child(), **places)
        for _ in range(plan.workers)
    ]
    said = []
    try:
        for one in started:
            _, error = one.communicate()
            if one.returncode:
                said.append((error or f"a worker ended with {one.returncode}").strip())
                print(f"worker {one.pid}: {said[-1].splitlines()[-1]}", flush=True)
    except BaseException:
        for one in started:
            one.terminate()
        for one in started:
            one.wait()
        raise
    return said[-1] if len(said) == len(started) else None


def found_here() -> dict[str, str]:
    """The environment in which another process finds this checkout, wherever it is started."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


def _joblib(plan: Plan) -> str | None:
    """joblib's own processes (or those of the backend chosen with joblib.parallel_config)."""
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        ended = joblib.Parallel(n_jobs=plan.workers)(
            joblib.delayed(_here)(plan.folder) for _ in range(plan.workers)
        )
    except TerminatedWorkerError:
        return "error: a worker was killed, and joblib ends the others: the same command goes on"
    return ended[-1] if all(ended) else None


class Job:
    """A worker as a job of submitit; SLURM puts it back into its queue where its time is up."""

    def __init__(self, folder: str, visible: str | None) -> None:
        self.folder, self.visible = folder, visible

    def __call__(self) -> str | None:
        if self.visible is not None:  # the local executor gives every job the first GPUs
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        return _here(self.folder)

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _submitit(cluster: str, plan: Plan, slurm: dict[str, Any]) -> str | None:
    import submitit

    os.environ |= found_here()  # jobs import this module by its name
    visible = None
    try:
        executor = submitit.AutoExecutor(folder=Path(plan.folder) / "jobs", cluster=cluster)
    except RuntimeError as error:
        raise ValueError(f"launcher={cluster}: {error}") from error
    if cluster == "local":
        visible = ",".join(sweeping.devices.gpus())
        executor.update_parameters(timeout_min=60 * 24 * 365)
    else:
        given = {f"slurm_{name}": value for name, value in slurm.items()}
        gpus = {"gpus_per_node": plan.gpus} if plan.gpus else {}
        executor.update_parameters(name=f"sweep-{plan.name}", **gpus, **given)
    with executor.batch():
        jobs = [executor.submit(Job(plan.folder, visible)) for _ in range(plan.workers)]
    for job in jobs:
        print(f"job {job.job_id}: {job.paths.stdout}", flush=True)
    said = []
    try:
        for job in jobs:
            try:
                error = job.result()
            except (
                submitit.core.utils.FailedJobError,
                submitit.core.utils.UncompletedJobError,
            ) as why:
                error = f"error: job {job.job_id} was killed, or broke: {str(why).splitlines()[0]}"
            if error is not None:
                said.append(error)
                print(f"job {job.job_id}: {error}", flush=True)
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise
    return said[-1] if len(said) == len(jobs) else None
