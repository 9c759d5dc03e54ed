"""launch/tpu_vm.sh against a stand-in for gcloud that records its calls."""

import launch_machine
import pytest
from launch_machine import commands

TPU = {'NAME': 'pod', 'ZONE': 'z', 'ACCELERATOR_TYPE': 'v6e-8'}
RUN = TPU | {'WORKDIR': '/mnt/fastfill/run'}
CONFIG = '--config=configs/imagenet.py'
SSH = 'gcloud compute tpus tpu-vm ssh pod --worker=all --command'
CHECKOUT = 'cd fastfill_jax && launch/worker.sh'


@pytest.fixture
def machine(tmp_path):
  return launch_machine.Machine(tmp_path)


def tpu_vm(machine, *arguments, **variables):
  return machine.run('launch/tpu_vm.sh', *arguments, **variables)


@pytest.mark.parametrize(
  ('accelerator', 'version'),
  [
    ('v6e-8', 'v2-alpha-tpuv6e'),
    ('v5p-32', 'v2-alpha-tpuv5'),
    ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v4-8', 'tpu-ubuntu2204-base'),
  ],
)
def test_create_asks_the_queue(machine, accelerator, version):
  code, _, _, calls = tpu_vm(
    machine, 'create', **TPU | {'ACCELERATOR_TYPE': accelerator}
  )
  assert code == 0
  assert calls == commands(
    'gcloud compute tpus queued-resources create pod --node-id=pod '
    f'--runtime-version={version} --accelerator-type={accelerator} --zone=z'
  )


def test_create_at_once_with_every_option(machine):
  code, _, _, calls = tpu_vm(
    machine,
    'create',
    **TPU,
    QUEUED='0',
    SPOT='1',
    PROJECT='p',
    RUNTIME_VERSION='image',
    CREATE_FLAGS='--network=n --service-account=s',
  )
  assert code == 0
  assert calls == commands(
    'gcloud compute tpus tpu-vm create pod --version=image --spot '
    '--accelerator-type=v6e-8 --network=n --service-account=s --zone=z '
    '--project=p'
  )


def test_setup_sends_the_commit_and_installs(machine):
  code, _, _, calls = tpu_vm(
    machine, 'setup', **TPU, BUCKET='b', SETUP_COMMAND='mount a && b'
  )
  assert code == 0
  bundle = machine.home / 'pod.bundle'
  assert calls == commands(
    f'git -C {machine.root} bundle create --quiet {bundle} HEAD',
    f'gcloud compute tpus tpu-vm scp {bundle} pod:fastfill_jax.bundle '
    '--worker=all --zone=z',
    f"{SSH}='git init --quiet fastfill_jax && cd fastfill_jax && git fetch "
    '--quiet ../fastfill_jax.bundle HEAD && git checkout --quiet --force '
    "--detach FETCH_HEAD' --zone=z",
    f"{SSH}='cd fastfill_jax && env SETUP_COMMAND=mount\\ a\\ \\&\\&\\ b "
    "BUCKET=b MOUNT=/mnt/fastfill launch/worker.sh setup' --zone=z",
  )


def test_run_starts_every_host_and_ends_with_the_code(machine):
  machine.answer(codes='75')
  code, _, _, calls = tpu_vm(
    machine, 'run', CONFIG, '--config.a=x y', **RUN, SSH_FLAGS='--internal-ip'
  )
  assert code == 75
  ssh = SSH.replace('--command', '--internal-ip --command')
  assert calls == commands(
    f"{ssh}='{CHECKOUT} start --distributed --workdir=/mnt/fastfill/run "
    f"{CONFIG} --config.a=x\\ y' --zone=z",
    f"{ssh}='{CHECKOUT} follow' --zone=z",
  )


@pytest.mark.parametrize(
  ('command', 'variables', 'call'),
  [
    ('stop', {}, f"{SSH}='{CHECKOUT} stop' --zone=z"),
    (
      'copy report.md',
      {'RESULTS': 'out'},
      'gcloud compute tpus tpu-vm scp pod:/mnt/fastfill/run/report.md out '
      '--worker=0 --recurse --zone=z',
    ),
    (
      'copy',
      {'BUCKET': 'b'},
      'gcloud storage cp --recursive gs://b/run results/pod',
    ),
    (
      'copy',
      {'BUCKET': 'b', 'MOUNT': '/mnt/fast'},
      'gcloud compute tpus tpu-vm scp pod:/mnt/fastfill/run results/pod '
      '--worker=0 --recurse --zone=z',
    ),
    (
      'delete',
      {},
      'gcloud compute tpus queued-resources delete pod --force --quiet '
      '--zone=z',
    ),
    (
      'delete',
      {'QUEUED': '0'},
      'gcloud compute tpus tpu-vm delete pod --quiet --zone=z',
    ),
  ],
)
def test_stop_copy_delete(machine, command, variables, call):
  code, _, _, calls = tpu_vm(machine, *command.split(), **RUN, **variables)
  assert code == 0
  assert calls == commands(call)


@pytest.mark.parametrize(
  ('queued', 'states', 'printed'),
  [
    ('1', 'ABSENT', 'ABSENT'),
    ('1', 'WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES'),
    ('1', 'ACTIVE PREEMPTED', 'PREEMPTED'),
    ('0', 'READY', 'READY'),
    ('0', 'UNKNOWN', 'UNKNOWN'),
  ],
)
def test_state(machine, queued, states, printed):
  machine.answer(states=states)
  code, stdout, _, calls = tpu_vm(machine, 'state', **TPU, QUEUED=queued)
  assert (code, stdout) == (0, printed + '\n')
  assert len(calls) == len(states.split())


def verbs(calls):
  """What the calls did, one word each; those without such a word left out."""
  words = []
  for call in calls:
    text = ' '.join(call)
    for word in ('describe', 'create', 'delete'):
      if f'resources {word} ' in text or f'tpu-vm {word} ' in text:
        words.append(word)
    for word in ('setup', 'start', 'follow', 'stop'):
      if f'worker.sh {word}' in text:
        words.append(word)
  return ' '.join(words)


def test_spot_makes_the_tpu_again_and_continues(machine):
  machine.answer(
    # None yet; queued; there; taken away while it runs; there again.
    states='ABSENT PROVISIONING ACTIVE READY SUSPENDED ACTIVE READY',
    codes='75 0',
  )
  code, _, stderr, calls = tpu_vm(machine, 'spot', CONFIG, **RUN, POLL='0')
  assert code == 0, stderr
  assert verbs(calls) == (
    'describe create describe describe describe setup start follow stop '
    'describe delete create describe describe setup start follow'
  )
  assert '--spot' in calls[1]


def test_spot_gives_up_on_a_run_that_fails_by_itself(machine):
  machine.answer(states='ACTIVE READY ' * 4, codes='1 1')
  code, _, stderr, calls = tpu_vm(
    machine, 'spot', CONFIG, **RUN, POLL='0', MAX_FAILURES='2'
  )
  assert code == 1
  assert 'failed 2 times in a row' in stderr
  assert verbs(calls).count('follow') == 2
  assert 'delete' not in verbs(calls)


def test_spot_gives_up_on_a_request_that_always_fails(machine):
  machine.answer(states='FAILED FAILED')
  code, _, stderr, calls = tpu_vm(
    machine, 'spot', CONFIG, **RUN, POLL='0', MAX_FAILURES='2'
  )
  assert code == 1
  assert '2 failures in a row' in stderr
  assert verbs(calls) == 'describe delete create describe delete create'


def test_spot_neither_makes_nor_deletes_what_it_cannot_see(machine):
  machine.answer(states='UNKNOWN UNKNOWN UNKNOWN')
  code, _, stderr, calls = tpu_vm(machine, 'spot', CONFIG, **RUN, POLL='0')
  assert code == 1
  assert 'no network' in stderr
  assert '3 failures in a row' in stderr
  assert verbs(calls) == 'describe describe describe'


@pytest.mark.parametrize(
  ('command', 'variables', 'message'),
  [
    ('create', {'ZONE': 'z'}, 'set NAME'),
    ('create', {'NAME': 'n'}, 'set ZONE'),
    ('create', {'NAME': 'n', 'ZONE': 'z'}, 'set ACCELERATOR_TYPE'),
    (f'run {CONFIG}', TPU, 'set WORKDIR'),
    (f'spot {CONFIG}', TPU, 'set WORKDIR'),
    ('run', RUN, 'give --config'),
    ('create', TPU | {'ACCELERATOR_TYPE': 'v9-1'}, 'set RUNTIME_VERSION'),
    ('creat', TPU, "unknown command 'creat'"),
    ('', TPU, 'known: create, state'),
  ],
)
def test_says_what_is_missing(machine, command, variables, message):
  code, _, stderr, calls = tpu_vm(machine, *command.split(), **variables)
  assert code == 1
  assert message in stderr
  assert calls == []


@pytest.mark.parametrize(
  'command',
  ['create', 'setup', f'run {CONFIG}', 'stop', 'copy', 'delete', 'state'],
)
def test_dry_run_prints_what_would_be_called(machine, command):
  variables = RUN | {'SETUP_COMMAND': "echo 'a  b'"}
  machine.answer(states='ACTIVE READY', codes='0')
  _, _, _, real = tpu_vm(machine, *command.split(), **variables)
  code, stdout, _, calls = tpu_vm(
    machine, '--dry-run', *command.split(), **variables
  )
  assert (code, calls) == (0, [])
  printed = commands(*stdout.splitlines())
  assert [call for call in printed if call[0] != 'mkdir'] == real


def test_dry_run_of_spot_to_the_letter(machine):
  code, stdout, _, calls = tpu_vm(
    machine, '--dry-run', 'spot', CONFIG, **RUN, TMPDIR='/tmp'
  )
  assert (code, calls) == (0, [])
  create = (
    'gcloud compute tpus queued-resources create pod --node-id=pod '
    '--runtime-version=v2-alpha-tpuv6e --spot --accelerator-type=v6e-8 '
    '--zone=z'
  )
  checkout = SSH + r'=cd\ fastfill_jax\ \&\&\ '
  assert stdout.splitlines() == [
    r'gcloud compute tpus queued-resources describe pod '
    r'--format=value\(state.state\) --zone=z',
    r'gcloud compute tpus tpu-vm describe pod --format=value\(state\) --zone=z',
    create,
    f'git -C {machine.root} bundle create --quiet /tmp/pod.bundle HEAD',
    'gcloud compute tpus tpu-vm scp /tmp/pod.bundle pod:fastfill_jax.bundle '
    '--worker=all --zone=z',
    SSH + r'=git\ init\ --quiet\ fastfill_jax\ \&\&\ cd\ fastfill_jax\ \&\&\ '
    r'git\ fetch\ --quiet\ ../fastfill_jax.bundle\ HEAD\ \&\&\ '
    r'git\ checkout\ --quiet\ --force\ --detach\ FETCH_HEAD --zone=z',
    checkout + r'env\ launch/worker.sh\ setup --zone=z',
    checkout + r'launch/worker.sh\ start\ --distributed\ '
    rf'--workdir=/mnt/fastfill/run\ {CONFIG} --zone=z',
    checkout + r'launch/worker.sh\ follow --zone=z',
    '# PREEMPTED, SUSPENDED or FAILED: these two, then again from setup',
    'gcloud compute tpus queued-resources delete pod --force --quiet --zone=z',
    create,
  ]
