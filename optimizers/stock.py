"""torch.optim's own classes, entered as they are."""

import torch

from optimizers.registry import register

register("adamw", summary="Adam with decoupled weight decay", paper="arXiv 1711.05101")(torch.optim.AdamW)
register("sgd", summary="gradient descent with momentum", paper="Sutskever et al., ICML 2013")(torch.optim.SGD)
register("adagrad", summary="steps shrink with the summed squared gradient", paper="Duchi et al., JMLR 2011")(
    torch.optim.Adagrad
)
register("adafactor", summary="Adam with a factored second moment", paper="arXiv 1804.04235", charges=False)(
    torch.optim.Adafactor  # it multiplies its factors back together
)
