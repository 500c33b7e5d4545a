"""Plans in YAML, and what is said of wrong ones."""

from pathlib import Path

import pytest

from effopd.errors import ConfigurationError
from effopd.interventions import (
    KINDS,
    BottomComponents,
    NormMatch,
    ReplaceEmbeddings,
    Scale,
    TopComponents,
    Window,
    make_intervention,
    read_plan,
)
from effopd.interventions.plan import describe


def test_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "- norm-match: {final: runs/opd, beta: 0.5}\n- replace-embeddings\n- replace-embeddings:\n- scale: {alpha: 2}\n"
        "- scale: {alpha: 1e-3}\n"
        "- window: {module: mlp, centre: 3, half_width: 1}\n- top: {percent: 10, other: base}\n"
        "- bottom: {percent: 0.5}\n"
    )
    plan = read_plan(path)
    assert plan == [
        NormMatch("runs/opd", 0.5),
        ReplaceEmbeddings(),
        ReplaceEmbeddings(),
        Scale(2),
        Scale(0.001),
        Window("mlp", 3, 1),
        TopComponents(10, other="base"),
        BottomComponents(0.5),
    ]
    entries = [describe(intervention) for intervention in plan]
    assert [make_intervention(*next(iter(entry.items()))) for entry in entries] == plan
    assert describe(NormMatch({"x": 1.0})) == {
        "norm-match": {"final": "norms of 1 weights, given as numbers", "beta": 1.0}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds nothing; expected a list"),
        ("[]", "expected a list such as"),
        ("scale: {alpha: 1}", "expected a list"),
        ("- : :", "cannot be read as YAML"),
        (
            "- scale: {alpha: 1,\n  alpha: 0.5}",
            "the key 'alpha' is there twice; expected it once\n  in \"<unicode string>\", line 2",
        ),
        (f"- scale: {{alpha: {10**400}}}", "000, expected a finite number"),
        ("- 3", "entry 1: got 3; expected one kind with its fields"),
        ("- scale: {alpha: 1}\n  top: {percent: 3}", "expected one kind"),
        ("- scale: {alpha: 1}\n- fly", f"entry 2: intervention: got 'fly', expected one of {', '.join(KINDS)}"),
        ("- scale: 3", "scale: got 3; expected its fields"),
        ("- scale", "scale: alpha is missing."),
        ("- window: {centre: 3}", "window: module is missing."),
        ("- scale: {alpha: 1, beta: 2}", "scale: got the field 'beta', expected one of alpha"),
        ("- replace-embeddings: {alpha: 1}", "replace-embeddings: got the field 'alpha', expected none"),
        ("- top: {percent: ten}", "top: percent: got 'ten', expected a finite number"),
        ("- scale: {alpha: .nan}", "scale: alpha: got nan"),
    ],
)
def test_wrong_plans(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_plan(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_plan(tmp_path / "none.yaml")
