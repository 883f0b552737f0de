"""TensorBoard as a monitor: event files in `data/RUN/tensorboard`, read by `tensorboard --logdir data`.

    monitor: tensorboard          # in a recipe, with the package `tensorboard` installed

Each launch writes one file with the whole record and drops those of the launches before, so that a number
stands once. A step is a round; a training's own curve counts its steps over the rounds. Pictures are the
report's charts. Not here: tables of traces (the HTML report has them), artifacts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.report.monitor import Media, Picture, Values, is_part, plots

MISSING = "monitor: tensorboard needs the package tensorboard: pip install tensorboard, or set monitor: none"


class Monitor:
    """One event file."""

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        self.folder = folder / "tensorboard"
        self.writer: Any = None
        self.rounds: dict[int, int] = {}  # step of the record -> round

    def begin(self) -> int:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as problem:
            raise ImportError(MISSING) from problem
        self.older = list(self.folder.glob("events.out.tfevents.*"))
        self.writer = EventFileWriter(str(self.folder))
        return 0

    def log(self, step: int, values: Values) -> None:
        self.rounds[step] = values["round"]
        curve = next(
            (value for name, value in values.items() if name.endswith("/step") and "curve/" in name), None
        )
        place = values["round"] if curve is None else int(curve)
        for name, value in values.items():
            if name != "round" and not is_part(name) and not name.endswith("/step") and value is not None:
                self._write(place, tag=name, simple_value=float(value))

    def show(self, step: int, key: str, made: Media) -> None:
        if not isinstance(made, Picture):
            return
        import vl_convert
        from tensorboard.compat.proto.summary_pb2 import Summary

        drawn = vl_convert.vegalite_to_png(plots.whole(made.spec), scale=1.5)
        width, height = (int.from_bytes(drawn[at : at + 4], "big") for at in (16, 20))  # of PNG's first chunk
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=drawn)
        self._write(self.rounds[step], tag=key, image=image)

    def alert(self, title: str, text: str) -> None:
        """TensorBoard has no alerts; the gate's decision is a number of the round."""

    def finish(self, best: Values, step: int) -> None:
        for name, value in best.items():
            self._write(0, tag=name, simple_value=float(value))
        self.writer.close()
        for path in self.older:
            path.unlink(missing_ok=True)

    def _write(self, step: int, **value: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value)])
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
