"""What valid experiment files mean."""

# ruff: noqa: E501 - one variant or plan a line, as people write it

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fairtrial.model.errors import ConfigError
from fairtrial.model.experiment import (
    Better,
    Condition,
    Covariate,
    EventSource,
    FieldSource,
    FieldUnit,
    LayerSlice,
    Margin,
    MetricKind,
    MetricRole,
    OnClientEof,
    RequestField,
    RequestMeasure,
    RequestSource,
    RequestUnit,
    SlotUnit,
)
from fairtrial.model.parse import check_experiment, load_experiment, parse_document, parse_experiment, to_document

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
EVERYTHING = """
version: 1
models:
  a: {url: "http://127.0.0.1:1", version: "2", host: models.example:80, headers: {Authorization: Bearer x}}
  b: {url: "https://[::1]:8443/v2"}
endpoints:
  e:
    match: {path: /v1, host: API.example, headers: {X-Team: ml}, model: gpt-x}
    model: a
    attributes: {country: {header: X-Country}, tier: {json: user.tier}, plan: {query: plan}, seen: {cookie: Seen}}
    repeatable: false
    timeouts: {connect: 500ms, first_byte: 1m, idle: 2s, total: 1.5h}
    on_client_eof: finish
    max_body: 1MiB
holdouts: {q4: 5%}
experiments:
  one:
    endpoint: e
    unit: {cookie: Uid}
    variants: {champion: {model: a}, rival: {model: b}, third: {model: b, headers: {X-P: "1"}}, dark: {model: b, shadow: 20%}}
    split: {champion: 33.3%, rival: 33.3%, third: 33.4%}
    audience: {country: DE, tier: {not: [internal, 7]}, plan: {min: 1, max: 2.5}, seen: {exists: true}}
    layer: l
    holdout: q4
    enrolment: 20%
    salt: s.1
    metrics:
      p: {role: primary, kind: ratio, event: buy, value: amount, denominator: {of: requests}, mde: 2%}
      r: {role: secondary, kind: ratio, numerator: {of: bytes_out}, denominator: {event: visit}}
      k: {role: secondary, kind: retention, event: visit, after: 7d, within: 14d}
      q: {role: guardrail, kind: quantile, of: upstream_s, quantile: 0.5, margin: 50ms, limit: 300ms, better: lower}
      c: {role: secondary, kind: count, of: requests, cap: 10, covariate: {event: visit, value: n, before: 14d}}
    analysis: {method: anytime, alpha: 0.1, power: 0.9, min_runtime: 1d, max_runtime: 2w, planned_units: 1000, spending: pocock}
  two:
    endpoint: e
    unit: {slot: 30m, by: [country]}
    variants: {x: {model: a}, control: {model: b, body: {t: [1, 2.5, null, "s", true]}}}
    split: {x: 0.25, control: 0.75}
    layer: l
    rollout: {stages: [1%, 10%], hold: 24h, on_breach: pause}
  three:
    endpoint: e
    unit: {request: true}
    variants: {control: {model: a}, t: {model: b, shadow: true}}
    split: {control: 100}
    layer: {name: l, from: 50%, to: 100%}
router:
  response_headers: {variant: X-Arm, experiment: ""}
  max_head: 16KiB
  drain_delay: 5s
keep_unit_ids: true
"""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load_without_any_problem(path: Path) -> None:
    file, problems = check_experiment(path.read_text(), name=str(path))
    assert problems == ()
    assert file == load_experiment(path)


def test_design_example_means_what_it_says() -> None:
    file = load_experiment(ROOT / "examples" / "churn.yaml")
    experiment = file.experiments["churn-3-launch"]
    assert experiment.unit == FieldUnit(RequestField(FieldSource.HEADER, "x-user-id"))
    assert experiment.split == (("control", 0.5), ("treatment", 0.5))
    assert experiment.variants[1].body == {"parameters": {"temperature": 0.2}}
    assert experiment.audience == (Condition("country", one_of=("DE", "FR")), Condition("tier", none_of=("internal",)))
    assert experiment.layer == LayerSlice("churn", 0.0, 1.0)
    conversion, revenue, errors, latency = experiment.metrics
    assert (conversion.role, conversion.within_s, conversion.mde) == (MetricRole.PRIMARY, 604_800.0, Margin(0.02, True))
    assert revenue.covariate == Covariate(EventSource("purchase"), 14 * 86_400.0)
    assert revenue.source == EventSource("purchase", "amount")
    assert (errors.margin, errors.limit, errors.better) == (Margin(0.01, False), 0.05, Better.LOWER)
    assert (latency.quantile, latency.margin, latency.better) == (0.95, Margin(0.2, True), Better.LOWER)
    assert experiment.rollout is not None
    assert experiment.rollout.stages == (0.01, 0.05, 0.2, 0.5, 1.0)


def test_every_key_reaches_its_field() -> None:
    file = parse_experiment(EVERYTHING)
    endpoint = file.endpoints["e"]
    assert file.models["a"].headers == (("authorization", "Bearer x"),)
    assert (endpoint.match.host, endpoint.match.headers, endpoint.match.model) == (
        "api.example",
        (("x-team", "ml"),),
        "gpt-x",
    )
    assert endpoint.attributes["seen"] == RequestField(FieldSource.COOKIE, "Seen")
    assert (endpoint.timeouts.connect_s, endpoint.timeouts.total_s) == (0.5, 5400.0)
    assert (endpoint.is_repeatable, endpoint.on_client_eof, endpoint.max_body_bytes) == (
        False,
        OnClientEof.FINISH,
        1 << 20,
    )
    one, two, three = file.experiments.values()
    assert one.split == (("champion", 0.333), ("rival", 0.333), ("third", 0.334))
    assert (one.control, two.control, one.salt, two.salt) == ("champion", "control", "s.1", "two")
    assert [variant.shadow for variant in one.variants] == [0, 0, 0, 0.2]
    assert one.audience[1:3] == (
        Condition("tier", none_of=("internal", "7")),
        Condition("plan", at_least=1.0, at_most=2.5),
    )
    assert one.holdout is not None
    assert (one.holdout.share, one.enrolment) == (0.05, 0.2)
    p, r, k, q, c = one.metrics
    assert (p.kind, p.source, p.denominator) == (
        MetricKind.RATIO,
        EventSource("buy", "amount"),
        RequestSource(RequestMeasure.REQUESTS),
    )
    assert r.source == RequestSource(RequestMeasure.BYTES_OUT)
    assert (k.after_s, k.within_s) == (604_800.0, 1_209_600.0)
    assert (q.margin, q.limit) == (Margin(0.05, False), 0.3)
    assert c.cap == 10
    assert one.analysis.planned_units == 1000
    assert two.unit == SlotUnit(1800.0, ("country",))
    assert two.variants[1].body == {"t": [1, 2.5, None, "s", True]}
    assert three.unit == RequestUnit()
    assert three.variants[1].shadow == 1.0
    assert [experiment.layer for experiment in (one, two, three)] == [
        LayerSlice("l", 0.0, 0.25),
        LayerSlice("l", 0.25, 0.5),
        LayerSlice("l", 0.5, 1.0),
    ]
    assert file.router.response_headers.variant == "x-arm"
    assert file.router.response_headers.experiment == ""
    assert (file.router.max_head_bytes, file.router.drain_delay_s, file.keep_unit_ids) == (16384, 5.0, True)


def test_document_reads_back_as_an_equal_file() -> None:
    for text in (EVERYTHING, *(path.read_text() for path in EXAMPLES)):
        file = parse_experiment(text)
        document = json.loads(json.dumps(to_document(file)))
        assert parse_document(document) == file
        assert to_document(parse_document(document)) == document


def test_json_text_means_the_same_as_yaml() -> None:
    file = parse_experiment(EVERYTHING)
    text = json.dumps(to_document(file), indent="\t")  # tabs are fine in JSON
    assert parse_experiment(text, name="e.json") == file
    assert parse_experiment(text) == file


def test_order_of_sections_in_the_file_does_not_matter() -> None:
    document = to_document(parse_experiment(EVERYTHING))
    assert parse_document(dict(reversed(document.items()))) == parse_document(document)


def test_aliases_stand_for_what_they_name() -> None:
    text = """
models: {m: {url: "http://h:1"}}
endpoints:
  a: {match: {path: /a}, model: m, timeouts: &t {connect: 1s}}
  b: {match: {path: /b}, model: m, timeouts: *t}
"""
    file = parse_experiment(text)
    assert file.endpoints["a"].timeouts == file.endpoints["b"].timeouts
    assert file.endpoints["b"].timeouts.connect_s == 1.0


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_experiment(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf8_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"models:\n  caf\xe9: {}\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:6: .*not UTF-8") as info:
        load_experiment(path)
    assert info.value.problems[0].line == 2


def test_a_byte_order_mark_is_not_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (ROOT / "examples" / "churn.yaml").read_bytes())
    assert load_experiment(path) == load_experiment(ROOT / "examples" / "churn.yaml")


def test_the_hot_path_imports_neither_numpy_nor_yaml() -> None:
    """A router starts in a tenth of a second and holds no arrays."""
    code = (
        "import sys, fairtrial.model.snapshot, fairtrial.assign.assignment, fairtrial.assign.slots;"
        "sys.exit(bool({'numpy', 'scipy', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
