"""A fault of a site config, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

#: Keys and the indexes of lists, from the outside in.
Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place."""

    where: Location
    what: str

    @property
    def name(self) -> str:
        """The place as people write it: ``partitions[2].max_walltime``."""
        name = ""
        for part in self.where:
            name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
        return name
