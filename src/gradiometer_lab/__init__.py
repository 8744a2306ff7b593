"""The lab: losses with known answers, the checks of the gauges against them, and the lecture. Only
the commands use it.

The problems of `gradiometer train quadratic` and its like live here; `problems.load` finds them by
name when asked.
"""
