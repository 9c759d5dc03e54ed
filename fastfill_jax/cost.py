"""What a config costs before it is run: work, memory traffic and hours.

  python -m fastfill_jax.cost --config=configs/imagenet.py --hardware=v5e,h100

The hours follow from the counted work, the hardware's peaks and a utilisation,
which is assumed unless --utilisation brings a measured one:
benchmarks/train_step.py prints it.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from fastfill_jax import hardware, workload

# Of ImageNet's size, decoded, cropped and resized to 224 pixels: measured on
# one core of an AMD EPYC.
IMAGES_PER_CORE = 645.0


def seconds(
  stage: workload.Stage,
  device: hardware.Hardware,
  devices: int = 1,
  utilisation: float | None = None,
  images_per_core: float = IMAGES_PER_CORE,
) -> tuple[float, str]:
  """The expected time of a stage, and what limits it.

  Args:
    stage: The stage.
    device: One of the devices.
    devices: How many share the work, without loss.
    utilisation: Of the limit by peaks; None: the stage's or the device's own.
    images_per_core: What one core of the host decodes in a second.

  Returns:
    Seconds, and 'compute', 'memory' or 'input'.
  """
  share = stage.utilisation or utilisation or device.utilisation
  compute = device.seconds(stage.work.flops, 0, stage.dtype)
  memory = device.seconds(0, stage.work.bytes, stage.dtype)
  limits = {
    'compute': compute / share / devices,
    'memory': memory / share / devices,
    'input': stage.images / (images_per_core * device.host_cores * devices),
  }
  limit = max(limits, key=limits.get)
  return limits[limit], limit


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
    times = [
      seconds(stage, device, count, utilisation, images_per_core)
      for stage in stages
    ]
    cores = cores_needed(stages, device, utilisation, images_per_core)
    source = 'measured' if utilisation else device.source
    rows.append(
      (
        device.name,
        f'{utilisation or device.utilisation:.0%} ({source})',
        *(f'{_duration(time)}, {limit}' for time, limit in times),
        _duration(sum(time for time, _ in times)),
        f'{cores:.3g} of {device.host_cores:g}' if cores else 'none',
      )
    )
  names = [stage.name for stage in stages]
  return _markdown(
    (f'{count} ×', 'utilisation', *names, 'all', 'cores per device'), rows
  )


def cores_needed(
  stages: Sequence[workload.Stage],
  device: hardware.Hardware,
  utilisation: float | None = None,
  images_per_core: float = IMAGES_PER_CORE,
) -> float:
  """Host cores that keep one device busy in the stage that needs most."""
  needed = [0.0]
  for stage in stages:
    if stage.images:
      busy, _ = seconds(stage, device, 1, utilisation, float('inf'))
      needed.append(stage.images / busy / images_per_core)
  return max(needed)


def _markdown(header, rows):
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

  def line(cells):
    padded = (f'{x:<{n}}' for x, n in zip(cells, widths, strict=True))
    return f'| {" | ".join(padded)} |'

  rule = f'|{"|".join("-" * (n + 2) for n in widths)}|'
  return '\n'.join([line(header), rule, *map(line, rows)])


def _duration(time):
  for unit, length in (('h', 3600), ('min', 60)):
    if time >= length:
      return f'{time / length:.1f} {unit}'
  return f'{time:.1f} s'


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
    "Devices by name; 'here' measures this machine's.",
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
