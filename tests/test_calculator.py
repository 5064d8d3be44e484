"The calculator beyond its chapter: random boxes, ASE's own tools, and a GPU where there is one."
import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.io import Trajectory, read
from ase.optimize import BFGS

from eqbook.calculator import EqBookCalculator, VerletList, energy_drift, run_nve
from eqbook.datasets.water import load_water
from eqbook.experiments.dynamics import box_of_water
from eqbook.graphs import TorchAtoms
from eqbook.models import build, configure
from eqbook.vibrations import derivatives, normal_modes

FRAMES = load_water("gfn2", subset="sizes")[::20]


def predictor(target="energy", seed=0):
    torch.manual_seed(seed)
    return build(configure("eqnet", target, FRAMES, 4., features=8, interactions=2)).double()


@pytest.fixture
def calc(): return EqBookCalculator(predictor())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("edge", (3., 7.))  # smaller and larger than the cutoff
def test_list_is_complete_in_random_boxes(seed, edge):
    rng = np.random.default_rng(seed)
    atoms = Atoms("OHH" * 4, positions=rng.uniform(0, edge, (12, 3)), cell=edge * (np.eye(3) + 0.2 * rng.standard_normal((3, 3))), pbc=rng.random(3) < 0.7)
    edges = VerletList(4., (1, 8), skin=0.6)
    for _ in range(40):
        atoms.positions += 0.05 * rng.standard_normal((12, 3))
        near, fresh = edges.graph(atoms), TorchAtoms(atoms, 4., (1, 8), dtype=torch.float64)
        assert len(near.idx_i) == len(fresh.idx_i)
        torch.testing.assert_close(near.d_ij.sort().values, fresh.d_ij.sort().values, rtol=0, atol=1e-12)
        assert torch.equal(torch.bincount(near.idx_i, minlength=12), torch.bincount(fresh.idx_i, minlength=12))
    assert edges.builds < 30


def test_wrapping_changes_nothing(calc):
    box = box_of_water()
    box.rattle(0.1, seed=0)
    box.positions += 4.
    moved = box.copy()
    moved.wrap()
    assert np.abs(moved.positions - box.positions).max() > 1
    for name in ("energy", "forces", "stress"):
        np.testing.assert_allclose(calc.get_property(name, box), calc.get_property(name, moved), rtol=0, atol=1e-9)


def test_one_calculator_many_systems(calc):
    alone = [EqBookCalculator(predictor()).get_potential_energy(atoms) for atoms in FRAMES]
    for _ in range(2): assert [calc.get_potential_energy(atoms) for atoms in FRAMES] == alone


def test_an_error_leaves_no_trace(calc):
    atoms = FRAMES[3].copy()
    atoms.calc = calc
    before, x = atoms.get_forces(), atoms.positions.copy()
    for bad in (np.nan, np.inf):
        atoms.positions[1, 2] = bad
        with pytest.raises(ValueError, match="atom 1 is not finite"): atoms.get_forces()
        atoms.positions = x
        assert np.array_equal(atoms.get_forces(), before)
    atoms.numbers[0] = 6
    with pytest.raises(ValueError, match="C; the model has seen H, O only"): atoms.get_forces()
    atoms.numbers[0] = 8
    assert np.array_equal(atoms.get_forces(), before)


def test_slab_has_forces_and_no_stress(calc):
    slab = box_of_water()
    slab.pbc = (True, True, False)
    slab.calc = calc
    assert np.isfinite(slab.get_forces()).all()
    with pytest.raises(NotImplementedError, match="stress"): slab.get_stress()


def test_the_calculator_keeps_its_own_weights():
    model = predictor()
    calc = EqBookCalculator(model)
    before = calc.get_potential_energy(FRAMES[0])
    with torch.no_grad():
        for p in model.parameters(): p.mul_(2)
    assert all(p.requires_grad for p in model.parameters()) and EqBookCalculator(model).get_potential_energy(FRAMES[0]) != before
    calc.reset()
    assert calc.get_potential_energy(FRAMES[0]) == before


def test_others_run_only_when_asked():
    calc = EqBookCalculator(predictor(), predictor("dipole"), predictor("charges"))
    atoms = FRAMES[3].copy()
    atoms.calc = calc
    atoms.get_forces()
    assert {name: edges.builds for name, edges in calc.lists.items()} == {"energy": 1, "dipole": 0, "charges": 0}
    assert atoms.get_charges().shape == (len(atoms),) and abs(atoms.get_charges().sum()) < 1e-9
    assert atoms.get_dipole_moment().shape == (3,) and atoms.get_dipole_moment().dtype == np.float64
    assert set(calc.results) == {"energy", "free_energy", "forces", "charges", "dipole"}
    with pytest.raises(ValueError, match="periodic"): calc.get_property("dipole", box_of_water())


def test_dynamics_repeat_bit_for_bit_and_reach_a_file(tmp_path):
    def run(folder):
        atoms = FRAMES[2].copy()
        atoms.set_momenta(np.random.default_rng(0).standard_normal((len(atoms), 3)) * 0.1)
        atoms.calc = EqBookCalculator(predictor(), predictor("dipole"))
        record = run_nve(atoms, 0.02, every=2, dipole=True)
        with Trajectory(str(folder / "run.traj"), "w", atoms) as file: file.write()
        return record, atoms
    (first, atoms), (second, _) = run(tmp_path), run(tmp_path)
    assert all(np.array_equal(first[k], second[k]) for k in first) and first["dipole"].shape == (21, 3)
    stored = read(tmp_path / "run.traj")
    assert stored.get_potential_energy() == atoms.get_potential_energy() and np.array_equal(stored.get_forces(), atoms.get_forces())
    assert abs(energy_drift(first["time"], first["energy"], len(atoms))[1]) < 1.


def test_a_cell_relaxes(calc):
    box = box_of_water()
    box.calc = calc
    before = box.get_potential_energy(), np.abs(box.get_stress()).max()
    BFGS(FrechetCellFilter(box), logfile=None).run(fmax=1e-6, steps=15)
    assert box.get_potential_energy() < before[0] and calc.lists["energy"].builds > 5


def test_hessian_is_that_of_the_energy(calc):
    water = ase.build.molecule("H2O")
    found = derivatives(water, lambda frames: [dict(forces=calc.get_property("forces", atoms)) for atoms in frames], step=1e-4)["hessian"]
    x = torch.from_numpy(water.positions)
    model, graph = calc.models["energy"], calc.models["energy"].graphs([water])[0]
    exact = torch.autograd.functional.hessian(lambda y: model(graph.replace(positions=y)).sum(), x).reshape(9, 9).numpy()
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert np.abs(found - np.roll(exact, 1, axis=1)).max() > 1e-2 * np.abs(exact).max()
    assert np.isfinite(normal_modes(found, water.get_masses())[0]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gives_the_same():
    for atoms in (FRAMES[5], box_of_water()):
        cpu, gpu = EqBookCalculator(predictor()), EqBookCalculator(predictor().cuda())
        for name in ("energy", "forces"): np.testing.assert_allclose(gpu.get_property(name, atoms), cpu.get_property(name, atoms), rtol=0, atol=1e-9)
