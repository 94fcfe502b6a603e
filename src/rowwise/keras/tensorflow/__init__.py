"""Keras's TensorFlow backend: the table stays in our memory, and graphs call it.

To TensorFlow a table's variable is a token, a `tf.Variable` of one number that no step changes:
what is read through it is the table, and its gradient is the rows' (`tf.IndexedSlices`). Reads and
steps are stateful operations, whose order a `tf.function` keeps. docs/backends.md tells why.
"""
