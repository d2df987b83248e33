"""Tuning: settings chosen on the validation part, every trial a run of its own.

The folder holds `study.db` (Optuna's SQLite storage), `tune.json` (what is being tuned),
`trials/<number>/` (the runs), `best.json` (the outcome and what it cost) and
`best-settings.json` (the settings alone, for `tastemaker train --config`). Started again with the
same arguments and more trials or minutes, it goes on; an unfinished trial is resumed. The test
part is never evaluated here.

Trials go in rounds. Those of a round are proposed, and stopped early, by what the rounds before it
found, so that they are the same whether they run one after the other or on a cluster.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tastemaker.console import say
from tastemaker.data import Dataset, Split
from tastemaker.errors import ConfigError, RunError, nearest
from tastemaker.evaluation.pointwise import LOWER_IS_BETTER
from tastemaker.experiment.cluster import HERE, Engine
from tastemaker.experiment.fitting import Dealt, deal, fit
from tastemaker.experiment.folder import exclusive
from tastemaker.experiment.record import RunRecord
from tastemaker.experiment.run import open_run
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
        seconds: spent on all trials of this folder, over all calls, by the clock.
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
    at_once: int = 1,
    metric: str = "ndcg@10",
    seed: int = 0,
    device: str = "auto",
    split: str | None = None,
    split_seed: int | None = None,
    filters: Sequence[str] = (),
    engine: Engine = HERE,
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
        at_once: trials of a round; a cluster works on as many together.
        metric: validation metric that chooses: the highest value, of losses the lowest.
        seed: of the proposals and of every trial.
        device: where to train.
        split, split_seed, filters: as `fit` takes them.
        engine: where trials run.
        **fixed: settings that are not to be varied.

    Raises:
        MissingExtraError: when Optuna is not installed.
        ConfigError: when the method has nothing to search, or every trial fails.
        RunError: when the folder holds the tuning of something else.
    """
    optuna = _optuna()
    kind = find(model).load()
    space = {name: range_ for name, range_ in kind.search.items() if name not in fixed}
    limit = _limit(minutes)
    dealt = deal(data, split, split_seed, filters)
    _refuse_vain(model, space, trials, at_once, dealt)
    kind.create(fixed, dealt.split.dataset, seed=seed)  # refuses bad settings before any trial
    defaults = kind.Config().to_json()
    first = {name: defaults[name] for name in space if _holds(space[name], defaults[name])}
    folder = Path(out)
    with exclusive(folder):
        _claim(folder, _identity(model, dealt, metric, seed, at_once, fixed, space))
        study = optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}",
            study_name="tune",
            direction=_direction(metric),
            load_if_exists=True,
        )
        asked = _Asked(dealt.split, model, metric, seed, device, fixed)
        tuning = _Tuning(study, folder, space, first, asked, at_once, limit, engine)
        while tuning.round(trials):
            pass
        return tuning.outcome()


def _optuna() -> Any:
    optuna = require("optuna", extra="tune", purpose="tuning")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _refuse_vain(
    model: str, space: Mapping[str, Search], trials: int, at_once: int, dealt: Dealt
) -> None:
    """Raise `ConfigError` when there is nothing to vary, to run or to choose by."""
    if not space:
        raise ConfigError(f"model {model!r} has nothing to search; train it as it is")
    if trials < 1:
        raise ConfigError(f"trials is {trials}; ask for at least one")
    if at_once < 1:
        raise ConfigError(f"at_once is {at_once}; a round has at least one trial")
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
    at_once: int,
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
        "at_once": at_once,
        "fixed": dict(fixed),
        "space": {name: repr(range_) for name, range_ in space.items()},
    }


def _direction(metric: str) -> str:
    return "minimize" if metric in LOWER_IS_BETTER else "maximize"


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


@dataclass(frozen=True)
class _Asked:
    """What all trials of a tuning have in common."""

    split: Split
    model: str
    metric: str
    seed: int
    device: str
    fixed: Mapping[str, Any]

    def study(self, trials: Sequence[Any], **how: Any) -> Any:
        """A study in memory that knows some trials."""
        study = _optuna().create_study(direction=_direction(self.metric), **how)
        study.add_trials(trials)
        return study


@dataclass(frozen=True)
class _Trial:
    """What a trial is told."""

    number: int
    place: Path
    values: Mapping[str, Any]
    distributions: Mapping[str, Any]  # Optuna's, from which the values were drawn
    earlier: Sequence[Any]  # Optuna's trials of the rounds before
    until: float  # when the time is spent, in seconds since 1970

    def __str__(self) -> str:
        words = ", ".join(f"{name}={_short(value)}" for name, value in self.values.items())
        return f"trial {self.number} ({words})"


@dataclass(frozen=True)
class _Outcome:
    """What became of a trial; an unfinished one goes on when there is more time."""

    state: Literal["COMPLETE", "PRUNED", "FAIL", "unfinished"]
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)  # epoch -> validation metric
    error: str | None = None


class _OutOfTimeError(Exception):
    """The time is spent."""


def _run_trial(asked: _Asked, trial: _Trial) -> _Outcome:
    """Train one trial, in whatever process."""
    optuna = _optuna()
    curve: dict[int, float] = {}
    say(str(trial))
    try:
        if time.time() > trial.until:
            raise _OutOfTimeError
        value = _value(asked, trial, curve)
    except _OutOfTimeError:
        say(f"{trial}: the time is spent; it goes on when there is more")
        return _Outcome("unfinished")
    except optuna.TrialPruned:
        RunRecord.read(trial.place).changed(status="stopped").save(trial.place)
        say(f"{trial}: stopped, as it fell behind")
        return _Outcome("PRUNED", curve=curve)
    except TrainingError as error:
        say(f"{trial} failed: {error}")
        return _Outcome("FAIL", curve=curve, error=f"{trial}: {error}")
    say(f"{trial}: {asked.metric} {value:.4f}")
    return _Outcome("COMPLETE", value, curve)


def _value(asked: _Asked, trial: _Trial, curve: dict[int, float]) -> float:
    """The validation metric of a trial's run, trained now unless it was already."""
    place = trial.place
    if (place / "metrics.jsonl").exists():  # of a call that was interrupted
        for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            _note(asked.metric, json.loads(line), curve)
    if (place / "run.json").exists() and RunRecord.read(place).status == "finished":
        run = open_run(place)
    else:
        run = fit(
            asked.split,
            asked.model,
            out=place,
            seed=asked.seed,
            device=asked.device,
            evaluate_on=("valid",),
            listeners=[_watch(asked, trial, curve)],
            **{**asked.fixed, **trial.values},
        )
    value = run.metrics["valid"].get(asked.metric)
    if value is None:
        raise ConfigError(
            f"metric {asked.metric!r} is not measured on the validation part"
            f"{nearest(asked.metric, run.metrics['valid'])}"
        )
    return value


def _note(metric: str, record: Record, curve: dict[int, float]) -> bool:
    """Whether a record of the metrics log has the metric, which is then in the curve."""
    value = record.get("valid", {}).get(metric)
    if value is not None:
        curve.setdefault(record["epoch"], value)
    return value is not None


def _watch(asked: _Asked, trial: _Trial, curve: dict[int, float]) -> Callable[[Record], None]:
    """Follows validation metrics and stops what is behind the rounds before, or out of time."""
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(_STARTUP, _WARMUP)
    study = asked.study(trial.earlier)

    def listen(record: Record) -> None:
        if _note(asked.metric, record, curve):
            running = optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING, intermediate_values=curve
            )
            if pruner.prune(study, running):
                raise optuna.TrialPruned
        if time.time() > trial.until:
            raise _OutOfTimeError

    return listen


@dataclass
class _Tuning:
    """One call of `tune`: round after round, until the budget is spent."""

    study: Any
    folder: Path
    space: Mapping[str, Search]
    first: Mapping[str, Any]  # settings of the first trial
    asked: _Asked
    at_once: int
    limit: float  # seconds for all trials
    engine: Engine

    def round(self, trials: int) -> bool:
        """Run the next round, or what is left of it; whether there may be another."""
        began, before = time.monotonic(), self.seconds()
        done = self.study.get_trials(deepcopy=False)
        earlier = done[: len(done) - len(done) % self.at_once]
        numbers = range(len(done), min(len(earlier) + self.at_once, trials))
        until = time.time() + self.limit - before
        round_ = [self._propose(number, earlier, until) for number in numbers]
        outcomes = self.engine.spread(_run_trial, self.asked, round_, folder=self.folder)
        try:
            for outcome, trial in zip(outcomes, round_, strict=True):
                if outcome.state == "unfinished":
                    return False
                self._note(trial, outcome)
        finally:
            self.study.set_user_attr("seconds", before + time.monotonic() - began)
        return bool(round_)

    def _propose(self, number: int, earlier: Sequence[Any], until: float) -> _Trial:
        """A trial, proposed by what is known of earlier ones; the first takes the defaults."""
        # A sampler seeded by the trial's number proposes the same after an interruption.
        sampler = _optuna().samplers.TPESampler(seed=self.asked.seed * 100_003 + number)
        study = self.asked.study(earlier, sampler=sampler)
        if number == 0 and self.first:
            study.enqueue_trial(dict(self.first))
        proposed = study.ask()
        for name, range_ in self.space.items():
            _suggest(proposed, name, range_)
        place = self.folder / "trials" / f"{number:04d}"
        return _Trial(number, place, proposed.params, proposed.distributions, earlier, until)

    def _note(self, trial: _Trial, outcome: _Outcome) -> None:
        """Keep what became of a trial."""
        create = _optuna().trial.create_trial
        self.study.add_trial(
            create(
                state=_optuna().trial.TrialState[outcome.state],
                value=outcome.value,
                params=dict(trial.values),
                distributions=dict(trial.distributions),
                intermediate_values=dict(outcome.curve),
                user_attrs={"error": outcome.error} if outcome.error else {},
            )
        )

    def seconds(self) -> float:
        """Spent on all trials so far."""
        return float(self.study.user_attrs.get("seconds", 0.0))

    def outcome(self) -> Tuned:
        """The best trial, also written to `best.json` and `best-settings.json`."""
        states = _optuna().trial.TrialState
        words = {states.COMPLETE: "complete", states.PRUNED: "pruned", states.FAIL: "failed"}
        trials = self.study.trials
        counts = Counter(words[trial.state] for trial in trials)
        begun = [int(place.name) for place in (self.folder / "trials").glob("[0-9]*")]
        if unfinished := sum(number >= len(trials) for number in begun):
            counts["unfinished"] = unfinished
        if not counts["complete"]:
            errors = [trial.user_attrs.get("error") for trial in trials]
            why = next((error for error in errors if error), "the time was too short for one")
            raise ConfigError(f"{self.folder}: no trial was completed ({why})")
        best = self.study.best_trial
        tuned = Tuned(
            folder=self.folder,
            model=self.asked.model,
            metric=self.asked.metric,
            value=best.value,
            settings={**self.asked.fixed, **best.params},
            run=self.folder / "trials" / f"{best.number:04d}",
            trials=dict(counts),
            seconds=self.seconds(),
        )
        write_json(self.folder / "best.json", tuned.to_json())
        write_json(self.folder / "best-settings.json", dict(tuned.settings))
        return tuned


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
