"""Stage 'evaluate': align the gallery, order it, and sweep the backfilling.

FastFill, arXiv 2303.04766, sections 3 and 5. Embeddings come from the stage
'embed', the map from 'align'; the curves go to the report.
"""

import functools
import pathlib
from typing import Any

import numpy as np
from scipy import stats

from fastfill_jax import choices, curve, methods, parallel, policies, report
from fastfill_jax.curve import gain
from fastfill_jax.stages import align, gallery, learnt
from fastfill_jax.storage import artifact, splits


def check(names: tuple[str, ...], steps: int, distance: str):
  """Raises a ValueError if a policy or a number is unknown."""
  for name in names:
    choices.check('policy', name, policies.POLICIES)
  choices.check('distance', distance, curve.DISTANCES)
  if not names or steps < 0:
    raise ValueError('evaluate takes at least one policy and steps >= 0.')


def sweep_references(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  distance: str,
):
  """Scores without backfilling, the same for every method: swept once.

  The directory gets references.npz: for 'old/old', 'new/new' and, where widths
  allow, 'new/old', each metric of every query.
  """
  query, items = splits.evaluated(embedded)
  pairs = {'old/old': (old, old), 'new/new': (new, new)}
  if query[old].shape[1] == query[new].shape[1]:
    pairs['new/old'] = new, old
  scores, order = {}, np.arange(len(items))[None]
  for pair, (of_query, of_gallery) in pairs.items():
    held = query[of_query], items[of_gallery], items[of_gallery]
    swept = sweep(how, distance, query, items, held, order, np.zeros(1, int))
    for metric, values in swept['per_query'].items():
      scores[f'{pair}/{metric}'] = values[0, 0]
  if parallel.is_main():
    np.savez_compressed(directory / 'references.npz', **scores)


def _load_references(references):
  """{'old/old', 'new/new', ...: {metric: float32 [query], NaN for no item}}."""
  loaded = {}
  with np.load(references.directory / 'references.npz') as held:
    for key, values in held.items():
      pair, metric = key.rsplit('/', maxsplit=1)
      loaded.setdefault(pair, {})[metric] = values
  return loaded


def evaluate(
  directory: pathlib.Path,
  how: parallel.How,
  *,
  name: str,
  definition: dict[str, Any],
  fitted: artifact.Artifact,
  references: artifact.Artifact,
  embedded: dict[str, artifact.Artifact],
  old: str,
  new: str,
  fuse: float,
  names: list[str],
  steps: int,
  distance: str,
  seed: int,
):
  """Writes the curves of the row `name`, and the orders they are of.

  The directory gets the result, orders.npz, aligned/ and perhaps log_variance/,
  backfilled/ and query/. A backfilled item keeps the share `fuse` of the
  aligned embedding; `references` are of `sweep_references`.
  """
  query, items = splits.evaluated(embedded)
  maps = align.load(definition, fitted)
  aligned, log_variance = gallery.write_aligned(maps, items, old, directory)
  backfilled = gallery.write_new(
    maps, items[new], aligned, fuse, directory / 'backfilled'
  )
  asked = gallery.write_new(maps, query[new], None, 0, directory / 'query')
  width = maps.new_dim
  available = learnt.readable(
    *(names, maps, embedded, old, new, aligned, log_variance),
    fuse=fuse,
    distance=distance,
    seed=seed,
  )
  of_new = backfilled if width is None else gallery.leading(backfilled, width)
  available |= {'labels': items.column('label'), 'new': of_new}
  if 'gain' in names:
    available['gains'] = gain.marginal(
      asked,
      aligned,
      backfilled,
      *(x.column(name) for name in ('label', 'id') for x in (query, items)),
      distance=distance,
      seed=seed,
      all_processes=True,
    )
  orders, left_out = policies.make_orders(names, available)
  cutoffs, rows = curve.cutoffs(len(items), steps), np.stack([*orders.values()])
  held = asked, aligned, backfilled
  swept = sweep(how, distance, query, items, held, rows, cutoffs)
  if not parallel.is_main():
    return
  scores, certain = _load_references(references), log_variance is None
  report.Result(
    seed=seed,
    alignment=name,
    update=(old, new),
    fractions=cutoffs / len(items),
    policies=tuple(orders),
    reads={name: policies.reads(policies.POLICIES[name]) for name in orders},
    needs=methods.make(**definition).reads,
    left_out=left_out,
    gain_correlation=_correlations(orders, available.get('gains')),
    gain_standard_error=_gain_errors(tuple(orders), swept['per_query']['mAP']),
    curves={metric: swept[metric] for metric in curve.METRICS},
    standard_error=swept['standard_error'],
    area_standard_error=swept['area_standard_error'],
    references=_scores(scores, slice(None)),
    negative_flips=_negative_flips(scores['old/old'], swept),
    uncertainty=None if certain else gallery.mean_log_variance(log_variance),
    error=gallery.squared_error(aligned, backfilled),
    **_groups(query.column('minority'), swept, scores),
  ).save(directory)
  # What an engineer backfills by: ids in each policy's order.
  ids = items.column('id')
  by_policy = {policy: ids[order] for policy, order in orders.items()}
  np.savez_compressed(directory / 'orders.npz', **by_policy)


def sweep(how, distance, query, items, embeddings, orders, cutoffs):
  """`curve.sweep` of two splits in all processes, with every query's results.

  The embeddings are what is asked with [query, embedding], and what items are
  before and after they are backfilled [gallery, embedding].
  """
  result = curve.sweep(
    *embeddings,
    query.column('label'),
    items.column('label'),
    orders,
    cutoffs,
    distance=distance,
    query_ids=query.column('id'),
    gallery_ids=items.column('id'),
    backend=how.sweep_backend,
    per_query=True,
    memory_limit=how.memory_limit,
    all_processes=True,
  )
  # Each process has its own queries' results and NaN for the others.
  result['per_query'] = {
    name: functools.reduce(np.fmax, parallel.gather(values))
    for name, values in result['per_query'].items()
  }
  return result


def _scores(references, queries):
  """{pair: {metric: mean over some queries}}."""
  return {
    pair: {m: float(np.nanmean(x[queries])) for m, x in scores.items()}
    for pair, scores in references.items()
  }


def _correlations(orders, gains):
  """Spearman's, of being early in an order with the gain."""
  if gains is None or not np.ptp(gains):  # All zero: nothing to order by.
    return {}
  early = np.arange(len(gains), 0, -1)
  return {
    policy: float(stats.spearmanr(early, gains[order]).statistic)
    for policy, order in orders.items()
  }


def _gain_errors(names, precision):
  """Standard errors of areas less random's; precision [policy, cutoff, query].

  Query by query: what is hard under both orders cancels out.
  """
  if 'random' not in names:
    return {}
  area = precision.mean(axis=1)
  gain = area - area[names.index('random')]
  count = np.count_nonzero(np.isfinite(area[0]))
  error = np.nanstd(gain, axis=1, ddof=1) / np.sqrt(count)
  return dict(zip(names, map(float, error), strict=True))


def _negative_flips(old, swept):
  """Share of queries right under old/old and wrong now, [policy, cutoff]."""
  before, now = old['cmc@1'], swept['per_query']['cmc@1']
  counted = np.isfinite(before)
  return np.mean((before == 1)[counted] & (now == 0)[..., counted], axis=-1)


def _groups(minority, swept, references):
  """Curves and references of the minority and of the others."""
  if minority is None:
    return {}
  groups, scores = {}, swept['per_query']
  rows = {'minority': minority, 'majority': ~minority}
  for group, x in rows.items():
    means = {m: np.nanmean(v[..., x], axis=-1) for m, v in scores.items()}
    groups[group] = means
  found = {group: _scores(references, x) for group, x in rows.items()}
  return {'groups': groups, 'group_references': found}
