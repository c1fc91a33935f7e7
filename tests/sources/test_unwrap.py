import pytest

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.pickled import Opaque, TensorRef
from collapse_cli.sources.unwrap import strip_prefixes, unwrap


def tensor(key, *shape, dtype="F32"):
    return TensorRef(str(key), dtype, 0, shape, (1,) * len(shape))


W, B, C = tensor(0, 3, 4), tensor(1, 3), tensor(2, 2, 3)
MODEL = {"a.weight": W, "a.bias": B, "c.weight": C}


@pytest.mark.parametrize(
    ("stored", "clean"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.a.module.w", "module.b"], ["a.module.w", "b"]),
        (["module.module.a"], ["a"]),
        (["module.a", "n_averaged"], ["a", "n_averaged"]),
        (["_orig_mod.a"], ["a"]),
        (["_orig_mod.module.a"], ["a"]),
        (["module._orig_mod.a"], ["a"]),
        (["l.0._fsdp_wrapped_module.w", "l.0.b"], ["l.0.w", "l.0.b"]),
        (["l._checkpoint_wrapped_module.w"], ["l.w"]),
        (["_forward_module.model.w"], ["model.w"]),
        (["_orig_mod.a", "a"], ["_orig_mod.a", "a"]),
        (["model.a", "model.b"], ["model.a", "model.b"]),
        (["module", "module."], ["module", "module."]),
        (["x._orig_mod"], ["x._orig_mod"]),
        ([], []),
    ],
    ids=repr,
)
def test_prefixes_of_wrappers_go_and_others_stay(stored, clean):
    assert strip_prefixes(stored) == dict(zip(stored, clean, strict=True))


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "module", "ema", "params_ema", "params", "net"]
)
def test_the_model_is_found_under_its_usual_keys(key):
    found = unwrap({"epoch": 3, key: MODEL})
    assert dict(found.model) == MODEL
    assert not found.extras


def test_a_plain_state_dict_is_the_model():
    assert dict(unwrap(MODEL).model) == MODEL


def test_a_bare_tensor_and_a_list_have_names():
    assert dict(unwrap(W).model) == {"tensor": W}
    assert dict(unwrap([W, [B]]).model) == {"0": W, "1.0": B}


def test_state_dicts_within_state_dicts_are_found():
    assert dict(unwrap({"model": {"state_dict": {"module.a": W}}}).model) == {"a": W}


def test_a_dictionary_of_state_dicts_names_its_parts():
    found = unwrap({"generator": {"module.w": W}, "discriminator": {"w": B}, "step": 1})
    assert dict(found.model) == {"generator.w": W, "discriminator.w": B}


def test_averages_beside_the_model_are_named_and_kept():
    found = unwrap({"state_dict": MODEL, "ema": {"module.a.weight": C}})
    assert dict(found.model) == MODEL
    assert dict(found.extras) == {"ema.a.weight": C}


def test_other_tensors_are_named_by_their_path():
    found = unwrap({"state_dict": MODEL, "callbacks": [{"best": W}], "rng": B})
    assert dict(found.extras) == {"callbacks.0.best": W, "rng": B}


def test_names_that_meet_stay_apart():
    found = unwrap({"a.b": W, "a": {"b": B}})
    assert dict(found.model) == {"a.b": W, "a.b~2": B}


def module(parameters, children, buffers=None):
    return Opaque(
        "mine.Net", state={"training": True, "_parameters": parameters, "_buffers": buffers or {}, "_modules": children}
    )


def test_a_pickled_module_is_walked():
    inner = module({"weight": W, "bias": None}, {}, {"running_mean": B})
    assert dict(unwrap(module({}, {"block": inner})).model) == {"block.weight": W, "block.running_mean": B}
    assert dict(unwrap({"model": module({}, {"block": inner})}).model) == {"block.weight": W, "block.running_mean": B}


def test_a_circle_is_left_out():
    tree = {"a": W}
    tree["self"] = [tree]
    assert dict(unwrap(tree).model) == {"a": W}


# --- optimizer -------------------------------------------------------------------------------------------------------


def adam(*like, groups=None):
    state = {
        i: {"step": 7, "exp_avg": tensor(10 + i, *p.shape), "exp_avg_sq": tensor(20 + i, *p.shape)}
        for i, p in enumerate(like)
    }
    return {
        "state": state,
        "param_groups": groups or [{"params": list(range(len(like))), "lr": 0.1, "betas": (0.9, 0.99)}],
    }


def parameters(tree):
    return [group.parameter for group in unwrap(tree).optimizer]


def test_moments_are_named_by_path_and_mapped_to_parameters():
    found = unwrap({"state_dict": MODEL, "optimizer_states": [adam(W, B, C)]})
    assert [group.parameter for group in found.optimizer] == ["a.weight", "a.bias", "c.weight"]
    third = found.optimizer[2]
    assert third.moments["exp_avg"] == "optimizer_states.0.state.2.exp_avg"
    assert found.extras[third.moments["exp_avg"]].storage_key == "12"
    assert third.settings == {"lr": 0.1, "betas": [0.9, 0.99], "step": 7}
    assert set(found.model) == set(MODEL)


def test_buffers_and_integers_are_no_parameters():
    model = {"n.weight": B, "n.running_mean": B, "n.num_batches_tracked": tensor(5, dtype="I64"), "c": C}
    assert parameters({"model": model, "optimizer": adam(B, C)}) == ["n.weight", "c"]


def test_tied_tensors_are_one_parameter():
    assert parameters({"model": {"in": W, "b": B, "out": W}, "optimizer": adam(W, B)}) == ["in", "b"]


@pytest.mark.parametrize("like", [(W, B), (B, W, C), (W, B, C, C)], ids=["fewer", "other shapes", "more"])
def test_what_does_not_fit_keeps_its_number(like):
    assert parameters({"state_dict": MODEL, "optimizer": adam(*like)}) == [f"param_{i}" for i in range(len(like))]


def test_the_order_is_that_of_the_groups():
    state = {2: {"exp_avg": W}, 0: {"exp_avg": B}, 1: {"exp_avg": C}}
    groups = [{"params": [2], "lr": 1.0}, {"params": [0, 1], "lr": 2.0}]
    found = unwrap({"state_dict": MODEL, "optimizer": {"state": state, "param_groups": groups}})
    assert {group.parameter: group.settings["lr"] for group in found.optimizer} == {
        "a.weight": 1.0,
        "a.bias": 2.0,
        "c.weight": 2.0,
    }


def test_names_that_the_file_gives_are_used():
    groups = [{"params": [0, 1], "param_names": ["module.x", "module.y"]}]
    assert parameters({"state_dict": MODEL, "optimizer": adam(W, B, groups=groups)}) == ["x", "y"]
    named = {"state": {"_fsdp_wrapped_module.a.weight": {"exp_avg": W}}, "param_groups": []}
    assert parameters({"model": MODEL, "optimizer": named}) == ["a.weight"]


def test_several_optimizers_do_not_share_numbers():
    tree = {"model": MODEL, "optimizers": [adam(W), adam(B)]}
    assert parameters(tree) == ["optimizers.0.param_0", "optimizers.1.param_0"]


def test_an_optimizer_alone_has_no_model():
    found = unwrap(adam(W))
    assert not found.model
    assert set(found.extras) == {"state.0.exp_avg", "state.0.exp_avg_sq"}


# --- hyper-parameters and bounds -------------------------------------------------------------------------------------


def test_hyper_parameters_keep_what_is_plain():
    namespace = Opaque("argparse.Namespace", state={"depth": 12})
    given = {"lr": 0.1, "sizes": (1, 2), "args": namespace, "path": Opaque("pathlib.PosixPath"), 3: 4}
    found = unwrap({"state_dict": MODEL, "hyper_parameters": given}).hyper_parameters
    assert found == {"lr": 0.1, "sizes": [1, 2], "args": {"depth": 12}}


def laughing(leaf, depth):
    for _ in range(depth):
        leaf = [leaf] * 10
    return leaf


def test_laughs_without_tensors_cost_nothing():
    found = unwrap({"state_dict": MODEL, "hyper_parameters": {"x": laughing("ha", 50)}, "y": laughing("ha", 50)})
    assert dict(found.model) == MODEL


def test_laughs_with_tensors_end_in_an_error():
    with pytest.raises(UnreadableCheckpoint, match="1,000,000 tensors"):
        unwrap({"state_dict": laughing(W, 50)}, where="x")


def test_names_made_large_end_in_an_error():
    with pytest.raises(UnreadableCheckpoint, match="268,435,456 characters"):
        unwrap({"x" * (1 << 24): laughing(W, 2)}, where="x")


def test_depth_ends_in_an_error():
    deep = W
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnreadableCheckpoint, match="1,000 deep"):
        unwrap(deep, where="x")


def test_numbers_that_lightning_remembers_are_no_part_of_the_model():
    remembered = {"ModelCheckpoint": {"kth_value": tensor(3), "best_model_score": tensor(4)}, "Average": {"w": C}}
    tree = {"state_dict": MODEL, "callbacks": remembered, "loops": {"fit": {"total": tensor(5, 1)}}}
    assert set(unwrap(tree | {"pytorch-lightning_version": "2.4.0"}).extras) == {"callbacks.Average.w"}
    assert len(unwrap(tree).extras) == 4
