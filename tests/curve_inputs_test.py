"""What the sweep accepts, and what it refuses before anything is counted."""

import curve_cases
import numpy as np
import pytest

from fastfill_jax import curve


def test_labels_and_ids_may_be_strings():
  case = curve_cases.same(curve_cases.make(7), np.arange(24) % 20)
  names = {
    name: np.array([f'no {value}' for value in case[name]])
    for name in ('query_labels', 'gallery_labels', 'query_ids', 'gallery_ids')
  }
  names['query_ids'] = names['query_ids'].astype(object)
  curve_cases.assert_equal(curve.sweep(**case), curve.sweep(**(case | names)))


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'int8', 'bfloat16'])
def test_other_types_are_rounded_to_float32(dtype):
  case = curve_cases.make(8)
  cast = {
    name: np.asarray(case[name], np.dtype(dtype))
    for name in ('query', 'aligned', 'new')
  }
  curve_cases.assert_equal(curve.sweep(**case), curve.sweep(**(case | cast)))


def _with(array, place, value):
  array = np.array(array)
  array[place] = value
  return array


_CASE = curve_cases.make(16)
_IDS = {'query_ids': np.arange(7), 'gallery_ids': np.arange(24)}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'distance': 'cosin'}, "'cosin'.*did you mean 'cosine'"),
    ({'backend': 'numa'}, "'numa'.*did you mean 'numba'"),
    ({'query': _with(_CASE['query'], (3, 1), np.nan)}, r'query\[3\]'),
    ({'aligned': _with(_CASE['new'], (5, 0), np.inf)}, r'aligned\[5\]'),
    ({'new': _with(_CASE['new'], (23, 2), -np.inf)}, r'new\[23\]'),
    ({'new': _CASE['new'].astype(float) * 1e300}, r'new\[0\].*overflow'),
    ({'new': _CASE['new'][:, :2]}, r'share the shape.*\(24, 2\)'),
    ({'query': _CASE['query'][:, :2]}, r'query its width; .* \(7, 2\)'),
    ({'query': _CASE['query'][0]}, r'query must be .*\(3,\)'),
    ({'query': _CASE['query'] > 0}, 'real numbers, got bool'),
    ({'query': _CASE['query'] + 1j}, 'real numbers, got complex'),
    ({'query_labels': np.zeros(6, int)}, r'query_labels.*\(7,\).*\(6,\)'),
    ({'gallery_labels': np.zeros(24)}, 'gallery_labels.*float64'),
    ({'gallery_labels': ['a'] * 24}, 'query_labels are int64.*<U1'),
    ({'query_labels': np.full(7, 99)}, 'No query has a relevant item'),
    ({'query_ids': np.arange(7)}, 'gallery_ids is missing'),
    ({'gallery_ids': np.arange(24)}, 'query_ids is missing'),
    (_IDS | {'gallery_ids': np.arange(23)}, r'gallery_ids.*\(24,\)'),
    ({'orders': _CASE['orders'][0]}, r'orders must be .*\(24,\)'),
    ({'orders': _CASE['orders'][:, 1:]}, r'gallery=24.*\(2, 23\)'),
    ({'orders': _CASE['orders'][:0]}, r'\(0, 24\)'),
    ({'orders': _CASE['orders'] / 1}, 'orders must be integers'),
    ({'orders': _with(_CASE['orders'], (1, 0), 24)}, r'orders\[1\] is not'),
    (
      {'orders': [np.arange(24), np.arange(24) // 2 * 2]},
      r'orders\[1\] is not a permutation of 0 .. 23',
    ),
    ({'cutoffs': [0, 25]}, r'integers in \[0, 24\], got \[ 0 25\]'),
    ({'cutoffs': [-1, 24]}, r'cutoffs must be .*\[-1 24\]'),
    ({'cutoffs': [0.0, 0.5]}, 'cutoffs must be increasing integers'),
    ({'cutoffs': []}, 'cutoffs must be'),
    ({'backend': 'numba', 'memory_limit': 500}, 'memory_limit=500.*at least'),
    ({'backend': 'jax', 'memory_limit': 500}, 'memory_limit.*at least'),
  ],
)
def test_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    curve.sweep(**(_CASE | changes))
