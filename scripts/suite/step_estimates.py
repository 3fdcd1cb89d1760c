"""Estimates of what an optimizer's step takes on an H100, made before anything was measured on one.

The memory traffic at the data sheet's bandwidth (3.35 TB/s) and the matrix work at its dense rates (989 TFLOP/s in
bfloat16, half of that in TF32, 67 in float32), for GPT-2 of 124M parameters and 524,288 tokens per update. An H200's
memory is 1.4 times as fast.
"""

from scripts.suite.goals import DEVICES, MODEL

# Milliseconds of a mean step, by optimizer and keywords.
ESTIMATES = [
    ("sgd", ".74"),
    ("lion", ".74"),
    ("sophia_g", ".93"),
    ("sophia_h", ".93"),
    ("adamw", "1.04"),
    ("lamb", "1.0 to 1.5"),
    ("adahessian", "1.2"),
    ("muon", "2.4"),
    ("soap", "33, and 7.7 of QR"),
    ("soap projection_dtype=tf32", "5.6, and 7.7 of QR"),
    ("soap qr=cholesky", "33, and .9 of QR"),
    ("mkor", ".6 to 1.5"),
]
NOTE = (
    "Estimated: memory traffic and products of a step at an H100's data sheet, before anything was measured; SOAP's at "
    "a refresh every 10 steps, all products in the precision of the projections. K-FAC's statistics of all tokens were "
    "put at 341 TFLOPs per update, 76 % of forward and backward.\n\n"
)


def estimated(device: str, model: str, way: str) -> str:
    """Nothing where the device, the model or the way is another. way: the optimizer and its other keywords."""
    here = model == MODEL and any(name in device for name in DEVICES)
    return next((text for known, text in ESTIMATES if known == way), "") if here else ""
