"""Optimizers of optax for models with tables: the rows by their rule, the rest by optax."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rowwise.jax._embedding import Token, check_token
from rowwise.jax._row_optimizers import RowOptimizer
from rowwise.rules import Rule


def optimizer(dense: Any, rows: RowOptimizer | Rule | None = None) -> Any:
    """Return an optimizer that steps tables by a rule, and all other parameters by optax.

    The tables are found by their tokens among the parameters. The dense transformation sees the
    parameters without them. `optax.apply_updates` gives the next tokens.

    What comes before this optimizer, in `optax.chain`, may multiply gradients by a factor. What
    does something else to a token's gradient (`optax.clip`, another optimizer, weight decay) makes
    the step an error; `clip_by_global_norm` of this module takes optax's place.

    Args:
        dense: an `optax.GradientTransformation` for the dense parameters.
        rows: what steps the tables: one of this module's (`adam(0.001)`), or a `rowwise.rules.Rule`
            with its learning rate; None for the rule and learning rate that each table has when the
            step is made.

    Returns:
        an `optax.GradientTransformationExtraArgs`. Its `update` needs the parameters.

    Raises:
        ImportError: optax is not installed.
        TypeError: dense is no optimizer of optax's, or rows is no rule.
        ValueError: by `init`: the parameters have no token, or one table's twice; see
            `Embedding.use_rule`.

    Example:
        >>> import optax
        >>> from rowwise.jax import Embedding, adam
        >>> embedding = Embedding(5, 2, init="zeros")
        >>> params = {"rows": embedding.token(), "bias": jnp.zeros(2)}
        >>> tx = optimizer(optax.adam(0.1), adam(0.1))
        >>> state = tx.init(params)
        >>> def loss(params):
        ...     return (embedding(params["rows"], jnp.array([3])) + params["bias"]).sum()
        >>> updates, state = tx.update(jax.grad(loss)(params), state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> print(embedding(params["rows"], jnp.array([0, 3])).round(3))
        [[ 0.   0. ]
         [-0.1 -0.1]]
    """
    if not isinstance(rows, RowOptimizer | Rule | None):
        raise TypeError(f"rows must be a rule such as rowwise.jax.adam(0.001), not {rows!r}")
    by = RowOptimizer(rows, rows.learning_rate) if isinstance(rows, Rule) else rows
    rule = None if by is None else by.rule
    optax = import_optax()
    if not (hasattr(dense, "init") and hasattr(dense, "update")):
        raise TypeError(f"dense must be an optimizer such as optax.adam(0.001), not {dense!r}")
    dense = optax.with_extra_args_support(dense)

    def init(params: Any) -> OptimizerState:
        tokens = _tokens_in(params)
        if not tokens:
            raise ValueError("the parameters have no token; Embedding.token() gives one")
        if len({id(token.embedding) for token in tokens}) < len(tokens):
            raise ValueError("the parameters have a table's token twice; share one")
        for token in tokens:
            check_token(token)
            token.embedding.use_rule(rule)
        counts = tuple(jnp.int32(token.embedding.table.steps) for token in tokens)
        return OptimizerState(counts, dense.init(_without_tokens(params)))

    def update(
        updates: Any, state: OptimizerState, params: Any = None, **extra: Any
    ) -> tuple[Any, OptimizerState]:
        if params is None:
            raise ValueError("rowwise.jax.optimizer needs params: update(grads, state, params)")
        tokens, gradients = _tokens_in(params), _tokens_in(updates)
        if [t.embedding for t in tokens] != [g.embedding for g in gradients]:
            raise ValueError("gradients and parameters have other tokens")
        moved, dense_state = dense.update(
            _without_tokens(updates), state.dense, _without_tokens(params), **extra
        )
        weights = tuple(gradient.version for gradient in gradients)
        steps = []
        for token, gradient, count in zip(tokens, gradients, state.counts, strict=True):
            check_token(token)
            check_token(gradient)
            own = token.embedding.use_rule(rule) if by else None
            rate = by.rate(count) if by else token.embedding.own_rate(token.version)
            # A bad id is an error in the backward pass: no table steps before all are there.
            following = token.embedding.stepped(
                own, None, token.version, gradient.version, count + 1, rate, True, after=weights
            )
            steps.append(Token(following - token.version, token.embedding))
        counts = tuple(count + 1 for count in state.counts)
        return _with_tokens(updates, moved, steps), OptimizerState(counts, dense_state)

    return optax.GradientTransformationExtraArgs(init, update)


class OptimizerState(NamedTuple):
    """The state of `optimizer`; the slots of the rows lie with their table.

    Attributes:
        counts: () int32 for each table: its steps so far.
        dense: the state of the dense transformation.
    """

    counts: tuple[jax.Array, ...]
    dense: Any


def clip_by_global_norm(max_norm: float | jax.Array) -> Any:
    """Return `optax.clip_by_global_norm` for gradients with tables among them.

    The norm counts each row of a batch once, with the sum of its gradients, as that of a dense
    gradient does.

    Args:
        max_norm: the largest norm of an update.

    Raises:
        ImportError: optax is not installed.

    Example:
        >>> import optax
        >>> from rowwise.jax import adam, optimizer
        >>> tx = optax.chain(clip_by_global_norm(1.0), optimizer(optax.adam(0.1), adam(0.1)))
    """
    optax = import_optax()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = global_norm(updates)
        good = norm < max_norm

        def clip(leaf: Any) -> Any:
            if _is_token(leaf):  # a norm that is NaN leaves weights of other passes 0
                weights = leaf.version
                clipped = jnp.where(weights == 0, 0, clip(weights))
                return Token(clipped, leaf.embedding)
            return jnp.where(good, leaf, (leaf / norm.astype(leaf.dtype)) * max_norm)

        return jax.tree.map(clip, updates, is_leaf=_is_token), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def global_norm(gradients: Any) -> jax.Array:
    """Return the norm () of gradients, each row of a table counted once.

    Within a program it must be part of what the step depends on, as in `clip_by_global_norm`: a
    table forgets the gradients once a step has applied them.

    Args:
        gradients: a pytree with gradients of tokens in it.
    """
    tokens = [token.embedding.norm(token.version) for token in _tokens_in(gradients)]
    leaves = [*tokens, *jax.tree.leaves(_without_tokens(gradients))]
    return jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in leaves))


def multi_steps(inner: Any, every: int) -> Any:
    """Return an optimizer that steps by the mean of the gradients of several batches.

    It does what `optax.MultiSteps` does, which makes a step of `optimizer` at every batch, though
    it applies only some of them.

    Args:
        inner: the optimizer that makes the step, a chain with `optimizer` in it.
        every: how many batches; `Embedding(..., pending=)` is at least as many for each lookup.

    Raises:
        ImportError: optax is not installed.
        ValueError: every is below 1.
    """
    optax = import_optax()
    if every < 1:
        raise ValueError(f"every={every} is below 1")
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> MultiStepsState:
        return MultiStepsState(
            jnp.int32(0), jax.tree.map(jnp.zeros_like, params), inner.init(params)
        )

    def update(
        updates: Any, state: MultiStepsState, params: Any = None, **extra: Any
    ) -> tuple[Any, MultiStepsState]:
        batch = state.batch
        mean = jax.tree.map(lambda g, m: m + (g - m) / (batch + 1), updates, state.mean)

        def step() -> Any:
            moved, own = inner.update(mean, state.inner, params, **extra)
            return moved, MultiStepsState(jnp.int32(0), jax.tree.map(jnp.zeros_like, mean), own)

        def wait() -> Any:
            return jax.tree.map(jnp.zeros_like, mean), MultiStepsState(batch + 1, mean, state.inner)

        return jax.lax.cond(batch + 1 == every, step, wait)

    return optax.GradientTransformationExtraArgs(init, update)


class MultiStepsState(NamedTuple):
    """The state of `multi_steps`.

    Attributes:
        batch: () int32: batches since the last step.
        mean: of their gradients.
        inner: the state of the optimizer that makes the step.
    """

    batch: jax.Array
    mean: Any
    inner: Any


@functools.cache
def import_optax() -> ModuleType:
    """Return optax.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import optax
    except ModuleNotFoundError as error:
        raise ImportError(
            "rowwise.jax makes optimizers of optax's kind, and optax is not installed: "
            "pip install optax"
        ) from error
    return optax


# ---------------------------------------------------------------------- trees with tokens


def _is_token(node: Any) -> bool:
    return isinstance(node, Token)


def _tokens_in(tree: Any) -> list[Token]:
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=_is_token) if _is_token(leaf)]


def _without_tokens(tree: Any) -> Any:
    """Return the tree with nothing where tokens are."""
    return jax.tree.map(lambda leaf: None if _is_token(leaf) else leaf, tree, is_leaf=_is_token)


def _with_tokens(like: Any, tree: Any, tokens: list[Token]) -> Any:
    """Return the tree with these tokens, where `like` has its own."""
    rest = iter(tokens)
    put: Callable[[Any, Any], Any] = lambda own, leaf: next(rest) if _is_token(own) else leaf  # noqa: E731
    return jax.tree.map(put, like, tree, is_leaf=_is_token)
