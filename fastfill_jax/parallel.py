"""Devices, processes, how a run goes; it alone says pmap, mesh or device.

A step sees un-stacked state and its share of the batch; `pmap` hands the state
to every device whole and splits the batch along a leading device axis:

  step = parallel.pmap(step, in_axes=(None, 0, None), out_axes=None)
  state, metrics = step(state, parallel.shard(batch), key)
"""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

AXIS = 'device'
# sysexits.h EX_TEMPFAIL: stopped before the end, start again to continue.
EXIT_PREEMPTED = 75


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: int = 300,
):
  """Joins the other processes; the first call of a multi-process run.

  Without the address of process 0 JAX finds the cluster (TPU metadata, SLURM,
  Open MPI). If a process does not join within `timeout` seconds, this one says
  so and exits with code 1.

  Raises:
    ValueError: If the three do not fit together, or no cluster is found.
  """
  given = [coordinator_address, num_processes, process_id]
  if any(x is not None for x in given) and None in given:
    raise ValueError(
      '--coordinator_address=HOST:PORT, --num_processes and --process_id go '
      f'together, got {coordinator_address}, {num_processes}, {process_id}.'
    )
  if process_id is not None and not 0 <= process_id < num_processes:
    raise ValueError(
      f'process_id={process_id} is not in [0, num_processes={num_processes}).'
    )

  def give_up():
    # JAX itself would abort with a stack trace.
    logging.error(
      'Not every one of %s processes joined within %d s at %s.',
      num_processes or 'the',
      timeout,
      coordinator_address or 'the detected coordinator',
    )
    os._exit(1)

  watchdog = threading.Timer(timeout, give_up)
  watchdog.daemon = True
  watchdog.start()
  try:
    jax.distributed.initialize(*given, initialization_timeout=timeout + 60)
  except ValueError as error:
    raise ValueError(
      'No cluster was found (TPU metadata, SLURM or Open MPI). Name one with '
      '--coordinator_address, --num_processes and --process_id.'
    ) from error
  finally:
    watchdog.cancel()


def keep_programs(directory: str | os.PathLike[str]):
  """Keeps compiled programs in a folder, for resumed runs and other seeds."""
  jax.config.update('jax_compilation_cache_dir', str(directory))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


process_index, process_count = jax.process_index, jax.process_count
device_count, local_device_count = jax.device_count, jax.local_device_count


def is_main() -> bool:
  """True in the one process that writes files and logs."""
  return process_index() == 0


def describe() -> str:
  """One line: kind and number of devices and processes."""
  kind = jax.devices()[0].device_kind
  return (
    f'{device_count()} x {kind} ({jax.default_backend()}), '
    f'{process_count()} process(es)'
  )


def is_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def pmap(
  fn: Callable,
  *,
  in_axes: Any,
  out_axes: Any,
  donate: tuple[int, ...] = (),
  local: bool = False,
) -> Callable:
  """`jax.pmap` over the axis `parallel.AXIS`.

  With `local` the axis has the devices of this process only, and processes
  need not call in step with each other. With several virtual CPU devices each
  call is waited for: XLA:CPU deadlocks when collectives of several calls are in
  flight.
  """
  mapped = jax.pmap(
    fn,
    axis_name=AXIS,
    in_axes=in_axes,
    out_axes=out_axes,
    donate_argnums=donate,
    devices=jax.local_devices() if local else None,
  )
  if not (is_cpu() and device_count() > 1):
    return mapped
  return lambda *args: jax.block_until_ready(mapped(*args))


def jit_once(fn: Callable) -> Callable:
  """`jax.jit` of what runs once: on CPUs, built quickly rather than quick."""
  options = {'xla_backend_optimization_level': 0} if is_cpu() else None
  return jax.jit(fn, compiler_options=options)


def replicate(tree: Any) -> Any:
  """The tree as a pmapped step returns it: else it would compile anew."""
  some = np.zeros(local_device_count())  # pmap wants a mapped argument.
  return pmap(lambda x, _: x, in_axes=(None, 0), out_axes=None)(tree, some)


def mean(tree: Any) -> Any:
  """The mean over devices, in a pmap."""
  return jax.lax.pmean(tree, AXIS)


def everywhere(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """All devices' rows, and which is which of the own, [own, row]; in a pmap.

  A loss of the own rows against all rows is averaged as any other: the mean
  over devices of its gradients is the gradient of the mean over all rows.
  """
  rows = jax.lax.all_gather(x, AXIS, tiled=True)
  own = len(x) * jax.lax.axis_index(AXIS) + np.arange(len(x))
  return rows, own[:, None] == np.arange(len(rows))[None]


def device_key(key: jax.Array) -> jax.Array:
  """A different key on every device, in a pmap."""
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def check_batch_size(batch_size: int):
  """Raises a ValueError unless the global batch divides over the devices."""
  if batch_size < 1 or batch_size % device_count():
    raise ValueError(
      f'batch_size={batch_size} does not divide over {device_count()} devices; '
      f'take a positive multiple of {device_count()}.'
    )


def round_up(rows: int) -> int:
  """The next multiple of this process's devices."""
  return -(-rows // local_device_count()) * local_device_count()


def shard(batch: Any) -> Any:
  """[local batch, ...] -> [local device, local batch / local device, ...]."""
  devices = local_device_count()
  return jax.tree.map(
    lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), batch
  )


def unshard(batch: Any) -> Any:
  """The inverse of `shard`, as NumPy arrays."""
  return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), batch)


def gather(array: np.ndarray) -> np.ndarray:
  """[...] in every process -> [process, ...] in every process."""
  array = np.asarray(array)
  if process_count() == 1:
    return array[None]
  # As bytes: JAX would round 64-bit numbers to 32.
  flat = np.frombuffer(array.tobytes(), np.uint8)
  rows = np.ascontiguousarray(multihost_utils.process_allgather(flat))
  return rows.view(array.dtype).reshape(len(rows), *array.shape)


def barrier(name: str):
  """Waits until every process is here."""
  if process_count() > 1:
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """What fails in one process, by a ValueError or OSError, fails in all.

  A process that stopped alone would leave the others waiting for ever.

  Raises:
    ValueError: The message of the first process that failed.
  """
  if process_count() == 1:
    yield
    return
  error = None
  try:
    yield
  except (ValueError, OSError) as failure:
    error = failure
  text = np.zeros(2048, np.uint8)
  if error is not None:
    message = str(error).encode()[: text.size] or b'unknown error'
    text[: len(message)] = np.frombuffer(message, np.uint8)
  for process, row in enumerate(gather(text)):
    if row.any():
      message = row.tobytes().rstrip(b'\0').decode(errors='replace')
      raise ValueError(f'Process {process}: {message}') from error


def check_same(name: str, digest: bytes):
  """Raises a ValueError unless every process brings the same digest."""
  for process, other in enumerate(gather(np.frombuffer(digest, np.uint8))):
    if other.tobytes() != digest:
      raise ValueError(
        f'Process {process} has another {name} than process '
        f'{process_index()}: start all processes with the same one.'
      )


class Preempted(Exception):
  """Stopped by SIGTERM; what was finished is saved."""


class Preemption:
  """Notices SIGTERM, the notice before a machine is taken away.

  With several processes JAX's own service notices it and makes all of them
  agree on the step to stop at.
  """

  def __init__(self):
    self._noticed = False
    if process_count() == 1:
      signal.signal(signal.SIGTERM, self._notice)

  def _notice(self, signum, frame):
    del signum, frame
    self._noticed = True

  def requested(self, step: int) -> bool:
    """True if training should save and stop before this step."""
    if process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._noticed

  def raise_if_requested(self, where: str):
    """Stops work whose parts are saved as they end; one process only."""
    if self._noticed:
      raise Preempted(f'{where} stopped by SIGTERM.')


@dataclasses.dataclass(frozen=True)
class How:
  """How a stage goes about its work: keys of `config.run` (configs/base.py)."""

  preemption: Preemption
  data_dir: str | None = None
  label_dir: str | None = None
  in_memory: bool = False
  num_workers: int = 0
  embed_batch_size: int = 1024
  log_every: int = 50
  checkpoint_every: int = 500
  evaluate_every: int = 5000
  profile: str = ''
  sweep_backend: str = 'auto'
  memory_limit: int = 2**30

  def __post_init__(self):
    for name, value in vars(self).items():
      if name.endswith(('_every', '_size')) and value < 1:
        raise ValueError(f'run.{name}={value}; it must be at least 1.')
