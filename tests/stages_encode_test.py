"""One step of an encoder, on one and on many devices."""

import jax
import jax.numpy as jnp
import numpy as np

from fastfill_jax import models, parallel
from fastfill_jax.models import heads
from fastfill_jax.stages import encode
from fastfill_jax.training import optim


def _encoder_step():
  network = models.make_encoder(
    'cnn', embedding_dim=4, widths=(4,), axis_name=parallel.AXIS
  )
  head = heads.Linear(3)
  optimizer = optim.make_optimizer('sgd', 0.1, num_steps=9, momentum=0.9)

  def normalise(images):
    return images.astype(jnp.float32) / 255

  recipe = {'terms': {'classify': 1.0}, 'label_smoothing': 0.1}
  step = encode.make_step(network, head, optimizer, normalise, recipe)
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, 16, dtype=np.int32),
  }
  images = normalise(batch['image'])
  state = encode.initialise(network, head, optimizer, images, seed=0)
  return step, state, batch


def test_four_devices_equal_one_and_their_copies_are_identical():
  step, one, batch = _encoder_step()
  assert parallel.device_count() == 4
  four = one
  mapped = parallel.pmap(step, in_axes=(None, 0, None), out_axes=None)
  # One device: an axis of size one.
  single = jax.jit(
    jax.vmap(
      step,
      in_axes=(None, 0, None),
      out_axes=None,
      axis_name=parallel.AXIS,
      axis_size=1,
    )
  )
  for _ in range(3):
    four, metrics = mapped(four, parallel.shard(batch), {})
    one, expected = single(one, jax.tree.map(lambda x: x[None], batch), {})
    np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    four,
    one,
  )
  for leaf in jax.tree.leaves(four):
    copies = [np.asarray(copy.data) for copy in leaf.addressable_shards]
    assert len(copies) == 4
    for copy in copies[1:]:
      np.testing.assert_array_equal(copy, copies[0])
