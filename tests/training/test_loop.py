"""The loop: learning, resuming, averaging, alternating, stopping."""

from __future__ import annotations

import json
from itertools import count

import pytest
import torch

from tastemaker.errors import ConfigError, RunError
from tastemaker.training import Optimizer, TrainingError, fit
from tastemaker.training.optimizers import learning_rate
from tests.training.toys import Adversary, FakeTrainingSet, Points, Regression, TwoStages

DATA = FakeTrainingSet()


def losses(result):
    return [record["loss"] for record in result.records]


class Stop(Exception):
    """Raised by a listener: the process goes away here."""


def test_the_loss_falls_and_a_seed_repeats_it():
    first, second, other = (Regression(), Regression(), Regression())
    result = fit(first, DATA, seed=3)
    assert losses(result)[-1] < 0.8 * losses(result)[0]
    assert losses(fit(second, DATA, seed=3)) == losses(result)
    assert losses(fit(other, DATA, seed=4)) != losses(result)
    for name, value in first.state().items():
        assert torch.equal(value, second.state()[name])


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(Regression(epochs=1), DATA)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resuming_from_any_checkpoint_equals_an_uninterrupted_training(tmp_path, stop_after):
    options = {"ema": 0.9, "epochs": 4, "clip_norm": 0.5}
    straight = Regression(**options)
    expected = fit(straight, DATA, seed=1)

    seen = count(1)

    def interrupt(record):
        if next(seen) == stop_after:
            raise Stop

    with pytest.raises(Stop):
        fit(
            Regression(**options),
            DATA,
            seed=1,
            folder=tmp_path,
            checkpoint_seconds=0,
            listeners=[interrupt],
        )
    resumed = Regression(**options)
    result = fit(resumed, DATA, seed=1, folder=tmp_path, checkpoint_seconds=0)
    assert losses(result) == losses(expected)
    for name, value in straight.state().items():
        assert torch.equal(value, resumed.state()[name]), name
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]


@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 15])
def test_resuming_inside_an_epoch_equals_an_uninterrupted_training(tmp_path, stop_at):
    def stop(moment):
        if moment.step == stop_at:
            raise Stop

    straight, resumed = Regression(), Regression()
    expected = fit(straight, DATA, seed=2)
    with pytest.raises(Stop):
        fit(Regression(after_step=[stop]), DATA, seed=2, folder=tmp_path, checkpoint_seconds=0)
    result = fit(resumed, DATA, seed=2, folder=tmp_path)
    assert losses(result) == losses(expected)
    for name, value in straight.state().items():
        assert torch.equal(value, resumed.state()[name]), name


def test_a_finished_training_is_not_trained_again(tmp_path):
    model = Regression()
    fit(model, DATA, folder=tmp_path)
    again = Regression()
    fit(again, DATA, folder=tmp_path)
    assert torch.equal(again.state()["first.weight"], model.state()["first.weight"])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_folder_of_another_training_is_refused(tmp_path):
    fit(Regression(epochs=1), DATA, seed=1, folder=tmp_path)
    with pytest.raises(RunError, match="seed is 1, this one's is 2"):
        fit(Regression(epochs=1), DATA, seed=2, folder=tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    fit(Regression(epochs=1), DATA, folder=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match="damaged"):
        fit(Regression(epochs=1), DATA, folder=tmp_path)


def test_accumulating_small_batches_equals_large_ones():
    """Gradients are averaged over targets, not over batches of unequal weight."""
    options = {"dropout": 0.0, "epochs": 2, "optimizer": Optimizer("sgd", 0.1)}

    class Fixed(Points):
        """Unshuffled and noiseless, so that 6 x 16 and 1 x 96 see the same targets."""

        def plan(self, generator):
            rows = super().plan(generator)
            order = torch.arange(len(self.inputs)).numpy()
            return [order[at : at + self.batch_size] for at in range(0, len(order), len(rows[0]))]

        def gather(self, rows, generator):
            class Quiet:
                def normal(self, scale, size):
                    return 0 * generator.normal(size=size)

            return super().gather(rows, Quiet())

    def fixed(size):
        points = Points.of()
        return Fixed(points.inputs, points.outputs, size)

    whole = Regression(points=fixed(96), **options)
    parts = Regression(points=fixed(16), accumulate=6, **options)
    uneven = Regression(points=fixed(40), accumulate=3, **options)
    expected = losses(fit(whole, DATA))
    for model in (parts, uneven):
        assert losses(fit(model, DATA)) == pytest.approx(expected, rel=1e-5)
        for name, value in whole.state().items():
            torch.testing.assert_close(model.state()[name], value, rtol=1e-5, atol=1e-6)


def test_early_stopping_keeps_the_best_weights():
    model = Regression(epochs=50, monitor="score", patience=3)
    values = iter([0.1, 0.4, 0.3, 0.2, 0.35, 0.9])
    seen = []

    def validate():
        assert not model.training
        seen.append(model.state())
        return {"score": next(values)}

    result = fit(model, DATA, validate=validate)
    assert len(seen) == 5
    assert result.best == {"train": 1}
    assert torch.equal(model.state()["first.weight"], seen[1]["first.weight"])


def test_of_a_loss_the_lowest_value_is_best():
    values = iter([0.7, 0.4, 0.6, 0.5])
    model = Regression(epochs=4, monitor="log_loss", patience=0)
    result = fit(model, DATA, validate=lambda: {"log_loss": next(values)})
    assert result.best == {"train": 1}


def test_the_best_epoch_brings_its_buffers_back():
    model = Regression(epochs=3, monitor="score", patience=0)
    model.register_buffer("count", torch.zeros(()))
    values = iter([1.0, 3.0, 2.0])

    def validate():
        model.count += 1
        return {"score": next(values)}

    fit(model, DATA, validate=validate)
    assert model.count == 2


def test_resuming_keeps_the_best_weights_and_the_patience(tmp_path):
    """The metric jumps about with the weights, so the best epoch is some early one."""

    def run(**options):
        model = Regression(epochs=50, monitor="score", patience=4)

        def validate():
            return {"score": float(torch.sin(1e4 * model.first.weight.detach().sum()))}

        result = fit(model, DATA, validate=validate, **options)
        return model.state(), result

    def interrupt(record):
        if record["epoch"] == 2:
            raise Stop

    straight, expected = run()
    assert len(expected.records) < 50
    with pytest.raises(Stop):
        run(folder=tmp_path, checkpoint_seconds=0, listeners=[interrupt])
    resumed, result = run(folder=tmp_path)
    assert result.best == expected.best
    assert len(result.records) == len(expected.records)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name])


def test_an_unknown_monitor_names_the_metrics_there_are():
    with pytest.raises(TrainingError, match=r"'ndcg@7'.*hr@10"):
        fit(Regression(monitor="ndcg@7"), DATA, validate=lambda: {"hr@10": 0.1})


def test_objectives_on_one_batch_alternate_and_move_only_their_parameters():
    model = Adversary()
    before = model.state()

    def check(record):
        assert set(record) >= {"fit_loss", "attack_loss"}

    fit(model, DATA, listeners=[check])
    assert model.turns == ["fit", "attack"] * 12
    assert not torch.equal(model.state()["shift"], before["shift"])
    assert not torch.equal(model.state()["first.weight"], before["first.weight"])


@pytest.mark.parametrize(
    ("alternate", "order"),
    [
        ("step", ["fit", "attack"] * 3 + ["fit"] * 3),
        ("epoch", ["fit"] * 6 + ["attack"] * 3),
    ],
)
def test_objectives_with_their_own_batches_take_turns(alternate, order):
    model = Adversary(shared=False, alternate=alternate)
    fit(model, DATA)
    assert model.turns == order * 2


def test_hooks_are_called_at_their_moments():
    calls = []

    def hook(name):
        return lambda moment: calls.append((name, moment.epoch, moment.step))

    def halve(moment):
        model.first.weight.grad.zero_()

    model = Regression(
        epochs=2,
        points=Points.of(32),
        before_epoch=[hook("epoch")],
        after_backward=[hook("backward"), halve],
        after_step=[hook("step")],
    )
    before = model.state()["first.weight"]
    fit(model, DATA)
    assert calls == [
        ("epoch", 0, 0),
        ("backward", 0, 0),
        ("step", 0, 0),
        ("backward", 0, 1),
        ("step", 0, 1),
        ("epoch", 1, 2),
        ("backward", 1, 2),
        ("step", 1, 2),
        ("backward", 1, 3),
        ("step", 1, 3),
    ]
    assert torch.equal(model.state()["first.weight"], before)


def test_hooks_get_the_same_generator_at_the_same_moment():
    drawn = []

    def draw(moment):
        drawn.append(moment.generator.integers(1 << 40))

    fit(Regression(epochs=2, before_epoch=[draw]), DATA, seed=7)
    first, drawn = drawn, []
    assert first[0] != first[1]


def test_compute_stages_are_cached_by_what_made_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path))
    TwoStages.computed = 0
    for _ in range(2):
        model = TwoStages(epochs=1)
        fit(model, DATA)
    assert TwoStages.computed == 1
    (artifact,) = (tmp_path / "artifacts").iterdir()
    artifact.write_bytes(b"damaged")
    fit(TwoStages(epochs=1), DATA)
    assert TwoStages.computed == 2


def test_nan_is_refused_with_a_remedy():
    with pytest.raises(TrainingError, match="lower learning_rate"):
        fit(Regression(optimizer=Optimizer("sgd", 1e12)), DATA)


def test_bfloat16_autocast_reaches_the_same_loss_roughly():
    exact = fit(Regression(precision="float32"), DATA)
    rough = fit(Regression(precision="bf16"), DATA)
    assert losses(rough) != losses(exact)
    assert losses(rough)[-1] == pytest.approx(losses(exact)[-1], rel=0.05)


def test_moving_average_of_weights():
    """One step from w0 to w1 with decay .75 keeps .75 w0 + .25 w1."""
    plain, averaged = (Regression(points=Points.of(16), epochs=1, ema=e) for e in (0.0, 0.75))
    start = plain.state()["second.weight"]
    fit(plain, DATA)
    fit(averaged, DATA)
    expected = 0.75 * start + 0.25 * plain.state()["second.weight"]
    torch.testing.assert_close(averaged.state()["second.weight"], expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
        ({"decay": "linear"}, [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"decay": "linear", "warmup_steps": 2}, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ({"decay": "cosine", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1.0, 1.0, 0.5]),
    ],
)
def test_learning_rate_schedules(settings, expected):
    description = Optimizer(learning_rate=1.0, **settings)
    assert [learning_rate(description, step, 6) for step in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_every_optimiser_learns_and_resumes(tmp_path, name):
    optimizer = Optimizer(name, 0.05, weight_decay=1e-4, momentum=0.5)
    straight = Regression(optimizer=optimizer, epochs=3)
    result = fit(straight, DATA)
    assert losses(result)[-1] < losses(result)[0]

    def interrupt(record):
        if record["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        fit(
            Regression(optimizer=optimizer, epochs=3),
            DATA,
            folder=tmp_path,
            checkpoint_seconds=0,
            listeners=[interrupt],
        )
    resumed = Regression(optimizer=optimizer, epochs=3)
    fit(resumed, DATA, folder=tmp_path)
    assert torch.equal(resumed.state()["first.weight"], straight.state()["first.weight"])


def test_an_absent_device_is_refused():
    with pytest.raises(ConfigError, match="'cuda:99' cannot be used"):
        fit(Regression(), DATA, device="cuda:99")
