"""Row-wise Adagrad: one accumulator a row."""

from dataclasses import dataclass, field

from rowwise.rules._adagrad import Adagrad


@dataclass(frozen=True, kw_only=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row, which grows by the mean of the row's squares.

        acc <- acc + mean_d g_d^2
        w_d <- w_d - lr g_d / (sqrt(acc) + epsilon)

    The slot is (rows, 1): a table of dim D takes 1 + 1/D times its weights where Adagrad takes 2
    and Adam 3. A missed step changes nothing (but for weight decay).

    Args:
        epsilon: added to the root, above 0.
        learning_rate, initial_accumulator_value, weight_decay: as for `Adagrad`.

    Source: FBGEMM's `EXACT_ROWWISE_ADAGRAD`, with its defaults and its order of rounding but for
    the sum over d.

    Example:
        >>> from rowwise import Table
        >>> Table(5, 64, RowwiseAdagrad(0.1)).slot("accumulator").shape
        (5, 1)
    """

    learning_rate: float = field(default=0.01, kw_only=False)
    initial_accumulator_value: float = 0.0
    epsilon: float = 1e-8
    name = "rowwise_adagrad"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "rowwise_adagrad"

    def slot_dim(self, dim: int) -> int:
        """Return 1: the accumulator is one number a row."""
        return 1
