"""Keras's JAX backend: the table stays on the host, and jitted programs call it.

`fit` is jitted and functional on JAX. Where the trainer's state would hold a table, it holds a
token: a few numbers, of which the first says how many steps the table has made. A lookup takes the
token, a step gives the next one, so that the order of reads and steps is one of data, which XLA
keeps. docs/backends.md tells why.
"""
