"""Random variables and images for the models' tests."""

import jax
import jax.numpy as jnp
import numpy as np


def fill(module, *inputs):
  """Variables with random values everywhere, statistics included."""
  generator = np.random.default_rng(0)

  def draw(path, x):
    values = generator.normal(size=x.shape) * 0.5
    is_variance = path[-1].key == 'var'
    return jnp.array(values**2 + 0.5 if is_variance else values, x.dtype)

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def make(shape, seed=1):
  generator = np.random.default_rng(seed)
  return jnp.array(generator.normal(size=shape), jnp.float32)


def count(module, *shapes):
  """Number of parameters, for inputs of these shapes."""
  inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return sum(x.size for x in jax.tree.leaves(variables['params']))
