"""torch's own classes beside their equations, as tests/test_equations.py has the others."""

import torch

from tests.recording import Recording, decay


def test_sgd():
    lr, momentum, wd = 0.1, 0.9, 0.01
    b = {}

    def update(i, w, g, step):
        b[i] = momentum * b.get(i, 0) + g + decay(w, wd) * w
        return w - lr * b[i]

    assert Recording("sgd", lr=lr, momentum=momentum, weight_decay=wd).off(update) < 1e-9


def test_adagrad():
    lr, lr_decay, eps, wd = 1e-2, 0.01, 1e-10, 0.01
    s = {}

    def update(i, w, g, step):
        u = g + decay(w, wd) * w
        s[i] = s.get(i, 0) + u**2
        return w - lr / (1 + step * lr_decay) * u / (s[i] ** 0.5 + eps)

    assert Recording("adagrad", lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=wd).off(update) < 1e-9


def test_adafactor():
    lr, beta2_decay, eps1, eps2, d, wd = 1e-2, -0.8, 1e-16, 1e-3, 1.0, 0.1
    r, c, v = {}, {}, {}

    def update(i, w, g, step):
        t = step + 1
        b = 1 - t**beta2_decay
        a = max(eps2, (w**2).mean() ** 0.5) * min(lr, t**-0.5)
        if w.ndim == 2:
            r[i] = b * r.get(i, 0) + (1 - b) * (g**2).mean(1)
            c[i] = b * c.get(i, 0) + (1 - b) * (g**2).mean(0)
            second = torch.outer(r[i], c[i]) / r[i].mean()
        else:
            second = v[i] = b * v.get(i, 0) + (1 - b) * g**2
        u = g / (second**0.5).clamp(min=eps1)
        w = w - lr * decay(w, wd) * w
        return w - a * u / max(1.0, ((u**2).mean() ** 0.5 / d).item())

    run = Recording("adafactor", lr=lr, beta2_decay=beta2_decay, eps=(eps1, eps2), d=d, weight_decay=wd)
    assert run.off(update) < 1e-9
