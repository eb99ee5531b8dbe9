"""One training process: ``python -m tools.demo.trainer BASE RUN``.

It trains as DaCapo does and knows nothing but the base directory and the run's name. Whatever else
it needs comes from the stores: the run's config, and, when it was killed before, how far it came.
All it has to say goes into the stores, too. It can be killed at any instant and started again.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import zarr
from torch.nn.functional import binary_cross_entropy_with_logits

from dacapo_store import (
    Options,
    TrainingIterationStats,
    ValidationIterationScores,
    ValidationScores,
    create_array_store,
    create_config_store,
    create_stats_store,
    create_weights_store,
)
from tools.demo import data
from tools.demo.configs import RunConfig  # importing it registers the classes that the store gives back
from tools.demo.evaluation import EvaluationScores, Threshold, is_better
from tools.demo.unet import UNet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dacapo_store import ArrayStore, LocalArrayIdentifier, StatsStore, TrainingStats, WeightsStore

MOMENTUM = 0.9


@dataclass(frozen=True)
class Stores:
    """The four stores of one base directory."""

    stats: StatsStore
    weights: WeightsStore
    arrays: ArrayStore


class Run:
    """A run in training: what the weights store takes weights from and puts them back into."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.name = config.name
        self.model: torch.nn.Module = UNet(config.architecture_config.width)
        self.optimizer = self._new_optimizer()
        self.field = data.field(config.datasplit_config.train)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings = self.config.trainer_config
        if settings.optimizer == "sgd":
            return torch.optim.SGD(self.model.parameters(), lr=settings.learning_rate, momentum=MOMENTUM)
        return torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)

    def train_iteration(self, iteration: int) -> TrainingIterationStats:
        """One step of the optimizer on one batch."""
        started = time.perf_counter()
        settings = self.config.trainer_config
        # Batches follow from the iteration alone: a run that goes on from its weights sees the
        # batches that it would have seen, and repeats what a kill has cost bit by bit.
        generator = np.random.default_rng([self.config.seed, iteration])
        raw, truth = data.training_batch(
            self.field, size=settings.batch_size, edge=settings.crop_edge_pixels, generator=generator
        )
        self.model.train()
        logits = self.model(torch.from_numpy(raw))
        loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(truth))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        gradient = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=float("inf"))
        self.optimizer.step()
        return TrainingIterationStats(
            iteration,
            loss=loss.item(),
            time=time.perf_counter() - started,
            gradient_norm=gradient.item(),
        )

    def predict(self, field: data.Field) -> NDArray[np.float32]:
        """The probability of being gland, pixel by pixel."""
        self.model.eval()
        with torch.no_grad():
            logits = self.model(torch.from_numpy(field.raw)[None, None])
        probabilities: NDArray[np.float32] = torch.sigmoid(logits)[0, 0].numpy()
        return probabilities


def train(base: Path, run_name: str) -> None:
    """Train a run to its end, from the start or from where its weights are."""
    options = Options(type="files", runs_base_dir=base)
    stores = Stores(create_stats_store(options), create_weights_store(options), create_array_store(options))
    run = Run(create_config_store(options).retrieve_run_config(run_name))
    stats, validation = _resume(run, stores)
    trained_until = stats.trained_until()
    while trained_until < run.config.num_iterations:
        for iteration in range(trained_until, trained_until + run.config.stats_interval):
            stats.add_iteration_stats(run.train_iteration(iteration))
        trained_until = stats.trained_until()
        stores.stats.store_training_stats(run.name, stats)
        if trained_until % run.config.validation_interval == 0:
            stores.weights.store_weights(run, trained_until)
            validation.validate(trained_until)


def _resume(run: Run, stores: Stores) -> tuple[TrainingStats, Validation]:
    """Put the latest weights into the run and forget what came after them."""
    stats = stores.stats.retrieve_training_stats(run.name)
    scores = stores.stats.retrieve_validation_iteration_scores(run.name)
    latest = stores.weights.latest_iteration(run.name) or 0
    if latest:
        stores.weights.load_weights(run, latest)
    stats.delete_after(latest)
    validation = Validation(run, stores, [past for past in scores if past.iteration <= latest])
    if latest and validation.validated_until != latest:
        # Killed between the weights and their scores.
        validation.validate(latest)
    return stats, validation


class Validation:
    """Scores of a run on the validation fields, and what follows from them: the best weights."""

    def __init__(self, run: Run, stores: Stores, past: list[ValidationIterationScores]) -> None:
        self._run = run
        self._stores = stores
        self._fields = [data.field(name) for name in run.config.datasplit_config.validate]
        self._parameters = [Threshold(value) for value in run.config.task_config.thresholds]
        self._evaluation = EvaluationScores(run.config.task_config.criteria)
        self._scores = ValidationScores(
            parameters=self._parameters,
            datasets=self._fields,
            evaluation_scores=self._evaluation,
            scores=past,
        )

    @property
    def validated_until(self) -> int:
        """The iteration of the last scores, or 0."""
        return self._scores.scores[-1].iteration if self._scores.scores else 0

    def validate(self, iteration: int) -> None:
        """Predict and judge all validation fields, choose the best weights, tidy up."""
        scores = ValidationIterationScores(iteration, [self._judge(iteration, f) for f in self._fields])
        self._scores.add_iteration_scores(scores)
        self._stores.stats.store_validation_iteration_scores(self._run.name, self._scores)
        for number, field in enumerate(self._fields):
            for criterion in self._evaluation.criteria:
                if self._best(number, criterion) == iteration:
                    self._stores.weights.store_best(self._run.name, iteration, field.name, criterion)
            self._remove_old_predictions(number)

    def _judge(self, iteration: int, field: data.Field) -> list[list[float]]:
        """Predict one field, write the prediction, and give scores[parameters][criterion]."""
        self._write_inputs(field)
        prediction = self._run.predict(field)
        write_array(self._prediction_array(iteration, field), prediction)
        return [
            self._evaluation.evaluate(parameters.segment(prediction), field.truth)
            for parameters in self._parameters
        ]

    def _write_inputs(self, field: data.Field) -> None:
        raw, truth = self._stores.arrays.validation_input_arrays(self._run.name, field.name)
        if not (raw.container / raw.dataset).exists():
            write_array(raw, field.raw)
            write_array(truth, field.truth)

    def _prediction_array(self, iteration: int, field: data.Field) -> LocalArrayIdentifier:
        return self._stores.arrays.validation_prediction_array(self._run.name, iteration, field.name)

    def _best(self, dataset: int, criterion: str) -> int:
        """The iteration that is best on a field, whatever the threshold."""
        best_iteration, best_score = 0, None
        place = self._evaluation.criteria.index(criterion)
        for scores in self._scores.scores:
            for of_parameters in scores.scores[dataset]:
                if is_better(criterion, of_parameters[place], than=best_score):
                    best_iteration, best_score = scores.iteration, of_parameters[place]
        return best_iteration

    def _remove_old_predictions(self, dataset: int) -> None:
        """Keep the predictions that are best by some criterion, and the last one."""
        kept = {self._best(dataset, criterion) for criterion in self._evaluation.criteria}
        for scores in self._scores.scores[:-1]:
            array = self._prediction_array(scores.iteration, self._fields[dataset])
            if scores.iteration not in kept and (array.container / array.dataset).exists():
                self._stores.arrays.remove(array)


def write_array(identifier: LocalArrayIdentifier, values: NDArray[np.generic]) -> None:
    """Write an image to where the array store says."""
    array = zarr.open_array(
        f"{identifier.container}/{identifier.dataset}",
        mode="w",
        shape=values.shape,
        chunks=tuple(-(-edge // 2) for edge in values.shape),
        dtype=values.dtype,
    )
    array[:] = values


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), sys.argv[2])
