"""Tuning: settings chosen on the validation part, every trial a run of its own.

The folder holds `study.db` (Optuna's SQLite storage), `tune.json` (what is being tuned),
`trials/<number>/` (the runs), `best.json` (the outcome and what it cost) and
`best-settings.json` (the settings alone, for `tastemaker train --config`). Started again with the
same arguments and more trials or minutes, it goes on; an unfinished trial is resumed. The test
part is never evaluated here.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.console import say
from tastemaker.data import Dataset, Split
from tastemaker.errors import ConfigError, RunError, nearest
from tastemaker.evaluation.pointwise import LOWER_IS_BETTER
from tastemaker.experiment.fitting import Dealt, deal, fit
from tastemaker.experiment.folder import exclusive
from tastemaker.experiment.record import RunRecord
from tastemaker.experiment.run import Run, open_run
from tastemaker.extras import require
from tastemaker.files import read_json, write_json
from tastemaker.models.catalog import find
from tastemaker.models.search import Choice, Integer, LogUniform, Search, Uniform
from tastemaker.training.loop import TrainingError

if TYPE_CHECKING:
    from tastemaker.training.loop import Record

__all__ = ["Tuned", "tune"]

_STARTUP = 5  # complete trials before any is pruned
_WARMUP = 3  # epochs of a trial before it may be pruned


@dataclass(frozen=True)
class Tuned:
    """What tuning found, and what it cost.

    Attributes:
        folder: where everything is.
        model: name in the catalog.
        metric: the validation metric that chose.
        value: of the best trial.
        settings: of the best trial: the tuned ones and those that were fixed.
        run: the best trial's run folder.
        trials: state (`"complete"`, `"pruned"`, `"failed"`, `"unfinished"`) -> how many.
        seconds: spent on all trials of this folder, over all calls.
    """

    folder: Path
    model: str
    metric: str
    value: float
    settings: Mapping[str, Any]
    run: Path
    trials: Mapping[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "model": self.model,
            "metric": self.metric,
            "value": self.value,
            "settings": dict(self.settings),
            "run": str(self.run),
            "budget": {"trials": dict(self.trials), "seconds": round(self.seconds, 1)},
        }


def tune(
    data: Split | Dataset | Path | str,
    model: str,
    *,
    out: Path | str,
    trials: int = 20,
    minutes: float | None = None,
    metric: str = "ndcg@10",
    seed: int = 0,
    device: str = "auto",
    split: str | None = None,
    split_seed: int | None = None,
    filters: Sequence[str] = (),
    **fixed: Any,
) -> Tuned:
    """Search a method's settings; the space is the `search` of its class.

    The first trial takes the defaults; the others are proposed by TPE and stopped early when they
    fall behind the median of the earlier ones.

    Args:
        data: as `fit` takes it; the split must have a validation part.
        model: a name in the catalog.
        out: the folder.
        trials: how many, those of earlier calls included.
        minutes: time for all trials, that of earlier calls included; `None` sets no limit.
        metric: validation metric that chooses: the highest value, of losses the lowest.
        seed: of the proposals and of every trial.
        device: where to train.
        split, split_seed, filters: as `fit` takes them.
        **fixed: settings that are not to be varied.

    Raises:
        MissingExtraError: when Optuna is not installed.
        ConfigError: when the method has nothing to search, or every trial fails.
        RunError: when the folder holds the tuning of something else.
    """
    optuna = require("optuna", extra="tune", purpose="tuning")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = find(model).load()
    space = {name: range_ for name, range_ in kind.search.items() if name not in fixed}
    limit = _limit(minutes)
    dealt = deal(data, split, split_seed, filters)
    _refuse_vain(model, space, trials, dealt)
    kind.create(fixed, dealt.split.dataset, seed=seed)  # refuses bad settings before any trial
    folder = Path(out)
    with exclusive(folder):
        _claim(folder, _identity(model, dealt, metric, seed, fixed, space))
        study = _study(optuna, folder, space, kind.Config().to_json(), metric)

        def train(place: Path, values: Mapping[str, Any], listener: _Listener) -> Run:
            return fit(
                dealt.split,
                model,
                out=place,
                seed=seed,
                device=device,
                evaluate_on=("valid",),
                listeners=[listener],
                **{**fixed, **values},
            )

        tuning = _Tuning(optuna, study, folder, space, metric, seed, limit)
        tuning.run(trials, train)
        return tuning.outcome(model, fixed)


def _refuse_vain(model: str, space: Mapping[str, Search], trials: int, dealt: Dealt) -> None:
    """Raise `ConfigError` when there is nothing to vary, to run or to choose by."""
    if not space:
        raise ConfigError(f"model {model!r} has nothing to search; train it as it is")
    if trials < 1:
        raise ConfigError(f"trials is {trials}; ask for at least one")
    if dealt.split.valid is None:
        raise ConfigError(
            f"the split {dealt.split.name!r} has no validation part to choose settings on; "
            "choose a split with one"
        )


def _identity(
    model: str,
    dealt: Dealt,
    metric: str,
    seed: int,
    fixed: Mapping[str, Any],
    space: Mapping[str, Search],
) -> dict[str, Any]:
    """What must be the same for a folder's tuning to go on."""
    return {
        "model": model,
        "fingerprint": dealt.split.dataset.fingerprint,
        "split": dealt.split.name,
        "split_seed": dealt.split.seed,
        "metric": metric,
        "seed": seed,
        "fixed": dict(fixed),
        "space": {name: repr(range_) for name, range_ in space.items()},
    }


def _study(
    optuna: Any, folder: Path, space: Mapping[str, Search], defaults: Mapping[str, Any], metric: str
) -> Any:
    """The study kept in the folder; a new one begins with the defaults."""
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="tune",
        direction="minimize" if metric in LOWER_IS_BETTER else "maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(_STARTUP, _WARMUP),
    )
    inside = {
        name: defaults[name] for name, range_ in space.items() if _holds(range_, defaults[name])
    }
    if inside and not study.trials:
        study.enqueue_trial(inside)
    return study


_Listener = Callable[["Record"], None]


class _OutOfTimeError(Exception):
    """The time is spent; the trial under way stays resumable."""


def _limit(minutes: float | None) -> float:
    """Seconds for all trials."""
    if minutes is not None and minutes <= 0:
        raise ConfigError(f"minutes is {minutes}; give a positive number")
    return math.inf if minutes is None else 60.0 * minutes


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Begin the tuning or continue the same one."""
    path = folder / "tune.json"
    if not path.exists():
        if any(not child.name.startswith(".") for child in folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no tuning; choose another folder")
        write_json(path, dict(identity))
        return
    found = read_json(path)
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise RunError(
            f"{folder} holds another tuning (its {', '.join(different)} differ); "
            "choose another folder"
        )


def _holds(range_: Search, value: Any) -> bool:
    if isinstance(range_, Choice):
        return value in range_.values
    return isinstance(value, int | float) and range_.low <= value <= range_.high


def _suggest(trial: Any, name: str, range_: Search) -> Any:
    match range_:
        case Choice():
            return trial.suggest_categorical(name, list(range_.values))
        case Uniform():
            return trial.suggest_float(name, range_.low, range_.high)
        case LogUniform():
            return trial.suggest_float(name, range_.low, range_.high, log=True)
        case Integer():
            return trial.suggest_int(name, range_.low, range_.high, log=range_.log)


@dataclass
class _Tuning:
    """One call of `tune`: trials one after the other, until the budget is spent."""

    optuna: Any
    study: Any
    folder: Path
    space: Mapping[str, Search]
    metric: str
    seed: int
    limit: float  # seconds for all trials
    started: float = field(default_factory=time.monotonic)

    def run(self, trials: int, train: Callable[[Path, Mapping[str, Any], _Listener], Run]) -> None:
        """Run trials until there are so many, or the time is spent."""
        earlier = self.seconds()
        self.started = time.monotonic() - earlier
        while self._spent() < self.limit:
            trial = self._next(trials)
            if trial is None:
                return
            try:
                self._try(trial, train)
            except _OutOfTimeError:
                say("the time is spent; the unfinished trial goes on when there is more")
                return

    def _spent(self) -> float:
        return time.monotonic() - self.started

    def _next(self, trials: int) -> Any | None:
        """The trial that was interrupted, or a new one, or `None` when there are enough."""
        states = self.optuna.trial.TrialState
        for frozen in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            return self.optuna.trial.Trial(self.study, frozen._trial_id)
        done = self.study.get_trials(
            deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.FAIL)
        )
        if len(done) >= trials:
            return None
        # A sampler seeded by the trial's number proposes the same after an interruption.
        self.study.sampler = self.optuna.samplers.TPESampler(seed=self.seed * 100_003 + len(done))
        return self.study.ask()

    def _try(self, trial: Any, train: Callable[[Path, Mapping[str, Any], _Listener], Run]) -> None:
        began = time.monotonic()
        values = {name: _suggest(trial, name, range_) for name, range_ in self.space.items()}
        place = self.folder / "trials" / f"{trial.number:04d}"
        before = float(trial.user_attrs.get("seconds", 0.0))
        words = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
        say(f"trial {trial.number}: {words}")
        states = self.optuna.trial.TrialState
        outcome: dict[str, Any]
        try:
            value = self._value(place, trial, train, values)
            outcome, words = {"values": value}, f"{self.metric} {value:.4f}"
        except self.optuna.TrialPruned:
            RunRecord.read(place).changed(status="stopped").save(place)
            outcome, words = {"state": states.PRUNED}, "stopped, as it fell behind"
        except TrainingError as error:
            trial.set_user_attr("error", str(error))
            outcome, words = {"state": states.FAIL}, f"failed: {error}"
        finally:
            trial.set_user_attr("seconds", before + time.monotonic() - began)
        self.study.tell(trial, **outcome)
        say(f"trial {trial.number}: {words}")

    def _value(
        self,
        place: Path,
        trial: Any,
        train: Callable[[Path, Mapping[str, Any], _Listener], Run],
        values: Mapping[str, Any],
    ) -> float:
        """The validation metric of a trial's run, trained now unless it was already."""
        run = open_run(place) if _is_finished(place) else train(place, values, self._watch(trial))
        value = run.metrics["valid"].get(self.metric)
        if value is None:
            raise ConfigError(
                f"metric {self.metric!r} is not measured on the validation part"
                f"{nearest(self.metric, run.metrics['valid'])}"
            )
        return value

    def _watch(self, trial: Any) -> _Listener:
        """Reports validation metrics to the study and stops what is behind or out of time."""

        def listen(record: Record) -> None:
            value = record.get("valid", {}).get(self.metric)
            if value is not None:
                with warnings.catch_warnings():  # a resumed trial repeats the epochs it lost
                    warnings.simplefilter("ignore")
                    trial.report(value, record["epoch"])
                if trial.should_prune():
                    raise self.optuna.TrialPruned
            if self._spent() > self.limit:
                raise _OutOfTimeError

        return listen

    def seconds(self) -> float:
        """Spent on all trials so far."""
        return sum(float(t.user_attrs.get("seconds", 0.0)) for t in self.study.trials)

    def outcome(self, model: str, fixed: Mapping[str, Any]) -> Tuned:
        """The best trial, also written to `best.json` and `best-settings.json`."""
        states = self.optuna.trial.TrialState
        words = {states.COMPLETE: "complete", states.PRUNED: "pruned", states.FAIL: "failed"}
        counts: dict[str, int] = {}
        for trial in self.study.trials:
            word = words.get(trial.state, "unfinished")
            counts[word] = counts.get(word, 0) + 1
        if not counts.get("complete"):
            errors = [trial.user_attrs.get("error") for trial in self.study.trials]
            why = next((error for error in errors if error), "the time was too short for one")
            raise ConfigError(f"{self.folder}: no trial was completed ({why})")
        best = self.study.best_trial
        tuned = Tuned(
            folder=self.folder,
            model=model,
            metric=self.metric,
            value=best.value,
            settings={**fixed, **best.params},
            run=self.folder / "trials" / f"{best.number:04d}",
            trials=counts,
            seconds=self.seconds(),
        )
        write_json(self.folder / "best.json", tuned.to_json())
        write_json(self.folder / "best-settings.json", dict(tuned.settings))
        return tuned


def _is_finished(place: Path) -> bool:
    return (place / "run.json").exists() and RunRecord.read(place).status == "finished"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
