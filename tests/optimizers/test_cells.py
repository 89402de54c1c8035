"""The recurrent cells against PyTorch's own."""

import pytest
import torch

from l2l_exp.optimizers.cells import GRUCell, LSTMCell


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (2, 5), (4, 3)])
def test_the_cell_is_torchs_lstm_cell_with_features_first(inputs, hidden):
    rng = torch.Generator().manual_seed(0)
    cell = LSTMCell(inputs, hidden, forget_bias=0.7, rng=rng).double()
    cell.bias.data.copy_(torch.randn(4 * hidden, 1, generator=rng))
    oracle = torch.nn.LSTMCell(inputs, hidden).double()

    def reorder(rows):  # ours: input, forget, output, candidate; torch: input, forget, cell, output
        admit, keep, expose, candidate = rows.detach().chunk(4)
        return torch.cat([admit, keep, candidate, expose])

    with torch.no_grad():
        oracle.weight_ih.copy_(reorder(cell.input_weight))
        oracle.weight_hh.copy_(reorder(cell.recurrent_weight))
        oracle.bias_ih.copy_(reorder(cell.bias).flatten())
        oracle.bias_hh.zero_()
    signal, h, c = (
        torch.randn(size, 7, generator=rng, dtype=torch.float64)
        for size in (inputs, hidden, hidden)
    )
    expected = oracle(signal.T, (h.T, c.T))
    for ours, theirs in zip(cell(signal, h, c), expected, strict=True):
        torch.testing.assert_close(ours, theirs.T, rtol=1e-12, atol=1e-14)


def test_initial_weights_are_bounded_and_only_the_forget_gate_is_biased():
    cell = LSTMCell(2, 16, forget_bias=1.5, rng=torch.Generator().manual_seed(0))
    for weight in (cell.input_weight, cell.recurrent_weight):
        assert 0.2 < weight.abs().max() <= 1 / 4
    assert cell.bias.view(4, 16).mean(1).tolist() == [0, 1.5, 0, 0]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (2, 5), (4, 3)])
def test_the_gated_unit_is_torchs_gru_cell_with_features_first(inputs, hidden, graph):
    rng = torch.Generator().manual_seed(0)
    cell = GRUCell(inputs, hidden, keep_bias=0.7, rng=rng).double()
    cell.bias.data.copy_(torch.randn(3 * hidden, 1, generator=rng))
    cell.candidate_bias.data.copy_(torch.randn(hidden, 1, generator=rng))
    oracle = torch.nn.GRUCell(inputs, hidden).double()
    with torch.no_grad():
        oracle.weight_ih.copy_(cell.input_weight)
        oracle.weight_hh.copy_(cell.recurrent_weight)
        oracle.bias_ih.copy_(cell.bias.flatten())
        oracle.bias_hh.zero_()
        oracle.bias_hh[2 * hidden :] = cell.candidate_bias.flatten()
    signal, h = (
        torch.randn(size, 7, generator=rng, dtype=torch.float64) for size in (inputs, hidden)
    )
    kept = signal.clone(), h.clone()
    with torch.set_grad_enabled(graph):
        ours = cell(signal, h)
    torch.testing.assert_close(ours, oracle(signal.T, h.T).T, rtol=1e-12, atol=1e-14)
    assert torch.equal(signal, kept[0]) and torch.equal(h, kept[1])


def test_a_gated_unit_starts_with_bounded_weights_and_a_bias_on_keeping_alone():
    cell = GRUCell(2, 16, keep_bias=1.5, rng=torch.Generator().manual_seed(0))
    for weight in (cell.input_weight, cell.recurrent_weight):
        assert 0.2 < weight.abs().max() <= 1 / 4
    assert cell.bias.view(3, 16).mean(1).tolist() == [0, 1.5, 0]
    assert not cell.candidate_bias.any()
