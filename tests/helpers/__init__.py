"""Helpers that tests share: rules under test, the float64 oracle, processes that die on purpose."""
