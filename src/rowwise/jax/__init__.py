"""Tables in JAX's programs."""
