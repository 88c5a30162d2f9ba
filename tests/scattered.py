"""A pool for tests: several workers in this process that finish in any order and may be lost at any time."""

import random

from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Here, RanksLost, run_here
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import Worker

MOST_LOSSES = 2  # in a row, of workers that work together


class Scattered:
    """`size` workers; results come in a drawn order.

    loss: probability that a worker is replaced before a task, so that what earlier tasks left with it is gone, or that
    one of several that work together is lost at something that it tells.
    `tasks`: all that were given, in the order they were run.
    """

    waited, moved, mortal = 0.0, 0, True

    def __init__(self, spec, size=3, loss=0.0, seed=0):
        self.spec, self.size, self.loss = spec, size, loss
        self.tasks = []
        self.lost = 0  # in a row
        self._workers = [Worker(spec) for _ in range(size)]
        self._random = random.Random(seed)

    def map(self, tasks, on_progress=None):
        return self._run(
            [(index, self._random.randrange(self.size), task) for index, task in enumerate(tasks)], on_progress
        )

    def map_pinned(self, tasks, on_progress=None):
        return self._run([(i, pinned.pin % self.size, pinned.task) for i, pinned in enumerate(tasks)], on_progress)

    def _run(self, jobs, on_progress):
        """Each worker's tasks in their order, the workers interleaved at random, results shuffled within that."""
        queues = [[job for job in jobs if job[1] == number] for number in range(self.size)]
        finished = []
        while any(queues):
            index, number, task = self._random.choice([queue for queue in queues if queue]).pop(0)
            worker = self._workers[number]
            if self._random.random() < self.loss:
                worker.left_by("lost")
            self.tasks.append(task)
            finished.append((index, run_here(worker, index, task, on_progress)))
        self._random.shuffle(finished)
        yield from finished

    def muster(self, ranks):
        """Any number from 1 on, up to what there is."""
        return self._random.randint(1, min(ranks, self.size)) if self.loss else min(ranks, self.size)

    def together(self, works):
        threads = ThreadPool(self.spec, Crew(len(works), 1, None), 1)
        events = threads.together(works)
        try:
            while True:
                yield next(events)
                if self.lost < MOST_LOSSES and self._random.random() < self.loss / 3:
                    self.lost += 1
                    raise RanksLost("drawn")
        except StopIteration as end:
            self.lost = 0
            return end.value
        finally:
            events.close()
            threads.close()

    def share(self, value):
        return Here(value)

    def close(self):
        pass
