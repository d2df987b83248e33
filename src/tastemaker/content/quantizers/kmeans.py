"""k-means, plain or with clusters of equal size.

Seeding: "k-means++: The Advantages of Careful Seeding" (SODA 2007). Equal sizes: the balanced
k-means of OneRec (arXiv 2502.18965, alg. 1). One iteration over N points costs O(N K D); a
balanced one O(N K (D + log N)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tastemaker.content.quantizers.assignment import nearest, squared_distances

__all__ = ["Clusters", "balanced_kmeans", "kmeans", "spread_seeds"]


@dataclass(frozen=True)
class Clusters:
    """Centres [K, D] float32 and the centre of each point, [N] int64."""

    centres: Tensor
    labels: Tensor


def spread_seeds(points: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeds: each next one is drawn with the squared distance to those before.

    Args:
        points: [N, D] float.
        n_clusters: K; beyond the number of distinct points, points are drawn evenly.
        generator: of the draws, on the CPU.

    Returns:
        [K, D] float32.
    """
    points = points.float()
    draws = torch.rand(n_clusters, generator=generator, dtype=torch.float64)
    first = int(draws[0] * len(points))
    seeds = points[first : first + 1].repeat(n_clusters, 1)
    distances = squared_distances(points, seeds[:1]).squeeze(1)
    distances[first] = 0.0
    for number in range(1, n_clusters):
        mass = distances.double().cumsum(0)
        even = mass[-1] <= 0
        if even:
            mass = torch.arange(1, len(points) + 1, device=points.device, dtype=torch.float64)
        place = torch.searchsorted(mass, (draws[number] * mass[-1].cpu()).to(mass.device))
        chosen = place.clamp(max=len(points) - 1)
        seeds[number] = points[chosen]
        if not even:
            nearer = squared_distances(points, seeds[number : number + 1]).squeeze(1)
            distances = torch.minimum(distances, nearer)
            distances[chosen] = 0.0
    return seeds


@torch.no_grad()
def kmeans(
    points: Tensor, n_clusters: int, generator: torch.Generator, *, iterations: int = 100
) -> Clusters:
    """Lloyd's k-means from spread seeds, until labels stay or `iterations` are done.

    A cluster that loses all its points takes over the point that lies farthest from its centre.

    Args:
        points: [N, D] float.
        n_clusters: K.
        generator: of the seeds, on the CPU.
        iterations: at most.
    """
    points = points.float()
    centres = spread_seeds(points, n_clusters, generator)
    labels = nearest(points, centres)
    for _ in range(iterations):
        counts = torch.bincount(labels, minlength=n_clusters)
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            errors = (points - centres[labels]).square().sum(1)
            farthest = errors.topk(min(len(empty), len(points))).indices
            farthest = farthest[errors[farthest] > 0]
            centres[empty[: len(farthest)]] = points[farthest]
        found = nearest(points, centres)
        if torch.equal(found, labels):
            break
        labels = found
    return Clusters(centres, labels)


@torch.no_grad()
def balanced_kmeans(
    points: Tensor, n_clusters: int, generator: torch.Generator, *, iterations: int = 20
) -> Clusters:
    """k-means whose clusters hold N / K points each, one more or less at most.

    In each round every centre in turn takes its nearest points that are still free and moves to
    their mean.

    Args:
        points: [N, D] float.
        n_clusters: K, at most N.
        generator: of the seeds, on the CPU.
        iterations: at most; fewer when labels stay.
    """
    points, n_points = points.float(), len(points)
    if n_clusters > n_points:
        raise ValueError(f"{n_clusters} clusters cannot share {n_points} points evenly")
    centres = spread_seeds(points, n_clusters, generator)
    labels = torch.full((n_points,), -1, dtype=torch.int64, device=points.device)
    for _ in range(iterations):
        found = torch.empty_like(labels)
        free = torch.arange(n_points, device=points.device)
        for number in range(n_clusters):
            room = (n_points - number + n_clusters - 1) // n_clusters
            distances = squared_distances(points[free], centres[number : number + 1]).squeeze(1)
            order = distances.argsort(stable=True)
            taken = free[order[:room]]
            found[taken] = number
            centres[number] = points[taken].mean(0)
            free = free[order[room:]].sort().values
        if torch.equal(found, labels):
            break
        labels = found
    return Clusters(centres, labels)
