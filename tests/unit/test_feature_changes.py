"""What a change of declarations concerns: the gravest first, each with what differs and which models use it."""

from __future__ import annotations

from contrail.feature_changes import FeatureChange, FeatureState, compare

WINDOW = FeatureState({"type": "Float64", "window": "60 min", "max age": "3 d"})
USERS = {"share": ("jars", "jars v1 (champion)")}


def using(feature: str) -> tuple[str, ...]:
    return USERS.get(feature, ())


def test_equal_declarations_change_nothing() -> None:
    same = {("state", "share"): WINDOW, ("state", "mean"): FeatureState({}, "old", ("jars",))}
    assert compare(same, dict(same), using) == ()


def test_who_uses_it_is_no_property_of_a_feature() -> None:
    before, after = FeatureState({"unit": "mm"}, "", ("jars",)), FeatureState({"unit": "mm"}, "", ())
    assert compare({("v", "f"): before}, {("v", "f"): after}, using) == ()


def test_what_differs_is_said_with_the_models_concerned() -> None:
    after = FeatureState({"type": "Float64", "window": "90 min", "max age": "3 d", "unit": "share"})
    (change,) = compare({("state", "share"): WINDOW}, {("state", "share"): after}, using)
    assert change == FeatureChange(
        feature="share",
        view="state",
        kind="changed",
        what=("window: '60 min' → '90 min'", "unit: '' → 'share'"),
        models=("jars", "jars v1 (champion)"),
    )


def test_deprecating_says_the_reason_and_taking_it_back_is_a_change() -> None:
    old = FeatureState(WINDOW.attributes, "use share_2h")
    (change,) = compare({("state", "share"): WINDOW}, {("state", "share"): old}, using)
    assert (change.kind, change.what) == ("deprecated", ("deprecated: use share_2h",))
    assert change.models == USERS["share"]
    (back,) = compare({("state", "share"): old}, {("state", "share"): WINDOW}, using)
    assert (back.kind, back.what) == ("changed", ("no longer deprecated",))


def test_the_gravest_come_first_and_a_removed_feature_names_who_was_said_to_use_it() -> None:
    registered = {
        ("state", "gone"): FeatureState({}, "", ("jars",)),
        ("state", "share"): WINDOW,
        ("state", "mean"): FeatureState({"unit": "mm"}),
    }
    declared = {
        ("state", "added"): FeatureState({}),
        ("state", "share"): FeatureState(WINDOW.attributes, "no longer delivered"),
        ("state", "mean"): FeatureState({"unit": "cm"}),
    }
    found = compare(registered, declared, using)
    assert [(change.kind, change.feature) for change in found] == [
        ("removed", "gone"),
        ("deprecated", "share"),
        ("changed", "mean"),
        ("added", "added"),
    ]
    assert found[0].models == ("jars",)


def test_a_feature_moved_to_another_view_is_removed_and_added() -> None:
    found = compare({("state", "share"): WINDOW}, {("history", "share"): WINDOW}, using)
    assert [(change.kind, change.view) for change in found] == [("removed", "state"), ("added", "history")]
