"""What bench_suite makes of its rounds."""

from scripts.suite import throughput


def test_the_arithmetic_of_rows():
    def one(system, match, variant, number, rate):
        about = {"micro_batch": 8, "peak_bytes": 1, "syncs_per_update": 0, "flops_per_token": 10, "commit": "abc"}
        return {"model": "m", "match": match, "round": number, "system": system, "variant": variant,
                "tokens_per_second": rate, **about}  # fmt: skip

    rounds = [one("halfstep", "plain", "plain", i, rate) for i, rate in enumerate((100, 120, 110))]
    rounds += [one("nanogpt", "plain", "plain", i, rate) for i, rate in enumerate((80, 100, 110))]
    rounds += [one("halfstep", "micro=2", "plain", 0, 50), one("halfstep", "micro=2", "micro=2", 0, 60)]
    book = {"rounds": rounds, "device": {"peak_flops": 2000.0}, "matmul_flops": 1600.0}
    rows = {(row["system"], row["variant"]): row for row in throughput.rows(book)}
    ours = rows["halfstep", "plain"]
    assert (ours["tokens_per_second"], ours["lowest"], ours["highest"], ours["rounds"]) == (110, 100, 120, 3)
    assert (ours["mfu"], ours["of_matmul"]) == (0.55, 0.6875)
    assert ours["beside"] == {"what": "nanogpt", "median": 1.2, "low": 1.0, "high": 1.25}
    assert rows["nanogpt", "plain"]["beside"] is None
    assert rows["halfstep", "micro=2"]["beside"] == {"what": "plain", "median": 1.2, "low": 1.2, "high": 1.2}
