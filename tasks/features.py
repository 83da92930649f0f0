"""What a frozen encoder sees in pictures: computed once and kept on disk, for all runs after it."""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.prepared import cache_key, make_once
from models.encoders.memory import Encoder

FILE = "features.npy"


def identity(encoder: Encoder, pictures: np.ndarray, arithmetic: str) -> str:
    """A hash of all that features depend on: pictures (N, 3, H, W), the network with its settings
    and weights, and `arithmetic`, the precision and the kind of device.
    """
    network, settings = encoder.unchanging()
    seen = hashlib.blake2b(digest_size=16)
    seen.update(np.ascontiguousarray(pictures))
    for name, value in sorted(network.state_dict().items()):
        seen.update(name.encode())
        seen.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    code = inspect.getsource(inspect.getmodule(type(encoder)) or type(encoder))
    return cache_key(settings, arithmetic, seen.hexdigest(), code)


def kept(cache: str, key: str, compute: Callable[[], Iterable[Tensor]]) -> Tensor:
    """Features (N, S, D) of `compute`'s batches, memory-mapped from `cache`/features-`key`.

    Of all processes and runs that ask for a key, one computes. ValueError where they do not fit.
    """
    folder = Path(cache).expanduser() / f"features-{key}"

    def write(aside: Path) -> None:
        found = torch.cat(list(compute())).numpy()
        try:
            aside.mkdir()
            np.save(aside / FILE, found)
        except OSError as error:
            raise ValueError(
                f"paths.cache_dir={cache} has no room for {found.nbytes / 1e9:.2f} GB of features "
                f"({error}): choose another folder, or task.feature_memory=0"
            ) from error

    make_once(folder, write, last=FILE)
    return torch.from_numpy(np.load(folder / FILE, mmap_mode="c"))
