"""No two jobs of sweeps get one device, unless somebody says so."""

import subprocess
import sys
from pathlib import Path

import pytest

import sweeping.devices
from sweeping.devices import Held

GPU = {"accelerator": "auto", "devices": 1}


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a sweep looks, this machine has GPUs called a and b."""
    monkeypatch.setattr(sweeping.devices, "LOCKS", tmp_path)
    monkeypatch.setattr(sweeping.devices.shutil, "which", lambda _: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_each_job_has_a_gpu_to_itself(two_gpus: None) -> None:
    first, second = Held(1), Held(1)
    assert first.environment() == {"CUDA_VISIBLE_DEVICES": "a"}
    assert second.environment() == {"CUDA_VISIBLE_DEVICES": "b"}
    with pytest.raises(ValueError, match=r"1 of 2 GPUs should be free.*share=2"):
        Held(1)
    second.leave()
    assert Held(1).names == ["b"]


def test_a_job_of_two_gpus_takes_both_or_none(two_gpus: None) -> None:
    one = Held(1)
    with pytest.raises(ValueError, match="2 of 2 GPUs"):
        Held(2)
    one.leave()
    assert Held(2).names == ["a", "b"]


def test_sharing_is_said_on_purpose(two_gpus: None) -> None:
    assert [Held(1, share=2).names for _ in range(4)] == [["a"], ["b"], ["a"], ["b"]]
    with pytest.raises(ValueError, match="share=3"):
        Held(1, share=2)


def test_what_another_process_has_is_left_alone_until_it_ends(
    two_gpus: None, tmp_path: Path
) -> None:
    program = (
        "from pathlib import Path; import sweeping.devices\n"
        "sweeping.devices.shutil.which = lambda _: None\n"
        f"sweeping.devices.LOCKS = Path({str(tmp_path)!r})\n"
        "held = sweeping.devices.Held(1); print(held.names, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None and "a" in other.stdout.readline()
        mine = Held(1)
        assert mine.names == ["b"]
        mine.leave()
        other.kill()
    assert Held(1).names == ["a"]


def test_the_scheduler_shares_out_gpus_itself(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert Held(1).names == Held(1).names == ["a"]


def test_a_job_of_multirun_keeps_its_gpu(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping.devices, "_own", [])
    other = Held(1)
    for _ in range(2):  # one process runs several jobs
        sweeping.devices.hold(GPU)
        assert sweeping.devices.os.environ["CUDA_VISIBLE_DEVICES"] == "b"
    other.leave()


def test_a_trainer_says_how_many_gpus_it_wants(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweeping.devices.wanted(GPU) == 1
    assert sweeping.devices.wanted({"accelerator": "gpu", "devices": -1}) == 2
    assert sweeping.devices.wanted({"accelerator": "cpu", "devices": 2}) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert sweeping.devices.wanted(GPU) == 0
    assert sweeping.devices.wanted({"accelerator": "gpu", "devices": 2}, elsewhere=True) == 2
    assert sweeping.devices.wanted(GPU, elsewhere=True) == 0
    with pytest.raises(ValueError, match=r"devices=auto: say how many"):
        sweeping.devices.wanted({"accelerator": "gpu", "devices": "auto"}, elsewhere=True)


def test_more_workers_than_devices_are_refused(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeping.devices.check(2, 1, 1)
    sweeping.devices.check(4, 1, 2)
    with pytest.raises(ValueError, match=r"workers=3: there are 2 GPUs, 1 a job.*share=2"):
        sweeping.devices.check(3, 1, 1)
    with pytest.raises(ValueError, match=r"workers=2: there are 2 GPUs, 2 a job; choose workers=1"):
        sweeping.devices.check(2, 2, 1)
    monkeypatch.setattr(sweeping.devices, "cores", lambda: 2)
    with pytest.raises(ValueError, match=r"workers=3: there are 2 cores.*share=2"):
        sweeping.devices.check(3, 0, 1)
