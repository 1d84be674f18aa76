"""Constraints: what may be written, what is said about the rest, and how far a configuration is from one."""

import math
import pickle

import pytest

from orchestrator.constraint import MAX_LENGTH, Constraint
from orchestrator.errors import SpaceError
from orchestrator.space import Choice, Float, Int, Space

SPACE = {
    "lr": Float(0, 1),
    "optimizer.lr": Float(0, 1),
    "depth": Int(1, 8),
    "norm": Choice(["batch", "group", None]),
    "hidden": Choice([[64], [64, 32]]),
    "flag": Choice([True, False]),
    "extra": Float(0, 1, when={"flag": True}),
}


@pytest.mark.parametrize(
    ("text", "params", "violation"),
    [
        ("lr <= 1", {"lr": 1}, 0),
        ("lr <= 1", {"lr": 3}, 2),
        ("lr <= 1", {"lr": 0.5}, -0.5),
        ("lr < 1", {"lr": 1}, 1e-9),
        ("lr >= 1", {"lr": 0.25}, 0.75),
        ("lr > 1", {"lr": 1}, 1e-9),
        ("lr == 1", {"lr": 1.5}, 0.5),
        ("lr == 0.3", {"lr": 0.1 + 0.2}, 0),
        ("lr <= 0.3", {"lr": 0.1 + 0.2}, 0),
        ("lr != 1", {"lr": 1}, 1),
        ("lr != 1", {"lr": 2}, 0),
        ("0.1 <= lr <= 1", {"lr": 3}, 2),
        ("not 0.1 <= lr <= 1", {"lr": 3}, -2),
        ("lr <= 1 and depth <= 2", {"lr": 2, "depth": 5}, 3),
        ("lr <= 1 or depth <= 2", {"lr": 2, "depth": 5}, 1),
        ("not (lr <= 1 or depth <= 2)", {"lr": 2, "depth": 5}, -1),
        ("optimizer.lr * depth <= 4", {"optimizer.lr": 2, "depth": 3}, 2),
        ("-lr + 2 ** depth // 3 % 2 - max(lr, depth, 1) / 2 <= 0", {"lr": 1, "depth": 4}, -1 + 1 - 2),
        ("log10(lr) >= -3", {"lr": 1e-4}, 1),
        ("norm == 'batch'", {"norm": "batch"}, 0),
        ("norm == 'batch'", {"norm": None}, 1),
        ("norm != 'batch' or depth >= 4", {"norm": "batch", "depth": 3}, 1),
        ("norm in ['batch', None]", {"norm": None}, 0),
        ("norm in ['batch', None]", {"norm": "group"}, 1),
        ("norm not in ['batch', None]", {"norm": "group"}, 0),
        ("flag == True", {"flag": True}, 0),
        ("len(hidden) < depth", {"hidden": [64, 32], "depth": 1}, 1),
        ("sum(hidden) <= 64", {"hidden": [64, 32]}, 32),
        ("lr / depth <= 1", {"lr": 1, "depth": 0}, math.inf),
        ("depth ** depth ** depth <= 1", {"depth": 999}, math.inf),
        ("sqrt(lr) <= 1", {"lr": -1}, math.inf),
        ("lr - lr <= 0", {"lr": math.inf}, math.inf),
        ("lr <= extra", {"lr": 1}, 0),  # on a parameter that is not active
    ],
)
def test_violations(text, params, violation):
    assert Constraint(text).violation(params) == pytest.approx(violation)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no text; write one such as 'lr * batch_size <= 1'"),
        (3, "is no text; write one such as 'lr * batch_size <= 1'"),
        ("lr <=", "is no expression (invalid syntax); write one such as 'lr * batch_size <= 1'"),
        ("lr = 1", "has '=', which compares nothing; write '=='"),
        ("norm == batch", "is on 'batch', which is no parameter; text is written as 'batch', with quotes"),
        ("lr", "compares nothing in 'lr'; write one such as 'lr * batch_size <= 1'"),
        ("lr <= 1 and depth", "compares nothing in 'depth'; write one such as 'lr * batch_size <= 1'"),
        ("lr is 1", "compares in a way that is not allowed, 'lr is 1'; use < <= == != > >= or in"),
        ("__import__('os') == 1", "calls '__import__', which there is none of; available: "),
        ("lgo(lr) <= 1", "calls 'lgo', which there is none of; did you mean 'log'?"),
        ("lr.real.__class__ == 1", "is on 'lr.real.__class__', which is no parameter; available: "),
        ("(lambda: 1)() == lr", "has '(lambda: 1)()', which is not allowed in a constraint"),
        ("[x for x in lr] == 1", "has '[x for x in lr]', which is not allowed in a constraint"),
        ("'a'.join(lr) == 1", "'a'.join(lr)', which is not allowed in a constraint"),
        ("lr if flag else depth <= 1", "compares nothing in 'lr if flag else depth <= 1'"),
        ("f'{lr}' == 'x'", "which is not allowed in a constraint"),
        ("lr << 2 <= 1", "has 'lr << 2', which is not allowed in a constraint"),
        ("b'x' == lr", "has 'b'x'', which is not allowed in a constraint"),
        ("lr <= " + "1 +" * MAX_LENGTH + "1", f"characters long; at most {MAX_LENGTH} are allowed"),
        ("(" * 400 + "lr" + ")" * 90 + "<=1", "is no expression"),
        ("detph <= 2", "is on 'detph', which is no parameter; did you mean 'depth'?"),
        ("1 <= 2", "is on no parameter; name one, or drop it"),
        ("norm * 2 <= 2", "computes with 'norm', which is not always a number: batch, group, None"),
        ("norm <= 2", "computes with 'norm', which is not always a number: batch, group, None"),
        ("log(hidden) <= 2", "computes with 'hidden', which is not always a number: [64], [64, 32]"),
        ("lr + 'a' <= 2", "computes with 'a', which is not a number"),
    ],
)
def test_what_is_not_allowed(text, said):
    with pytest.raises(SpaceError) as caught:
        Space(SPACE, [text])
    assert said in caught.value.problems[0]
    assert caught.value.problems[0].startswith("space: constraint ")


def test_spacing_makes_no_difference():
    one, other = Constraint("lr*depth<=1"), Constraint(" lr * depth  <= 1 ")
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == "lr * depth <= 1"
    assert pickle.loads(pickle.dumps(one)) == one
    assert Space(SPACE, [one, other]).constraints == (one,)


def test_names_and_renaming():
    constraint = Constraint("log(optimizer.lr) + log <= depth or norm == 'depth'")
    assert constraint.names == {"optimizer.lr", "log", "depth", "norm"}
    renamed = constraint.renamed(lambda name: {"depth": "model.depth", "log": "logs"}.get(name, name))
    assert str(renamed) == "log(optimizer.lr) + logs <= model.depth or norm == 'depth'"


def test_defaults_have_to_fulfil_them():
    with pytest.raises(SpaceError, match=r"does not hold for the defaults: a is 2, b is 1\.0; change one of them"):
        Space({"a": Int(1, 3, default=2), "b": Float(0, 1, default=1)}, ["a < b"])
    assert Space({"a": Int(1, 3, default=2), "b": Float(0, 3)}, ["a < b"]).default_params() == {"a": 2}
