"""What is known to go wrong with some versions, each fact once. Loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What the facts depend on.

    Attributes:
      versions: of packages, by name; those that are not installed are missing.
      gpus: how many GPUs are replicas.
      workers: how many processes a strategy has.
      backend: of Keras.
    """

    versions: dict[str, str]
    gpus: int = 0
    workers: int = 1
    backend: str = "tensorflow"

    def older(self, package: str, *than: int) -> bool:
        """Whether a package is installed, in an older release."""
        return package in self.versions and numbers(self.versions[package]) < than

    def has(self, package: str, *since: int) -> bool:
        """Whether a package is installed, in this release or a newer one."""
        return package in self.versions and not self.older(package, *since)


def numbers(version: str) -> tuple[int, ...]:
    """`(3, 15)` of "3.15.1", which is enough to compare."""
    parts = version.split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)


def _issue(repository: str, number: int) -> str:
    return f"https://github.com/{repository}/issues/{number}"


# When it holds, and what it says.
_FACTS: tuple[tuple[Callable[[Machine], bool], str], ...] = (
    (
        lambda m: m.backend != "tensorflow",
        "Keras does not run on TensorFlow: set KERAS_BACKEND=tensorflow.",
    ),
    (
        lambda m: m.older("keras", 3, 5),
        "Optimizers of Keras before 3.5 do not add up the gradients of replicas, which "
        f"then drift apart: {_issue('keras-team/keras', 19891)}",
    ),
    (
        lambda m: m.has("keras", 3, 3) and m.older("keras", 3, 10),
        "Metrics of Keras before 3.10 show one replica, or add up wrongly over "
        f"several: {_issue('keras-team/keras', 21072)}",
    ),
    (
        lambda m: m.has("keras", 3, 8),
        "Keras since 3.8 divides losses by the number of replicas, but none that "
        "returns a scalar; short batches and weights are averaged per replica. "
        "distloss.prepare(model) mends both.",
    ),
    (
        lambda m: m.has("keras", 3, 0) and m.workers > 1,
        "fit of Keras 3 fails on several workers, unless the model is prepared.",
    ),
    (
        lambda m: m.has("keras", 3, 0) and "horovod" in m.versions,
        "hvd.DistributedOptimizer never sums gradients of Keras 3: "
        f"{_issue('horovod/horovod', 4290)}. Use distloss.DistributedOptimizer.",
    ),
    (
        lambda m: m.gpus > 1 and m.has("tensorflow", 2, 16),
        "NaN on several GPUs is reported since TensorFlow 2.16, in some cases between "
        f"certain pairs of GPUs: {_issue('tensorflow/tensorflow', 90686)}, "
        f"{_issue('tensorflow/tensorflow', 62915)}. Where a sum is wrong, try "
        "NCCL_P2P_DISABLE=1.",
    ),
    (
        lambda m: m.has("tensorflow", 2, 22) and "tensorboard" not in m.versions,
        "tf.summary of TensorFlow 2.22 needs TensorBoard, which is not installed.",
    ),
)


def known(machine: Machine) -> tuple[str, ...]:
    """What is known to go wrong on such a machine."""
    return tuple(words for holds, words in _FACTS if holds(machine))


# Gigabytes per second that one GPU can send to others by NVLink, while it receives as
# many: half of the 300, 600 and 900 that NVIDIA publishes for both directions together.
# https://www.nvidia.com/en-us/data-center/nvlink/
# https://docs.nvidia.com/cuda/volta-tuning-guide/#nvlink-interconnect
# https://docs.nvidia.com/cuda/ampere-tuning-guide/#third-generation-nvlink
# https://docs.nvidia.com/cuda/hopper-tuning-guide/#fourth-generation-nvlink
# Cards of these names for PCIe slots have less, or none, and so have no peak here.
_PEAKS = {"V100-SXM": 150, "A100-SXM": 300, "H100 80GB HBM3": 450, "NVIDIA H200": 450}


def peak_of(names: tuple[str, ...]) -> float | None:
    """What the maker publishes for devices of these names, if they are all alike."""
    if len(set(names)) != 1:
        return None
    return next((float(p) for word, p in _PEAKS.items() if word in names[0]), None)
