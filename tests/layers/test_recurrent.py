"""The GRU encoder: one pass over a sequence equals one step at a time."""

from __future__ import annotations

import pytest
import torch

from tastemaker.layers.recurrent import GRUEncoder


@pytest.mark.parametrize("layers", [1, 2])
def test_steps_with_a_carried_state_equal_one_pass(layers):
    torch.manual_seed(0)
    encoder = GRUEncoder(5, 7, layers).eval()
    inputs = torch.randn(3, 6, 5)
    state, outputs = encoder.initial(3), []
    for t in range(6):
        output, state = encoder.step(inputs[:, t], state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, 1), encoder(inputs), rtol=0, atol=1e-6)


def test_a_step_equals_the_equations():
    torch.manual_seed(0)
    encoder = GRUEncoder(3, 4)
    e, h = torch.randn(2, 3), torch.randn(1, 2, 4)
    cell = encoder.layers[0]
    from_input = e @ cell.weight_ih_l0.T + cell.bias_ih_l0
    from_state = h[0] @ cell.weight_hh_l0.T + cell.bias_hh_l0
    r = torch.sigmoid(from_input[:, :4] + from_state[:, :4])
    z = torch.sigmoid(from_input[:, 4:8] + from_state[:, 4:8])
    n = torch.tanh(from_input[:, 8:] + r * from_state[:, 8:])
    torch.testing.assert_close(encoder.step(e, h)[0], (1 - z) * n + z * h[0])


def test_padding_behind_changes_nothing_before_it():
    torch.manual_seed(0)
    encoder = GRUEncoder(5, 7)
    inputs = torch.randn(2, 6, 5)
    torch.testing.assert_close(encoder(inputs)[:, :4], encoder(inputs[:, :4]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("carry_dropped", [True, False])
def test_the_carried_state_is_the_dropped_one_only_when_asked(carry_dropped):
    torch.manual_seed(0)
    encoder = GRUEncoder(5, 64, dropout=0.5, carry_dropped=carry_dropped).train()
    output, state = encoder.step(torch.randn(2, 5), encoder.initial(2))
    assert (output == 0).any()
    assert bool((state == 0).any()) is carry_dropped
