"""TensorBoard's event files, by torch's writer and TensorBoard's own reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tools.bench.peers.ours import as_arrays
from tools.bench.peers.peer import LogRow, Peer
from tools.bench.workloads import Curve


class TensorBoard(Peer):
    """``add_scalar`` for each scalar; values are kept as float32, and wait up to two minutes in memory."""

    name = "TensorBoard"
    packages = ("tensorboard", "torch")

    @contextmanager
    def logger(self) -> Iterator[LogRow]:
        """A ``SummaryWriter`` as it is by default."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder)) as writer:

            def log_row(iteration: int, loss: float, time: float) -> None:
                writer.add_scalar("loss", loss, iteration)
                writer.add_scalar("time", time, iteration)

            yield log_row

    def logged(self) -> Curve:
        """All scalars, none left out by sampling."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0})
        events.Reload()
        times = {event.step: event.value for event in events.Scalars("time")}
        return as_arrays((event.step, event.value, times[event.step]) for event in events.Scalars("loss"))
