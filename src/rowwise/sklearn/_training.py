"""Training of a classifier's model on bags: batches, epochs, and the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rowwise.sklearn._features import Encoder, Features
from rowwise.sklearn._labels import Ids
from rowwise.sklearn._losses import Floats
from rowwise.sklearn._model import BagModel
from rowwise.sklearn._words import ranges
from rowwise.store import Bags

AT_ONCE = 2048  # texts scored at once
_KEPT = 1 << 28  # features of a training set whose bags are kept between epochs

OnStep = Callable[[int, int, int], None]  # epoch, texts trained on in it, of how many


@dataclass(frozen=True)
class Round:
    """One epoch of training.

    Attributes:
        epoch: its number, counted from 1.
        loss: mean over the training texts, while they were trained on.
        val_loss, val_accuracy: on the held-out texts; NaN without any.
        best: whether no epoch before had a lower `val_loss`.
    """

    epoch: int
    loss: float
    val_loss: float
    val_accuracy: float
    best: bool

    def __str__(self) -> str:
        return f"epoch {self.epoch:>3}  loss {self.loss:.4f}{self.held_out()}"

    def held_out(self) -> str:
        """Return what there is to say of the held-out texts."""
        if math.isnan(self.val_loss):
            return ""
        return f"  held out: loss {self.val_loss:.4f}  accuracy {self.val_accuracy:.3f}"


OnEpoch = Callable[[Round], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; see `TextClassifier`."""

    max_epochs: int
    patience: int
    learning_rate: float
    batch_size: int | None
    seed: int


@dataclass
class Training:
    """A model in training.

    Attributes:
        features: those that have rows.
        model: its rows and layer; after `run`, those of the best epoch.
        rounds: the epochs made.
        best: the epoch with the lowest held-out loss, counted from 1; 0 before the first.
        losses: (n,) of the held-out texts after that epoch.
        interrupted: whether an interrupt ended it.
    """

    features: Features
    model: BagModel
    rounds: list[Round] = field(default_factory=list)
    best: int = 0
    losses: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    interrupted: bool = False

    def run(
        self,
        batches: Batches,
        training: Ids,
        held_out: Ids,
        schedule: Schedule,
        on_step: OnStep | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        """Train until the held-out loss no longer falls, or an interrupt comes."""
        kept = None
        rng = np.random.default_rng(schedule.seed)
        try:
            for epoch in range(1, schedule.max_epochs + 1):
                order = rng.permutation(training)
                loss = self.epoch(batches, order, epoch, schedule, on_step)
                made, losses = self._round(batches, held_out, epoch, loss, schedule)
                self.rounds.append(made)
                if made.best:
                    self.best, self.losses, kept = epoch, losses, self.model.copy()
                if on_epoch is not None:
                    on_epoch(made)
                if epoch - self.best >= schedule.patience:
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        if kept is not None:
            self.model = kept

    def epoch(
        self,
        batches: Batches,
        order: Ids,
        epoch: int,
        schedule: Schedule,
        on_step: OnStep | None = None,
    ) -> float:
        """Train once on texts, in their order; return the mean of the losses.

        Raises:
            ValueError: it is not finite.
        """
        size = schedule.batch_size or min(max(len(order) // 200, 8), 512)
        total = 0.0
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            total += self.model.step(*batches.of(batch), schedule.learning_rate)
            if on_step is not None:
                on_step(epoch, start + len(batch), len(order))
        return _checked(total / len(order), epoch, schedule)

    def _round(
        self, batches: Batches, held_out: Ids, epoch: int, loss: float, schedule: Schedule
    ) -> tuple[Round, Floats]:
        if not len(held_out):
            return Round(epoch, loss, math.nan, math.nan, best=True), self.losses
        losses, right = [], 0
        for part in parts(held_out):
            bags, targets, _ = batches.of(part)
            scores = self.model.scores(bags)
            losses.append(self.model.losses(scores, targets))
            right += int(self.model.right(scores, targets).sum())
        of_texts = np.concatenate(losses)
        val_loss = _checked(float(of_texts.mean(dtype=np.float64)), epoch, schedule)
        best = val_loss < min((made.val_loss for made in self.rounds), default=math.inf)
        return Round(epoch, loss, val_loss, right / len(held_out), best), of_texts


def _checked(loss: float, epoch: int, schedule: Schedule) -> float:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss became {loss} in epoch {epoch} with "
            f"learning_rate={schedule.learning_rate}; give a smaller one"
        )
    return loss


class Batches:
    """Bags, targets and weights of texts; bags are kept if they are few enough."""

    def __init__(self, encoder: Encoder, targets: Floats, weights: Floats | None) -> None:
        self.encoder, self.targets, self.weights = encoder, targets, weights
        words, offsets = encoder.text.words, encoder.text.lexicon.offsets
        features = int((np.diff(offsets)[words.indices] + 2).sum())
        self.kept = self._all() if features <= _KEPT else None

    def of(self, texts: Ids) -> tuple[Bags, Floats, Floats | None]:
        """Return the bags of texts, their targets and weights."""
        weights = None if self.weights is None else self.weights[texts]
        bags = self.encoder.bags(texts) if self.kept is None else _select(self.kept, texts)
        return bags, self.targets[texts], weights

    def _all(self) -> Bags:
        found = [self.encoder.bags(part) for part in parts(np.arange(len(self.targets)))]
        ids = [part.ids.astype(np.int32) for part in found]
        lengths = [np.diff(part.offsets) for part in found]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        return Bags(np.concatenate(ids), offsets, np.concatenate([part.weights for part in found]))


def _select(bags: Bags, which: Ids) -> Bags:
    assert bags.weights is not None
    lengths = bags.offsets[which + 1] - bags.offsets[which]
    inside = ranges(bags.offsets[which], lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Bags(bags.ids[inside].astype(np.int64), offsets, bags.weights[inside])


def parts(texts: Ids) -> Sequence[Ids]:
    """Return texts in parts that are scored at once."""
    return np.split(texts, range(AT_ONCE, len(texts), AT_ONCE))
