"""Accelerators by name: peak speeds, and what a host brings to feed them."""

import dataclasses
import difflib
import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Hardware:
  """One device and its share of a host.

  Attributes:
    name: A key of `HARDWARE`, or 'here'.
    bfloat16: Peak FLOP/s of bfloat16 matrix products, without sparsity.
    float32: Peak FLOP/s of what JAX makes of float32 ones by default: one pass
      of bfloat16 on TPUs, TensorFloat-32 on GPUs.
    bandwidth: Of the device's memory, bytes/s.
    host_cores: Virtual cores of the host for each device.
    utilisation: Share of the peak, or of the bandwidth where that is the
      limit, that training a ResNet-50 reaches; None if nothing is assumed.
    source: Where `utilisation` comes from.
  """

  name: str
  bfloat16: float
  float32: float
  bandwidth: float
  host_cores: float
  utilisation: float | None = None
  source: str = 'assumed'

  def seconds(self, flops: float, num_bytes: float, dtype: str) -> float:
    """The time that one device needs at least, by its peaks."""
    peak = self.bfloat16 if dtype == 'bfloat16' else self.float32
    return max(flops / peak, num_bytes / self.bandwidth)


# What Flax's ImageNet example publishes (its README): 125,100 steps of 1,024
# images in 4.4 h on four TPU v3 chips of 123 TFLOP/s, with 23 GFLOP an image
# 0.38 of the peak; 62,500 steps of 2,048 in 4.3 h on eight V100 of 125 TFLOP/s
# in mixed precision, 0.19. The newer chips below are assumed to do the same.
_TPU, _GPU = 0.38, 0.19

# TPUs: the pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" of Google's Cloud
# TPU documentation; cores of ct4p-hightpu-4t, ct5lp-hightpu-4t,
# ct5p-hightpu-4t, ct6e-standard-4t over their four chips.
# GPUs: NVIDIA's data sheets of the SXM modules, dense (A100: the 80 GB one);
# cores of a2-ultragpu, a3-highgpu and a3-ultragpu machines.
HARDWARE = {
  x.name: x
  for x in (
    Hardware('v4', 275e12, 275e12, 1.228e12, 60, _TPU),
    Hardware('v5e', 197e12, 197e12, 0.819e12, 28, _TPU),
    Hardware('v5p', 459e12, 459e12, 2.765e12, 52, _TPU),
    Hardware('v6e', 918e12, 918e12, 1.638e12, 45, _TPU),
    Hardware('a100', 312e12, 156e12, 2.039e12, 12, _GPU),
    Hardware('h100', 989e12, 495e12, 3.35e12, 26, _GPU),
    Hardware('h200', 989e12, 495e12, 4.8e12, 28, _GPU),
  )
}


def get(name: str) -> Hardware:
  """The device of this name; 'here' measures the one at hand.

  Raises:
    ValueError: If the name is unknown.
  """
  if name == 'here':
    return measure()
  if name.lower() not in HARDWARE:
    near = difflib.get_close_matches(name.lower(), HARDWARE, 1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'Unknown hardware {name!r}.{hint} Known: {", ".join(HARDWARE)}, and '
      "'here' for this machine."
    )
  return HARDWARE[name.lower()]


def find(kind: str) -> Hardware | None:
  """The device that JAX calls by this `device_kind`; None if unknown."""
  kind = kind.lower().replace(' lite', 'e')
  if kind == 'tpu v5':
    kind = 'tpu v5p'
  return next((x for name, x in HARDWARE.items() if name in kind), None)


def measure(size: int | None = None) -> Hardware:
  """Measures the default device by a matrix product and a copy.

  Args:
    size: Of the square matrices; by default 2,048 on a CPU, else 8,192.
  """
  on_cpu = jax.default_backend() == 'cpu'
  size = size or (2048 if on_cpu else 8192)
  peaks = {}
  for dtype in ('bfloat16', 'float32'):
    matrix = jnp.ones((size, size), dtype)
    seconds = _fastest(functools.partial(jax.jit(jnp.dot), matrix, matrix))
    peaks[dtype] = 2 * size**3 / seconds
  # In place: fresh memory would measure the allocator.
  add = jax.jit(lambda x: x + 1, donate_argnums=0)
  held = [jnp.ones(2**26 if on_cpu else 2**28, jnp.float32)]

  def touch():
    held[0] = add(held[0])
    return held[0]

  # Read once, written once.
  bandwidth = 2 * held[0].nbytes / _fastest(touch)
  return Hardware(
    'here',
    **peaks,
    bandwidth=bandwidth,
    host_cores=(os.cpu_count() or 1) / jax.local_device_count(),
  )


def _fastest(call: Callable[[], jax.Array], repeats: int = 5) -> float:
  """Seconds of the fastest of several calls, after one to compile."""
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return min(times)
