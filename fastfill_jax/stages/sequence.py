"""Stage 'sequence': a second update before the first backfill has ended.

old -> new -> newer. When the newer encoder comes, a share of the gallery holds
new embeddings and the rest aligned ones; all are then aligned to the newer
space from where they are, and the second backfill begins. What it loses
against a second update of a gallery that is all new, or against one map from
old to newer, is what this stage measures. The gallery is held in memory.
"""

import pathlib
from typing import Any

import numpy as np
import pandas as pd

from fastfill_jax import choices, curve, parallel, policies
from fastfill_jax.methods import method
from fastfill_jax.stages import align, evaluate, gallery
from fastfill_jax.storage import artifact, splits

DIRECT = 'old to newer at once'


def check(names: tuple[str, ...], switches: tuple[float, ...]):
  """Raises a ValueError if a policy is unknown or a switch is no share."""
  for name in names:
    choices.check('policy', name, policies.POLICIES)
  if not names or not switches or not all(0 <= x <= 1 for x in switches):
    raise ValueError(
      f'sequence.policies={names}, switches={switches}: one or more policies, '
      'and shares in [0, 1].'
    )


def sequence(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  definition: dict[str, Any],
  first: artifact.Artifact,
  second: artifact.Artifact,
  direct: artifact.Artifact,
  embedded: dict[str, artifact.Artifact],
  encoders: list[str],
  names: list[str],
  switches: list[float],
  steps: int,
  distance: str,
  seed: int,
):
  """Writes sequence.csv: the second backfill by policy and switch.

  The maps are fitted: `first` is old -> new, `second` new -> newer, `direct`
  old -> newer; `encoders` are the names of the three. Each policy orders both
  backfills; the second begins at `switches`, shares of the first.

  Raises:
    ValueError: If the method maps queries: then no map follows another.
  """
  old, new, newer = encoders
  maps = [align.load(definition, x) for x in (first, second, direct)]
  if any(one.query for one in maps):
    raise ValueError('A sequence needs maps that leave the query as it is.')
  query, items = splits.evaluated(embedded)
  side = items.column('side')
  aligned, variance = _rows(maps[0], items[old][:], side)

  def available(name, aligned, variance):
    found = gallery.readable(
      embedded, name, aligned, variance, seed, items[name].shape[1]
    )
    return found | {'labels': items.column('label'), 'new': items[name]}

  orders, _ = policies.make_orders(names, available(new, aligned, variance))
  cutoffs, rows = curve.cutoffs(len(items), steps), []

  def backfill(policy, switch, aligned, variance):
    """Adds the row of one second backfill."""
    order = policies.make_order(policy, **available(newer, aligned, variance))
    held = query[newer], aligned, items[newer]
    swept = evaluate.sweep(
      how, distance, query, items, held, order[None], cutoffs
    )
    row = {'seed': seed, 'policy': policy, 'switch': switch}
    for metric in curve.METRICS:
      row[metric] = float(np.mean(swept[metric]))
      row[f'{metric}_start'] = float(swept[metric][0, 0])
    rows.append(row)

  for policy, order in orders.items():
    for switch in switches:
      reached = np.zeros(len(items), bool)
      reached[order[: int(switch * len(items))]] = True
      held = np.where(reached[:, None], items[new][:], aligned)
      again, added = _rows(maps[1], held, side)
      backfill(policy, switch, again, _total(variance, added, reached))
    backfill(policy, DIRECT, *_rows(maps[2], items[old][:], side))
  if parallel.is_main():
    text = pd.DataFrame(rows).to_csv(index=False)
    artifact.write_text(directory / 'sequence.csv', text)


def _rows(maps: method.Maps, old, side):
  """Aligned embeddings and log-variances of all rows, in memory."""
  parts = [
    maps.align(old[rows], None if side is None else side[rows])
    for rows in splits.row_blocks(0, len(old))
  ]
  aligned, variance = zip(*parts, strict=True)
  certain = variance[0] is None
  return np.concatenate(aligned), None if certain else np.concatenate(variance)


def _total(before, added, reached):
  """Log-variances of both maps: errors of one after the other add up."""
  if before is None or added is None:
    return added
  reached = reached if added.ndim == 1 else reached[:, None]
  return np.where(reached, added, np.logaddexp(before, added))
