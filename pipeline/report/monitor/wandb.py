"""wandb as a monitor: one wandb run for the whole loop, offline by default.

Every record has a step of its own, its place in the record. Offline, each launch writes one folder with
everything that was not synced before, and drops the older ones when it is whole; online, wandb says which
step it has reached. An interval's ends and a curve's points are hidden metrics: they are there, and do not
become a panel each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from pipeline.report.monitor import Lines, Media, Picture, Reference, Table, Values, is_part, plots
from pipeline.report.monitor.mirror import run_id
from pipeline.run import record
from pipeline.store.disk import DISK

CONNECTION = ("mode", "project", "entity", "tags", "group")  #: what of the wanted is wandb.init's


class Monitor:
    """One wandb session."""

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        self.folder = folder
        self.wanted = {key: wanted[key] for key in CONNECTION if wanted.get(key)}
        self.state = folder / "wandb" / "mirror.json"
        self.root = Path(os.environ.setdefault("WANDB_DIR", str(folder)))
        self.id = run_id(folder.name)
        self.run: Any = None
        self.defined: set[str] = set()

    def begin(self) -> int:
        import wandb

        (self.folder / "wandb").mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder / "wandb" / "data"))
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_code=True)
        self.run = wandb.init(
            id=self.id,
            name=self.folder.name,
            resume="allow",
            config=self._config(),
            settings=quiet,
            **self.wanted,
        )
        self.began = time.time()
        self.run.define_metric("round")
        return self.run.step if self.wanted["mode"] == "online" else self._synced()

    def log(self, step: int, values: Values) -> None:
        self._define(values)
        self.run.log(dict(values), step=step)

    def show(self, step: int, key: str, made: Media) -> None:
        if isinstance(made, Reference):
            self.run.log_artifact(_artifact(made), aliases=[made.alias])
            return
        self._define({key: None})
        self.run.log({key: _shown(made)}, step=step)

    def alert(self, title: str, text: str) -> None:
        self.run.alert(title=title, text=text, level="WARN")

    def finish(self, best: Values, step: int) -> None:
        """Everything is with wandb (or in its folder); only then the older folders go."""
        self.run.summary.update(dict(best))
        own = Path(self.run.dir).parent
        self.run.finish()
        if self.wanted["mode"] == "offline":
            DISK.write(self.state, record.to_json({**self._sessions(), own.name: step}))
            for other in self._folders():
                if other != own and not self._is_synced(other):
                    shutil.rmtree(other, ignore_errors=True)
            self._sweep()

    def _sweep(self) -> None:
        """Tables of earlier sessions, whose folders are gone."""
        for staged in (self.folder / "wandb" / "data").glob("artifacts/staging/*"):
            if staged.is_file() and staged.stat().st_mtime < self.began:
                staged.unlink(missing_ok=True)

    def _config(self) -> dict[str, Any]:
        import yaml

        path = self.folder / "recipe.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _define(self, values: Values) -> None:
        """`round` is the step of what is measured once a round, a stage's own steps are its curve's. What is
        read off another panel is hidden."""
        for name in values:
            parts = name.split("/")
            curve = parts[0] == "curve"
            front = "/".join(parts[: 2 if curve else 1])
            step = f"{front}/step" if curve else "round"
            if len(parts) > 1 and front not in self.defined:
                self.defined.add(front)
                self.run.define_metric(f"{front}/*", step_metric=step)
            if name not in self.defined and is_part(name):
                self.defined.add(name)
                self.run.define_metric(name, step_metric=step, hidden=True)

    # --- what earlier launches left (offline) -----------------------------------------------------

    def _folders(self) -> list[Path]:
        return sorted((self.root / "wandb").glob(f"offline-run-*-{self.id}"))

    def _is_synced(self, folder: Path) -> bool:
        """`wandb sync` leaves a mark beside what it has sent."""
        return any(folder.glob("*.synced"))

    def _sessions(self) -> dict[str, int]:
        """Folder -> the step after its last record, as far as the folders are still there."""
        known: dict[str, int] = json.loads(self.state.read_text()) if self.state.exists() else {}
        return {folder.name: known[folder.name] for folder in self._folders() if folder.name in known}

    def _synced(self) -> int:
        """The first step that was not synced yet."""
        sessions = self._sessions()
        sent = [sessions[f.name] for f in self._folders() if f.name in sessions and self._is_synced(f)]
        return max(sent, default=0)


def _shown(made: Table | Picture | Lines) -> Any:
    """What wandb draws."""
    import wandb

    if isinstance(made, Table):
        return wandb.Table(columns=list(made.columns), data=made.rows, allow_mixed_types=True)
    if isinstance(made, Picture):
        return wandb.Html(plots.picture(made.title, made.spec), inject=False)
    return wandb.plot.line_series(
        xs=[[row[made.x] for row in rows] for rows in made.points.values()],
        ys=[[row[made.y] for row in rows] for rows in made.points.values()],
        keys=[f"round {number}" for number in made.points],
        title=made.title,
        xname=made.x_title,
    )


def _artifact(reference: Reference) -> Any:
    import wandb

    safe_name = re.sub(r"[^\w.-]", "-", reference.name)
    made = wandb.Artifact(
        safe_name, type=reference.kind, metadata=reference.metadata, description=reference.made_by
    )
    made.add_reference(reference.folder.resolve().as_uri(), checksum=False)
    return made
