"The pendulum's trajectories are exact, and what is broken is named or made anew."
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from eqbook.datasets import pendulum as module
from eqbook.datasets.pendulum import Pendulum, initial_states, load_pendulum, simulate

TIMES = 0.2*np.arange(150)
CHAIN = Pendulum((1., 2., 0.5), (1., 2., 1.), (1., 0.5, 1.), gravity=(0.3, 0., -1.), quartic=0.5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty cache, and short trajectories that are made quickly."
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path/"cache")
    for name, value in (("TOLERANCE", 1e-6), ("POINTS", 25)): monkeypatch.setattr(module, name, value)
    return tmp_path/"cache"


@pytest.fixture
def made(monkeypatch):
    "Which sets were made, not read."
    calls, make = [], module._make_set
    monkeypatch.setattr(module, "_make_set", lambda *args: calls.append(args[1]) or make(*args))
    return calls


def drift(f, path, size): return ((f(path) - f(path[:, :1])).abs()/size).max().item()


# --- the system

@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("pendulum", [Pendulum(), Pendulum(second_spring="paper"), CHAIN, Pendulum([2], [1], [1], (0, 0, 0))])
def test_leading_shapes(pendulum, dtype, tol):
    n = len(pendulum.masses)
    z = torch.randn(2, 3, 2*n, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for f, last in ((pendulum.hamiltonian, ()), (pendulum.angular_momentum, ()), (pendulum.vector_field, (2*n, 3))):
        together = f(z)
        assert together.dtype == dtype and together.shape == (2, 3, *last)
        torch.testing.assert_close(together[1, 2], f(z[1, 2]), rtol=tol, atol=tol)
        torch.testing.assert_close(together[1], torch.func.vmap(f)(z[1]), rtol=tol, atol=tol)
        assert f(z[:0]).shape == (0, 3, *last)


def test_flow_keeps_volume():
    "The field has no divergence: its Jacobian's trace is zero (Liouville)."
    z = initial_states(4, 0)
    jacobian = torch.func.vmap(torch.func.jacrev(Pendulum().vector_field))(z).reshape(4, 12, 12)
    assert jacobian.diagonal(dim1=1, dim2=2).abs().max() < 1e-12 and jacobian.abs().max() > 0.5


def test_vertical_is_where_gravity_says():
    z = torch.zeros(4, 3, dtype=torch.float64)
    z[0, 0], z[2, 1] = 2., 3.                                     # x along x, p along y: +6 about z
    assert Pendulum().angular_momentum(z) == 6 and Pendulum(gravity=(0, 0, -9.)).angular_momentum(z) == 6
    assert Pendulum(gravity=(0, 0, 1.)).angular_momentum(z) == -6 and Pendulum(gravity=(0, 0, 0)).angular_momentum(z) == 6
    assert Pendulum(gravity=(1., 0, 0)).angular_momentum(z) == 0


BAD = {
    "negative mass": (dict(masses=(1., -1.)), r"masses=\(1.0, -1.0\): positive and finite"),
    "zero mass": (dict(masses=(0., 1.)), "masses"),
    "NaN mass": (dict(masses=(1., float("nan"))), "masses"),
    "infinite length": (dict(lengths=(1., float("inf"))), "lengths"),
    "negative length": (dict(lengths=(-1., 1.)), "lengths"),
    "zero spring": (dict(springs=(1., 0.)), "springs"),
    "one number": (dict(masses=1.), "masses=1.0: numbers are needed, as a tuple"),
    "words": (dict(masses=("a", "b")), "masses"),
    "three masses": (dict(masses=(1., 1., 1.)), "3 masses, 2 springs, 2 lengths"),
    "one spring": (dict(springs=(1.,)), "2 masses, 1 springs, 2 lengths"),
    "nothing": (dict(masses=(), springs=(), lengths=()), "0 masses"),
    "flat gravity": (dict(gravity=(0., -1.)), r"gravity=\(0.0, -1.0\): a vector of 3"),
    "gravity is a number": (dict(gravity=9.81), "gravity=9.81"),
    "NaN gravity": (dict(gravity=(0., 0., float("nan"))), "gravity"),
    "second spring": (dict(second_spring="both"), "'both': choose 'code' or 'paper'"),
    "negative quartic": (dict(quartic=-1.), "quartic=-1.0: at least 0"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_constants(what):
    arguments, message = BAD[what]
    with pytest.raises(ValueError, match=message): Pendulum(**arguments)


@pytest.mark.parametrize("method", ["hamiltonian", "vector_field", "angular_momentum"])
@pytest.mark.parametrize("z, message", [(torch.zeros(4), r"z has shape \(4,\)"), (torch.zeros(5, 12), r"\(5, 12\)"), (torch.zeros(6, 3), "2 positions"),
                                        (torch.zeros(4, 3, dtype=torch.long), "dtype torch.int64")])
def test_bad_states(method, z, message):
    with pytest.raises(ValueError, match=message): getattr(Pendulum(), method)(z)


def test_meeting_masses_are_finite():
    for dtype in (torch.float32, torch.float64):
        z = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
        hessian = torch.autograd.functional.hessian(Pendulum(quartic=1.).hamiltonian, z)
        assert hessian.isfinite().all() and Pendulum().vector_field(z).isfinite().all()


# --- integration

@pytest.mark.parametrize("pendulum, n, tol", [(Pendulum(), 600, 1e-10), (Pendulum(second_spring="paper"), 100, 1e-10), (CHAIN, 100, 1e-11)],
                         ids=["code", "paper", "chain of three"])
def test_every_trajectory_keeps_what_is_conserved(pendulum, n, tol):
    z0 = initial_states(n, 11, pendulum)
    path = simulate(pendulum.vector_field, z0, TIMES, tol, tol)
    assert drift(pendulum.hamiltonian, path, pendulum.hamiltonian(z0).abs()[:, None]) < 1e-7
    assert drift(pendulum.angular_momentum, path, pendulum.angular_momentum(z0).abs().mean()) < 1e-7
    loose = simulate(pendulum.vector_field, z0, TIMES, 1e-4, 1e-4)
    assert drift(pendulum.hamiltonian, loose, pendulum.hamiltonian(z0).abs()[:, None]) > 1e-7    # the test can tell


def test_batches_and_methods_agree():
    z0, times = initial_states(7, 1), TIMES[:40]
    one = simulate(Pendulum().vector_field, z0, times)
    for other in (dict(batch_size=3), dict(batch_size=1), dict(method="RK45", rtol=1e-9, atol=1e-9)):
        torch.testing.assert_close(simulate(Pendulum().vector_field, z0, times, **other), one, rtol=0, atol=1e-7)
    torch.testing.assert_close(simulate(Pendulum().vector_field, one[:, 20], times[20:] + 5.), one[:, 20:], rtol=0, atol=1e-7)  # no clock in the field


def test_networks_as_fields():
    torch.manual_seed(0)
    seen = set()
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
        def forward(self, z):
            seen.add((z.dtype, z.requires_grad))
            return self.layer(z).tanh()
    for dtype, rtol in ((torch.float64, 1e-8), (torch.float32, 1e-6)):
        net, z0 = Net().to(dtype), torch.randn(5, 4, 3, dtype=dtype)
        keep, paths = z0.clone(), []
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode(): paths.append(simulate(net, z0.clone().requires_grad_() if mode is torch.enable_grad else z0, [0., 0.5, 2.], rtol, rtol, dtype=dtype))
        assert all(torch.equal(p, paths[0]) and p.dtype == torch.float64 and p.shape == (5, 3, 4, 3) and not p.requires_grad for p in paths)
        assert torch.equal(z0, keep)
    assert seen == {(torch.float64, False), (torch.float32, False)}
    def inside(z): return torch.autograd.grad(z.requires_grad_().square().sum(), z)[0]
    assert simulate(inside, torch.ones(1, 2), [0., 1.])[0, 1, 0] == pytest.approx(np.exp(2.))


def test_shapes_and_times():
    z0 = initial_states(4, 0).transpose(1, 2).contiguous().transpose(1, 2)   # not contiguous
    field = Pendulum().vector_field
    reference = simulate(field, z0.contiguous(), TIMES[:5])
    for times in (TIMES[:5].tolist(), torch.tensor(TIMES[:5]), TIMES[:5]): assert torch.equal(simulate(field, z0, times), reference)
    assert torch.equal(simulate(field, z0, [3.])[:, 0], z0)
    assert simulate(field, z0[:0], TIMES[:5]).shape == (0, 5, 4, 3)
    assert simulate(lambda z: -z, torch.ones(3, 2), [0., 1.]).shape == (3, 2, 2)
    assert torch.equal(simulate(field, z0.float(), TIMES[:5]), simulate(field, z0.float().double(), TIMES[:5]))
    buffer = torch.empty(4, 4, 3, dtype=torch.float64)
    assert torch.equal(simulate(lambda z: buffer.copy_(field(z)), z0, TIMES[:5]), reference)   # a field may reuse its memory


@pytest.mark.parametrize("times, message", [([0., 0.], r"times\[0\] = 0 and times\[1\] = 0"), ([0., 2., 1.], r"times\[1\] = 2 and times\[2\] = 1"),
                                            ([], "one list"), ([[0., 1.]], "one list"), ([0., float("nan")], "NaN"), (0., "one list")])
def test_bad_times(times, message):
    with pytest.raises(ValueError, match=message): simulate(Pendulum().vector_field, initial_states(1), times)


@pytest.mark.parametrize("arguments, message", [
    (dict(z0=torch.tensor([[1.], [float("inf")]])), "trajectory 1 starts with NaN or infinity"), (dict(z0=torch.ones(3)), r"z0\[None\]"),
    (dict(method="Euler"), "'Euler'"),
    (dict(rtol=0.), "positive"), (dict(atol=-1.), "positive"), (dict(batch_size=0), "batch_size=0"), (dict(max_steps=0), "max_steps=0"),
    (dict(dtype=torch.float32), "below the roundoff"), (dict(field=lambda z: z[:, :0]), "dz/dt has the shape of z")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message): simulate(**dict(dict(field=lambda z: -z, z0=torch.ones(2, 1), times=[0., 1.]), **arguments))


FAILURES = {
    "infinite in finite time": (lambda z: z**3, 5., "no step is short enough. It reached time 2; see trajectory 4"),
    "a hole in the field": (lambda z: torch.where(z.abs() > 0.6, torch.nan, z), 1., "no step is short enough. It reached time 0.182.*; see trajectory 4"),
    "NaN at once": (lambda z: torch.where(z == 0.5, torch.nan, z), 1., "the field is not finite. It reached time 0; see trajectory 4, .*\n.*0.5"),
}


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("what", FAILURES)
def test_failures_name_time_and_trajectory(what, size):
    field, until, message = FAILURES[what]
    z0 = torch.tensor([[0.1, 0.], [0.2, 0.], [0.1, 0.], [0.1, 0.], [0.5, 0.], [0.2, 0.]], dtype=torch.float64)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match=message):
        warnings.simplefilter("error")
        simulate(field, z0, [0., 0.5, until], batch_size=size)


def test_impatience():
    with pytest.raises(RuntimeError, match="30 steps were not enough.* It reached time"):
        simulate(Pendulum().vector_field, initial_states(3), TIMES, max_steps=30)


def test_bar(capsys):
    for progress, shown in ((True, True), (False, False), (None, False)):                      # None: only in a terminal
        simulate(lambda z: -z, torch.ones(4, 1), [0., 1., 2.], progress=progress)
        assert ("state" in capsys.readouterr().err) is shown


# --- data

def test_sets(folder, made, monkeypatch):
    monkeypatch.setattr(module, "POINTS", 150)
    data = load_pendulum(n=(6, 4, 3))
    assert made == ["train", "valid", "test"] and torch.equal(data.times, data.test.times) and data.pendulum == Pendulum()
    for s, n in ((data.train, 6), (data.valid, 4), (data.test, 3)):
        assert s.chunks.shape == (n, 5, 4, 3) and s.whole.shape == (n, 150, 4, 3) and s.start.dtype == torch.long
        assert (s.start % 5 == 0).all() and s.start.max() <= 145 and torch.equal(s.times, 0.2*torch.arange(150, dtype=torch.float64))
        for k in range(n): assert torch.equal(s.chunks[k], s.whole[k, s.start[k]:s.start[k] + 5])
    assert data.train.trajectories.shape == (0, 150, 4, 3)
    again = simulate(Pendulum().vector_field, data.test.chunks[:, 0], TIMES)
    torch.testing.assert_close(data.test.trajectories, again, rtol=0, atol=1e-3)
    assert not any(torch.equal(a, b) for a in data.train.whole[:, 0] for b in torch.cat([data.valid.whole, data.test.whole])[:, 0])


def test_seeds_and_sizes(folder):
    small, large, other = load_pendulum(n=(2, 3, 3)), load_pendulum(n=(9, 3, 3)), load_pendulum(n=(2, 3, 3), seed=1)
    torch.testing.assert_close(large.train.chunks[:2], small.train.chunks, rtol=0, atol=1e-3)
    assert torch.equal(large.test.trajectories, small.test.trajectories)
    for a, b in ((small.train, other.train), (small.test, other.test)): assert (a.whole[:, 0] - b.whole[:, 0]).abs().min(0).values.max() > 0.01
    assert load_pendulum(n=(0, 0, 2)).train.chunks.shape == (0, 5, 4, 3)
    assert load_pendulum(CHAIN, n=(1, 1, 1)).test.trajectories.shape == (1, 25, 6, 3)


def test_other_parameters_have_other_files(folder, made):
    for pendulum in (Pendulum(), Pendulum(second_spring="paper"), Pendulum(gravity=(0, 0, -2))): load_pendulum(pendulum, n=(1, 1, 1))
    load_pendulum(n=(1, 1, 1), seed=1), load_pendulum(n=(1, 1, 2))
    assert len(list(folder.iterdir())) == 13 == len(made)                                      # only the test set is new in the last
    load_pendulum(Pendulum(masses=[1, 1]), n=(1, 1, 1))                                         # the same system, written otherwise
    assert len(made) == 13


def test_noise(folder, made):
    exact, noisy, again = load_pendulum(n=(200, 2, 2)), load_pendulum(n=(200, 2, 2), noise=0.05), load_pendulum(n=(200, 2, 2), noise=0.05)
    assert made == ["train", "valid", "test"]
    ratio = (noisy.train.chunks - exact.train.chunks).std((0, 1))/exact.train.chunks.std((0, 1))
    assert ratio.min() > 0.045 and ratio.max() < 0.055 and torch.equal(noisy.train.chunks, again.train.chunks)
    assert torch.equal(noisy.train.whole, exact.train.whole)
    for s, e in ((noisy.valid, exact.valid), (noisy.test, exact.test)): assert torch.equal(s.chunks, e.chunks) and torch.equal(s.trajectories, e.trajectories)


def spoil(path, how):
    content = path.read_bytes()
    if how == "flipped": content = content[:len(content)//2] + bytes([content[len(content)//2] ^ 255]) + content[len(content)//2 + 1:]
    path.write_bytes({"empty": b"", "truncated": content[:-100], "halved": content[:len(content)//2], "flipped": content, "text": b"hello"}[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "halved", "flipped", "text"])
def test_broken_cache_is_made_anew(folder, made, how):
    before = load_pendulum(n=(1, 1, 2))
    path, = folder.glob("pendulum-test-*")
    good = path.read_bytes()
    spoil(path, how)
    made.clear()
    after = load_pendulum(n=(1, 1, 2))
    assert made == ["test"] and torch.equal(after.test.trajectories, before.test.trajectories) and path.stat().st_size == len(good)
    assert len(list(folder.iterdir())) == 3                                                     # nothing is left beside
    load_pendulum(n=(1, 1, 2))
    assert made == ["test"]


def test_unwritable_cache(folder, tmp_path, monkeypatch):
    (tmp_path/"file").write_text("in the way")
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path/"file"/"cache")
    with pytest.warns(UserWarning, match="could not be written .* made anew next time") as told: data = load_pendulum(n=(1, 1, 1))
    assert data.test.trajectories.isfinite().all() and len(told) == 3 and told[0].filename == __file__


@pytest.mark.parametrize("arguments, message", [
    (dict(n=(1, 1)), "three numbers"), (dict(n=(1, -1, 1)), "three numbers"), (dict(n=(1, 1.5, 1)), "three numbers"),
    (dict(noise=-0.1), "noise=-0.1"), (dict(noise=float("nan")), "noise=nan")])
def test_bad_requests(folder, arguments, message):
    with pytest.raises(ValueError, match=message): load_pendulum(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu():
    z0 = initial_states(5, 0)
    path = simulate(Pendulum().vector_field, z0.cuda(), TIMES[:20])
    assert path.is_cuda
    torch.testing.assert_close(path.cpu(), simulate(Pendulum().vector_field, z0, TIMES[:20]), rtol=0, atol=1e-9)
    torch.testing.assert_close(Pendulum().hamiltonian(z0.cuda()).cpu(), Pendulum().hamiltonian(z0))
