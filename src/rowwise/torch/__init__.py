"""PyTorch on rowwise tables: a table's memory as a parameter, the lookup as autograd sees it."""
