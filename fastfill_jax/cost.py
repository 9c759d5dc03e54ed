"""What a config's trainings cost before they are run: FLOPs, and hours.

  python -m fastfill_jax.cost --config=configs/imagenet.py --tflops=400

Every step is traced, not compiled, and XLA counts its FLOPs. Hours follow from
--tflops, what all devices together really do a second: peak times utilisation.
"""

import rich
import rich.table
from absl import app, flags
from ml_collections import config_flags

from fastfill_jax.stages import counting


def main(_):
  """Prints a table."""
  config, tflops = _CONFIG.value, _TFLOPS.value
  table = rich.table.Table(title=f'{config.name}, one seed')
  for heading in ('training', 'steps', 'GFLOP a step', 'PFLOP', 'hours'):
    table.add_column(heading, justify='right')
  for name, steps, counted in counting.trainings(config):
    hours = steps * counted / (tflops * 1e12) / 3600
    giga, peta = counted / 1e9, steps * counted / 1e15
    cells = f'{steps:,}', f'{giga:,.1f}', f'{peta:,.2f}', f'{hours:.2f}'
    table.add_row(name, *cells)
  rich.print(table)


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'As for main.')
  _TFLOPS = flags.DEFINE_float('tflops', 1.0, 'Of all devices together.')
  flags.mark_flag_as_required('config')
  app.run(main)
