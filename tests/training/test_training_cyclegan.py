"""The CycleGAN objective on networks of a few channels."""

import copy
from dataclasses import replace

import pytest
import torch
from lessons import step_on

from parallel_nst.networks.discriminators import patchgan
from parallel_nst.training.cyclegan import CycleGAN, PicturePool, distance, share_at, squared
from parallel_nst.training.settings import CycleSettings

SIDE = 32
KINDS = ("resnet6", "resnet9", "dncnn")
TINY = CycleSettings(generator="resnet6", generator_width=2, depth=1, discriminator_width=2, pool=0)


def objective(dtype=torch.float64, **settings):
    built = CycleGAN(replace(TINY, **settings), epoch_steps=10)
    for network in built.networks.values():
        network.to(dtype)
    return built


def pictures(count=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {kind: torch.rand(count, 3, SIDE, SIDE, generator=generator, dtype=dtype) for kind in "ab"}


def gradients(built, batch):
    """Of every phase, on the weights as they are."""
    found = []
    for phase in built.phases:
        phase.optimizer.zero_grad()
        phase.module(batch)["total"].backward()
        found.append([weight.grad.clone() for weight in phase.module.parameters()])
    return found


def train(built, steps, batch=None):
    """Totals of every phase, step by step."""
    totals = []
    for step in range(steps):
        chosen = batch or pictures(2, seed=step, dtype=torch.float32)
        for phase in built.phases:
            totals.append(step_on(phase, chosen))
    return totals


def halves_differ(built):
    """Largest relative difference, phase by phase, of the whole batch's gradient from the mean of its halves'."""
    batch = pictures(4)
    parts = [{kind: values[part] for kind, values in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    whole, first, second = (gradients(built, given) for given in (batch, *parts))
    worst = []
    for rows in zip(whole, first, second, strict=True):
        most = max(float(weight.abs().max()) for weight in rows[0])
        errors = [float((w - (one + two) / 2).abs().max()) for w, one, two in zip(*rows, strict=True)]
        worst.append(max(errors) / most)
    return worst


@pytest.mark.parametrize("discriminator", ["patchgan", "conv5"])
@pytest.mark.parametrize("generator", ["resnet6", "resnet9"])
def test_the_gradient_of_a_batch_is_the_mean_of_its_halves(generator, discriminator):
    assert max(halves_differ(objective(generator=generator, discriminator=discriminator))) < 1e-10


@pytest.mark.parametrize(("settings", "phases"), [({"norm": "batch"}, (0, 1, 2)), ({"generator": "dncnn"}, (0,))])
def test_batch_normalisation_mixes_the_pictures_of_a_batch(settings, phases):
    differences = halves_differ(objective(**settings))
    assert all(differences[phase] > 1e-4 for phase in phases)


def test_official_sizes():
    built = CycleGAN(CycleSettings(), epoch_steps=1)
    counts = {name: sum(w.numel() for w in network.parameters()) for name, network in built.networks.items()}
    assert counts == {"a2b": 11_378_179, "b2a": 11_378_179, "judge_a": 2_764_737, "judge_b": 2_764_737}


@pytest.mark.parametrize("generator", KINDS)
def test_each_phase_trains_its_own_networks_and_no_others(generator):
    built = objective(generator=generator)
    owned = [{id(weight) for weight in phase.module.parameters()} for phase in built.phases]
    networks = [("a2b", "b2a"), ("judge_a",), ("judge_b",)]
    assert owned == [{id(w) for name in names for w in built.networks[name].parameters()} for names in networks]
    built.phases[0].module(pictures(1))["total"].backward()
    judges = [weight for name in ("judge_a", "judge_b") for weight in built.networks[name].parameters()]
    assert all(weight.grad is None and weight.requires_grad for weight in judges)
    before = [weight.grad.clone() for weight in built.phases[0].module.parameters()]
    for phase in built.phases[1:]:
        phase.module(pictures(1))["total"].backward()
    after = [weight.grad for weight in built.phases[0].module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(weight.grad is not None for weight in judges)


def test_least_squares_by_hand():
    scores = torch.tensor([[[[0.5, 2.0]]]])
    assert float(squared(scores, 1.0)) == pytest.approx((0.25 + 1.0) / 2)
    assert float(squared(scores, 0.0)) == pytest.approx((0.25 + 4.0) / 2)
    assert float(distance(torch.tensor([0.25, 1.0]), torch.tensor([0.5, 1.0]))) == pytest.approx(0.25)


def test_losses_are_those_of_the_official_formula():
    built, batch = objective(), pictures(2)
    a2b, b2a, of_a, of_b = (built.networks[name] for name in ("a2b", "b2a", "judge_a", "judge_b"))
    losses = built.phases[0].module(batch)
    signed = {kind: values * 2 - 1 for kind, values in batch.items()}

    def turn(network, x):  # from and to [-1, 1]
        return network((x + 1) / 2, clamp=False) * 2 - 1

    l1, mse, ones = torch.nn.L1Loss(), torch.nn.MSELoss(), torch.ones_like
    fake_b, fake_a = turn(a2b, signed["a"]), turn(b2a, signed["b"])
    judged_a, judged_b = of_a.model(fake_a), of_b.model(fake_b)
    expected = mse(judged_b, ones(judged_b)) + mse(judged_a, ones(judged_a))
    expected += 10 * l1(turn(b2a, fake_b), signed["a"]) + 10 * l1(turn(a2b, fake_a), signed["b"])
    expected += 5 * l1(turn(a2b, signed["b"]), signed["b"]) + 5 * l1(turn(b2a, signed["a"]), signed["a"])
    torch.testing.assert_close(losses["total"], expected)
    real, fake = of_a.model(signed["a"]), of_a.model(fake_a.detach())
    expected = (mse(real, ones(real)) + mse(fake, torch.zeros_like(fake))) * 0.5
    torch.testing.assert_close(built.phases[1].module(batch)["total"], expected)


def test_half_precision_stays_near_and_its_losses_are_float32():
    built, batch = objective(torch.float32), pictures(2, dtype=torch.float32)
    for phase in built.phases:
        exact = phase.module(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = phase.module(batch)
        rough["total"].backward()
        assert all(value.dtype == torch.float32 for value in rough.values())
        torch.testing.assert_close(rough["total"], exact["total"], rtol=0.05, atol=0)


def test_without_the_cycle_its_losses_are_gone():
    names = set(objective(cycle=False).phases[0].module(pictures(1)))
    assert names == {"total", "fool_a", "fool_b", "identity_a", "identity_b"}
    assert set(objective(cycle=False, identity_weight=0.0).phases[0].module(pictures(1))) == {
        "total", "fool_a", "fool_b",
    }  # fmt: skip


def test_an_empty_pool_gives_back_what_it_is_given():
    pool, given = PicturePool(0, seed=0), torch.rand(3, 3, 4, 4)
    assert torch.equal(pool.exchange(given), given)


def test_half_of_what_a_pool_gives_is_from_the_past():
    pool = PicturePool(20, seed=0)
    given = [pool.exchange(torch.full((1, 1, 1, 1), float(number))) for number in range(2020)]
    new = sum(int(picture) == number for number, picture in enumerate(given[20:], 20))
    assert [int(picture) for picture in given[:20]] == list(range(20))
    assert 0.45 < new / 2000 < 0.55


def test_a_pool_keeps_nothing_to_differentiate():
    pool = PicturePool(1, seed=0)
    assert not pool.exchange(torch.rand(1, 3, 2, 2, requires_grad=True)).requires_grad


def test_a_restored_pool_has_the_same_future():
    pool, other = PicturePool(5, seed=0), PicturePool(5, seed=9)
    stream = torch.arange(60.0).view(60, 1, 1, 1)
    pool.exchange(stream[:30])
    other.restore(copy.deepcopy(pool.memory()), "cpu")
    assert torch.equal(pool.exchange(stream[30:]), other.exchange(stream[30:]))


def test_pools_of_other_ranks_and_kinds_go_their_own_ways():
    states = [CycleGAN(TINY, epoch_steps=1, rank=rank).memory() for rank in (0, 1)]
    drawn = {bytes(state[kind]["random"].numpy()) for state in states for kind in "ab"}
    assert len(drawn) == 4


@pytest.mark.parametrize(("constant", "falling"), [(100, 100), (3, 4), (0, 5)])
def test_the_linear_schedule_is_the_official_one(constant, falling):
    settings = replace(TINY, constant_epochs=constant, decay_epochs=falling)
    share = share_at(settings, epoch_steps=7)
    for epoch in range(constant + falling):
        official = 2e-4 * (1 - max(0, epoch + 1 - constant) / (falling + 1))
        assert [2e-4 * share(epoch * 7 + step) for step in (0, 6)] == pytest.approx([official] * 2)
    assert share(10_000) == 0.0


def test_the_exponential_schedule_falls_every_second_epoch():
    share = share_at(replace(TINY, decay="exponential", decay_factor=0.99, decay_every=2), epoch_steps=3)
    assert [share(step) for step in (0, 5, 6, 11, 12)] == pytest.approx([1, 1, 0.99, 0.99, 0.99**2])


def test_first_weights_are_normal_and_come_from_the_seed():
    built, again = (CycleGAN(replace(TINY, generator_width=8), epoch_steps=1) for _ in range(2))
    weights = torch.cat(
        [w.detach().flatten() for name, w in built.networks["a2b"].named_parameters() if "weight" in name]
    )
    assert float(weights.std()) == pytest.approx(0.02, rel=0.05) and abs(float(weights.mean())) < 0.001
    assert all(not w.any() for name, w in built.networks["a2b"].named_parameters() if "bias" in name)
    for name, network in built.networks.items():
        assert all(torch.equal(v, again.networks[name].state_dict()[k]) for k, v in network.state_dict().items())


def test_building_leaves_the_global_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    CycleGAN(TINY, epoch_steps=1)
    assert torch.equal(torch.rand(2), expected)


def test_a_seed_decides_all():
    runs = [train(CycleGAN(replace(TINY, pool=2, seed=seed), epoch_steps=4), 4) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_resumed_training_goes_on_to_the_bit():
    settings = replace(TINY, pool=3)
    built = CycleGAN(settings, epoch_steps=2)
    train(built, 3)
    networks = copy.deepcopy({name: network.state_dict() for name, network in built.networks.items()})
    optimizers = copy.deepcopy([phase.optimizer.state_dict() for phase in built.phases])
    schedules = copy.deepcopy([phase.schedule.state_dict() for phase in built.phases])
    memory = copy.deepcopy(dict(built.memory()))
    expected = train(built, 4)
    other = CycleGAN(replace(settings, seed=5), epoch_steps=2)
    for name, network in other.networks.items():
        network.load_state_dict(networks[name])
    for phase, optimizer, schedule in zip(other.phases, optimizers, schedules, strict=True):
        phase.optimizer.load_state_dict(optimizer)
        phase.schedule.load_state_dict(schedule)
    other.restore(memory)
    assert train(other, 4) == expected


def test_memory_can_be_read_back_safely(tmp_path):
    built = CycleGAN(replace(TINY, pool=2), epoch_steps=2)
    train(built, 2)
    torch.save(dict(built.memory()), tmp_path / "memory.pt")
    built.restore(torch.load(tmp_path / "memory.pt", weights_only=True))


def test_training_lowers_the_generators_loss():
    settings = replace(TINY, generator="dncnn", generator_width=4, learning_rate=5e-3)
    totals = train(CycleGAN(settings, epoch_steps=10), 30, pictures(1, dtype=torch.float32))[::3]
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize("generator", KINDS)
def test_samples_show_both_ways_and_leave_no_trace(generator):
    built = CycleGAN(replace(TINY, generator=generator), epoch_steps=1)
    before = copy.deepcopy(built.networks["a2b"].state_dict())
    batch = pictures(2, dtype=torch.float32)
    shown = built.sample(batch)
    assert shown.shape == (2, 3, SIDE, 4 * SIDE) and shown.min() >= 0 and shown.max() <= 1
    assert torch.equal(shown[..., :SIDE], batch["a"]) and torch.equal(shown[..., 2 * SIDE : 3 * SIDE], batch["b"])
    assert all(torch.equal(value, before[key]) for key, value in built.networks["a2b"].state_dict().items())
    assert built.networks["a2b"].training


def test_a_discriminator_wants_more_than_one_position():
    assert patchgan(width=2)(torch.rand(1, 3, 24, 24)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"generator": "unet"}, "generator is 'unet'; allowed: resnet9, resnet6, dncnn"),
        ({"norm": "group"}, "norm is 'group'; allowed: instance, batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"pool": -1}, "pool"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **wrong)
