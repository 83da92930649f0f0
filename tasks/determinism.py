"""The same numbers from a run that is started again, bit for bit, on a GPU too."""

import re
from typing import Any

FORBIDDEN = re.compile(r"(\S+) does not have a deterministic implementation")


def choice(wanted: Any) -> bool | str | None:
    """The config's `deterministic`, as Lightning's trainer takes it: torch's deterministic
    algorithms, cuDNN without a search for the fastest, cuBLAS with a workspace of its own.

    ValueError for what is none of true, false and warn.
    """
    if wanted not in (True, False, "warn"):
        raise ValueError(f"deterministic={wanted}: choose true, false or warn")
    return wanted or None


def forbidden(error: BaseException) -> str | None:
    """What to do about an operation that torch refused; None where it is another error."""
    found = FORBIDDEN.search(str(error))
    if found is None or "use_deterministic_algorithms" not in str(error):
        return None
    return (
        f"deterministic=true: the operation {found[1]} has no deterministic implementation on this "
        "device; set deterministic=warn to train with it and be warned, or deterministic=false "
        "(on the processor, trainer=cpu, more operations have one)"
    )
