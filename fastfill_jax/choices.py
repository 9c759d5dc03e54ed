"""Names that a user picks from: one message for all that are misspelt."""

import difflib
from collections.abc import Iterable


def check(what: str, name: str, known: Iterable[str]) -> str:
  """The name, if it is known; `what` names it, such as 'policy'.

  Raises:
    ValueError: If it is not; with the nearest known one.
  """
  known = list(known)
  if name not in known:
    raise ValueError(
      f'Unknown {what} {name!r}{nearest(name, known)}; known: '
      f'{", ".join(known)}.'
    )
  return name


def check_keys(what: str, given: Iterable[str], known: Iterable[str]):
  """Raises a ValueError at the first key that is not known."""
  for key in given:
    check(f'key of {what}', key, known)


def nearest(name: str, known: Iterable[str]) -> str:
  """', did you mean ...?', or nothing."""
  close = difflib.get_close_matches(str(name), list(known), 1, 0.5)
  return f', did you mean {close[0]!r}?' if close else ''
