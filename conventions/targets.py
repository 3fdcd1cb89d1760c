"""A convention of data, models and the harness on the tokens to be predicted."""

UNCOUNTED = -100  # a target that no loss counts, as torch's cross_entropy has it; other negative ones neither
