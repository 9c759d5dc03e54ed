import pytest

from fastfill_jax import running


@pytest.mark.parametrize(
  'name', ['log_every', 'checkpoint_every', 'evaluate_every']
)
def test_what_is_out_of_range_is_named(name):
  with pytest.raises(ValueError, match=f'run.{name}=0; it must be at least 1'):
    running.How(None, **{name: 0})
