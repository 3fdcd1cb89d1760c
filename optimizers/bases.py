"""A matrix's gradient is seen in the eigenbases of its two Kronecker factors: what SOAP and its relatives share.

    G' = QL^T G QR
    L <- b L + (1 - b) G G^T,   R <- b R + (1 - b) G^T G
    every k steps: QL, QR follow L, R; M is rotated and V permuted with them

QL and QR are the eigenvectors of L and R: by eigh the first time, by one step of the power iteration and QR from then
on. An optimizer keeps its momentum M and its squares V in the basis; kept there the momentum takes three products with
G's shape per step and side instead of five, and changes nothing while the basis stands.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Reading
from .checks import check_at_least
from .eigenbasis import (
    cholesky_orthonormal,
    first_basis,
    first_basis_flops,
    next_basis_flops,
    next_power,
    orthonormal,
)
from .kronecker import SIDES, average_gram_, complete_, gram_flops, spectrum_readings
from .pieces import Matrix, matrices
from .rotation import DTYPES, rotate, rotate_back, rotation_flops

State = MutableMapping[str, Tensor]


class Bases:
    """These settings and rules hold for all matrices of an optimizer, whose state is in the optimizer alone.

    The state of an (a, b) matrix has, for each side of length n that is rotated, a factor, e.g. `left` (n, n), its
    `left_basis` (n, n) and its eigenvalues `left_values` (n,). The optimizer adds its `m` (a, b), and `v` (a, b) or the
    `rows` (a,) and `columns` (b,) that stand for it, which move with the basis.

    Args:
        every: updates between refreshes of the basis.
        max_side: a longer side is not rotated.
        split_qkv: take apart what holds several matrices; False: it is one matrix.
        block: cut matrices into blocks of so many rows and columns at most; None: whole.
        one_sided: rotate the shorter side only (of a square: the right).
        stagger: refresh different matrices on different steps.
        projection_dtype: of the products that take the gradient into the basis and the step out of it: float32 (or
            wider, as the state is), tf32 or bfloat16.
        qr: of a refresh, householder or cholesky.
        gram: of L and R, strips or triton.
    """

    def __init__(
        self,
        *,
        every: int,
        max_side: int,
        split_qkv: bool,
        block: int | None,
        one_sided: bool,
        stagger: bool,
        projection_dtype: str,
        qr: str,
        gram: str,
    ) -> None:
        check_at_least("every", every, 1)
        check_at_least("max_side", max_side, 1)
        if block is not None:
            check_at_least("block", block, 1)
        if projection_dtype not in DTYPES:
            raise ValueError(f"projection_dtype must be {', '.join(DTYPES)}, not {projection_dtype!r}")
        if qr not in ("householder", "cholesky"):
            raise ValueError(f"qr must be householder or cholesky, not {qr!r}")
        if gram not in ("strips", "triton"):
            raise ValueError(f"gram must be strips or triton, not {gram!r}")
        self.every, self.max_side, self.one_sided = every, max_side, one_sided
        self.projection_dtype, self.qr, self.gram = projection_dtype, qr, gram
        self.cutting: dict[str, Any] = {"split": split_qkv, "block": block, "every": every, "stagger": stagger}
        self.unsure: list[tuple[State, Matrix, int, Tensor]] = []  # refreshed in this step, if Cholesky's factor exists

    def lay_out(self, groups: Sequence[Mapping[str, Any]]) -> dict[Tensor, list[Matrix]]:
        """Cut parameters into matrices, each with the sides that are rotated and its turn to be refreshed.

        Raises:
            ValueError: a parameter is on the CPU, and a setting is for CUDA alone.
        """
        if any(p.device.type == "cpu" for group in groups for p in group["params"]):
            if self.projection_dtype == "tf32":
                raise ValueError("projection_dtype must be float32 or bfloat16 where the model is on no CUDA device")
            if self.gram == "triton":
                raise ValueError("gram must be strips where the model is on no CUDA device")
        return matrices(groups, self._sides, self._qr_flops, **self.cutting)

    def _sides(self, shape: Sequence[int], table: bool) -> list[int]:
        """Return the sides that are rotated: 0 the rows, 1 the columns."""
        if len(shape) != 2:
            return []
        axes = [1] if table else [0, 1]
        if self.one_sided and not table:
            axes = [0] if shape[0] < shape[1] else [1]
        return [axis for axis in axes if shape[axis] <= self.max_side]

    def begin(self, g: Tensor, state: State, axes: list[int], beta: float) -> int:
        """Start the factors with a first gradient, and take their eigenvectors; return the FLOPs of it."""
        for axis in axes:
            state[SIDES[axis]] = g.new_zeros(g.shape[axis], g.shape[axis])
        self._average(g, state, axes, beta)
        for side in (SIDES[axis] for axis in axes):
            state[f"{side}_basis"], state[f"{side}_values"] = first_basis(complete_(state[side]))
        return self._gram_flops(g.shape, axes) + sum(first_basis_flops(g.shape[axis]) for axis in axes)

    def enter(self, g: Tensor, state: State, axes: list[int], beta: float) -> Tensor:
        """Return the gradient in the basis, G itself where no side is rotated; its factors are averaged with it."""
        rotated = rotate(g, state, self.projection_dtype)
        self._average(g, state, axes, beta)
        return rotated

    def leave(self, x: Tensor, state: State) -> Tensor:
        """Return QL x QR^T."""
        return rotate_back(x, state, self.projection_dtype)

    def refresh(self, state: State, matrix: Matrix, t: float) -> int:
        """Let the bases follow their factors where update t is the matrix's turn; return the FLOPs of it."""
        return self._follow(state, matrix, matrix.sides) if t % self.every == matrix.due else 0

    def step_flops(self, shape: Sequence[int], axes: list[int]) -> int:
        """Count the FLOPs of `enter` and `leave`."""
        return 2 * rotation_flops(shape, axes) + self._gram_flops(shape, axes)

    def mean_flops(self, matrix: Matrix) -> float:
        """Count the FLOPs of a mean step: `enter`, `leave`, and a share of a refresh, which rotates the momentum."""
        shape, axes = matrix.piece.shape, matrix.sides
        refresh = 2 * rotation_flops(shape, axes) + self._qr_flops(shape, axes)
        return self.step_flops(shape, axes) + refresh / self.every

    def projection_flops(self, matrix: Matrix) -> int:
        """Count those FLOPs of a step that are in `projection_dtype`."""
        return 2 * rotation_flops(matrix.piece.shape, matrix.sides)

    def numbers(self, matrix: Matrix) -> int:
        """Count the numbers of state."""
        return sum(2 * matrix.piece.shape[axis] ** 2 + matrix.piece.shape[axis] for axis in matrix.sides)

    def rule(self, matrix: Matrix) -> str:
        """Name the sides that are rotated, in a few words; nothing where there are none."""
        named = [f"{('rows', 'columns')[axis]} ({matrix.piece.shape[axis]})" for axis in matrix.sides]
        return f"in the eigenbasis of its {' and '.join(named)}" if named else ""

    def readings(self, states: Iterable[Mapping[str, Any]]) -> dict[str, Reading | float]:
        """Return condition and effective rank of the factors as of their last refresh."""
        return spectrum_readings(value for state in states for key, value in state.items() if "_values" in key)

    def _average(self, g: Tensor, state: State, axes: Iterable[int], beta: float) -> None:
        average = self._gram_kernel()[0]
        for axis in axes:
            average(state[SIDES[axis]], g if axis == 0 else g.mT, beta)

    def _gram_flops(self, shape: Sequence[int], axes: Iterable[int]) -> int:
        return sum(self._gram_kernel()[1](shape[axis], shape[1 - axis]) for axis in axes)

    def _gram_kernel(self) -> tuple[Callable[[Tensor, Tensor, float], Tensor], Callable[[int, int], int]]:
        """Return the function that averages x x^T into a factor, and one that counts its FLOPs."""
        if self.gram == "triton":
            from . import gram_triton

            return gram_triton.average_gram_, gram_triton.gram_flops
        return average_gram_, gram_flops

    def _next_power(self, state: State, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return what becomes the next basis when made orthonormal, its columns' order, and their eigenvalues."""
        return next_power(complete_(state[side]), state[f"{side}_basis"])

    def _follow(self, state: State, matrix: Matrix, axes: list[int], qr: str = "") -> int:
        """Refresh the bases of some of a matrix's sides; return the FLOPs of it."""
        qr = qr or self.qr
        momentum = rotate_back(state["m"], state)
        for axis in axes:
            side = SIDES[axis]
            power, order, values = self._next_power(state, side)
            if qr == "cholesky":
                basis, sound = cholesky_orthonormal(power)
                # Where it failed the basis stays as it is; the choice is made on the device, and read by `mend`.
                basis = torch.where(sound, basis, state[f"{side}_basis"])
                order = torch.where(sound, order, torch.arange(len(order), device=order.device))
                self.unsure.append((state, matrix, axis, sound))
            else:
                basis = orthonormal(power)
            state[f"{side}_basis"], state[f"{side}_values"] = basis, values
            if "v" in state:
                state["v"] = state["v"].index_select(axis, order)
            else:
                sums = ("rows", "columns")[axis]
                state[sums] = state[sums][order]
        state["m"] = rotate(momentum, state)
        shape = matrix.piece.shape
        return 2 * rotation_flops(shape, matrix.sides) + self._qr_flops(shape, axes, qr)

    def mend(self) -> int:
        """Follow by Householder's reflections where Cholesky's factor did not exist; one wait for the device.

        To be called at the end of a step; returns the FLOPs of it.
        """
        if not self.unsure:
            return 0
        unsure, self.unsure = self.unsure, []
        sound = torch.stack([each for *_, each in unsure]).tolist()
        failed = [each for each, fine in zip(unsure, sound, strict=True) if not fine]
        return sum(self._follow(state, matrix, [axis], "householder") for state, matrix, axis, _ in failed)

    def _qr_flops(self, shape: Sequence[int], axes: Iterable[int], qr: str = "") -> int:
        return sum(next_basis_flops(shape[axis], qr or self.qr) for axis in axes)
