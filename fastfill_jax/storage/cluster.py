"""Work by shards: here, or spread over the machines of a Ray cluster."""

from collections.abc import Callable, Sequence


def over(function: Callable[[int], None], shards: Sequence[int], by_ray: bool):
  """Calls a function of every shard's number; it writes what comes of it.

  Here one after the other; `by_ray` as tasks of a cluster, by default the one
  whose address is in RAY_ADDRESS, or this machine. Its machines must see the
  same folders; the function and what it holds are sent to them.

  Raises:
    ValueError: If Ray is not installed, or a task failed.
  """
  if not by_ray:
    for shard in shards:
      function(shard)
    return
  try:
    import ray
  except ImportError as error:
    raise ValueError(
      "Ray is not installed: pip install 'fastfill_jax[ray]'."
    ) from error
  task = ray.remote(function)
  task = task.options(scheduling_strategy='SPREAD')
  try:
    ray.get([task.remote(shard) for shard in shards])
  except ray.exceptions.RayTaskError as error:
    raise ValueError(f'A task of Ray failed: {error.cause}') from error
