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
  parallel,
  policies,
  report,
)

_BLOCK_ROWS = 16_384


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
    functools.partial(_evaluate, config, name, embedded, fitted, seed),
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


class Split:
  """One split's embeddings and columns, memory-mapped."""

  def __init__(self, directory: pathlib.Path):
    self.arrays = {
      path.name: embeddings.ShardedArray(path)
      for path in directory.iterdir()
      if path.is_dir()
    }
    self.label = self.arrays['label'][:]
    self.id = self.arrays['id'][:]
    self.minority = None
    if 'minority' in self.arrays:
      self.minority = self.arrays['minority'][:]

  def __len__(self):
    return len(self.label)


def open_splits(embedded: artifact.Artifact) -> tuple[Split, Split]:
  """Query and gallery; the same object if there is one split only."""
  gallery = Split(embedded.directory / 'gallery')
  separate = embedded.directory / 'query'
  return (Split(separate) if separate.exists() else gallery), gallery


def _sweep(config, query, gallery, query_rows, aligned, new, orders, cutoffs):
  """`curve.sweep` in all processes, with every query's results."""
  result = curve.sweep(
    query_rows,
    aligned,
    new,
    query.label,
    gallery.label,
    orders,
    cutoffs,
    distance=config.evaluate.distance,
    query_ids=query.id,
    gallery_ids=gallery.id,
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


def _references(config, query, gallery):
  """Scores of old/old, new/new and, where widths allow, new/old."""
  order = np.arange(len(gallery))[None]
  pairs = [('old', 'old'), ('new', 'new')]
  widths = {name: query.arrays[name].shape[1] for name in ('old', 'new')}
  if widths['old'] == widths['new']:
    pairs.insert(1, ('new', 'old'))
  scores = {}
  for of_query, of_gallery in pairs:
    rows = gallery.arrays[of_gallery]
    scores[f'{of_query}/{of_gallery}'] = _sweep(
      config,
      query,
      gallery,
      query.arrays[of_query],
      rows,
      rows,
      order,
      np.zeros(1, int),
    )
  return scores


def align_gallery(
  apply: align.Apply, gallery: Split
) -> tuple[np.ndarray, np.ndarray | None]:
  """Aligned embeddings and log-variances of the whole gallery."""
  old, side = gallery.arrays['old'], gallery.arrays.get('side')
  blocks = []
  for start in range(0, len(gallery), _BLOCK_ROWS):
    rows = slice(start, start + _BLOCK_ROWS)
    blocks.append(apply(old[rows], None if side is None else side[rows]))
  aligned, log_variance = zip(*blocks, strict=True)
  aligned = np.concatenate(aligned)
  if not np.isfinite(aligned).all():
    raise ValueError('The alignment gave embeddings that are not finite.')
  if log_variance[0] is None:
    return aligned, None
  return aligned, np.concatenate(log_variance)


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


def _orders(config, embedded, aligned, log_variance, gallery, seed):
  """{policy: order} of all policies whose inputs this alignment has."""
  kernel = embed.load_kernel(embedded)
  head = encoder.make_head(kernel.shape[1], **config.new.head)
  available = {
    'key': jax.random.key(seed),
    'aligned': aligned,
    'log_variance': log_variance,
    'logits': _Logits(head, kernel, aligned),
    'class_weights': kernel,
    'labels': gallery.label,
    'new': gallery.arrays['new'],
  }
  held = {name for name, array in available.items() if array is not None}
  return {
    name: policies.make_order(name, **available)
    for name in config.evaluate.policies
    if held.issuperset(policies.reads(policies.POLICIES[name]))
  }


def _evaluate(config, name, embedded, fitted, seed, directory):
  query, gallery = open_splits(embedded)
  references = _references(config, query, gallery)
  apply = align.load(config, name, fitted)
  aligned, log_variance = align_gallery(apply, gallery)
  orders = _orders(config, embedded, aligned, log_variance, gallery, seed)
  cutoffs = curve.cutoffs(len(gallery), config.evaluate.steps)
  new = gallery.arrays['new']
  swept = _sweep(
    config,
    query,
    gallery,
    query.arrays['new'],
    aligned,
    new,
    np.stack(list(orders.values())),
    cutoffs,
  )
  error = np.sum((aligned - new[:].astype(np.float32)) ** 2, axis=1)
  uncertainty = log_variance
  if log_variance is not None and log_variance.ndim == 2:
    uncertainty = log_variance.mean(axis=1)
  result = report.Result(
    seed=seed,
    alignment=name,
    fractions=cutoffs / len(gallery),
    policies=tuple(orders),
    reads={
      policy: policies.reads(policies.POLICIES[policy]) for policy in orders
    },
    curves={metric: swept[metric] for metric in curve.METRICS},
    standard_error=swept['standard_error'],
    references=_scores(references, slice(None)),
    negative_flips=_negative_flips(references['old/old'], swept),
    uncertainty=uncertainty,
    error=error,
    **_groups(query.minority, swept, references),
  )
  if parallel.is_main():
    # What an engineer backfills by: ids in each policy's order.
    np.savez_compressed(
      directory / 'orders.npz',
      **{policy: gallery.id[order] for policy, order in orders.items()},
    )
    result.save(directory)


def _scores(references, queries):
  """{pair: {metric: mean over some queries}}."""
  return {
    pair: {
      metric: float(np.nanmean(values[0, 0, queries]))
      for metric, values in result['per_query'].items()
    }
    for pair, result in references.items()
  }


def _negative_flips(old, swept):
  """Share of queries right under old/old and wrong now, [policy, cutoff]."""
  before = old['per_query']['cmc@1'][0, 0]
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
