"""Kronecker factors and their eigenbases: what SOAP and Shampoo stand on."""

import pytest
import torch
from torch import Tensor

from harness.flops import count
from optimizers.base import condense
from optimizers.eigenbasis import (
    cholesky_orthonormal,
    cholesky_orthonormal_flops,
    first_basis,
    next_power,
    orthonormal,
    orthonormal_flops,
)
from optimizers.kronecker import average_gram_, complete_, eigh, gram_flops, spectrum_readings, spread


def drawn(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


@pytest.mark.parametrize("n", [1, 5, 64, 300])
def test_orthonormal_is_the_q_of_qr(n):
    matrix = drawn((n, n), 1)[0]
    expected = torch.linalg.qr(matrix).Q
    q = orthonormal(matrix.clone())
    assert torch.allclose(q, expected, atol=1e-11)
    assert torch.allclose(q.T @ q, torch.eye(n, dtype=torch.float64), atol=1e-13)
    assert count(lambda: orthonormal(matrix)) == pytest.approx(orthonormal_flops(n), rel=1e-3, abs=2)


def drifted(n: int, condition: float, dtype: torch.dtype) -> Tensor:
    """L Q, of a factor that has moved on a little from where Q was its basis."""
    basis = torch.linalg.qr(drawn((n, n), 1)[0]).Q
    values = torch.logspace(0, -1, n, base=condition, dtype=torch.float64)
    turned = torch.linalg.qr(basis + 0.1 / n**0.5 * drawn((n, n), 1, seed=1)[0]).Q
    return next_power((turned * values @ turned.T).to(dtype), basis.to(dtype))[0]


@pytest.mark.parametrize("n", [1, 5, 200])
def test_cholesky_finds_the_same_basis(n):
    power = drifted(n, 1e6, torch.float64)
    q, sound = cholesky_orthonormal(power)
    assert sound
    expected = torch.linalg.qr(power).Q
    assert torch.allclose(q * (q * expected).sum(0).sign(), expected, atol=1e-9)
    assert count(lambda: cholesky_orthonormal(power)) == pytest.approx(cholesky_orthonormal_flops(n), rel=1e-3, abs=3)


def test_cholesky_is_orthonormal_in_float32_where_columns_are_short_and_long():
    """Columns' lengths a million apart, which the square of float32 could not bear unscaled."""
    power = drifted(200, 1e6, torch.float32)
    q, sound = cholesky_orthonormal(power)
    assert sound
    assert (q.T @ q - torch.eye(200)).abs().max() < 1e-6  # eight of float32's eps; whose kernels differ in the last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cholesky_says_when_it_failed(dtype):
    singular = drawn((30, 30), 1)[0].to(dtype)
    singular[:, 7] = 0
    dependent = drawn((30, 30), 1)[0].to(dtype)
    dependent[:, 7] = dependent[:, 3]
    for matrix in (singular, dependent, torch.zeros(30, 30, dtype=dtype), singular * torch.nan):
        assert not cholesky_orthonormal(matrix)[1]


def test_the_first_basis_has_no_room_for_rounding():
    """Two sums of one rank-deficient factor agree to rounding; so do our bases of it, and eigh's do not."""
    g = drawn((24, 6), 1)[0]
    factors = [g @ g.T, sum(torch.outer(column, column) for column in g.T)]
    one, other = ((q * q[-1].sign()) for q in (first_basis(f)[0] for f in factors))
    assert (one - other).abs().max() < 1e-9
    assert (one.T @ one - torch.eye(24)).abs().max() < 1e-12
    values = torch.diag(one.T @ factors[0] @ one)
    assert torch.allclose(one @ values.diag() @ one.T, factors[0], atol=1e-10)
    one, other = (eigh(f)[1] for f in factors)
    assert (one.abs() - other.abs()).abs().max() > 0.05


def test_the_basis_follows_its_factor():
    g = drawn((20, 200), 1)[0] * torch.logspace(0, -2, 20, dtype=torch.float64)[:, None]
    factor = g @ g.T
    basis = torch.eye(20, dtype=torch.float64)
    for _ in range(60):
        power, _, values = next_power(factor, basis)
        basis = orthonormal(power)
    off = basis.T @ factor @ basis
    assert (off - off.diag().diag()).norm() < 1e-6 * off.norm()
    assert torch.allclose(values, torch.linalg.eigvalsh(factor).flip(0), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 5, 64, 90, 700])
def test_half_a_gram_matrix_is_enough(n):
    factor, whole = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for x in drawn((n, 7), 3):
        average_gram_(factor, x, 0.9)
        whole = 0.9 * whole + 0.1 * x @ x.T
    assert torch.allclose(complete_(factor), whole, atol=1e-13)
    assert count(lambda: average_gram_(factor, x, 0.9)) == gram_flops(n, 7)


def test_eigh_falls_back_to_float64_and_lets_nan_pass(monkeypatch):
    factor = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    lapack = torch.linalg.eigh

    def stubborn(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return lapack(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    values, vectors = eigh(factor)
    assert values.tolist() == [3, 2, 1]
    assert vectors.dtype == torch.float32
    assert vectors.abs().tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    monkeypatch.undo()
    values, vectors = eigh(factor * torch.nan)
    assert values.isnan().all()
    assert vectors.isnan().all()


def test_costs_are_spread_evenly():
    costs = [9, 9, 5, 4, 4, 3, 1, 0]
    steps = spread(costs, 4)
    assert max(sum(c for c, s in zip(costs, steps, strict=True) if s == step) for step in range(4)) <= 10
    assert spread(costs, 1) == [0] * 8


def metrics_of(spectra):
    """Return the scalars that are logged of such eigenvalues."""
    return condense([spectrum_readings(spectra)])


def test_what_spectra_tell():
    result = metrics_of([torch.tensor([4.0, 2.0]), torch.tensor([9.0, 1.0]), torch.tensor([1.0, 0.0])])
    assert float(result["condition"]) == pytest.approx(9)
    assert float(result["effective_rank"]) == pytest.approx(10**2 / (2 * 82))
    singular = metrics_of([torch.tensor([1e-30, 0.0, -1e-38])])
    assert float(singular["condition"]) == pytest.approx(1 / torch.finfo(torch.float32).eps)
    assert float(singular["effective_rank"]) == pytest.approx(1 / 3)
    assert metrics_of([torch.zeros(3)])["effective_rank"] == 0
    assert metrics_of([]) == {}
