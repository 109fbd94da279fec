"""Holds the model that answers, watches its folder, and exchanges the model while requests are answered.

A request uses one model from its beginning to its end. A new model is loaded and tried beside the old one, and then
replaces it for the next requests. A model that cannot be loaded is refused, and the old one goes on answering; the log
and the metrics say so.

Watched are the folder that ``--model`` names; without it the champion, and while there is none, the last trained model.
If the folder disappears, which happens during a training, the loaded model stays.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from atlas_model.core.progress import say
from flows.paths import CATEGORIZER, CHAMPION
from flows.registry.model_folders import model_folder
from flows.serve.inference.served_model import Fingerprint, ServedModel, fingerprint
from flows.serve.metrics import Metrics

Load = Callable[[Path], ServedModel]


class ModelHolder:
    """The current model, and its exchange.

    Args:
        name: of the model on the command line, or None; see `model_folder`.
        load: loads the model of a folder.
        metrics: that it updates.

    Raises:
        InputError: there is no such model, or it cannot be loaded.
    """

    def __init__(self, name: str | None, load: Load, metrics: Metrics) -> None:
        self._named, self._load, self._metrics = name is not None, load, metrics
        self._refused: tuple[Path, Fingerprint] | None = None
        self._checking = threading.Lock()
        self.current = load(model_folder(name))
        self._announce(None)

    async def watch(self, interval_s: float) -> None:
        """Exchange the model whenever a new one is in the folder, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.get_running_loop().run_in_executor(None, self.refresh)

    def refresh(self) -> bool:
        """Exchange the model if there is a new one; returns whether it was exchanged."""
        with self._checking:
            folder = self._wanted()
            found = fingerprint(folder)
            if found is None or (folder, found) == self._refused:
                return False
            if (folder, found) == (self.current.folder, self.current.fingerprint):
                self._set_refused(None)  # the folder has the current model again
                return False
            try:
                loaded = self._load(folder)
            except Exception as error:  # of any kind: the loaded model goes on answering
                if fingerprint(folder) == found:  # else it is being replaced: the next check finds it complete
                    self._set_refused((folder, found))
                    self._metrics.swaps.labels("refused").inc()
                    reason = str(error) or type(error).__name__
                    say(f"error: new model refused, {self.current.version} goes on answering: {reason}")
                return False
            old, self.current = self.current, loaded
            self._set_refused(None)
            self._metrics.swaps.labels("loaded").inc()
            self._announce(old)
            return True

    def _wanted(self) -> Path:
        if not self._named:
            if CHAMPION.is_dir() or self.current.folder == CHAMPION:  # missing for a moment while it is replaced
                return CHAMPION
            if fingerprint(CATEGORIZER) is not None:
                return CATEGORIZER
        return self.current.folder

    def _set_refused(self, refused: tuple[Path, Fingerprint] | None) -> None:
        self._refused = refused
        self._metrics.refused.set(refused is not None)

    def _announce(self, old: ServedModel | None) -> None:
        model = self.current
        champion = "" if model.champion is None else f", champion version {model.champion}"
        instead = "" if old is None else f"; it replaces {old.version}"
        say(f"model: {model.folder}, version {model.version}{champion}, engine {model.engine}{instead}")
        self._metrics.model.clear()
        self._metrics.model.labels(model.name, model.version, model.engine).set(1)
        self._metrics.model_loaded.set(model.loaded_at)
