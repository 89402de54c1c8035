"""The contract of an update rule, held by every row of `RULES`."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from l2l_exp import checkpoint
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import lstm
from l2l_exp.optimizers.base import Observation, map_state, state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.hierarchical import Hierarchical
from l2l_exp.optimizers.partitioned import Partitioned
from l2l_exp.state import TrainingFile

SPEC = ParamSpec.of({"w": ((2, 3), "fc"), "b": ((3,), "bias")})
B, N = 4, SPEC.size


def observation(step=0, seed=0):
    """Something to see: gradients of very different magnitudes."""
    rng = torch.Generator().manual_seed(100 * seed + step)
    grad, theta = (torch.randn(B, N, generator=rng, dtype=torch.float64) for _ in range(2))
    return Observation(grad**5, theta, theta.square().sum(1), step, 10, SPEC)


def warm(rule, steps=2, seed=0):
    """A state that has seen something."""
    state = rule.init_state(observation(0, seed).theta, SPEC)
    for step in range(steps):
        _, state = rule.step(observation(step, seed), state)
    return state


def run(rule, select, steps=3):
    """Updates (steps, ...) when the rule sees only what `select` leaves of each observation."""
    state, updates = rule.init_state(select(observation()).theta, SPEC), []
    for step in range(steps):
        update, state = rule.step(select(observation(step)), state)
        updates.append(update)
    return torch.stack(updates)


def same(one, other):
    """Whether two states are bit for bit the same."""
    return type(one) is type(other) and all(
        torch.equal(a, b) for a, b in zip(state_tensors(one), state_tensors(other), strict=True)
    )


def close(one, other):
    """Equal to the last few digits."""
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_an_update_has_the_shape_and_dtype_of_theta(rule):
    update, _ = rule.step(observation(2), warm(rule))
    assert update.shape == (B, N) and update.dtype == torch.float64 and update.isfinite().all()
    assert not any(x.requires_grad for x in state_tensors(rule.init_state(update, SPEC)))


@torch.no_grad()  # with a graph a memory may grow: it keeps the factors of what it is made of
def test_a_state_keeps_its_shapes(rule):
    state = warm(rule)
    _, after = rule.step(observation(2), state)
    assert [x.shape for x in state_tensors(after)] == [x.shape for x in state_tensors(state)]


def test_updates_answer_to_the_gradient(rule):
    state, seen = warm(rule), observation(2)
    other = seen._replace(grad=-seen.grad)
    assert (rule.step(seen, state)[0] != rule.step(other, state)[0]).all()


def test_a_step_modifies_no_argument_and_repeats_itself(rule):
    state, seen = warm(rule), observation(2)
    kept_state, kept_rule = map_state(torch.Tensor.clone, state), copy.deepcopy(rule.state_dict())
    kept_seen = [x.clone() for x in seen[:3]]
    update, after = rule.step(seen, state)
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], kept_seen, strict=True))
    assert same(state, kept_state)
    assert all(torch.equal(x, kept_rule[name]) for name, x in rule.state_dict().items())
    again, after_again = rule.step(seen, state)
    assert torch.equal(again, update) and same(after_again, after)


def test_later_steps_leave_earlier_states_alone(rule):
    states = [rule.init_state(observation().theta, SPEC)]
    kept = []
    for step in range(3):
        kept.append(map_state(torch.Tensor.clone, states[-1]))
        states.append(rule.step(observation(step), states[-1])[1])
    assert all(same(state, copy_) for state, copy_ in zip(states, kept, strict=False))


@pytest.mark.parametrize("block", [7, 10**6])
def test_a_step_in_place_is_the_step_and_changes_no_observation(rule, monkeypatch, block):
    monkeypatch.setattr(lstm, "BLOCK", block)
    seen, kept_seen = observation(2), observation(2)
    with torch.no_grad():
        state = warm(rule)
        update, after = rule.step(seen, state)
        in_place, same_after = rule.step_in_place(seen, map_state(torch.Tensor.clone, state))
    assert torch.equal(in_place, update) and same(same_after, after)
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], kept_seen[:3], strict=True))


def test_problems_together_equal_each_alone(rule):
    together = run(rule, lambda seen: seen)
    for b in range(B):
        alone = run(rule, lambda seen, b=b: seen.take(torch.tensor([b]), "problem"))
        close(alone, together[:, [b]])


def test_permuting_the_problems_permutes_the_updates(rule):
    order = torch.tensor([2, 0, 3, 1])
    permuted = run(rule, lambda seen: seen.take(order, "problem"))
    close(permuted, run(rule, lambda seen: seen)[:, order])


def a_permutation(tensors):
    """Of all coordinates; or within every one of some tensors."""
    rng = torch.Generator().manual_seed(0)
    places = [t.start + torch.randperm(t.size, generator=rng) for t in tensors or ()]
    return torch.cat(places) if places else torch.randperm(N, generator=rng)


def test_permuting_coordinates_permutes_the_updates(rule):
    if rule.coupling == "tensor":
        pytest.skip("it knows where in which tensor a coordinate is")
    knows_tensors = isinstance(rule, Partitioned | Hierarchical)
    order = a_permutation(SPEC.tensors if knows_tensors else None)
    permuted = run(
        rule, lambda s: s._replace(grad=s.grad[:, order], theta=s.theta[:, order])
    )  # fmt: skip
    close(permuted, run(rule, lambda seen: seen)[..., order])


def test_stepping_a_taken_subset_equals_taking_from_the_whole_step(rule):
    state, seen = warm(rule), observation(2)
    update, after = rule.step(seen, state)
    index = torch.tensor([1, 3]) if rule.coupling != "none" else torch.tensor([0, 8, 9, 22, 35])
    part, after_part = rule.step(seen.take(index, rule.coupling), rule.take(state, index))
    whole = update.flatten()[index] if rule.coupling == "none" else update[index].flatten()
    close(part.flatten(), whole)
    taken = rule.take(after, index)
    for a, b in zip(state_tensors(after_part), state_tensors(taken), strict=True):
        close(a, b)


@torch.no_grad()
def test_the_problems_of_two_states_are_mixed_as_selected(rule):
    states, where = [warm(rule), warm(rule, seed=1)], torch.tensor([True, False, False, True])
    mixed, seen = rule.select(where, *states), observation(2)
    update, _ = rule.step(seen, mixed)
    for state, kept in zip(states, (where, ~where), strict=True):
        close(update[kept], rule.step(seen, state)[0][kept])


@torch.no_grad()
def test_the_coordinates_of_two_states_are_mixed_as_selected(rule):
    if rule.coupling != "none":
        pytest.skip("its coordinates are no problems of their own")
    index = torch.arange(B * N)
    states, where = [rule.take(warm(rule, seed=s), index) for s in (0, 1)], index % 5 < 2
    mixed, seen = rule.select(where, *states), observation(2).take(index, "none")
    update, _ = rule.step(seen, mixed)
    for state, kept in zip(states, (where, ~where), strict=True):
        close(update[kept], rule.step(seen, state)[0][kept])


@torch.no_grad()
def test_pairs_that_are_trusted_change_nothing(rule):
    state, seen = warm(rule), observation(2)
    update, after = rule.step(seen, state)
    trusted, same_after = rule.step_trusted(seen, state, torch.ones(B, dtype=torch.bool))
    assert torch.equal(trusted, update) and same(same_after, after)
    assert same(rule.told(after, update), after)


def test_a_state_keeps_its_structure_and_values_when_detached(rule):
    state = warm(rule)
    cut = map_state(torch.Tensor.detach, state)
    assert same(cut, state) and not any(x.requires_grad for x in state_tensors(cut))


def test_a_state_is_saved_and_loaded_and_goes_on_as_before(rule, tmp_path):
    state, path = map_state(torch.Tensor.detach, warm(rule)), tmp_path / "state.pt"
    torch.save(state_tensors(state), path)
    kept = iter(torch.load(path, weights_only=True))
    back = map_state(lambda x: next(kept), state)
    assert same(back, state)
    update, after = rule.step(observation(2), back)
    expected, expected_after = rule.step(observation(2), state)
    assert torch.equal(update, expected) and same(after, expected_after)


def test_meta_parameters_are_kept_by_checkpoints_and_by_meta_training(
    learned_rule, monkeypatch, tmp_path
):
    whole = run(learned_rule, lambda seen: seen)
    memory, progress = TrainingFile(tmp_path), {"progress": {}}
    memory.keep(lambda: {"rule": learned_rule.state_dict(), **progress})
    blank, other = copy.deepcopy(learned_rule), copy.deepcopy(learned_rule)
    learned_rule.architecture = {"_target_": "of the table"}
    checkpoint.save(tmp_path, learned_rule, {})
    for rule in (blank, other):
        for parameter in rule.parameters():
            nn.init.zeros_(parameter)
    monkeypatch.setattr(checkpoint, "rebuild", lambda architecture, path: blank)
    loaded = checkpoint.load(tmp_path)
    other.load_state_dict(memory.recall()["rule"])
    assert torch.equal(run(loaded, lambda seen: seen), whole)
    assert torch.equal(run(other, lambda seen: seen), whole)


def test_rule_and_state_move_to_float32(rule):
    state, seen = warm(rule), observation(2)
    update, _ = rule.step(seen, state)
    small = seen._replace(grad=seen.grad.float(), theta=seen.theta.float(), loss=seen.loss.float())
    small_update, after = rule.float().step(small, map_state(torch.Tensor.float, state))
    assert {x.dtype for x in (small_update, *state_tensors(after))} == {torch.float32}
    torch.testing.assert_close(small_update.double(), update, rtol=1e-3, atol=1e-5)


def test_no_graph_is_kept_where_none_is_asked_for(rule):
    with torch.no_grad():
        update, state = rule.step(observation(2), warm(rule))
    assert not any(x.requires_grad for x in (update, *state_tensors(state)))


def test_zero_output_scale_proposes_nothing(learned_rule):
    if any(isinstance(module, Baseline) for module in learned_rule.modules()):
        pytest.skip("a torch optimizer has no output scale")
    scaled = [module for module in learned_rule.modules() if hasattr(module, "output_scale")]
    for module in scaled:
        module.output_scale = 0.0
    assert scaled and run(learned_rule, lambda seen: seen).count_nonzero() == 0


def test_every_meta_parameter_has_a_finite_gradient_that_is_not_zero(learned_rule):
    loss = run(learned_rule, lambda seen: seen).square().sum()
    for grad in torch.autograd.grad(loss, list(learned_rule.parameters())):
        assert grad.isfinite().all() and grad.count_nonzero() > 0


def test_a_deep_copy_is_the_same_rule(rule):
    whole = run(rule, lambda seen: seen)
    assert torch.equal(run(copy.deepcopy(rule), lambda seen: seen), whole)


class TwoSteps(nn.Module):
    """Two steps of a rule as a module's forward, for `functional_call`."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, seen):
        state = self.rule.init_state(seen.theta, SPEC)
        update, state = self.rule.step(seen, state)
        return update + self.rule.step(seen, state)[0]


@pytest.mark.parametrize("graph", [True, False])
def test_particles_of_meta_parameters_are_vmapped(learned_rule, graph):
    call, seen = TwoSteps(learned_rule), observation()
    rng = torch.Generator().manual_seed(0)
    particles = {
        name: x.detach() + 0.1 * torch.randn(5, *x.shape, generator=rng, dtype=x.dtype)
        for name, x in call.named_parameters()
    }
    with torch.set_grad_enabled(graph):
        together = vmap(lambda phi: functional_call(call, phi, (seen,)))(particles)
        for p in range(5):
            alone = functional_call(call, {name: x[p] for name, x in particles.items()}, (seen,))
            close(together[p], alone)


def test_particles_of_meta_parameters_are_vmapped_where_coordinates_are_blocked(
    learned_rule, monkeypatch
):
    monkeypatch.setattr(lstm, "BLOCK", 7)
    test_particles_of_meta_parameters_are_vmapped(learned_rule, graph=False)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's lerp_, of Adam
def test_steps_are_vmapped_over_problems(learned_rule):
    whole, seen = run(learned_rule, lambda seen: seen)[0], observation()

    def one(grad, theta, loss):
        alone = seen._replace(grad=grad[None], theta=theta[None], loss=loss[None])
        return learned_rule.step(alone, learned_rule.init_state(alone.theta, SPEC))[0][0]

    close(vmap(one)(*seen[:3]), whole)
