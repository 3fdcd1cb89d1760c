"""Made-up sides, which a worker builds as it builds any other: they break, hang or run out of memory."""

import os
import time
from pathlib import Path


class Steady:
    """Takes `seconds` an update. fails_at: the turn from which on it does as `how` says."""

    def __init__(self, seconds=1.0, how="", fails_at=0, micro=8, fits=8, log=""):
        self.seconds, self.how, self.fails_at, self.micro, self.fits, self.log = (
            seconds,
            how,
            fails_at,
            micro,
            fits,
            log,
        )
        self.turns = 0
        if fails_at < 0:
            self.fail()

    def warm_up(self):
        return self.seconds

    def facts(self):
        return {"period": 1, "micro": self.micro}

    def turn(self, updates, parts):
        self.turns += 1
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{self.seconds} ")
        if self.how and self.turns > self.fails_at:
            self.fail()
        return {"seconds": self.seconds, "updates": updates, "micro": self.micro}

    def fail(self):
        if self.how == "breaks":
            raise RuntimeError("it cannot\nand says more")
        if self.how == "hangs":
            time.sleep(600)
        if self.how == "dies":
            os._exit(1)
        if self.how == "memory" and self.micro > self.fits:
            raise RuntimeError("the compiler says\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")


def once(value):
    Path(os.devnull).touch()
    return {"value": value}
