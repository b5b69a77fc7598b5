"""PlanSpark: business plans that cost about fifteen slow calls of a language model.

`request` says what may be asked for, `generation` makes a plan of it, with a language model or
without one; neither knows HTTP serving or tables. `simulated` is a language model for tests.
"""
