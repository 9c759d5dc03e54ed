"""The contract that every store keeps, on small galleries."""

import contextlib
import uuid

import numpy as np
import pytest
import stores_cases
from stores_cases import DIM, NEW_DIM, vectors

from fastfill_jax import index, stores

N = 120


@pytest.fixture(params=stores_cases.KINDS)
def kind(request):
  return request.param


@pytest.fixture
def app(kind, request):
  return stores_cases.make_app(kind, request, np.arange(N) + 5, vectors(N, DIM))


@pytest.fixture
def store(app):
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    yield store


def _fill(store, ids, seed=1, space='aligned:a'):
  x = vectors(len(ids), NEW_DIM, seed)
  assert len(store.write(ids, x, space, only_if=None)) == len(ids)
  return x


def test_prepare_twice_and_describe(app):
  with contextlib.closing(app.open()) as store:
    before = store.describe()
    assert (before.old_dim, before.new_dim) == (DIM, None)
    assert before.serving == 'old'
    assert store.counts() == {None: N}
    assert store.prepare(NEW_DIM, 'cosine', dry_run=True)
    assert store.describe() == before
    assert store.prepare(NEW_DIM, 'cosine')
    assert store.describe().new_dim == NEW_DIM
    assert store.prepare(NEW_DIM, 'cosine') == []
    with pytest.raises(ValueError, match=r'7|wide'):
      store.prepare(NEW_DIM + 1, 'cosine')


def test_scan_and_read(store):
  ids = np.concatenate([piece for piece, _ in store.scan()])
  assert sorted(ids.tolist()) == list(range(5, N + 5))
  items = store.read([7, 10**9, 6], 'old')
  assert sorted(items.ids.tolist()) == [6, 7]
  rows = items.ids - 5
  np.testing.assert_allclose(items.vectors, vectors(N, DIM)[rows], atol=1e-6)
  assert items.spaces.tolist() == [None, None]
  assert np.isnan(store.read([7]).vectors).all()
  assert len(store.read([])) == 0 and len(store.read([1, 2])) == 0


def test_write_only_where_the_tag_is_as_expected(store):
  ids = np.arange(5, 15)
  x = _fill(store, ids)
  # The same again writes nothing: no tag is None any more.
  assert not len(store.write(ids, -x, 'aligned:a', only_if=None))
  assert store.write(
    ids[:3], -x[:3], 'new:b', only_if='aligned:a'
  ).tolist() == [
    5,
    6,
    7,
  ]
  written = store.write(ids, 2 * x, 'new:c', only_if='aligned:a')
  assert written.tolist() == ids[3:].tolist()
  assert store.counts() == {None: N - 10, 'new:b': 3, 'new:c': 7}
  items = store.read(ids)
  for i, space, vector in zip(
    items.ids, items.spaces, items.vectors, strict=True
  ):
    sign = -1 if space == 'new:b' else 1
    expected = sign * x[i - 5]
    np.testing.assert_allclose(
      vector / np.linalg.norm(vector), expected, atol=1e-6
    )


def test_deleted_items_stay_deleted_and_none_is_inserted(app, store):
  _fill(store, np.arange(5, 15))
  app.delete([6, 8])
  ids = np.array([5, 6, 7, 8, 999])
  x = vectors(5, NEW_DIM, 2)
  written = store.write(ids, x, 'new:b', only_if='aligned:a')
  assert written.tolist() == [5, 7]
  state = app.state()
  assert len(state) == N - 2 and not {6, 8, 999} & set(state)


def test_changed_items_are_left_alone(app, store):
  _fill(store, np.arange(5, 15))
  items = store.read(np.arange(5, 15), None)
  app.change([6], vectors(1, DIM, 9))
  space, vector = app.state()[6]
  assert space in (None, stores.STALE)
  assert vector is None
  written = store.write(
    items.ids, vectors(10, NEW_DIM, 3), 'new:b', only_if='aligned:a',
    revisions=items.revisions,
  )  # fmt: skip
  assert sorted(written.tolist()) == [5, *range(7, 15)]


def test_newer_embeddings_win(app, store):
  ids = np.arange(5, 15)
  _fill(store, ids)
  newer = vectors(1, NEW_DIM, 4)
  app.write_new([9], newer, 'new:other')
  store.write(ids, vectors(10, NEW_DIM, 3), 'new:b', only_if='aligned:a')
  space, vector = app.state()[9]
  assert space == 'new:other'
  np.testing.assert_allclose(vector, newer[0], atol=1e-6)


def test_other_columns_are_not_touched(kind, app, store):
  _fill(store, np.arange(5, 15))
  items = store.read([5], 'old')
  np.testing.assert_allclose(items.vectors, vectors(N, DIM)[:1], atol=1e-6)
  if kind == 'postgres':
    row = app.execute('SELECT note FROM {table} WHERE id = 5').fetchone()
    assert row == ('x',)
  if kind in stores_cases.QDRANTS:
    point = app._client.retrieve('items', [5], True, False)[0]
    assert point.payload['note'] == 'x'


@pytest.mark.parametrize(
  'ids, x, message',
  [
    ([5, 5], np.ones((2, NEW_DIM)), 'unique'),
    ([5], np.ones((1, NEW_DIM + 1)), r'\[1, 6\]'),
    ([5], np.full((1, NEW_DIM), np.nan), 'finite'),
    ([5], np.full((1, NEW_DIM), np.inf), 'finite'),
    ([5.5], np.ones((1, NEW_DIM)), 'integers or strings'),
  ],
)
def test_refuses_what_does_not_fit(store, ids, x, message):
  with pytest.raises(ValueError, match=message):
    store.write(ids, x, 'aligned:a', only_if=None)
  assert store.counts() == {None: N}


def test_empty_batch(store):
  none = store.write([], np.ones((0, NEW_DIM)), 'new:b', only_if='aligned:a')
  assert len(none) == 0


@pytest.mark.parametrize('distance', stores.base.DISTANCES)
def test_search_equals_exact_index(app, distance):
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, distance)
    ids = np.arange(5, 85)
    x = 3 * vectors(80, NEW_DIM, 1)
    store.write(ids, x, 'aligned:a', only_if=None)
    exact = index.ExactIndex(distance)
    exact.build(x, ids)
    query = vectors(4, NEW_DIM, 2)
    found, distances = store.search(query, 10, distance, exact=True)
    expected, expected_distances = exact.search(query, 10)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(distances, expected_distances, atol=1e-5)


def test_strings_as_ids(kind, request):
  texts = ['a', "b'b", 'c"c', 'ü 漢字', '-- ;', '%s', '{id}', '5']
  if kind in stores_cases.QDRANTS:
    texts = [str(uuid.UUID(int=i)) for i in range(8)]
  app = stores_cases.make_app(kind, request, np.array(texts), vectors(8, DIM))
  with contextlib.closing(app.open()) as store:
    store.prepare(NEW_DIM, 'cosine')
    x = _fill(store, np.array(texts))
    written = store.write(texts[::-1], x[::-1], "n';--", only_if='aligned:a')
    assert written.tolist() == texts[::-1]
    assert store.counts() == {"n';--": 8}
    assert set(app.state()) == set(texts)


def test_scan_while_writing(store):
  for ids, _ in store.scan():
    # A writer in the middle of the scan.
    store.write(ids[:1], np.ones((1, NEW_DIM)), 'aligned:a', only_if=None)
  assert store.counts()['aligned:a'] == 1


def test_snapshot_is_one_moment(app, store):
  if not store.has_snapshots:
    pytest.skip('the store has none')
  ids = np.arange(5, 85)
  x = _fill(store, ids)
  with store.snapshot() as view:
    view.counts()  # PostgreSQL's begins with the first statement
    store.write(ids, -x, 'new:b', only_if='aligned:a')
    app.delete([5])
    assert view.counts() == {None: N - 80, 'aligned:a': 80}
    found, _ = view.search(x[:1], 1, 'cosine', exact=True)
    assert found.tolist() == [[5]]
    np.testing.assert_allclose(view.read([5]).vectors, x[:1], atol=1e-6)
  assert store.counts() == {None: N - 80, 'new:b': 79}


def test_upkeep_keeps_everything(app, store):
  x = _fill(store, np.arange(5, 85))
  before = app.state()
  store.upkeep('cosine')
  after = app.state()
  assert before.keys() == after.keys()
  for i in before:
    assert before[i][0] == after[i][0]
    np.testing.assert_array_equal(before[i][1], after[i][1])
  with contextlib.closing(app.open()) as again:
    found, _ = again.search(x[:3], 1, 'cosine')
    assert found[:, 0].tolist() == [5, 6, 7]


def test_cut_over_and_back_in_the_middle(app, store):
  ids = np.arange(5, 85)
  x = _fill(store, ids)
  store.cut_over()
  store.cut_over()  # twice is once
  assert store.describe().serving == 'new'
  # The backfill goes on, on either side.
  store.write([5], -x[:1], 'new:b', only_if='aligned:a')
  with contextlib.closing(app.open()) as other:
    assert other.describe().serving == 'new'
    found, _ = other.search(-x[:1], 1, 'cosine')
    assert found.tolist() == [[5]]
    other.roll_back()
  assert store.describe().serving == 'old'
  store.write([6], -x[1:2], 'new:b', only_if='aligned:a')
  assert store.counts() == {None: N - 80, 'aligned:a': 78, 'new:b': 2}
  old = store.read([6], 'old').vectors
  np.testing.assert_allclose(old, vectors(N, DIM)[1:2], atol=1e-6)


def test_clean_up_before_the_cut_over_takes_all_traces_away(app, store):
  _fill(store, np.arange(5, 85))
  store.clean_up()
  description = store.describe()
  assert (description.old_dim, description.new_dim) == (DIM, None)
  assert store.counts() == {None: N}
  # The next upgrade begins as the first did.
  store.prepare(NEW_DIM + 1, 'cosine')
  assert store.describe().new_dim == NEW_DIM + 1


def test_clean_up_after_the_cut_over_drops_the_old(app, store):
  ids = np.arange(5, N + 5)
  x = _fill(store, ids, space='new:b')
  store.cut_over()
  store.clean_up()
  if app.__class__ is stores_cases.Postgres:
    row = app.execute('SELECT "emb""1" FROM {table} WHERE id = 5').fetchone()
    np.testing.assert_allclose(row[0].to_numpy(), x[0], atol=1e-6)
  assert store.counts() == {None: N} or set(store.counts()) == {'new:b'}


@pytest.mark.parametrize(
  'url, message',
  [
    ('mysql://x/y', 'names no store'),
    ('postgresql://me:secret@host/x', 'holds a password'),
    ('postgresql://host/x?password=secret', 'holds a password'),
    ('env:NO_SUCH_VARIABLE', 'no NO_SUCH_VARIABLE'),
    ('arrays:/nowhere', 'No embeddings'),
  ],
)
def test_urls_are_refused_without_their_secrets(url, message):
  with pytest.raises(ValueError, match=message) as caught:
    stores.open_store(url, stores.Names())
  assert 'secret' not in str(caught.value)


def test_a_missing_table_or_field_is_named(kind, app):
  if kind == 'arrays':
    pytest.skip('a folder is one table')
  names = app.names
  for other in (
    stores.Names('nothere', field=names.field),
    stores.Names(names.table, field='no'),
  ):
    app.names = other
    with pytest.raises(ValueError, match=r"nothere|'no'"):
      if kind in stores_cases.QDRANTS:
        type(app).open(app)
      else:
        stores.open_store(app.url, other)
