"SO3Net beyond its chapter: on a GPU, compiled, copied and stored."
import copy
import os
import shutil

import pytest
import torch

from eqbook.datasets.water import load_water
from eqbook.dipoles import Dipole, SystemSum
from eqbook.forces import Potential, energy_and_forces
from eqbook.graphs import BatchedTorchAtoms, TorchAtoms
from eqbook.schnet import SimpleRBF
from eqbook.so3net import EqNet, SimpleEqNet
from eqbook.symmetry import assert_equivariant
from eqbook.training import load_weights, save_weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
takes_minutes = pytest.mark.skipif(not os.environ.get("EQBOOK_SLOW"), reason="compiles for a minute or more: set EQBOOK_SLOW=1")


@pytest.fixture
def batch():
    return BatchedTorchAtoms([TorchAtoms(atoms, 3.0, (1, 8), dtype=torch.float64) for atoms in load_water("gfn2", subset="sizes")[::40]])


def network(lmax=2, features=8, n_interactions=2, **kw):
    torch.manual_seed(0)
    return EqNet(features, n_interactions, SimpleRBF(10, 3.0), 2, lmax, **kw).double()


@needs_gpu
@pytest.mark.parametrize("lmax", range(5))
def test_gpu_agrees_with_cpu(batch, lmax):
    model = Potential(network(lmax, irreps_out="1x0e"))
    cpu = energy_and_forces(model, batch)
    gpu = energy_and_forces(model.cuda(), batch.to("cuda"))
    for a, b in zip(cpu, gpu): torch.testing.assert_close(b.cpu(), a, rtol=0, atol=1e-10)


@needs_gpu
@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_symmetry_on_gpu(batch, dtype, tol):
    on_gpu = batch.to("cuda", dtype)
    assert_equivariant(network().to("cuda", dtype), on_gpu, irreps_out="1x0e+1x1o", tol=tol)
    assert_equivariant(SimpleEqNet(8, 2, SimpleRBF(10, 3.0), 2).to("cuda", dtype), on_gpu, irreps_out="vector", tol=tol)


@needs_gpu
def test_wrong_device_is_named(batch):
    with pytest.raises(ValueError, match="the batch is torch.float64 on cuda:0, the model torch.float64 on cpu"): network()(batch.to("cuda"))


@pytest.mark.parametrize("lmax", range(3))
def test_no_graph_breaks(batch, lmax):
    torch.compiler.reset()
    net = network(lmax, 4, 2, irreps_out="1x0e" if lmax == 0 else "1x0e+1x1o", species=(1, 8))
    lonely = TorchAtoms(load_water("gfn2", subset="sizes")[0][:1], 3.0, (1, 8), dtype=torch.float64) # no edges
    assert len(lonely.idx_i) == 0
    for model in [net] if lmax == 0 else [net, Dipole(net), SystemSum(net)]:
        traced = torch.compile(model, dynamic=True, fullgraph=True, backend="eager") # traces, and needs no C++ compiler
        for some in (batch, lonely): torch.testing.assert_close(traced(some), model(some), rtol=0, atol=1e-12)


@needs_compiler
@takes_minutes
def test_compiled_agrees_with_eager(batch):
    torch.compiler.reset()
    model = network(lmax=1, features=4, n_interactions=1)
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    for some in (batch, batch[0]): # other sizes, the same code
        expected, found = model(some), compiled(some)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        gradients = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (expected, found)]
        for a, b in zip(*gradients): torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_copy_and_weights(batch, tmp_path):
    model = network(species=(1, 8))
    save_weights(model, tmp_path/"eqnet.safetensors")
    torch.testing.assert_close(copy.deepcopy(model)(batch), model(batch), rtol=0, atol=0)
    torch.manual_seed(1)
    other = EqNet(8, 2, SimpleRBF(10, 3.0), 2, 2, species=(1, 8)).double()
    torch.testing.assert_close(load_weights(other, tmp_path/"eqnet.safetensors")(batch), model(batch), rtol=0, atol=0)
