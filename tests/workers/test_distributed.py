"""Two ranks with half of the batch each have the gradient of the whole batch on one: DDP over gloo as it is."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from tiny_networks import LAYERS, tiny_backbone

from parallel_nst.errors import ClusterUnavailable
from parallel_nst.training.cyclegan import CycleGAN
from parallel_nst.training.feedforward import Feedforward
from parallel_nst.training.settings import CycleSettings, FeedforwardSettings
from parallel_nst.workers.ranks.group import check_group, mean_of_ranks, place_in_group
from parallel_nst.workers.ranks.place import Place
from parallel_nst.workers.ranks.stations import station_here

RANKS = 2
SIDE = 32
STYLES = {
    "transformer": {"width": 4, "blocks": 1},
    "aonet": {"width": 4, "blocks": 1},
    "vgg16-decoder": {"width": 2},
    "transformer with batch normalisation": {"architecture": "transformer", "width": 4, "blocks": 1, "norm": "batch"},
}
CYCLES = {
    "resnet6": {"discriminator": "patchgan"},
    "resnet9": {"discriminator": "conv5", "cycle": False},
    "dncnn": {"discriminator": "conv5", "depth": 1},
}
OF_BATCH = {"transformer with batch normalisation", "dncnn"}  # statistics are of a rank's slice, whoever averages
CASES = [*STYLES, *CYCLES]


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def objective(case):
    """A small one in double precision, the same on every rank."""
    if case in STYLES:
        settings = FeedforwardSettings(**{"architecture": case, "layers": LAYERS, "tv_weight": 0.1, **STYLES[case]})
        return Feedforward(settings, pictures(1, seed=1), tiny_backbone(), steps=10)
    small = {"generator_width": 2, "discriminator_width": 2, "pool": 0}
    built = CycleGAN(CycleSettings(generator=case, **small, **CYCLES[case]), epoch_steps=10)
    for network in built.networks.values():
        network.double()
    return built


def gradients(case, place):
    """Of every phase, on this rank's share of four pictures."""
    share = slice(4 * place.rank // place.ranks, 4 * (place.rank + 1) // place.ranks)
    batch = {name: pictures(4, seed)[share] for seed, name in enumerate(("images", "a", "b"), 2)}
    found = []
    for phase in objective(case).phases:
        module = place.wrap(phase.module)  # kept until the gradient is there
        module(batch)["total"].backward()
        found += [weight.grad for weight in phase.module.parameters() if weight.requires_grad]
    return found


def one_rank(rank, folder):
    """A process of the group; both ranks write what they have."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    place = place_in_group()
    with pytest.raises(ClusterUnavailable) as differing:
        check_group(station_here(f"127.0.0.{rank}", torch.device("cpu" if rank else "cuda")))
    check_group(station_here("127.0.0.1", place.device))
    found = {case: gradients(case, place) for case in CASES}
    mean = mean_of_ranks(torch.tensor([float(rank), 1.0]))
    results = {"gradients": found, "mean": mean, "met": place.meet(rank), "differing": str(differing.value)}
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank has written."""
    folder = tmp_path_factory.mktemp("group")
    processes.spawn(one_rank, (str(folder),), RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def difference(found, wanted):
    """Largest relative one, tensor by tensor; biases in front of a normalisation have no gradient but rounding."""
    least = 1e-6 * max(float(gradient.norm()) for gradient in wanted)
    return max(float((a - b).norm() / b.norm().clamp_min(least)) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("case", [case for case in CASES if case not in OF_BATCH])
def test_two_halves_have_the_gradient_of_the_whole(results, case):
    whole = gradients(case, Place())
    for result in results:
        assert difference(result["gradients"][case], whole) < 1e-5


@pytest.mark.parametrize("case", sorted(OF_BATCH))
def test_batch_normalisation_is_that_of_a_smaller_batch_but_the_ranks_agree(results, case):
    first, second = (result["gradients"][case] for result in results)
    assert difference(first, second) == 0
    assert difference(first, gradients(case, Place())) > 1e-5


def test_means_are_of_all_ranks(results):
    for result in results:
        assert result["mean"].tolist() == [0.5, 1.0]
        assert result["met"] == 0.5


def test_a_group_that_is_not_alike_is_told_on_all_ranks(results):
    (line,) = {result["differing"] for result in results}
    assert "device is cuda on " in line and "(127.0.0.0), cpu on " in line
