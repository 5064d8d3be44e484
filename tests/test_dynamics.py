"Fields, integrators and training: what the chapter does not show."
from contextlib import contextmanager

import pytest
import torch

from eqbook.datasets.pendulum import Pendulum, initial_states
from eqbook.dynamics import (HNN, GaussianField, Plain, ScalarEnergy, ScalarField, fit_field, gauss_legendre, geometric_mean, hamiltonian_field, intervals,
                             random_turn, relative_error, rk4, rollout, step_loss)
from eqbook.emlp import EMLP, assembled

MODELS = {"scalars-hnn": lambda n=2: HNN(ScalarEnergy(n, 8, 1)), "scalars-node": lambda n=2: ScalarField(n, 8, 1), "mlp-hnn": lambda n=2: HNN(Plain(n, 8, 1)),
          "mlp-node": lambda n=2: Plain(n, 8, 1, field=True), "gaussians": lambda n=2: GaussianField(n, 5, 8, 1)}


def clips(n=12, masses=2, points=3):
    ones = (1.,)*masses
    system = Pendulum(ones, ones, ones)
    return rollout(system.vector_field, initial_states(n, 0, system), points - 1, substeps=4)


def build(name, n=2, dtype=torch.float32):
    torch.manual_seed(0)
    model = MODELS[name](n).to(dtype)
    getattr(model, "energy", model).standardise(clips(masses=n).to(dtype))
    return model


@pytest.mark.parametrize("masses", [1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_every_chain(name, masses):
    model, data = build(name, masses), clips(masses=masses)
    before = step_loss(model, intervals(data).float().flatten(0, 1)).item()
    fit_field(model, data, data, 30, lr=1e-2, progress=False)
    assert step_loss(model, intervals(data).float().flatten(0, 1)).item() < before


@pytest.mark.parametrize("name", MODELS)
def test_a_state_of_zeros_has_finite_derivatives(name):
    model = build(name, dtype=torch.float64)
    out = model(torch.zeros(2, 4, 3, dtype=torch.float64))
    out.square().sum().backward()
    assert out.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_leading_dimensions_do_not_matter(name):
    model, z = build(name, dtype=torch.float64), clips()
    each = torch.stack([torch.stack([model(state) for state in row]) for row in z])
    torch.testing.assert_close(model(z), each, rtol=0, atol=1e-12)


def test_training_is_repeatable_and_keeps_the_best():
    data, other = clips(), clips(20)[12:]
    def run(**options):
        model = build("scalars-node")
        return model, fit_field(model, data, other, 45, progress=False, **options)
    (a, history), (b, _), (c, _) = run(), run(), run(seed=1)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert [row["step"] for row in history] == [*range(2, 45, 2), 45]
    best = step_loss(a, intervals(other).float().flatten(0, 1)).item()
    assert best == pytest.approx(min(row["valid"] for row in history), rel=1e-5)


def test_augmentation_and_context_surround_every_step():
    seen, entered = [], []
    def augment(pairs):
        seen.append(pairs.shape)
        return random_turn(pairs)

    @contextmanager
    def around(model):
        entered.append(model)
        yield

    model = build("mlp-node")
    fit_field(model, clips(), clips(), 10, augment=augment, around=around, progress=False)
    assert seen == [(12, 2, 4, 3)]*10 and entered == [model]*20 # ten steps, ten looks at the validation set


def test_assembled_layers_train_alike():
    def run(**options):
        torch.manual_seed(0)
        model = HNN(EMLP("O(2)")).double()
        fit_field(model, clips(), clips(), 3, progress=False, **options)
        return torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(run(), run(around=assembled), rtol=0, atol=1e-6)


def test_training_that_fails_says_so():
    data = clips()
    with pytest.raises(FloatingPointError, match="`valid` was never finite"): fit_field(build("mlp-node"), data, data*1e30, 2, progress=False)
    with pytest.raises(FloatingPointError, match="the loss is inf at step 1"): fit_field(build("mlp-node"), data*1e30, data, 2, progress=False)
    spoiled = data.index_fill(0, torch.tensor(3), torch.nan)
    with pytest.raises(ValueError, match=r"n at least 1 and T at least 2 points, got \(0, 3, 4, 3\)"): intervals(data[:0])
    with pytest.raises(ValueError, match="chunk 3 holds NaN"): fit_field(build("mlp-node"), data, spoiled, 2, progress=False)


def test_no_graph_is_kept_without_need():
    energy, z = build("scalars-hnn").energy, clips()[:, 0].float()
    with torch.no_grad(): assert not hamiltonian_field(energy, z).requires_grad
    assert hamiltonian_field(energy, z).requires_grad and not z.requires_grad
    with torch.inference_mode(): torch.testing.assert_close(rollout(HNN(energy), z, 3), rollout(HNN(energy), z, 3).clone())


@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-13), (torch.float32, 1e-4)])
def test_a_harmonic_oscillator_keeps_its_energy(dtype, tol):
    "Its energy is quadratic, so the symplectic method keeps it exactly; rk4 does not."
    z = torch.randn(5, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    def energy(z): return z.square().sum((-1, -2))/2
    def field(z): return hamiltonian_field(energy, z)
    path = rollout(field, z, 50, 0.3, step=gauss_legendre)
    assert ((energy(path) - energy(z)[:, None])/energy(z)[:, None]).abs().max() < 50*tol
    if dtype == torch.float64: assert (energy(rollout(field, z, 50, 0.3)) - energy(path)).abs().max() > 1e-4


def test_an_integrator_that_fails_names_time_and_state():
    start = torch.full((2, 4, 3), 0.5, dtype=torch.float64)
    start[1] = 2.
    def runaway(z): return z.pow(3)
    def hole(z): return torch.where(z > 1., torch.nan, z)
    with pytest.raises(RuntimeError, match=r"rollout, after time 0: gauss_legendre.*trajectory 1: \[\[2\.0"): rollout(runaway, start, 5, step=gauss_legendre)
    with pytest.raises(RuntimeError, match=r"trajectory 1 is not finite at time .*; the state before was \[\["): rollout(runaway, start, 20)
    with pytest.raises(RuntimeError, match="gauss_legendre: the slopes still change by nan"): gauss_legendre(hole, start, 0.1)
    with pytest.raises(RuntimeError, match="trajectory 1 is not finite at time 0.2"): rollout(hole, start, 3)


def test_augmentation_keeps_dtype_and_differs_by_pair():
    pairs = intervals(clips())[:, 0].float()
    torch.manual_seed(0)
    once, again = random_turn(pairs), random_turn(pairs)
    assert once.dtype == torch.float32 and not torch.allclose(once, again)
    same = random_turn(pairs[:1].expand(6, -1, -1, -1))
    assert len({round(v, 4) for v in same[:, 0, 0, 0].tolist()}) > 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", MODELS)
def test_gpu(name):
    data, model = clips(), build(name, dtype=torch.float64)
    want = rk4(model, data[:, 0], 0.2)
    model = model.cuda()
    torch.testing.assert_close(rk4(model, data[:, 0].cuda(), 0.2).cpu(), want, rtol=0, atol=1e-10)
    torch.testing.assert_close(gauss_legendre(model, data[:, 0].cuda(), 0.2).cpu(), gauss_legendre(model.cpu(), data[:, 0], 0.2), rtol=0, atol=1e-9)
    fit_field(model.cuda(), data, data, 3, augment=random_turn, progress=False)


def test_errors_name_what_cannot_be_compared():
    z = clips()
    with pytest.raises(ValueError, match=r"\(12, 3, 4, 3\) and \(12, 4, 3\)"): relative_error(z, z[:, 0])
    with pytest.raises(ValueError, match=r"shape \(2,\), 1 of them NaN"): geometric_mean(torch.tensor([1., torch.nan]))
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"): geometric_mean(torch.zeros(0, 3))
