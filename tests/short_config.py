"""The digits' debug form with FastFill alone: runs of many processes."""

from configs import digits


def get_config():
  c = digits.get_config('debug')
  c.embed.views = 1
  c.encoders.new.encoder = c.encoders.old.encoder  # which compiles sooner
  for name in set(c.alignments) - {c.main_alignment}:
    del c.alignments[name]
  return c
