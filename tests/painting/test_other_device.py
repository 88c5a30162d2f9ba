"""Tasks on a device other than the CPU: what comes back is on the CPU, what goes there is brought there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from other_device import DEVICE, MOVES, There, other_device
from tiny_networks import tiny_resolved, tiny_state
from torch.utils._python_dispatch import TorchDispatchMode

from parallel_nst.painting.exact.rank import Course, PaintShard
from parallel_nst.painting.independent.targets import MeasureGrams
from parallel_nst.painting.independent.tasks import OptimiseTile, PackState, Round
from parallel_nst.painting.style_targets import MeasureStyle
from parallel_nst.painting.tiles.geometry import gather, plan_tiles, whole_tile
from parallel_nst.painting.tiles.ownership import deal
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import Here, SerialPool, only
from parallel_nst.workers.ranks.communicator import Alone
from parallel_nst.workers.worker import Progress, Task, Worker, WorkerSpec

SIZE = 24, 32
SPECS = {name: WorkerSpec(name, "float64", 1, {"embedded": tiny_state()}) for name in ("cpu", DEVICE.type)}
Run = Callable[[Task, Worker], Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, *SIZE))


def run(task: Task, worker: Worker) -> Any:
    return only(SerialPool(worker.spec, worker).map([task]))


def measured() -> MeasureStyle:
    return MeasureStyle(pixels(0), whole_tile(*SIZE), tiny_resolved())


def tile(optimizer: Any) -> OptimiseTile:
    style = run(measured(), Worker(SPECS["cpu"])).targets
    resolved = tiny_resolved(Recipe(optimizer=optimizer, history=2))
    return OptimiseTile(pixels(1), pixels(2), style, resolved, whole_tile(*SIZE), steps=6)


def first_half(task: OptimiseTile, worker: Worker) -> tuple[Any, Any]:
    """What three steps give, and the optimiser's state."""
    return run(replace(task, round=Round("a", 0, 3)), worker), run(PackState("a", task.tile.index), worker)


def there(make: Callable[[], Any]) -> Any:
    """What is made while the other device is there; none of it may be left on it."""
    with other_device():
        made = make()
    check(made)
    return made


def check(value: Any) -> None:
    assert not isinstance(value, There)
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            check(part)
    elif hasattr(value, "__dataclass_fields__"):
        check([getattr(value, name) for name in value.__dataclass_fields__])


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_tile_is_stopped_and_taken_up_by_another_worker(optimizer: str) -> None:
    """Its state travels on the CPU, whichever device each worker has."""
    task = tile(optimizer)
    whole = run(task, Worker(SPECS["cpu"]))
    for first in SPECS:
        half, state = there(lambda first=first: first_half(task, Worker(SPECS[first])))
        rest = replace(task, start=half.pixels, round=Round("a", 3, 6, state))
        kept = run(rest, Worker(SPECS["cpu"]))
        end = there(lambda rest=rest: run(rest, Worker(SPECS[DEVICE.type])))
        np.testing.assert_allclose(end.pixels, kept.pixels, atol=1e-6)
        assert end.loss == pytest.approx(kept.loss, rel=1e-6)
        assert end.loss < 1.05 * whole.loss


def test_what_a_worker_hands_out_is_not_what_it_works_on() -> None:
    """The state that it keeps goes on changing."""
    task, worker = tile("lbfgs"), Worker(SPECS["cpu"])
    half, state = first_half(task, worker)
    before = {name: value.clone() for name, value in state.items()}
    run(replace(task, start=half.pixels, round=Round("a", 3, 6)), worker)
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_measures_are_those_of_the_cpu() -> None:
    grams = MeasureGrams(pixels(1), whole_tile(*SIZE), tiny_resolved())

    def all_of(name: str) -> Any:
        worker = Worker(SPECS[name])
        return run(measured(), worker), run(grams, worker)

    expected, found = all_of("cpu"), there(lambda: all_of(DEVICE.type))
    for name, value in expected[0].grams.items():
        torch.testing.assert_close(found[0].grams[name], value)
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value)


def test_the_stand_in_refuses_what_a_gpu_would() -> None:
    with other_device() as device:
        image = torch.ones(2, 3, device=device)
        assert image.device == device and float((image * 2).sum()) == 12
        with pytest.raises(RuntimeError, match="all tensors on one device"):
            image + torch.ones(3)
        with pytest.raises(RuntimeError):
            image.numpy()
        assert image.cpu().numpy().sum() == 6


# Transfers


class Moved(TorchDispatchMode):
    """Counts the elements that each operation brings from one device to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in MOVES:
            given = args[1] if function is torch.ops.aten.copy_.default else args[0]
            if isinstance(given, There) != isinstance(result, There):
                self.sizes.append(given.numel())
        return result


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_no_step_on_one_device_carries_an_image_to_or_from_it(optimizer: Any, grid: tuple[int, int]) -> None:
    """The first image goes there, the last one comes back, and what each step asks for are single numbers."""
    recipe = Recipe(optimizer=optimizer, history=2)
    resolved, style = tiny_resolved(recipe), run(measured(), Worker(SPECS["cpu"])).targets
    tiles = plan_tiles(*SIZE, grid, halo=resolved.deepest.margin, align=resolved.deepest.stride)
    ownership, content = deal(tiles, [1.0]), torch.from_numpy(pixels(1))
    cores = {tile.index: gather(content, tile.core).numpy() for tile in tiles}
    reads = {tile.index: gather(content, tile.read).numpy() for tile in tiles}
    moved: dict[int, int] = {}
    with other_device():
        given = [{index: Here(values) for index, values in some.items()} for some in (reads, cores)]
        work = PaintShard(ownership, given[0], style, resolved, len(tiles), Course(steps=8), given[1])
        with Moved() as counter:
            for event in work.run(Worker(SPECS[DEVICE.type]), Alone()):
                if isinstance(event, Progress):
                    moved[event.step] = max(counter.sizes, default=0)
                    counter.sizes.clear()
            at_the_end = max(counter.sizes)
    assert moved[1] == max(pixels.size for pixels in reads.values())  # of the content, which goes there before
    assert max(moved[step] for step in range(2, 9)) <= 4 * recipe.history**2
    assert at_the_end >= sum(core.size for core in cores.values())
