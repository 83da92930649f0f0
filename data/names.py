"""Names that become folders: what is read from somebody else's checkpoint must not be a path."""

from pathlib import Path


def check_data_name(name: str) -> None:
    """ValueError where the name of a data set would leave the folder of the cache."""
    if name == ".." or Path(name).name != name:
        raise ValueError(f"data.name={name} names a folder of the cache, and is no path")


def check_part_name(name: str) -> None:
    """ValueError where the name of a part would be no piece of a metric's name or of a path."""
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(
            f"data.parts: {name!r} names metrics and folders, and is no path: give it another "
            "data.name, of letters, digits, _ and -"
        )
