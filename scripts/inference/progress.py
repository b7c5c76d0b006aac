"""Progress of labelling: a bar that names the scan at hand."""

from __future__ import annotations

from ignite.engine import Engine, Events
from tqdm import tqdm


class ScanProgress:
    """Ignite handler: a progress bar over scans with the name of the one that the network sees, on a terminal alone."""

    def __init__(self) -> None:
        self.bar: tqdm[None] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.name)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.advance)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def start(self, engine: Engine) -> None:
        """Show the number of scans."""
        self.bar = tqdm(total=engine.state.epoch_length, desc="labelling", unit="scan", disable=None)

    def name(self, engine: Engine) -> None:
        """Name the scan that was read."""
        batch = engine.state.batch
        case = (batch[0] if isinstance(batch, list) else batch).get("case", "labelling")
        if self.bar is not None:
            self.bar.set_description(str(case[0] if isinstance(case, list | tuple) else case))

    def advance(self, engine: Engine) -> None:
        """Count the scan."""
        if self.bar is not None:
            self.bar.update()

    def close(self, engine: Engine) -> None:
        """Leave the full bar."""
        if self.bar is not None:
            self.bar.set_description("labelling")
            self.bar.close()
