"The same numbers on a GPU, where there is one."
import pytest
import torch

from eqbook.datasets.water import load_water
from eqbook.forces import Potential, energy_and_forces
from eqbook.graphs import BatchedTorchAtoms, TorchAtoms
from eqbook.schnet import InvNet, SimpleRBF
from eqbook.symmetry import assert_equivariant, assert_invariant

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def batch():
    return BatchedTorchAtoms([TorchAtoms(atoms, 3.0, (1, 8), dtype=torch.float64) for atoms in load_water("gfn2", subset="sizes")[::20]])


def test_same_as_cpu(batch):
    torch.manual_seed(0)
    model = Potential(InvNet(32, 32, 3, SimpleRBF(20, 3.0), 2)).double()
    cpu = energy_and_forces(model, batch)
    gpu = energy_and_forces(model.cuda(), batch.to("cuda"))
    for a, b in zip(cpu, gpu): torch.testing.assert_close(b.cpu(), a, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_symmetry(batch, dtype, tol):
    torch.manual_seed(0)
    model = InvNet(32, 32, 3, SimpleRBF(20, 3.0), 2, total=0.).to("cuda", dtype)
    on_gpu = batch.to("cuda", dtype)
    assert_invariant(model, on_gpu, tol=tol)
    assert_equivariant(lambda b: energy_and_forces(Potential(model), b)[1], on_gpu, irreps_out="vector", tol=tol)


def test_wrong_device_is_named(batch):
    with pytest.raises(ValueError, match="the batch is torch.float64 on cuda:0, the model torch.float64 on cpu"):
        InvNet(8, 8, 1, SimpleRBF(8, 3.0), 2).double()(batch.to("cuda"))
