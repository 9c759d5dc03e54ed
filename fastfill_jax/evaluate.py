"""Stage 'evaluate': align the gallery, order it, and sweep the backfilling.

FastFill, arXiv 2303.04766, sections 3 and 5. Old, new and gallery come from
the stage 'embed', the map from 'align'; the curves go to the report.
"""

import difflib
import functools
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from fastfill_jax import (
  align,
  artifact,
  curve,
  embed,
  embeddings,
  encoder,
  gallery,
  parallel,
  policies,
  report,
)

References = dict[str, dict[str, np.ndarray]]


def make(
  config: ConfigDict,
  workdir: pathlib.Path,
  name: str,
  embedded: artifact.Artifact,
  fitted: artifact.Artifact,
  seed: int,
) -> artifact.Artifact:
  """Evaluates one alignment of one seed, unless that was done."""
  return artifact.make(
    workdir,
    f'evaluate/{align.file_name(name)}/seed{seed}',
    settings(config, embedded, fitted, seed),
    functools.partial(_evaluate, config, workdir, name, embedded, fitted, seed),
    allowed='evaluate' in config.stages,
  )


def settings(
  config: ConfigDict,
  embedded: artifact.Artifact,
  fitted: artifact.Artifact,
  seed: int,
) -> dict:
  """All that the curves depend on."""
  return {
    'evaluate': config.evaluate.to_dict(),
    'inputs': {'embeddings': embedded.digest, 'alignment': fitted.digest},
    'seed': seed,
  }


def check(config: ConfigDict):
  """Raises a ValueError if a policy or a number is unknown."""
  for name in config.evaluate.policies:
    if name not in policies.POLICIES:
      near = difflib.get_close_matches(name, policies.POLICIES, 1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise ValueError(
        f'Unknown policy {name!r} in evaluate.policies.{hint} Known: '
        f'{", ".join(policies.POLICIES)}.'
      )
  if not config.evaluate.policies or config.evaluate.steps < 0:
    raise ValueError('evaluate takes at least one policy and steps >= 0.')


def make_references(
  config: ConfigDict, workdir: pathlib.Path, embedded: artifact.Artifact
) -> References:
  """Scores without backfilling, the same for every alignment: swept once.

  Returns:
    {'old/old', 'new/new' and, where widths allow, 'new/old': {metric: float32
    [query]}}, NaN for queries without a relevant item.
  """
  made = artifact.make(
    workdir,
    f'evaluate/references/{pathlib.Path(embedded.name).name}',
    {'distance': config.evaluate.distance, 'inputs': embedded.digest},
    functools.partial(_sweep_references, config, embedded),
    allowed='evaluate' in config.stages,
  )
  references = {}
  with np.load(made.directory / 'references.npz') as arrays:
    for key, values in arrays.items():
      pair, metric = key.rsplit('/', maxsplit=1)
      references.setdefault(pair, {})[metric] = values
  return references


def _sweep_references(config, embedded, directory):
  query, items = gallery.open_splits(embedded)
  pairs = [('old', 'old'), ('new', 'new')]
  widths = {name: query.arrays[name].shape[1] for name in ('old', 'new')}
  if widths['old'] == widths['new']:
    pairs.append(('new', 'old'))
  scores = {}
  for of_query, of_gallery in pairs:
    rows = items.arrays[of_gallery]
    swept = _sweep(
      config,
      query,
      items,
      query.arrays[of_query],
      rows,
      rows,
      np.arange(len(items))[None],
      np.zeros(1, int),
    )
    for metric, values in swept['per_query'].items():
      scores[f'{of_query}/{of_gallery}/{metric}'] = values[0, 0]
  if parallel.is_main():
    np.savez_compressed(directory / 'references.npz', **scores)


def _sweep(config, query, items, query_rows, aligned, new, orders, cutoffs):
  """`curve.sweep` in all processes, with every query's results."""
  result = curve.sweep(
    query_rows,
    aligned,
    new,
    query.label,
    items.label,
    orders,
    cutoffs,
    distance=config.evaluate.distance,
    query_ids=query.id,
    gallery_ids=items.id,
    backend=config.run.sweep_backend,
    per_query=True,
    memory_limit=config.run.memory_limit,
    all_processes=True,
  )
  # Each process has its own queries' results and NaN for the others.
  result['per_query'] = {
    name: functools.reduce(np.fmax, parallel.gather(values))
    for name, values in result['per_query'].items()
  }
  return result


class _Logits:
  """The new classifier on aligned, [gallery, class], computed as it is read."""

  def __init__(self, head, kernel, aligned):
    self.shape = len(aligned), kernel.shape[1]
    self._apply = functools.partial(head.apply, {'params': {'kernel': kernel}})
    self._aligned = aligned

  def __len__(self):
    return len(self._aligned)

  def __getitem__(self, rows):
    return np.asarray(self._apply(self._aligned[rows]))


def make_orders(
  config: ConfigDict,
  embedded: artifact.Artifact,
  aligned: embeddings.ShardedArray,
  log_variance: embeddings.ShardedArray | None,
  seed: int,
  labels: np.ndarray | None = None,
  new: embeddings.ShardedArray | None = None,
) -> dict[str, np.ndarray]:
  """{policy: order} of the config's policies whose inputs are there."""
  kernel, logits = embed.load_kernel(embedded), None
  if kernel is not None:
    head = encoder.make_head(kernel.shape[1], **config.new.head)
    logits = _Logits(head, kernel, aligned)
  available = {
    'key': jax.random.key(seed),
    'aligned': aligned,
    'log_variance': log_variance,
    'logits': logits,
    'class_weights': kernel,
    'labels': labels,
    'new': new,
  }
  held = {name for name, array in available.items() if array is not None}
  return {
    name: policies.make_order(name, **available)
    for name in config.evaluate.policies
    if held.issuperset(policies.reads(policies.POLICIES[name]))
  }


def _evaluate(config, workdir, name, embedded, fitted, seed, directory):
  references = make_references(config, workdir, embedded)
  query, items = gallery.open_splits(embedded)
  aligned, log_variance = gallery.write_aligned(
    align.load(config, name, fitted), items, directory
  )
  new = items.arrays['new']
  orders = make_orders(
    config, embedded, aligned, log_variance, seed, items.label, new
  )
  cutoffs = curve.cutoffs(len(items), config.evaluate.steps)
  swept = _sweep(
    config,
    query,
    items,
    query.arrays['new'],
    aligned,
    new,
    np.stack(list(orders.values())),
    cutoffs,
  )
  if not parallel.is_main():
    return
  uncertainty = None
  if log_variance is not None:
    uncertainty = gallery.mean_log_variance(log_variance)
  report.Result(
    seed=seed,
    alignment=name,
    fractions=cutoffs / len(items),
    policies=tuple(orders),
    reads={
      policy: policies.reads(policies.POLICIES[policy]) for policy in orders
    },
    curves={metric: swept[metric] for metric in curve.METRICS},
    standard_error=swept['standard_error'],
    references=_scores(references, slice(None)),
    negative_flips=_negative_flips(references['old/old'], swept),
    uncertainty=uncertainty,
    error=gallery.squared_error(aligned, new),
    **_groups(query.minority, swept, references),
  ).save(directory)
  # What an engineer backfills by: ids in each policy's order.
  np.savez_compressed(
    directory / 'orders.npz',
    **{policy: items.id[order] for policy, order in orders.items()},
  )


def _scores(references, queries):
  """{pair: {metric: mean over some queries}}."""
  return {
    pair: {
      metric: float(np.nanmean(values[queries]))
      for metric, values in of_query.items()
    }
    for pair, of_query in references.items()
  }


def _negative_flips(old, swept):
  """Share of queries right under old/old and wrong now, [policy, cutoff]."""
  before = old['cmc@1']
  now = swept['per_query']['cmc@1']
  counted = np.isfinite(before)
  return np.mean((before == 1)[counted] & (now == 0)[..., counted], axis=-1)


def _groups(minority, swept, references):
  """Curves and references of the minority and of the others."""
  if minority is None:
    return {}
  groups = {'minority': minority, 'majority': ~minority}
  return {
    'groups': {
      group: {
        metric: np.nanmean(values[..., queries], axis=-1)
        for metric, values in swept['per_query'].items()
      }
      for group, queries in groups.items()
    },
    'group_references': {
      group: _scores(references, queries) for group, queries in groups.items()
    },
  }
