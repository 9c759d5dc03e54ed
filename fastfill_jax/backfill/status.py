"""How far a backfill is: numbers for people and for programs."""

import numpy as np

from fastfill_jax import stores
from fastfill_jax.backfill import census, journal, plan
from fastfill_jax.stores import shards

# Batches of which the present rate is the mean.
_RECENT = 50
_PROBED = (1, 5)
_NEIGHBOURS = 10


def collect(
  store: stores.Store,
  plan: plan.Plan,
  journal: journal.Journal,
  metric: str | None = None,
  probe=None,
) -> dict:
  """What there is to say, as JSON has it; one scan of the store.

  Args:
    store: To look at.
    plan: Of its backfill.
    journal: Of its backfill.
    metric: Of the forecast; None: its first.
    probe: A folder query/ [query, new_dim], label/ [query] and gallery_label/
      [the plan's item] to measure the live store with.
  """
  found = census.Census(store, plan)
  description = store.describe()
  new = found.counts.get(plan.new_space, 0)
  aligned = found.counts.get(plan.aligned_space, 0)
  share = new / found.total if found.total else 0.0
  rate = _rate(journal.events)
  paid = journal.cost / journal.embedded if journal.embedded else None
  result = {
    'store': description.store,
    'serving': description.serving,
    'warnings': list(description.warnings),
    'items': found.total,
    'counts': {tag or 'untagged': n for tag, n in found.counts.items()},
    'new': new,
    'aligned': aligned,
    'missing': found.counts.get(None, 0) + found.counts.get(stores.STALE, 0),
    'newcomers': len(found.newcomers.ids),
    'deleted': int((found.states == census.GONE).sum()),
    'share': share,
    'items_per_second': rate,
    'seconds_left': aligned / rate if rate else None,
    'cost': journal.cost,
    'cost_left': None if paid is None else aligned * paid,
    'failed': {str(i): why for i, why in journal.quarantine.items()},
    'forecast': None,
    'probe': None,
  }
  if plan.forecast is not None:
    result['forecast'] = _forecast(plan.forecast, metric, share)
  if probe is not None:
    result['probe'] = _probe(store, plan, probe)
  return result


def _forecast(forecast, metric, share):
  metric = metric or forecast.metrics[0]
  value, low, high = forecast.at(metric, share)
  return {
    'metric': metric,
    'value': value,
    'low': low,
    'high': high,
    'full': forecast.at(metric, 1.0)[0],
    'old': forecast.old(metric),
    'overtakes_at': forecast.overtakes(metric),
  }


def _rate(events) -> float | None:
  """Items written a second, of late and without pauses between calls."""
  batches = []
  for event in events:
    if event['event'] == 'batch':
      batches.append(event)
    elif event['event'] == 'start':
      batches = []
  batches = batches[-_RECENT:]
  if len(batches) < 2:
    return None
  seconds = batches[-1]['time'] - batches[0]['time']
  written = sum(event['written'] for event in batches[1:])
  return written / seconds if seconds > 0 and written else None


def _probe(store, plan, directory) -> dict:
  """Queries with known answers: how often one is among the first, and recall.

  Items that the probe has no label for count as wrong.
  """
  query, label, gallery_label = (
    shards.ShardedArray(f'{directory}/{name}')[:]
    for name in ('query', 'label', 'gallery_label')
  )
  if len(query) != len(label) or len(gallery_label) != plan.count:
    raise ValueError(
      f'{directory}: {len(query)} queries, {len(label)} labels, '
      f'{len(gallery_label)} labels of {plan.count} items.'
    )
  with store.snapshot() as view:
    ids, _ = view.search(query, _NEIGHBOURS, plan.distance)
    exact, _ = view.search(query, _NEIGHBOURS, plan.distance, exact=True)
  rows = plan.rows(ids.reshape(-1)).reshape(ids.shape)
  relevant = (gallery_label[rows] == label[:, None]) & (rows >= 0)
  hits = [np.isin(a, b).mean() for a, b in zip(exact, ids, strict=True)]
  return {
    'queries': len(query),
    **{f'cmc@{k}': float(relevant[:, :k].any(axis=1).mean()) for k in _PROBED},
    f'recall@{_NEIGHBOURS}': float(np.mean(hits)),
  }
