"Symmetry checks on the kinds of models and batches that users bring."
import json
import subprocess
import sys

import pytest
import torch
from eqbook.symmetry import (
    GroupElement,
    act,
    assert_equivariant,
    assert_invariant,
    group_elements,
    random_rotation,
    representation,
    rotate_vector,
    symmetry_report,
)

F64 = torch.float64


def points(n=5, d=3, dtype=F64): return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=F64).to(dtype)
def pair_energy(x): return torch.exp(-torch.pdist(x)).sum()


class Attraction(torch.nn.Module):
    "Acceleration of each particle: towards the others, plus friction."
    def __init__(self, friction):
        super().__init__()
        self.friction = torch.nn.Parameter(torch.tensor(friction, dtype=F64))

    def forward(self, state):
        r = state["positions"][None] - state["positions"][:, None]
        return (r * torch.exp(-r.square().sum(-1, keepdim=True))).sum(1) - self.friction * state["velocities"]


def move(state, g):
    return dict(positions=act(state["positions"], "point", g), velocities=act(state["velocities"], "vector", g))


def test_import_is_light():
    code = "import sys, eqbook.symmetry; sys.exit('e3nn' in sys.modules or 'scipy.spatial' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_module_with_a_mapping_and_velocities():
    state = dict(positions=points(), velocities=points(10)[5:])
    report = assert_equivariant(Attraction(0.3), state, transform=move)
    assert [r.symmetry for r in report.rows] == ["rotation", "reflection", "inversion", "translation", "permutation"]
    forgets = lambda s, g: move(s, g) | dict(velocities=s["velocities"])  # noqa: E731
    with pytest.raises(AssertionError, match="breaks it by"): assert_equivariant(Attraction(0.3), state, transform=forgets)


def test_batch_that_shows_no_positions():
    class Opaque:
        def __init__(self, x): self.coords = x
    kw = dict(transform=lambda b, g: Opaque(act(b.coords, "point", g)))
    model, batch = (lambda b: pair_energy(b.coords)), Opaque(points())
    assert assert_invariant(model, batch, group="E(3)", per="system", tol=1e-9, **kw).ok
    for missing, words in (("group", "say which group"), ("per", "say per="), ("tol", "give tol=")):
        given = {k: v for k, v in dict(group="E(3)", per="system", tol=1e-9).items() if k != missing}
        with pytest.raises(ValueError, match=words): assert_invariant(model, batch, **given, **kw)
    with pytest.raises(ValueError, match="nothing to permute"): assert_invariant(model, batch, group="S(N)", per="system", tol=1., **kw)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_dimensions_and_dtypes(d, dtype):
    x = points(6, d, dtype)
    assert assert_invariant(pair_energy, x).per == "system"
    assert assert_equivariant(lambda x: x - x.mean(0), x).per == "atom"
    assert assert_equivariant(lambda x: x.mean(0), x, "point").per == "system"
    assert not symmetry_report(lambda x: x.relu(), x, "vector").ok
    inversion = next(g for g in group_elements(None, x) if g.name == "inversion")
    assert torch.linalg.det(inversion.matrix).item() == (-1) ** d


def test_forces_by_autograd_need_no_preparation():
    def forces(x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        return -torch.autograd.grad(pair_energy(x), x)[0]
    for x in (points(), points().requires_grad_()): assert_equivariant(forces, x)


def test_systems_keep_their_atoms():
    class Batch:
        positions, mol_id = points(9), torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    permutations = [g.permutation for g in group_elements("S(N)", Batch(), n_samples=6)]
    for p in permutations:
        assert torch.equal(Batch.mol_id[p], Batch.mol_id) and torch.equal(p.sort().values, torch.arange(9))
        assert not torch.equal(p, torch.arange(9)) and p[3] == 3
    assert {int((p != torch.arange(9)).sum()) for p in permutations} == {4, 8}  # swaps and rings


def test_single_atoms_have_no_permutations():
    assert "permutation" not in {r.symmetry for r in symmetry_report(lambda x: x, points(1), "point").rows}
    with pytest.raises(ValueError, match="nothing to permute"): symmetry_report(lambda x: x, points(1), "point", group="S(N)")


def test_even_permutations_alone_are_not_enough():
    signed_volume = lambda x: torch.linalg.det(x)  # noqa: E731  keeps its value when three atoms pass around a ring
    for seed in range(20): assert not symmetry_report(signed_volume, points(3), group="S(N)", n_samples=1, seed=seed).ok


def test_message_and_dict_name_what_broke():
    x = points()
    with pytest.raises(AssertionError) as e: assert_invariant(lambda x: x.square().sum(), x)
    message = str(e.value)
    assert "translation breaks it by" in message and "tolerance is 1e-09" in message and "worst move: translation by [" in message
    report = symmetry_report(lambda x: x.square().sum(), x)
    d = json.loads(json.dumps(report.to_dict()))
    assert not d["ok"] and {r["symmetry"] for r in d["rows"] if not r["ok"]} == {"translation"}
    moved = x + report.worst.element.translation
    expected = (moved.square().sum() / x.square().sum() - 1).abs().item()
    assert report.worst.largest == pytest.approx(expected, rel=1e-12)  # the reported move reproduces the reported error
    assert "BROKEN" in str(report) and "BROKEN" in report._repr_markdown_()


def test_irreps_objects_and_strings_are_one_thing():
    o3 = pytest.importorskip("e3nn.o3")
    R, h = random_rotation(), torch.randn(4, 11, dtype=F64)
    irreps = o3.Irreps("3x0e+1o+1x2e")
    g = GroupElement("rotation", matrix=R)
    torch.testing.assert_close(act(h, irreps, g), act(h, str(irreps), g))
    torch.testing.assert_close(representation(irreps, R)[3:6, 3:6], R)
    D = [representation("1x4e", M) for M in (R, R.T, R @ R)]
    torch.testing.assert_close(D[0] @ D[1], torch.eye(9, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(D[0] @ D[0], D[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [[0., 1, 0], [0., 0, 1], [1., 0, 0]])
@pytest.mark.parametrize("angle", [0., 1e-9, torch.pi])
def test_wigner_matrices_where_euler_angles_are_singular(axis, angle):
    R = rotate_vector(torch.eye(3, dtype=F64), torch.tensor(axis, dtype=F64), angle).T
    torch.testing.assert_close(representation("1x1o", R), R, rtol=0, atol=1e-13)


def test_bad_requests_say_what_to_do():
    x = points()
    for kw, words in ((dict(per="molecule"), "per must be"), (dict(per="atom"), "first dimension must be 5"), (dict(n_samples=0), "n_samples"),
                      (dict(group="E(2)"), "dimension"), (dict(group="SU(3)"), "unknown group"), (dict(irreps_out="spinor"), "unknown kind"),
                      (dict(irreps_out="1x2e"), "last dimension of 5")):
        with pytest.raises(ValueError, match=words): symmetry_report(lambda x: x.mean(0), x, **dict(irreps_out="vector") | kw)
    with pytest.raises(ValueError, match=r"shape \(N, d\)"): symmetry_report(pair_energy, x[None])
    with pytest.raises(ValueError, match="length zero"): rotate_vector(x, torch.zeros(3), 1.)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    for dtype in (F64, torch.float32):
        x = points(dtype=dtype).cuda()
        assert assert_invariant(lambda x: torch.exp(-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")).sum(), x).ok
        assert assert_equivariant(lambda x: x - x.mean(0), x, "1x1o").ok
