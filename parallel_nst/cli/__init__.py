"""The command `pnst`."""

import time

BEGAN = time.perf_counter()  # of the program: what is loaded from here on is part of the start-up that a run reports
