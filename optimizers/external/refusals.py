"""Refusals are classes that cannot be compared in one training run of a language model, and what to take instead.

A class that merely fails is named by its own error. These would fail without a useful one, or train as something else.
"""

FUSED = "updates each weight inside the backward pass, before the whole gradient is there to be clipped and measured"
REFUSED = {
    ("torch", "SparseAdam"): "takes sparse gradients alone, and a language model's are dense: take torch.optim.Adam",
    ("pytorch_optimizer", "LoRARite"): "works on pairs of LoRA factors, and a whole model has none: take another class",
    ("pytorch_optimizer", "LOMO"): f"{FUSED}: take torch.optim.SGD, whose rule it has",
    ("pytorch_optimizer", "AdaLOMO"): f"{FUSED}: take torch.optim.Adafactor, whose rule it has",
    ("pytorch_optimizer", "GSAM"): "takes its radius from a scheduler object, which no config can hold, and the "
    "model's outputs from its closure: take pytorch_optimizer.SAM or pytorch_optimizer.WSAM, whose radius is a number",
    ("pytorch_optimizer", "MuonClip"): "clips by the largest attention logits, which a training loop would have to "
    "pass to its step; without them it is pytorch_optimizer.Muon: take that",
    ("pytorch_optimizer", "PCGrad"): "projects the gradients of several tasks on one another, and here is one loss, "
    "with which it is the optimizer that it wraps: take that",
    ("pytorch_optimizer", "SafeFP16Optimizer"): "is for float16 weights and scales the loss itself: take the optimizer "
    "that it wraps, with dtype=bfloat16 if memory is short",
    ("heavyball", "PSGDBase"): "is the base class of others, and no optimizer: take heavyball.PSGDKron",
    ("heavyball", "SOAPBase"): "is the base class of others, and no optimizer: take heavyball.SOAP",
}


def refusal(constructor: type) -> str | None:
    """Return why a class is refused and what to take instead, or None."""
    reason = REFUSED.get((constructor.__module__.partition(".")[0], constructor.__name__))
    return f"{constructor.__name__} {reason}" if reason else None
