"""How a student learns: the loss, its curriculum, one update, and the run around it.

`config` describes a run and `trainer` runs it. `learner` is the update, which imports without the
data pipeline.
"""
