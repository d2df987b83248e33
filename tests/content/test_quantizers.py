"""Quantisers: k-means, residuals, Sinkhorn, straight-through gradients, learned codebooks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from tastemaker.content.quantizers.assignment import (
    gumbel_mixture,
    nearest,
    rotated,
    sinkhorn,
    squared_distances,
    straight_through,
)
from tastemaker.content.quantizers.kmeans import balanced_kmeans, kmeans, spread_seeds
from tastemaker.content.quantizers.residual import LearnedResiduals, encode, residual_kmeans
from tastemaker.content.quantizers.rq_vae import RQVAE


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def points(n: int = 300, width: int = 8) -> torch.Tensor:
    return torch.randn(n, width, generator=seeded(1))


def islands(n_islands: int = 16, each: int = 20, width: int = 8) -> torch.Tensor:
    """Clusters far apart: rows i * each up to (i + 1) * each lie around centre i."""
    centres = 10 * torch.randn(n_islands, width, generator=seeded(2))
    noise = 0.01 * torch.randn(n_islands * each, width, generator=seeded(3))
    return centres.repeat_interleave(each, 0) + noise


def utilisation(codes: torch.Tensor, size: int) -> float:
    return len(codes.unique()) / size


def test_distances_are_those_of_the_definition():
    a, b = points(20), points(7)
    slow = (a[:, None] - b[None]).square().sum(2)
    torch.testing.assert_close(squared_distances(a, b), slow, rtol=1e-5, atol=1e-4)
    assert squared_distances(a, a).min() >= 0
    torch.testing.assert_close(nearest(a, b), slow.argmin(1))


def test_kmeans_finds_what_scikit_learn_finds_from_the_same_seeds():
    data = points()
    seeds = spread_seeds(data, 10, seeded())
    found = kmeans(data, 10, seeded())
    peer = KMeans(10, init=seeds.numpy(), n_init=1, max_iter=100, tol=0).fit(data.numpy())
    np.testing.assert_array_equal(found.labels.numpy(), peer.labels_)
    np.testing.assert_allclose(found.centres.numpy(), peer.cluster_centers_, atol=1e-4)


def test_seeds_of_separate_clusters_hit_each_of_them():
    data = islands()
    found = nearest(spread_seeds(data, 16, seeded()), data) // 20
    assert sorted(found.tolist()) == list(range(16))


def test_more_clusters_than_distinct_points_lose_nobody():
    data = points(5).repeat(3, 1)
    found = kmeans(data, 9, seeded())
    torch.testing.assert_close(found.centres[found.labels], data)
    assert len(found.labels.unique()) == 5


def test_one_level_is_plain_kmeans_and_each_level_leaves_less():
    data = points()
    books, codes = residual_kmeans(data, 1, 10, seeded())
    plain = kmeans(data, 10, seeded())
    torch.testing.assert_close(codes[:, 0], plain.labels)
    torch.testing.assert_close(books[0], plain.centres)

    books, codes = residual_kmeans(data, 4, 10, seeded())
    again, residuals = encode(data, books)
    torch.testing.assert_close(again, codes)
    norms = residuals.norm(dim=2).mean(1)
    assert (norms[1:] < norms[:-1]).all(), norms
    levels = torch.arange(4)
    torch.testing.assert_close(data - books[levels, codes].sum(1), residuals[-1])


def test_normalised_residuals_use_the_later_levels_better():
    data = torch.cat([islands(8, 50) + 0.05 * points(400), 5 * islands(8, 4)])
    spread = []
    for normalise in (False, True):
        _, codes = residual_kmeans(data, 3, 16, seeded(), normalise=normalise)
        shares = torch.bincount(codes[:, 2], minlength=16) / len(codes)
        spread.append(-(shares * shares.clamp(min=1e-9).log()).sum())
    assert spread[1] > spread[0]


def test_separate_clusters_with_kmeans_codebooks_use_every_code():
    data = islands()
    _, codes = residual_kmeans(data, 2, 16, seeded())
    assert utilisation(codes[:, 0], 16) == 1.0
    assert (codes[:, 0].view(16, 20) == codes[::20, :1]).all()  # one code an island


@pytest.mark.parametrize("size", [7, 16])
def test_balanced_clusters_hold_equally_many(size):
    found = balanced_kmeans(points(100), size, seeded())
    counts = torch.bincount(found.labels, minlength=size)
    assert counts.max() - counts.min() <= 1
    for number in range(size):
        torch.testing.assert_close(
            found.centres[number], points(100)[found.labels == number].mean(0)
        )


def test_sinkhorn_shares_codes_evenly():
    distances = squared_distances(points(64), points(8))
    for epsilon in (0.05, 1.0):
        plan = sinkhorn(distances, epsilon, iterations=500)
        torch.testing.assert_close(plan.sum(0), torch.full((8,), 8.0).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(plan.sum(1), torch.ones(64).double(), atol=1e-3, rtol=0)
    unevenness = [
        torch.bincount(sinkhorn(distances, epsilon).argmax(1), minlength=8).double().std()
        for epsilon in (0.003, 0.05)
    ]
    plain = torch.bincount(distances.argmin(1), minlength=8).double().std()
    assert max(unevenness) < plain


def test_sinkhorn_stays_finite_at_the_smallest_epsilon():
    plan = sinkhorn(squared_distances(points(64), points(8)), 0.003)
    assert plan.isfinite().all()


def test_sinkhorn_is_its_slow_transcription():
    distances = squared_distances(points(6), points(3))
    d = distances.double().numpy()
    middle, amplitude = (d.max() + d.min()) / 2, d.max() - (d.max() + d.min()) / 2
    q = np.exp(-(d - middle) / (amplitude + 1e-5) / 0.1)
    q /= q.sum()
    for _ in range(5):
        for row in range(6):
            q[row] /= q[row].sum() * 6
        for column in range(3):
            q[:, column] /= q[:, column].sum() * 3
    np.testing.assert_allclose(sinkhorn(distances, 0.1, 5).numpy(), q * 6, rtol=1e-6)


def test_straight_through_and_rotation_give_the_codeword():
    z, q = points(10).requires_grad_(), points(20)[10:]
    torch.testing.assert_close(straight_through(z, q), q)
    torch.testing.assert_close(rotated(z, q), q, rtol=1e-4, atol=1e-5)


def test_straight_through_hands_the_gradient_over():
    z, weight = points(10).requires_grad_(), points(20)[10:]
    (straight_through(z, points(30)[20:]) * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_rotation_turns_the_gradient_as_it_turns_the_vector():
    z, q = points(10).requires_grad_(), points(20)[10:]
    rotated(z, q).backward(q)  # a gradient along the codeword comes back along the vector
    cosine = torch.cosine_similarity(z.grad, z.detach())
    torch.testing.assert_close(cosine, torch.ones(10), rtol=0, atol=1e-4)


def test_gumbel_mixture_becomes_a_choice_when_cold():
    torch.manual_seed(0)
    centres = points(5)
    mixed = gumbel_mixture(torch.zeros(50, 5), centres, temperature=1e-4)
    assert squared_distances(mixed, centres).min(1).values.max() < 1e-3


@pytest.mark.parametrize("gradients", ["ste", "rotation", "gumbel"])
def test_in_evaluation_every_kind_gives_the_sum_of_codewords(gradients):
    quantizer = LearnedResiduals(3, 8, 4, gradients=gradients).eval()
    quantizer.start_from(torch.randn(3, 8, 4, generator=seeded()))
    found = quantizer(points(20, 4))
    total = quantizer.codebooks[torch.arange(3), found.codes].sum(1)
    torch.testing.assert_close(found.vectors, total, rtol=1e-4, atol=1e-5)


def test_where_residuals_are_cut_decides_which_levels_reach_the_input():
    books = torch.randn(2, 8, 4, generator=seeded())
    reach = {}
    for cut in ("detach", "ste"):
        quantizer = LearnedResiduals(2, 8, 4, residual_gradient=cut)
        quantizer.start_from(books)
        z = points(20, 4).requires_grad_()
        quantizer(z).losses[1].backward()
        reach[cut] = z.grad.abs().max().item()
    assert reach["ste"] == 0.0
    assert reach["detach"] > 1e-4


def test_losses_are_those_of_the_paper():
    quantizer = LearnedResiduals(2, 8, 4, commitment=0.25)
    quantizer.start_from(torch.randn(2, 8, 4, generator=seeded()))
    z = points(20, 4)
    found, residual = quantizer(z), z
    for level in range(2):
        codeword = quantizer.codebooks[level][found.codes[:, level]]
        expected = 1.25 * (residual - codeword).square().mean()
        torch.testing.assert_close(found.losses[level], expected)
        residual = residual - codeword


def test_running_means_without_memory_are_one_step_of_lloyd():
    data = islands(4, 30, 4)
    quantizer = LearnedResiduals(1, 4, 4, update="ema", decay=0.0)
    quantizer.start_from(data[::30][None] + 0.5)
    quantizer(data)
    labels = nearest(data, data[::30] + 0.5)
    lloyd = torch.stack([data[labels == number].mean(0) for number in range(4)])
    torch.testing.assert_close(quantizer.codebooks[0], lloyd, rtol=1e-4, atol=1e-4)
    assert not quantizer.codebooks.requires_grad


def used_after_training(data, *, restart_below: float, from_kmeans: bool) -> float:
    torch.manual_seed(0)
    quantizer = LearnedResiduals(1, 16, data.shape[1], decay=0.9, restart_below=restart_below)
    if from_kmeans:
        quantizer.start_from(residual_kmeans(data, 1, 16, seeded())[0])
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        quantizer(data).losses.sum().backward()
        optimizer.step()
    quantizer.eval()
    return utilisation(quantizer(data).codes[:, 0], 16)


def test_dead_codes_are_avoided_by_kmeans_or_brought_back():
    data = islands()
    plain = used_after_training(data, restart_below=0.0, from_kmeans=False)
    restarted = used_after_training(data, restart_below=0.5, from_kmeans=False)
    assert used_after_training(data, restart_below=0.0, from_kmeans=True) == 1.0
    assert plain < 0.8
    assert restarted > 0.9


def trained(data: torch.Tensor, quantizer: LearnedResiduals, steps: int = 150) -> RQVAE:
    torch.manual_seed(0)
    model = RQVAE(data.shape[1], (16, 4), quantizer)
    model.start_from(data, seeded())
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        reconstruction, levels = model.losses(data)
        optimizer.zero_grad()
        (reconstruction + levels.sum()).backward()
        optimizer.step()
    return model.eval()


def test_codes_stand_for_the_vectors_they_came_from():
    data = islands(12, 10)
    model = trained(data, LearnedResiduals(3, 8, 4))
    codes, residuals = model.encode(data)
    error = (model.decode(codes) - data).square().mean()
    assert error < 0.25 * data.var()
    norms = residuals.norm(dim=2).mean(1)
    assert (norms[1:] < norms[:-1]).all()
    reconstruction, _ = model.losses(data)
    torch.testing.assert_close(reconstruction, error, rtol=1e-3, atol=1e-4)


def test_an_even_last_level_collides_less():
    data = points(200)
    rates = []
    for epsilon in (0.0, 0.003):
        torch.manual_seed(0)
        model = trained(data, LearnedResiduals(2, 8, 4, evenness=(0.0, epsilon)), steps=80)
        model.quantizer.train()
        codes = model.quantizer(model.encoder(data)).codes
        rates.append(1 - len(codes.unique(dim=0)) / len(data))
    assert rates[1] < rates[0]


def test_kmeans_codes_collide_no_more_than_those_of_an_autoencoder():
    data = points(300)
    _, clustered = residual_kmeans(data, 2, 16, seeded(), normalise=True)
    learned, _ = trained(data, LearnedResiduals(2, 16, 4)).encode(data)
    distinct = [len(codes.unique(dim=0)) for codes in (clustered, learned)]
    assert distinct[0] >= distinct[1]


def test_without_hidden_layers_only_the_codebooks_learn():
    model = RQVAE(8, (), LearnedResiduals(2, 4, 8))
    assert [name for name, _ in model.named_parameters()] == ["quantizer.codebooks"]
    assert math.isfinite(float(model.losses(points())[0]))
