"""Numbers as a person reads them in a table."""


def flops(value: float | None) -> str:
    """Write a number of FLOPs: `4.12e14`."""
    if value is None:
        return "unknown"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def seconds(value: float | None) -> str:
    """Write seconds: `8.4 s`, `12 min 5 s` or `3 h 20 min`."""
    if value is None:
        return "unknown"
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def hours(seconds: float) -> str:
    """Write seconds in hours: `0.17`, `3.5` or `120`."""
    value = seconds / 3600
    return f"{value:,.0f}" if 10 <= value < 1e5 else f"{value:.2g}"


def size(value: float) -> str:
    """Write a number of bytes: `81.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def steps(value: float | None) -> str:
    """Write a number of steps: `12,500`."""
    return "unknown" if value is None else f"{value:,.0f}"


def loss(value: float | None, spread: float | None = None) -> str:
    """Write a loss, `3.1416 ± 0.0021`: mean and standard deviation over seeds, nats per token."""
    if value is None:
        return "none"
    return f"{value:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def short(value: float) -> str:
    """Write a number in few digits: `1,200`, `0.35`, `4.1e14`."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


AXIS = {"steps": steps, "flops": flops, "seconds": seconds}
TITLE = {"steps": "steps", "flops": "FLOPs", "seconds": "seconds"}
