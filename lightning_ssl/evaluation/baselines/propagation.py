"""Label propagation over the graph of nearest neighbours."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_ssl.evaluation.baselines.pool import Pool, Transduced
from lightning_ssl.evaluation.neighbors import nearest_rows


def propagation(
    pool: Pool,
    *,
    neighbors: int = 50,
    alpha: float = 0.99,
    exponent: float = 3.0,
    temperature: float = 0.1,
    prior: Tensor | None = None,
) -> Transduced:
    r"""Labels spread over the graph of nearest neighbours, with the mass of each class fixed.

    .. math:: W_{ij} = \max(0, \cos(x_i, x_j))^\gamma, \quad
        S = D^{-1/2} (W + W^\top) D^{-1/2}, \quad
        (I - \alpha S) z_c = y_c / n_c

    for the nearest neighbours j of i, i itself excluded. The solutions are cut at 0, brought to the
    prior's sum for each class and then to the sum 1 for each row; labelled rows keep their label.
    Without the first sum the classes of the denser regions take all (Zhu, Ghahramani and Lafferty,
    2003, sec. 5 fix the mass for the same reason). A row that no label reaches gets the prior.

    New rows get the labels of their nearest neighbours by
    :func:`lightning_ssl.losses.soft_nearest_neighbors`.

    Reference: Iscen et al., 2019, https://arxiv.org/abs/1904.04717, sec. 3 and 4: k 50, gamma 3,
    alpha 0.99. They end after 20 iterations of conjugate gradients, here at a residual of 1e-6, and
    weigh the classes later, in the loss.

    Args:
        pool: The features.
        neighbors: Nearest neighbours of a row; all others, where there are fewer.
        alpha: How far labels go, in [0, 1).
        exponent: :math:`\gamma` above 0.
        temperature: Of the neighbours of new rows, above 0, in units of the cosine.
        prior: Share of each class ``(C,)``, at least 0; None for equal shares. Classes without a
            label have none.

    Returns:
        The probabilities; those of training rows are float64.
    """
    count = min(neighbors, len(pool.features) - 1)
    every = torch.arange(len(pool.features), device=pool.features.device)
    cosines, rows = nearest_rows(pool.features, pool.features, count, own=every)
    weights = cosines.clamp(min=0).double() ** exponent
    labels = pool.labels.double().cpu().numpy()
    sources = np.zeros((len(every), pool.num_classes))
    sources[pool.rows.cpu().numpy()] = labels / np.maximum(labels.sum(axis=0), 1)
    found = _solve(weights.cpu().numpy(), rows.cpu().numpy(), sources, alpha).clip(min=0)

    present = labels.sum(axis=0) > 0
    shares = np.ones(pool.num_classes) if prior is None else prior.double().cpu().numpy()
    shares = shares * present / (shares * present).sum()
    found = found / np.where(present, found.sum(axis=0), 1) * shares
    mass = found.sum(axis=1, keepdims=True)
    found = np.where(mass > 0, found / np.where(mass > 0, mass, 1), shares)
    found[pool.rows.cpu().numpy()] = labels
    train = torch.from_numpy(found).to(pool.features.device)

    cosines, rows = nearest_rows(pool.test, pool.features, count)
    attention = (cosines.double() / temperature).softmax(dim=1)
    return Transduced(train, torch.einsum("mk,mkc->mc", attention, train[rows]))


def _solve(
    weights: NDArray[np.float64],
    rows: NDArray[np.int64],
    sources: NDArray[np.float64],
    alpha: float,
) -> NDArray[np.float64]:
    """Solutions of all classes ``(N, C)``, each by conjugate gradients."""
    from scipy import sparse
    from scipy.sparse.linalg import cg

    size, count = weights.shape
    starts = np.arange(0, size * count + 1, count)
    graph = sparse.csr_matrix((weights.ravel(), rows.ravel(), starts), shape=(size, size))
    graph = graph + graph.T
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sparse.diags(np.where(degree > 0, degree, 1) ** -0.5)
    system = sparse.identity(size) - alpha * (scale @ graph @ scale)
    return np.stack([cg(system, column, rtol=1e-6)[0] for column in sources.T], axis=1)
