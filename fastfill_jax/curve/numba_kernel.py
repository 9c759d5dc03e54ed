"""The exact sweep's counting step, compiled for CPUs.

Each gallery item has two scores for a query: aligned until its turn, new
afterwards. Both are ranked once among the scores of the query's relevant items
(the thresholds), whatever the policy. An item whose two ranks agree is the
same at every cut-off and under every policy; only the others are visited again
for each policy, at the cut-off that backfills them. Nothing is ever sorted but
the thresholds.
"""

import numba
import numpy as np

_TILE = 2048  # Scores ranked at a time: their cells stay in the L1 cache.
_STEEP = 1e30  # So many cells per unit of score that hardly any two share one.
# NumPy's error model: no test for zero divisors, so that loops vectorise.
_jit = numba.njit(nogil=True, cache=True, error_model='numpy')


@_jit
def _cells(scores, low, steepness, last, cells):
  """Writes each score's cell: a non-decreasing function of the score."""
  zero, one = np.float32(0), np.float32(1)
  last = np.float32(last)
  for j in range(scores.size):
    cell = (scores[j] - low) * steepness + one
    cell = cell if cell > zero else zero
    cell = cell if cell < last else last
    cells[j] = np.int32(cell)


@_jit
def _rank(score, cell, first, thresholds):
  """Returns how many thresholds lie at or below a score."""
  low, high = first[cell], first[cell + 1]
  while low < high:
    middle = (low + high) // 2
    if thresholds[middle] <= score:
      low = middle + 1
    else:
      high = middle
  return low


@_jit
def _thresholds(scores):
  """Sorts scores; returns the order, each one's threshold, the thresholds.

  An infinite threshold ends the list.
  """
  order = np.argsort(scores)
  group = np.empty(scores.size, np.int32)
  thresholds = np.empty(scores.size + 1, np.float32)
  size = 0
  for i in order:
    if size == 0 or scores[i] != thresholds[size - 1]:
      thresholds[size] = scores[i]
      size += 1
    group[i] = size - 1
  thresholds[size] = np.inf
  return order, group, thresholds[: size + 1]


@_jit
def _table(thresholds, cells):
  """Cuts the score range into cells.

  Returns the lowest threshold, cells per unit of score, and the number of
  thresholds below each cell.
  """
  size = thresholds.size
  low = thresholds[0]
  steepness = np.float32(_STEEP)
  spread = thresholds[size - 1] - low
  if spread > 0:
    steepness = np.float32(min(np.float64(cells) / spread, _STEEP))
  homes = np.empty(size, np.int32)
  _cells(thresholds, low, steepness, cells + 1, homes)
  first = np.zeros(cells + 3, np.int32)
  for home in homes:
    first[home + 1] += 1
  for cell in range(cells + 2):
    first[cell + 1] += first[cell]
  return low, steepness, first


@_jit
def _count(aligned, new, thresholds, base, items, before, after):
  """Ranks every item among the thresholds in both states.

  Counts the items of each aligned rank into `base` [threshold + 1]. Fills
  `items` with those whose rank changes when they are backfilled, `before` and
  `after` with their ranks, and returns how many they are.
  """
  cells = 1024
  while cells < 16 * thresholds.size and cells < 32768:
    cells *= 2
  low, steepness, first = _table(thresholds[:-1], cells)
  cells_aligned = np.empty(_TILE, np.uint16)
  cells_new = np.empty(_TILE, np.uint16)
  moved = 0
  for start in range(0, aligned.size, _TILE):
    stop = min(start + _TILE, aligned.size)
    _cells(aligned[start:stop], low, steepness, cells + 1, cells_aligned)
    _cells(new[start:stop], low, steepness, cells + 1, cells_new)
    for j in range(start, stop):
      # Most cells hold no threshold: then the first guess is right.
      cell = cells_aligned[j - start]
      rank = first[cell]
      if thresholds[rank] <= aligned[j]:
        rank = _rank(aligned[j], cell, first, thresholds)
      cell = cells_new[j - start]
      rank_new = first[cell]
      if thresholds[rank_new] <= new[j]:
        rank_new = _rank(new[j], cell, first, thresholds)
      base[rank] += 1
      # Written always, kept only if it counts: a branch would cost more.
      items[moved], before[moved], after[moved] = j, rank, rank_new
      moved += rank != rank_new
  return moved


@_jit
def _walk(base, changes, order, group, turns, precision, closest, ranks):
  """Walks the thresholds from the closest to the farthest.

  Args:
    base: Items of each rank in the aligned state [threshold + 1].
    changes: Items of each cut-off that gain or lose a rank, [threshold + 1,
      cutoff].
    order: Positives' scores from low to high, the aligned ones numbered
      before the new ones [2 * positive].
    group: Threshold of each of these scores [2 * positive].
    turns: Cut-off that backfills each positive [positive].
    precision: Zeros; filled with the sum over positives of the share of
      positives among the items at least as close [cutoff].
    closest: Lowered to the number of negatives at least as close as the
      closest positive [cutoff].
    ranks: Filled with the number of items at least as close as each positive,
      itself included [positive, cutoff], unless it is empty.
  """
  cutoffs = changes.shape[1]
  everyone = np.zeros(cutoffs, np.int32)
  relevant = np.zeros(cutoffs, np.int32)
  end = order.size
  while end > 0:
    threshold = group[order[end - 1]]
    total = base[threshold + 1]
    row = changes[threshold + 1]
    for c in range(cutoffs):
      total += row[c]
      everyone[c] += total
    begin = end
    while begin > 0 and group[order[begin - 1]] == threshold:
      begin -= 1
      _increment(relevant[_active(order[begin], turns, cutoffs)])
    for i in range(begin, end):
      active = _active(order[i], turns, cutoffs)
      here = relevant[active], everyone[active]
      _record(*here, precision[active], closest[active])
      if ranks.size:
        ranks[order[i] % turns.size, active] = everyone[active]
    end = begin


# These two take slices, not ranges: only then do their loops vectorise.
@_jit
def _increment(relevant):
  for c in range(relevant.size):
    relevant[c] += np.int32(1)


@_jit
def _record(relevant, everyone, precision, closest):
  for c in range(relevant.size):
    precision[c] += relevant[c] / everyone[c]
    closest[c] = min(closest[c], np.int32(everyone[c] - relevant[c]))


@_jit
def _active(score, turns, cutoffs):
  """Returns the cut-offs at which a positive has this score."""
  turn = min(turns[score % turns.size], cutoffs)
  if score < turns.size:
    return slice(0, turn)
  return slice(turn, cutoffs)


@_jit
def _score(scores, copies, sources, scale, shift, twins):
  """Turns one query's dot products [2 * gallery] into scores, in place."""
  for column in copies:
    scores[column] = scores[sources[column]]
  for column in range(scores.size):
    scores[column] = scores[column] * scale[column] + shift[column]
  for item in twins:
    scores[item] = scores[item + scores.size // 2] = -np.inf


@_jit
def block(scores, columns, twins, members, buckets, table_size, out, all_ranks):
  """Counts for a block of queries.

  Args:
    scores: Dot products float32 [query, 2 * gallery]; overwritten.
    columns: The columns that copy another one, and `sources`, `scale` and
      `shift` of `inputs.Problem`.
    twins: Gallery items by id, and where each query's id lies, [query, 2].
    members: Gallery items by label, and where each query's label lies.
    buckets: First cut-off at which an item is new, [policy, gallery].
    table_size: How many numbers a table [threshold + 1, cutoff] may have.
    out: Average precision and the number of irrelevant items at least as
      close as the closest relevant one, filled, [policy, cutoff, query].
    all_ranks: Ranks of the queries' relevant items, one query after another,
      filled but for twins, [policy, member, cutoff]; or no members.
  """
  average_precision, closer = out
  policies, cutoffs, queries = closer.shape
  size = buckets.shape[1]
  items, before, after = np.empty((3, size + 1), np.int32)
  table = np.empty(table_size, np.int32)
  copies, sources, scale, shift = columns
  begin = 0
  for query in range(queries):
    twin = twins[0][twins[1][query, 0] : twins[1][query, 1]]
    _score(scores[query], copies, sources, scale, shift, twin)
    aligned, new = scores[query, :size], scores[query, size:]
    positives = members[0][members[1][query, 0] : members[1][query, 1]]
    kept = np.flatnonzero(aligned[positives] != -np.inf)
    places, begin = begin + kept, begin + positives.size
    positives = positives[kept]
    order, group, thresholds = _thresholds(
      np.concatenate((aligned[positives], new[positives]))
    )
    base = np.zeros(thresholds.size, np.int32)
    moved = _count(aligned, new, thresholds, base, items, before, after)
    chunk = min(cutoffs, max(1, table_size // base.size))
    for policy in range(policies):
      for start in range(0, cutoffs, chunk):
        stop = min(start + chunk, cutoffs)
        changes = table[: base.size * (stop - start)]
        changes = changes.reshape(base.size, stop - start)
        changes[:] = 0
        # What was backfilled before is new from the first column on.
        for i in range(moved):
          turn = max(buckets[policy, items[i]] - start, 0)
          if turn < stop - start:
            changes[before[i], turn] -= 1
            changes[after[i], turn] += 1
        turns = np.maximum(buckets[policy][positives] - start, 0)
        precision = np.zeros(stop - start)
        closest = np.full(stop - start, size, np.int32)
        ranked = positives.size if all_ranks.size else 0
        ranks = np.empty((ranked, stop - start), np.int32)
        _walk(base, changes, order, group, turns, precision, closest, ranks)
        for i in range(len(ranks)):
          all_ranks[policy, places[i], start:stop] = ranks[i]
        place = policy, slice(start, stop), query
        average_precision[place] = precision / positives.size
        closer[place] = closest
