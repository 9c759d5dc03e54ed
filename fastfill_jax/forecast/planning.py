"""The plan folder: a gallery aligned, scored and put in order, shard by shard.

  plan.json      what it is and what made it
  id/            [item], in the gallery's own order, as all but `order`
  aligned/       [item, new embedding]; of unit length if the distance is cosine
  log_variance/  [item], if the alignment predicts it
  score/         float32 [item], the highest first to be backfilled
  order/         rows [item], first to be backfilled first
  alignment/     the alignment, so that new items need no new fit

No more than some shards are held in memory. A shard that is there is complete,
so that a killed plan goes on where it was. A Ray cluster may align them; the
order is sorted in one place.
"""

import json
import pathlib
import shutil
from typing import Any

import numpy as np

from fastfill_jax.forecast import fitting, holdings, orders
from fastfill_jax.storage import arrays as sharded
from fastfill_jax.storage import artifact, cluster

SHARD_ROWS = 65_536


def write(
  directory: pathlib.Path,
  gallery: holdings.Vectors,
  fitted: fitting.Fitted,
  order: str,
  distance: str,
  encoder: str = '',
  *,
  by_ray: bool = False,
):
  """Plans a gallery into a folder.

  Args:
    directory: Of the plan.
    gallery: Old embeddings; their ids, or else their row numbers, are kept.
    fitted: The alignment.
    order: One of `orders.ORDERS`.
    distance: 'l2' or 'cosine'.
    encoder: The new model's name or digest.
    by_ray: Whether the machines of a Ray cluster align it (`cluster.over`).

  Raises:
    ValueError: If the folder holds another plan, or what is aligned is not
      finite.
  """
  directory = pathlib.Path(directory)
  held = {
    'format': 1,
    'count': len(gallery),
    'old_dim': int(gallery.rows.shape[1]),
    'distance': distance,
    'policy': order,
    'method': fitted.method,
    'alignment': fitted.digest,
    'encoder': encoder,
    'gallery': gallery.path,
  }
  path = directory / 'making.json'
  same = path.exists() and json.loads(path.read_text()) == held
  if directory.exists() and any(directory.iterdir()) and not same:
    raise ValueError(f'{directory} holds something else; give an empty one.')
  directory.mkdir(parents=True, exist_ok=True)
  artifact.write_text(path, json.dumps(held))
  fitted.save(directory / 'alignment')
  kind = _id_kind(gallery)
  _align(directory, gallery, fitted, order, distance, kind, 0, 0, by_ray)
  _finish(directory, held)


def grow(
  plan: pathlib.Path,
  directory: pathlib.Path,
  more: holdings.Vectors,
  *,
  by_ray: bool = False,
):
  """Adds items to a plan, as a new folder: no fit, no evaluation.

  Only new items are aligned and scored; shards of the others are linked to.
  The order is sorted again, which takes two passes over 12 bytes an item.

  Args:
    plan: A finished plan.
    directory: Of the grown plan; what is in it is replaced.
    more: Old embeddings of the new items, with ids if the plan has them.
    by_ray: As in `write`.

  Raises:
    ValueError: If widths or ids do not fit, or an id is there already.
  """
  plan, directory = pathlib.Path(plan), pathlib.Path(directory)
  held = read(plan)
  if more.rows.shape[1] != held['old_dim']:
    raise ValueError(
      f'{more.path} has {more.rows.shape[1]} columns, {plan} was made for '
      f'{held["old_dim"]}.'
    )
  ids = sharded.ShardedArray(plan / 'id')
  if (more.id is None) and ids.dtype.kind == 'U':
    raise ValueError(f'{more.path} has no ids, the items of {plan} have.')
  if more.id is not None:
    rows = holdings.find(ids, np.asarray(more.id[:]))
    if (rows >= 0).any():
      raise ValueError(f'{more.name(int(np.argmax(rows >= 0)))} is in {plan}.')
  count, kind = held['count'], np.promote_types(ids.dtype, _id_kind(more))
  shutil.rmtree(directory, ignore_errors=True)
  shutil.copytree(plan / 'alignment', directory / 'alignment')
  shards = len(list((plan / 'id').glob('*.npy')))
  for name in ('id', 'aligned', 'log_variance', 'score'):
    for shard, path in enumerate(sorted((plan / name).glob('*.npy'))):
      if name == 'id' and kind != ids.dtype:
        sharded.write_shard(directory / name, shard, np.load(path).astype(kind))
      else:
        sharded.link_shard(directory / name, shard, path.resolve())
  fitted = fitting.load(plan / 'alignment')
  policy, distance = held['policy'], held['distance']
  given = policy, distance, kind, shards, count, by_ray
  _align(directory, more, fitted, *given)
  _finish(directory, held | {'count': count + len(more)})


def read(plan: pathlib.Path) -> dict[str, Any]:
  """What a finished plan's plan.json says.

  Raises:
    ValueError: If there is none.
  """
  path = pathlib.Path(plan) / 'plan.json'
  if not path.exists():
    raise ValueError(f'{plan} holds no finished plan; has it moved?')
  return json.loads(path.read_text())


def _id_kind(gallery):
  """The dtype that holds every id."""
  if gallery.id is None:
    return np.dtype(np.int64)
  if np.asarray(gallery.id[:1]).dtype.kind != 'U':
    return np.dtype(np.int64)
  kind = np.dtype('<U1')
  for start in range(0, len(gallery), SHARD_ROWS):
    ids = np.asarray(gallery.id[start : start + SHARD_ROWS])
    kind = max(kind, ids.dtype, key=lambda kind: kind.itemsize)
  return kind


def _align(
  directory, gallery, fitted, order, distance, kind, shard, first, by_ray
):
  """Writes id, aligned, log_variance and score from a shard on."""

  def one(part):
    start, number = part * SHARD_ROWS, shard + part
    rows = slice(start, min(start + SHARD_ROWS, len(gallery)))
    ids = np.arange(first + rows.start, first + rows.stop)
    if gallery.id is not None:
      ids = np.asarray(gallery.id[rows])
    aligned, log_variance = fitted.align(gallery.rows[rows])
    finite = np.isfinite(aligned).all(axis=1)
    if not finite.all():
      bad = gallery.name(start + int(np.argmin(finite)))
      raise ValueError(f'{bad} has no finite aligned embedding.')
    scores = orders.score(order, ids, aligned, log_variance)
    if distance == 'cosine':
      length = np.linalg.norm(aligned, axis=1, keepdims=True)
      aligned /= np.where(length > 0, length, 1)
    arrays = {'id': ids.astype(kind), 'aligned': aligned.astype(np.float32)}
    if log_variance is not None:
      arrays['log_variance'] = log_variance.astype(np.float32)
    # The score's last: its shard says that the others are there.
    for name, array in (arrays | {'score': scores}).items():
      sharded.write_shard(directory / name, number, array)

  parts = range(-(-len(gallery) // SHARD_ROWS))
  there = [sharded.has_shard(directory / 'score', shard + x) for x in parts]
  cluster.over(one, [x for x in parts if not there[x]], by_ray)


def _finish(directory, held):
  aligned = sharded.ShardedArray(directory / 'aligned')
  scores = sharded.ShardedArray(directory / 'score')
  orders.write(scores, directory / 'order')
  held = held | {'new_dim': int(aligned.shape[1])}
  artifact.write_text(directory / 'plan.json', json.dumps(held, indent=2))


def write_list(plan: pathlib.Path, items: int, kind: str = 'csv'):
  """Writes id, rank and score of the first items as plan.csv or .parquet."""
  plan = pathlib.Path(plan)
  order, ids, scores = (
    sharded.ShardedArray(plan / name) for name in ('order', 'id', 'score')
  )
  blocks = (
    (start, order[start : min(start + SHARD_ROWS, items)])
    for start in range(0, items, SHARD_ROWS)
  )
  if kind == 'parquet':
    _write_parquet(plan / 'plan.parquet', blocks, ids, scores)
    return
  with (plan / 'plan.csv').open('w', encoding='utf-8') as file:
    file.write('id,rank,score\n')
    for start, rows in blocks:
      columns = _quoted(ids[rows]), range(start + 1, start + 1 + len(rows))
      file.writelines(
        f'{name},{rank},{score:.6g}\n'
        for name, rank, score in zip(*columns, scores[rows], strict=True)
      )


def _quoted(ids):
  if ids.dtype.kind != 'U':
    return ids.tolist()
  return [
    f'"{name.replace(chr(34), 2 * chr(34))}"'
    if any(mark in name for mark in ',"\n\r')
    else name
    for name in ids.tolist()
  ]


def _write_parquet(path, blocks, ids, scores):
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError:
    raise ValueError(
      "plan.parquet needs pyarrow: pip install 'fastfill_jax[parquet]'."
    ) from None
  writer = None
  for start, rows in blocks:
    table = pyarrow.table(
      {
        'id': ids[rows].tolist(),
        'rank': np.arange(start + 1, start + 1 + len(rows)),
        'score': scores[rows],
      }
    )
    if writer is None:
      writer = pyarrow.parquet.ParquetWriter(path, table.schema)
    writer.write_table(table)
  if writer:
    writer.close()
