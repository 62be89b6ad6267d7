from __future__ import annotations

import pytest

from fairtrial.wire.errors import WireError
from fairtrial.wire.target import has_dot_segment, matches_prefix, path_of, percent_decoded, query_value, replace_prefix


@pytest.mark.parametrize("target", [b"/v1/churn", b"/v1/churn:predict", b"/v1/churn/x", b"/v1/churn?q", b"/v1/churn/"])
def test_a_prefix_matches_up_to_a_boundary(target: bytes) -> None:
    assert matches_prefix(target, b"/v1/churn")


@pytest.mark.parametrize("target", [b"/v1/churn2", b"/v1/chur", b"/v1/churn-3", b"/V1/churn", b"/v1/churn%2Fx", b"*"])
def test_a_prefix_does_not_match_inside_a_name(target: bytes) -> None:
    assert not matches_prefix(target, b"/v1/churn")


@pytest.mark.parametrize("target", [b"/", b"/x", b"/?q"])
def test_a_prefix_that_ends_in_a_slash_takes_all_below(target: bytes) -> None:
    assert matches_prefix(target, b"/")
    assert not matches_prefix(target, b"/deep/")


@pytest.mark.parametrize(
    ("target", "prefix", "path", "result"),
    [
        (b"/v1/churn:predict", b"/v1/churn", b"/v1/churn-3", b"/v1/churn-3:predict"),
        (b"/v1/churn/x?q", b"/v1/churn", b"/", b"/x?q"),
        (b"/v1/churn?q", b"/v1/churn", b"/", b"/?q"),
        (b"/v1/churn", b"/v1/churn", b"", b"/"),
        (b"/x", b"/", b"/base", b"/base/x"),
        (b"/x", b"/", b"/base/", b"/base/x"),
        (b"/a/x", b"/a/", b"/b", b"/b/x"),
        (b"/a:predict", b"/a", b"", b"/:predict"),
    ],
)
def test_a_prefix_is_replaced_by_the_models_path(target: bytes, prefix: bytes, path: bytes, result: bytes) -> None:
    assert replace_prefix(target, prefix, path) == result


@pytest.mark.parametrize(
    "target",
    [b"/a/../b", b"/a/.", b"/..", b"/a/%2e%2E/b", b"/a/.%2e", b"/a%2f..%2fb", b"/a/..?q", b"/a/..;x/b", b"/a%5c..%5Cb"],
)
def test_sees_dot_segments_also_escaped_ones(target: bytes) -> None:
    assert has_dot_segment(target)


@pytest.mark.parametrize("target", [b"/a.b", b"/.well-known/x", b"/...", b"/a..b/c", b"/a?x=/../", b"/v1.0/x", b"*"])
def test_a_dot_in_a_name_is_no_dot_segment(target: bytes) -> None:
    assert not has_dot_segment(target)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (b"/x?user=a", b"a"),
        (b"/x?b=1&user=a&c", b"a"),
        (b"/x?user=a+b%20c%2B", b"a b c+"),
        (b"/x?us%65r=a", b"a"),
        (b"/x?user", b""),
        (b"/x?user=", b""),
        (b"/x?user=a=b", b"a=b"),
        (b"/x?user=%zz%4", b"%zz%4"),
        (b"/x?user=a?b/c", b"a?b/c"),
        (b"/x?user=a&user=a", b"a"),
        (b"/x?user=%FF%00", b"\xff\x00"),
        (b"/x?User=a", None),
        (b"/x?users=a", None),
        (b"/x?", None),
        (b"/user=a", None),
        (b"/x?;user=a", None),
    ],
)
def test_reads_one_query_parameter(target: bytes, value: bytes | None) -> None:
    assert query_value(target, b"user") == value


def test_refuses_two_values_of_one_parameter() -> None:
    with pytest.raises(WireError, match="two values for query parameter user") as caught:
        query_value(b"/x?user=a&user=b", b"user")
    assert caught.value.status == 400


def test_decodes_once_only() -> None:
    assert percent_decoded(b"%2541") == b"%41"


def test_the_path_ends_at_the_query() -> None:
    assert path_of(b"/a?b?c") == b"/a"
    assert path_of(b"/a") == b"/a"
