"""One stage per file: plain functions of their inputs into a folder.

What they are given, where no more is said:

  directory    where to; what a kill left there is gone on with
  how          how to go about it, which changes no result
  definition   of a row's method, as `methods.make` takes it
  fitted       the method, fitted
  embedded     results that hold the arrays; `embedded[new]` the classifier
  old, new     the encoders, whose names are also the arrays'
  names        of the policies; those that read what is not there are left out
  steps        cut-offs between nothing and everything
  distance     of the search
  seed         of all chance
"""
