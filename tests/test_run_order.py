"""Conformance does what a run does, in its order: it evaluates before the first step, and trains in training mode."""

from tests.test_verdict import Sound, rows


class HeadlessTrain(Sound):
    """A class of two sets of weights that begins in neither mode, and has no average yet before its first step."""

    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, lr)
        self.mode = None

    def train(self):
        self.mode = "train"

    def eval(self):
        assert all(self.state[p]["momentum_buffer"] is not None for g in self.param_groups for p in g["params"])
        self.mode = "eval"

    def step(self, closure=None):
        assert self.mode == "train", "call train() before step()"
        return super().step(closure)


class FailsToEvaluate(HeadlessTrain):
    """It passes every check but for a run's own evaluation."""

    def eval(self):
        raise KeyError("ema")


def test_conformance_does_what_a_run_does_in_its_order():
    assert rows("tests.test_run_order.HeadlessTrain").keys() <= {"frozen and unused parameters stay"}
    failed = rows("tests.test_run_order.FailsToEvaluate")
    assert failed["the loss falls"] == "KeyError: 'ema'"
