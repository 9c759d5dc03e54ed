"""A config's work by hand, the hardware's names, hours by arithmetic."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from fastfill_jax import cost, flops, hardware, models, parallel, workload


def test_hardware_by_name():
  assert hardware.get('H100').bfloat16 == 989e12
  assert hardware.find('NVIDIA H100 80GB HBM3') is hardware.get('h100')
  assert hardware.find('TPU v5 lite') is hardware.get('v5e')
  assert hardware.find('TPU v5') is hardware.get('v5p')
  assert hardware.find('TPU v6 lite') is hardware.get('v6e')
  assert hardware.find('cpu') is None
  with pytest.raises(ValueError, match=r"'h1000'.*mean 'h100'.*'here'"):
    hardware.get('h1000')


def test_hardware_here_is_measured():
  here = hardware.measure(size=64)
  assert min(here.bfloat16, here.float32, here.bandwidth) > 0
  assert here.host_cores > 0


@pytest.fixture(scope='module')
def digits_stages():
  config = digits.get_config()
  stages = workload.stages(config, workload.data_size(config))
  return {stage.name: stage for stage in stages}


def test_examples_of_every_stage(digits_stages):
  assert list(digits_stages) == ['old', 'new', 'embed', 'align', 'evaluate']
  seeds = 3
  examples = {name: stage.examples for name, stage in digits_stages.items()}
  # Half of the classes: half of 1,000 examples; 30 epochs of whole batches.
  assert examples['old'] == 500 * 30 * seeds
  assert examples['new'] == 1000 * 30 * seeds
  assert examples['embed'] == (8 * 1000 + 797) * seeds
  networks, closed_forms, references = 7, 2, 2
  assert examples['align'] == 1000 * 40 * networks * seeds
  sweeps = networks + closed_forms + references
  assert examples['evaluate'] == 797 * sweeps * seeds


def test_work_of_the_old_perceptron(digits_stages):
  old = digits_stages['old']
  # 64 pixels -> 16 -> 16 -> 10 classes: forward, gradient of the weights, and
  # of the inputs but for the pixels.
  terms = 2 * 64 * 16 + 3 * 16 * 16 + 3 * 16 * 10
  assert old.work.flops == 2 * terms * old.examples
  # Both dense layers have biases or norms beside their kernels.
  assert old.parameters >= 64 * 16 + 16 * 16 + 16 * 10


def test_work_of_the_embeddings(digits_stages):
  stage = digits_stages['embed']
  cnn = models.make_encoder('cnn', embedding_dim=32)
  image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
  variables = jax.eval_shape(cnn.init, jax.random.key(0), image)
  new = flops.count(cnn.apply, variables, image).flops
  old = 2 * (64 * 16 + 16 * 16)
  assert stage.work.flops == pytest.approx(stage.examples * (old + new))


def test_work_of_the_alignments(digits_stages):
  # 16 -> 32 -> 64 twice, 128 -> 256 -> 256 -> 32: forward, gradients of the
  # weights, and of all inputs but the embeddings.
  layers = 2 * (16 * 32 + 32 * 64) + 128 * 256 + 256 * 256 + 256 * 32
  network = 3 * layers - 2 * 16 * 32
  logits, example, coordinate = 32 * 10, 3 * 32, 3 * 32 * 32
  terms = [
    network + logits,  # l2; the logits are reported only
    network + 2 * logits,  # disc: W_new is frozen
    network + 2 * logits,  # l2+disc
    network + logits + example,
    network + 2 * logits + example,
    network + 2 * logits + example,
    network + 2 * logits + coordinate,
  ]
  seeds, examples = 3, 40 * 1000
  work = digits_stages['align'].work
  assert work.flops == seeds * examples * 2 * sum(terms)


def test_work_of_the_sweep(digits_stages):
  stage = digits_stages['evaluate']
  sweeps = stage.examples // 797
  # Old and new scores of every pair, in the wider of the two spaces.
  assert stage.work.flops == pytest.approx(sweeps * 2 * (2 * 797 * 797 * 32))


def test_side_information_is_a_stage_of_two_views():
  config = digits.get_config('debug')
  config.side.enabled = True
  size = workload.data_size(config)
  new = workload.encoder_stage(config, 'new', size, runs=1)
  side = workload.encoder_stage(config, 'side', size, runs=1)
  assert side.examples == new.examples
  assert side.work.flops > 1.9 * new.work.flops


def test_sizes_are_known_without_the_data():
  config = types.SimpleNamespace(
    data=types.SimpleNamespace(name='imagenet2012:5.1.0')
  )
  assert workload.data_size(config).train == 1_281_167


DEVICE = hardware.Hardware('x', 100.0, 50.0, 10.0, 4.0, utilisation=0.5)


class Done:
  """Stands in for a program; its work is known."""

  def __init__(self, num_flops, num_bytes):
    self.work = flops.Work(num_flops, num_bytes)


def _stage(num_flops, num_bytes, dtype='float32', images=0, **options):
  programs = (Done(num_flops / 2, num_bytes / 2),) * 2
  return workload.Stage('new', 1, 60, programs, dtype, images, **options)


def test_seconds_and_their_limit():
  stage = _stage(6000, 300, 'bfloat16')
  # 6000 FLOP at 100/s, half of it used; 300 bytes at 10/s.
  assert cost.expect(stage, DEVICE) == (6000 / 100 / 0.5, 'compute')
  assert cost.expect(stage, DEVICE, 2) == (6000 / 100 / 0.5 / 2, 'compute')
  slow = cost.expect(stage, DEVICE, utilisation=0.25)
  assert slow == (6000 / 100 / 0.25, 'compute')
  stage = _stage(600, 300, utilisation=0.2)
  assert cost.expect(stage, DEVICE) == (300 / 10 / 0.2, 'memory')
  stage = _stage(6000, 300)
  assert cost.expect(stage, DEVICE) == (6000 / 50 / 0.5, 'compute')


def test_measured_seconds_are_those_of_its_programs(monkeypatch):
  stage = _stage(6000, 300, utilisation=0.5)
  for program, times in zip(stage.programs, (10, 10), strict=True):
    program.times = times
  monkeypatch.setattr(cost, 'time_program', lambda program: 0.3)
  devices = parallel.local_device_count()
  # Both programs 10 times; 6000 FLOP are 120 s of one device's products.
  seconds, share = cost.measure(stage, DEVICE, devices)
  assert seconds == pytest.approx(2 * 10 * 0.3 / 0.5)
  assert share == f'{120 / devices / 12:.0%} of GEMM'
  assert cost.measure(stage, DEVICE, 3 * devices)[0] == pytest.approx(4)


def test_a_program_is_run_with_its_shapes():
  seen = []

  def function(state, batch):
    jax.debug.callback(lambda x, y: seen.append((x, y)), state, batch['image'])
    return parallel.mean(state + batch['image'].astype(jnp.float32).sum())

  image = jax.ShapeDtypeStruct((8, 2, 2, 1), np.uint8)
  state = jax.ShapeDtypeStruct((), jnp.float32)
  program = workload.Program(
    function, (state, {'image': image}), (None, 0), None, times=1
  )
  assert cost.time_program(program, repeats=2) > 0
  jax.effects_barrier()
  devices = parallel.local_device_count()
  assert len(seen) == 3 * devices
  assert all(y.shape == (8 // devices, 2, 2, 1) for _, y in seen)
  assert len({float(x) for x, _ in seen}) == 1


def _cells(line):
  return [cell.strip() for cell in line.split('|')[1:-1]]


def test_tables():
  stages = [
    workload.Stage('new', 2_500_000, 4_000_000, (Done(8e15, 2e12),)),
    workload.Stage('align', 0, 0, ()),
  ]
  assert cost.work_table(stages).splitlines()[2:] == [
    '| new   | 2.50         | 4          | 2             | 8     | 2        |'
  ]
  device = hardware.Hardware('x', 1e12, 1e12, 1e12, 4.0, utilisation=0.5)
  lines = cost.hours_table(stages, [device], count=2).splitlines()
  assert _cells(lines[0]) == [
    '2 ×',
    'utilisation',
    'new',
    'align',
    'all',
    'cores per device',
  ]
  assert _cells(lines[2]) == [
    'x',
    '50% (assumed)',
    '2.2 h, compute',
    '0.0 s, compute',
    '2.2 h',
    'none',
  ]
  measured = cost.hours_table(stages, [device], count=2, utilisation=0.25)
  assert '25% (measured)' in measured
  assert '4.4 h' in measured


def test_input_can_be_the_limit():
  # 120 s of the device for 60 images; a core decodes 0.2 or 0.1 a second.
  stages = [_stage(6000, 300, 'bfloat16', 60), _stage(1, 1)]
  row = cost.hours_table(stages, [DEVICE], 1, images_per_core=0.2)
  assert _cells(row.splitlines()[2])[2] == '2.0 min, compute'
  assert _cells(row.splitlines()[2])[-1] == f'{60 / 120 / 0.2:g} of 4'
  row = cost.hours_table(stages, [DEVICE], 1, images_per_core=0.1)
  assert _cells(row.splitlines()[2])[2] == '2.5 min, input'
  row = cost.hours_table(stages[1:], [DEVICE], 1)
  assert _cells(row.splitlines()[2])[-1] == 'none'


def test_main(digits_stages, monkeypatch, capsys, caplog):
  config = digits.get_config()
  found = list(digits_stages.values())
  monkeypatch.setattr(workload, 'stages', lambda *_: found)
  assert cost.main(config, ['v5e', 'a100'], 1, None, 645.0) == 0
  printed = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in printed[2:7]] == [
    'old',
    'new',
    'embed',
    'align',
    'evaluate',
  ]
  assert [line.split()[1] for line in printed[-2:]] == ['v5e', 'a100']
  for arguments, message in (
    ((['v5'], 1, None, 645.0), "Did you mean 'v5"),
    ((['v5e'], 0, None, 645.0), '--devices=0'),
    ((['v5e'], 1, 1.5, 645.0), '--utilisation=1.5'),
  ):
    assert cost.main(config, *arguments) == 1
    assert message in caplog.text
