"""What the doctor found, as data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

SCHEMA = 1


@dataclass(frozen=True)
class Sum:
    """Sums of one kind of numbers over some replicas.

    Attributes:
      replicas: which, by their numbers.
      of: "ones", "whole numbers" or "random numbers".
      dtype: of the numbers.
      sizes: lengths of the vectors that were summed.
      wrong: what is wrong, one sentence for each vector; nothing where all are right.
      skipped: why it was not summed; "" if it was.
    """

    replicas: tuple[int, ...]
    of: str
    dtype: str
    sizes: tuple[int, ...]
    wrong: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class Speed:
    """How fast a vector is summed over all replicas.

    Attributes:
      megabytes: the length of the vector.
      microseconds: of one sum, the median of several, with the call of TensorFlow.
      gigabytes_per_second: what each link carries, 2 (N - 1) / N of the vector.
      share_of_peak: of what the maker of the devices publishes; None if not known.
    """

    megabytes: float
    microseconds: float
    gigabytes_per_second: float
    share_of_peak: float | None = None


@dataclass(frozen=True)
class Names:
    """Private names of another package that distloss needs, for one purpose.

    Attributes:
      package: what pip calls it.
      version: that is installed.
      tested: the releases with which distloss was tested, in words.
      is_tested: whether the installed one is not newer.
      of: what the names are for.
      count: how many.
      missing: a sentence for each that is not there.
    """

    package: str
    version: str
    tested: str
    is_tested: bool
    of: str
    count: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
      engine: "strategy" or "horovod".
      versions: of packages, by name.
      devices: of all replicas, in their order; of other processes only that they are.
      sums: over all replicas, and over each pair.
      speeds: of sums over all replicas.
      known: what is known to go wrong with these versions and devices.
      names: private names of Keras and others, as far as they are installed.
      is_told_here: whether this process reports.
    """

    engine: str
    versions: dict[str, str]
    devices: tuple[str, ...]
    sums: tuple[Sum, ...]
    speeds: tuple[Speed, ...]
    known: tuple[str, ...]
    names: tuple[Names, ...] = ()
    is_told_here: bool = True

    @property
    def is_sound(self) -> bool:
        """Whether no sum is wrong."""
        return not any(one.wrong for one in self.sums)

    def to_json(self) -> str:
        """The report as JSON."""
        fields = asdict(self)
        fields.pop("is_told_here")
        return json.dumps(
            {"schema": SCHEMA, "sound": self.is_sound, **fields}, indent=2
        )
