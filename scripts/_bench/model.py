"""What a denominator costs on more devices than there are here: the alpha-beta model.

An all-reduce of n bytes over p devices takes about

    ring:  2 (p - 1) alpha + 2 (p - 1) / p * n * beta
    tree:  2 ceil(log2 p) (alpha + n * beta)

with alpha the latency of one message and beta the seconds per byte (Thakur,
Rabenseifner, Gropp: Optimization of Collective Communication Operations in MPICH,
2005). Of a scalar only alpha matters. Exposed, it is waited for; hidden, it runs while
the forward pass does; packed, it is 8 more bytes of the gradients' own all-reduce.

For a fixed p both are a line a + b n, which is fitted to what was measured here.
"""

import math

import numpy as np

# Latency of an all-reduce of 8 bytes, microseconds, by number of GPUs (8 a node), from
# the constants of NCCL 2.11: https://github.com/NVIDIA/nccl/blob/v2.11.4-1/src/graph/tuning.cc
NCCL_SCALAR_US = {8: 10.2, 64: 47.5, 512: 77.5, 4096: 107.5}
# Measured for 1 KB between two nodes over TCP, microseconds:
# https://github.com/facebookincubator/gloo/issues/158
GLOO_TCP_US = 354.0
NETWORK_BYTES_PER_SECOND = 25e9 / 8 * 8  # 8 cards of 25 Gbit/s per node
STEP_MS = (10.0, 100.0)


def gloo_scalar_us(devices):
    """A tree of messages over TCP."""
    return GLOO_TCP_US * math.ceil(math.log2(devices))


def expected(devices, step_ms, scalar_us):
    """The share of a step that a denominator adds, in the three ways, in percent."""
    step_us = 1e3 * step_ms
    forward_us = step_us / 3
    packed_us = 2 * 8 / NETWORK_BYTES_PER_SECOND * 1e6
    return {
        "devices": devices,
        "step_ms": step_ms,
        "scalar_us": round(scalar_us, 1),
        "exposed_percent": round(100 * scalar_us / step_us, 4),
        "hidden_percent": round(100 * max(0.0, scalar_us - forward_us) / step_us, 4),
        "packed_percent": round(100 * packed_us / step_us, 7),
    }


def step_with_wire(computed_ms, wire_ms):
    """A step whose gradients are sent after the backward pass, and while it runs.

    Before that there is the forward pass, a third of what is computed.
    """
    forward = computed_ms / 3
    return {
        "together": round(computed_ms + wire_ms, 1),
        "in buckets": round(forward + max(computed_ms - forward, wire_ms), 1),
    }


def predictions(results):
    """For NCCL and gloo, and for this machine beside what was measured here."""
    found = []
    for step_ms in STEP_MS:
        for devices, scalar_us in NCCL_SCALAR_US.items():
            found.append({"network": "NCCL", **expected(devices, step_ms, scalar_us)})
        for devices in NCCL_SCALAR_US:
            own = expected(devices, step_ms, gloo_scalar_us(devices))
            found.append({"network": "gloo over TCP", **own})
    for row in results.get("horovod", []):
        scalar_us = row["scalar_ms"] * 1e3
        own = expected(row["processes"], row["plain"]["ms"], scalar_us)
        own["measured_percent"] = round(100 * (row["loop"]["ratio"] - 1), 2)
        found.append({"network": "gloo, here", **own})
    return found


def fitted(results):
    """Per size of an all-reduce: what was measured, and the line of that launch."""
    found = []
    for launch in results.get("horovod", []):
        measured = {int(n): ms for n, ms in launch.get("all_reduce_ms", {}).items()}
        if not measured:
            continue
        latency, per_byte = line_through(measured)
        for size, ms in measured.items():
            row = {"processes": launch["processes"], "bytes": size, "measured_ms": ms}
            row["predicted_ms"] = round(latency + per_byte * size, 3)
            row["a_ms"] = round(latency, 3)
            row["b_ms_per_mb"] = round(1e6 * per_byte, 3)
            found.append(row)
    return found


def line_through(measured):
    """The a and b of a + b n with the smallest squares of relative errors.

    Of absolute errors, the largest message alone would decide, and a could be negative.
    """
    sizes, times = (np.array(list(x), float) for x in (measured, measured.values()))
    lines = np.stack([np.ones_like(sizes), sizes], axis=1) / times[:, None]
    return map(float, np.linalg.lstsq(lines, np.ones_like(sizes))[0])
