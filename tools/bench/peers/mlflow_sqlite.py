"""MLflow with its tracking data in SQLite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.bench.peers.ours import as_arrays
from tools.bench.peers.peer import LogRow, Peer
from tools.bench.workloads import Curve

_METRICS_A_BATCH_MAX = 1000  # MLflow refuses more


class MlflowSqlite(Peer):
    """``log_batch`` with as many metrics as it takes."""

    name = "MLflow, SQLite, log_batch"
    packages = ("mlflow-skinny", "SQLAlchemy", "alembic")

    def _client(self) -> Any:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        import mlflow

        return mlflow.MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    @contextmanager
    def logger(self) -> Iterator[LogRow]:
        """Rows wait for a batch, and are lost when the process is killed."""
        client = self._client()
        from mlflow.entities import Metric

        experiment = client.create_experiment("bench", artifact_location=str(self.folder))
        run = client.create_run(experiment).info.run_id
        waiting: list[Metric] = []

        def flush() -> None:
            client.log_batch(run, metrics=waiting, synchronous=True)
            waiting.clear()

        def log_row(iteration: int, loss: float, time: float) -> None:
            waiting.append(Metric("loss", loss, iteration, iteration))
            waiting.append(Metric("time", time, iteration, iteration))
            if len(waiting) == _METRICS_A_BATCH_MAX:
                flush()

        yield log_row
        if waiting:
            flush()

    def logged(self) -> Curve:
        """Both metrics' histories, brought together by their steps."""
        client = self._client()
        experiment = client.get_experiment_by_name("bench").experiment_id
        run = client.search_runs([experiment])[0].info.run_id
        times = {metric.step: metric.value for metric in client.get_metric_history(run, "time")}
        losses = client.get_metric_history(run, "loss")
        return as_arrays((metric.step, metric.value, times[metric.step]) for metric in losses)
