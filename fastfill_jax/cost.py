"""What a config costs before it is run: work, memory traffic and hours.

  python -m fastfill_jax.cost --config=configs/imagenet.py --hardware=v5e,h100
  python -m fastfill_jax.cost --config=configs/digits.py --hardware=here

For named hardware the hours follow from the counted work, its peaks and a
utilisation, which is assumed unless --utilisation brings a measured one:
benchmarks/train_step.py prints it. For 'here' some steps of every stage are
run, on made-up numbers, and timed.
"""

import statistics
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from fastfill_jax import hardware, parallel, workload

# Of ImageNet's size, decoded, cropped and resized to 224 pixels: what
# benchmarks/loader.py gave on one core of an AMD EPYC, its lowest of several.
IMAGES_PER_CORE = 780.0


def expect(
  stage: workload.Stage,
  device: hardware.Hardware,
  devices: int = 1,
  utilisation: float | None = None,
) -> tuple[float, str]:
  """The expected time of a stage whose input is always there.

  Args:
    stage: The stage.
    device: One of the devices.
    devices: How many share the work, without loss.
    utilisation: Of the limit by peaks; None: the stage's or the device's own.

  Returns:
    Seconds, and 'compute' or 'memory', whichever limits it.
  """
  share = stage.utilisation or utilisation or device.utilisation
  limits = {
    'compute': device.seconds(stage.work.flops, 0, stage.dtype),
    'memory': device.seconds(0, stage.work.bytes, stage.dtype),
  }
  limit = max(limits, key=limits.get)
  return limits[limit] / share / devices, limit


def measure(
  stage: workload.Stage, device: hardware.Hardware, devices: int = 1
) -> tuple[float, str]:
  """The same from some of the stage's steps, run on this machine.

  Returns:
    Seconds, and their share of the speed of the device's matrix products.
  """
  total = sum(
    program.times * time_program(program) for program in stage.programs
  )
  total *= parallel.local_device_count() / devices / (stage.utilisation or 1)
  share = device.seconds(stage.work.flops, 0, stage.dtype) / devices
  return total, f'{share / total:.0%} of GEMM' if total else 'none'


def time_program(program: workload.Program, repeats: int = 5) -> float:
  """Seconds of one run on made-up numbers: the median of some."""
  rng = np.random.default_rng(0)

  def fill(shape):
    if shape.dtype == np.uint8:
      return rng.integers(0, 256, shape.shape, np.uint8)
    if np.issubdtype(shape.dtype, np.floating):
      return rng.random(shape.shape).astype(shape.dtype)
    return np.zeros(shape.shape, shape.dtype)

  args = [
    parallel.shard(tree) if axis == 0 else parallel.replicate(tree)
    for tree, axis in zip(
      jax.tree.map(fill, program.args), program.in_axes, strict=True
    )
  ]
  mapped = parallel.pmap(
    program.function,
    in_axes=program.in_axes,
    out_axes=program.out_axes,
    local=True,
  )
  times = []
  for _ in range(1 + repeats):
    start = time.perf_counter()
    jax.block_until_ready(mapped(*args))
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


def work_table(stages: Sequence[workload.Stage]) -> str:
  """The work of every stage, as Markdown; the same on any hardware."""
  rows = [
    (
      stage.name,
      f'{stage.parameters / 1e6:.2f}',
      f'{stage.examples / 1e6:.3g}',
      f'{stage.work.flops / stage.examples / 1e9:.3g}',
      f'{stage.work.flops / 1e15:.3g}',
      f'{stage.work.bytes / 1e12:.3g}',
    )
    for stage in stages
    if stage.examples
  ]
  header = (
    'stage',
    'M parameters',
    'M examples',
    'GFLOP/example',
    'PFLOP',
    'TB moved',
  )
  return _markdown(header, rows)


def hours_table(
  stages: Sequence[workload.Stage],
  devices: Sequence[hardware.Hardware],
  count: int,
  utilisation: float | None = None,
  images_per_core: float = IMAGES_PER_CORE,
) -> str:
  """Hours of every stage on so many of each device, as Markdown."""
  rows = []
  for device in devices:
    if device.name == 'here':
      source = 'timed here'
      busy = [measure(stage, device, count) for stage in stages]
    else:
      source = 'measured' if utilisation else device.source
      source = f'{utilisation or device.utilisation:.0%} ({source})'
      busy = [expect(stage, device, count, utilisation) for stage in stages]
    images_per_s = images_per_core * device.host_cores * count
    taken = [
      max(time, (stage.images / images_per_s, 'input'), key=lambda x: x[0])
      for stage, time in zip(stages, busy, strict=True)
    ]
    cores = max(
      stage.images / (seconds * count) / images_per_core if stage.images else 0
      for stage, (seconds, _) in zip(stages, busy, strict=True)
    )
    rows.append(
      (
        device.name,
        source,
        *(f'{_duration(seconds)}, {limit}' for seconds, limit in taken),
        _duration(sum(seconds for seconds, _ in taken)),
        f'{cores:.3g} of {device.host_cores:g}' if cores else 'none',
      )
    )
  names = [stage.name for stage in stages]
  return _markdown(
    (f'{count} ×', 'utilisation', *names, 'all', 'cores per device'), rows
  )


def _markdown(header, rows):
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

  def line(cells):
    padded = (f'{x:<{n}}' for x, n in zip(cells, widths, strict=True))
    return f'| {" | ".join(padded)} |'

  rule = f'|{"|".join("-" * (n + 2) for n in widths)}|'
  return '\n'.join([line(header), rule, *map(line, rows)])


def _duration(seconds):
  for unit, length in (('h', 3600), ('min', 60)):
    if seconds >= length:
      return f'{seconds / length:.1f} {unit}'
  return f'{seconds:.1f} s'


def main(
  config: ConfigDict,
  names: Sequence[str],
  count: int,
  utilisation: float | None,
  images_per_core: float,
) -> int:
  """Prints both tables."""
  try:
    if count < 1 or images_per_core <= 0:
      raise ValueError(
        f'--devices={count} and --images_per_core={images_per_core} must be '
        'positive.'
      )
    if utilisation is not None and not 0 < utilisation <= 1:
      raise ValueError(f'--utilisation={utilisation}: a share in (0, 1].')
    devices = [hardware.get(name) for name in names]
    stages = workload.stages(config, workload.data_size(config))
  except (ValueError, OSError) as error:
    logging.error('%s', error)
    return 1
  print(work_table(stages), end='\n\n')
  print(hours_table(stages, devices, count, utilisation, images_per_core))
  return 0


def _run():
  # Defined here, so that this module can be imported beside main's.
  config = config_flags.DEFINE_config_file('config', None, 'As for main.')
  names = flags.DEFINE_list(
    'hardware',
    list(hardware.HARDWARE),
    "Devices by name; 'here' runs and times some steps of every stage.",
  )
  count = flags.DEFINE_integer('devices', 8, 'How many share the work.')
  utilisation = flags.DEFINE_float(
    'utilisation', None, 'Measured share of the peak, on all the hardware.'
  )
  images_per_core = flags.DEFINE_float(
    'images_per_core', IMAGES_PER_CORE, 'What a core decodes in a second.'
  )
  flags.mark_flag_as_required('config')

  def start(argv):
    if len(argv) > 1:
      raise app.UsageError(
        f'Unknown arguments {argv[1:]}; flags start with --.'
      )
    options = names, count, utilisation, images_per_core
    sys.exit(main(config.value, *(option.value for option in options)))

  app.run(start)


if __name__ == '__main__':
  _run()
