"""Keras's torch backend: the table is a parameter's memory, and a gradient is a sparse tensor."""
