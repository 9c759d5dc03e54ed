"""Passwords in URLs: found, and hidden from whatever is printed."""

import re

_PASSWORD = re.compile(r'(://[^:/@\s]*:)[^/\s]+@')
_OPTION = re.compile(
  r'((?:password|sslpassword|passfile|api[-_]?key|token|secret)=)[^&\s]+',
  re.IGNORECASE,
)


def has_password(url: str) -> bool:
  return bool(_PASSWORD.search(url) or _OPTION.search(url))


def masked(text: str) -> str:
  """Text without the passwords of the URLs in it."""
  return _OPTION.sub(r'\1***', _PASSWORD.sub(r'\1***@', text))
