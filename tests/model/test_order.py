"""Order: rows go and come back, and so do gradients."""

from __future__ import annotations

import torch

from quatrain.model.order import Order


def test_rows_are_brought_into_the_order_and_back(device: str) -> None:
    order = Order.of(torch.tensor([2, 0, 1], device=device))
    x = torch.tensor([[0.0], [10.0], [20.0]], device=device)
    assert order.bring(x).tolist() == [[20], [0], [10]]
    assert torch.equal(order.undo(order.bring(x)), x)


def test_a_gradient_returns_to_its_row(device: str) -> None:
    order = Order.of(torch.tensor([2, 0, 1], device=device))
    weight = torch.tensor([1.0, 2.0, 3.0], device=device)
    for move, expected in ((order.bring, [2, 3, 1]), (order.undo, [3, 1, 2])):
        x = torch.zeros(3, device=device, requires_grad=True)
        (move(x) * weight).sum().backward()
        assert x.grad.tolist() == expected
