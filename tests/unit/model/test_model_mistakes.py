"""Every mistake is told with its place, what is allowed and the fix, and all of them at once."""

# ruff: noqa: E501 - one case a line reads as a table

from __future__ import annotations

import json

import pytest

from fairtrial.model.errors import ConfigError, Problem
from fairtrial.model.parse import check_experiment, parse_experiment

BASE = """\
models:
  old: {url: "http://127.0.0.1:8501", version: "2"}
  new: {url: "http://127.0.0.1:8502"}
endpoints:
  churn:
    match: {path: /churn}
    model: old
    attributes: {country: {header: x-country}, tier: {json: user.tier}}
experiments:
  launch:
    endpoint: churn
    unit: {header: x-user-id}
    variants:
      control: {model: old}
      treatment: {model: new}
    split: {control: 50, treatment: 50}
    audience: {country: [DE]}
    metrics:
      sales: {role: primary, kind: proportion, event: purchase, mde: 2%}
      errors: {role: guardrail, kind: proportion, of: error, margin: 1pp}
    analysis: {alpha: 0.05}
    rollout: {stages: [1%, 50%], hold: 24h}
"""

# (text in BASE, what stands there instead, path of the problem, part of its message, part of its fix)
CASES = [
    ("split: {control: 50, treatment: 50}", "split: {control: 50, treatment: 47}", "experiments.launch.split", "sums to 97; must be 100", "add 3 to a variant"),
    ("split: {control: 50, treatment: 50}", "split: {control: 50, treatment: 53}", "experiments.launch.split", "sums to 103; must be 100", "take 3 from a variant"),
    ("split: {control: 50, treatment: 50}", "split: {control: 0.5, treatment: 0.47}", "experiments.launch.split", "sums to 0.97; must be 1", "add 0.03 to a variant"),
    ("split: {control: 50, treatment: 50}", "split: {control: 50%, treatment: 49.5%}", "experiments.launch.split", "sums to 99.5%; must be 100%", "add 0.5% to a variant"),
    ("split: {control: 50, treatment: 50}", "split: {control: 50%, treatment: 50}", "experiments.launch.split", "some shares have a % sign and some do not", "all of them"),
    ("split: {control: 50, treatment: 50}", "split: {control: 0, treatment: 100}", "experiments.launch.split.control", "found 0; a share is more than 0", "leave the variant out"),
    ("split: {control: 50, treatment: 50}", "split: {control: -50, treatment: 150}", "experiments.launch.split.treatment", "found 150; a share is", ""),
    ("split: {control: 50, treatment: 50}", "split: {control: .nan, treatment: 50}", "experiments.launch.split.control", "found .nan", ""),
    ("split: {control: 50, treatment: 50}", "split: {control: 50, treatmnt: 50}", "experiments.launch.split.treatmnt", '"treatmnt" is not a known variant; allowed: control, treatment', "write treatment"),
    ("split: {control: 50, treatment: 50}", "split: {control: 100}", "experiments.launch.split", "variant `treatment` has no share", "shadow: true"),
    ("split: {control: 50, treatment: 50}", "split: {policy: thompson}", "experiments.launch.split", "adaptive allocation (`policy`) is not available in this version", "control: 50"),
    ("split: {control: 50, treatment: 50}", "split: [50, 50]", "experiments.launch.split", "found a list; allowed: a mapping", ""),
    ("split: {control: 50, treatment: 50}", "split: {}", "experiments.launch.split", "sums to 0", ""),
    ("    split: {control: 50, treatment: 50}\n", "", "experiments.launch", "`split` is missing", "add `split: {control: 50, treatment: 50}`"),
    ("endpoint: churn", "endpoint: chrun", "experiments.launch.endpoint", '"chrun" is not a known endpoint; allowed: churn', "write churn"),
    ("treatment: {model: new}", "treatment: {model: neww}", "experiments.launch.variants.treatment.model", '"neww" is not a known model; allowed: old, new', "write new"),
    ("    model: old\n", "    model: oldest\n", "endpoints.churn.model", '"oldest" is not a known model', "write old"),
    ("treatment: {model: new}", "treatment: {model: new, modle: new}", "experiments.launch.variants.treatment.modle", "unknown key `modle`; allowed: model, headers, body, shadow", "did you mean `model`?"),
    ("treatment: {model: new}", "treatment: {model: new, xyzzy: 1}", "experiments.launch.variants.treatment.xyzzy", "unknown key `xyzzy`", "remove it"),
    ("treatment: {model: new}", "treatment: {model: new, model: old}", "experiments.launch.variants.treatment.model", "key `model` stands twice: in line 15 and in line 15", "remove one"),
    ("treatment: {model: new}", "treatment: {model: new, shadow: true}", "experiments.launch.split.treatment", "is a shadow and cannot be in the split", "remove it"),
    ("treatment: {model: new}", "treatment: {model: new, headers: {Host: x}}", "experiments.launch.variants.treatment.headers.Host", "frames or routes the message", "remove"),
    ("treatment: {model: new}", 'treatment: {model: new, headers: {x-a: "b\\r\\nc: d"}}', "experiments.launch.variants.treatment.headers.x-a", "is not a header value", ""),
    ("treatment: {model: new}", "treatment: {model: new, headers: {x-a: 1}}", "experiments.launch.variants.treatment.headers.x-a", "found the number 1", 'quote it: "1"'),
    ("treatment: {model: new}", "treatment: {model: new, headers: {x-a: b, X-A: c}}", "experiments.launch.variants.treatment.headers.X-A", "stands twice", "remove one"),
    ("treatment: {model: new}", "treatment: {model: new, body: {t: .inf}}", "experiments.launch.variants.treatment.body.t", "JSON numbers are finite", "finite"),
    ("treatment: {model: new}", "treatment: {model: new, body: {t: 1e999}}", "experiments.launch.variants.treatment.body.t", "JSON numbers are finite", "finite"),
    ("treatment: {model: new}", "treatment: {model: new, body: {stream: on}}", "experiments.launch.variants.treatment.body.stream", "on without quotes is a boolean", 'quote it: "on"'),
    ("treatment: {model: new}", "treatment: {model: new, body: }", "experiments.launch.variants.treatment.body", "found nothing", ""),
    ("audience: {country: [DE]}", "audience: {country: [NO]}", "experiments.launch.audience.country[0]", "NO without quotes is a boolean to many YAML readers", 'quote it: "NO"'),
    ("audience: {country: [DE]}", "audience: {country: [true]}", "experiments.launch.audience.country[0]", "true without quotes is a boolean", 'quote it: "true"'),
    ("audience: {country: [DE]}", "audience: {country: [1.50]}", "experiments.launch.audience.country[0]", "found the number 1.50", 'quote it: "1.50"'),
    ("audience: {country: [DE]}", "audience: {contry: [DE]}", "experiments.launch.audience.contry", '"contry" is not a known attribute; allowed: country, tier', "write country"),
    ("audience: {country: [DE]}", "audience: {country: {min: 5, max: 2}}", "experiments.launch.audience.country.max", "`max` is below `min`", "swap"),
    ("audience: {country: [DE]}", "audience: {country: {}}", "experiments.launch.audience.country", "the condition is empty", ""),
    ("audience: {country: [DE]}", "audience: {country: []}", "experiments.launch.audience.country", "the list is empty", "at least 1"),
    ("audience: {country: [DE]}", "layer: {name: l, from: 60%, to: 20%}", "experiments.launch.layer.to", "the slice is empty", "larger"),
    ("audience: {country: [DE]}", "holdout: q4", "experiments.launch.holdout", "`holdouts` declares none", "add it to `holdouts`"),
    ("audience: {country: [DE]}", "salt: 'a:b'", "experiments.launch.salt", '"a:b" is not a salt; allowed: letters, digits', ""),
    ("audience: {country: [DE]}", "salt: churn.layer", "experiments.launch.salt", "ends like that of a layer or holdout", "salt"),
    ("audience: {country: [DE]}", "enrolment: 120%", "experiments.launch.enrolment", "120% is more than 100%", "at most 100%"),
    ("audience: {country: [DE]}", "enrolment: 20", "experiments.launch.enrolment", "20 is more than 1", "write 20%"),
    ("audience: {country: [DE]}", "enrolment: .nan", "experiments.launch.enrolment", "nan is not a share", "5%"),
    ("audience: {country: [DE]}", "plane: istio", "experiments.launch.plane", 'plane "istio" is not available in this version; allowed: router', "write router"),
    ("unit: {header: x-user-id}", "unit: {header: x-user-id, cookie: uid}", "experiments.launch.unit.cookie", "`header` and `cookie` are both given", "remove one"),
    ("unit: {header: x-user-id}", "unit: {}", "experiments.launch.unit", "none of header, cookie, query, json, request, slot is given", "{header: x-user-id}"),
    ("unit: {header: x-user-id}", "unit: x-user-id", "experiments.launch.unit", 'found "x-user-id"; allowed: a mapping', ""),
    ("unit: {header: x-user-id}", "unit: {header: 'x user'}", "experiments.launch.unit.header", '"x user" is not a header name', ""),
    ("unit: {header: x-user-id}", "unit: {request: yes}", "experiments.launch.unit.request", 'found "yes"; allowed: true or false', "write true"),
    ("unit: {header: x-user-id}", "unit: {request: false}", "experiments.launch.unit.request", "names no unit", ""),
    ("unit: {header: x-user-id}", "unit: {slot: 30m, by: [regon]}", "experiments.launch.unit.by", '"regon" is not a known attribute', "add it to `endpoints.churn.attributes`"),
    ("unit: {header: x-user-id}", "unit: {slot: 0s}", "experiments.launch.unit.slot", "must be longer than nothing", ""),
    ("unit: {header: x-user-id}", "unit: {header: a, by: [country]}", "experiments.launch.unit.by", "it belongs to `slot`", "remove"),
    ("role: primary", "role: secondary", "experiments.launch.metrics", "no metric is primary; exactly one must be", "role: primary"),
    ("role: guardrail, kind: proportion, of: error, margin: 1pp", "role: primary, kind: proportion, of: error", "experiments.launch.metrics.errors", "a second primary metric: `sales` in line 19", "secondary"),
    ("of: error, margin: 1pp", "of: error", "experiments.launch.metrics.errors.role", "a guardrail needs `margin` or `limit`", "margin: 1pp"),
    ("of: error, margin: 1pp", "of: eror, margin: 1pp", "experiments.launch.metrics.errors.of", 'found "eror"; allowed: error, timeout', "write error"),
    ("of: error, margin: 1pp", "of: error, margin: 1", "experiments.launch.metrics.errors.margin", "must be below 1", "write 1pp or 1%"),
    ("of: error, margin: 1pp", "of: error, margin: -1%", "experiments.launch.metrics.errors.margin", '"-1%" is not a margin', ""),
    ("of: error, margin: 1pp", "of: latency_s, margin: 1%", "experiments.launch.metrics.errors.of", "a proportion of latency_s has no meaning", "kind mean"),
    ("kind: proportion, of: error, margin: 1pp", "kind: mean, of: latency_s, margin: 1pp", "experiments.launch.metrics.errors.margin", "points (`1pp`) belong to proportions", "20%"),
    ("kind: proportion, event: purchase", "kind: quantile, event: purchase", "experiments.launch.metrics.sales", "kind quantile needs `quantile`", "add `quantile: 0.95`"),
    ("kind: proportion, event: purchase", "kind: quantile, quantile: 95, event: purchase", "experiments.launch.metrics.sales.quantile", "found 95; allowed: a number over 0 and below 1", ""),
    ("kind: proportion, event: purchase", "kind: ratio, event: purchase", "experiments.launch.metrics.sales", "kind ratio needs `denominator`", "denominator: {of: requests}"),
    ("kind: proportion, event: purchase", "kind: retention, event: purchase", "experiments.launch.metrics.sales", "kind retention needs `after`", "after: 7d"),
    ("kind: proportion, event: purchase", "kind: retention, event: purchase, after: 7d, within: 7d", "experiments.launch.metrics.sales.after", "not before the end of `within`", "longer"),
    ("kind: proportion, event: purchase", "kind: proportion", "experiments.launch.metrics.sales", "none of event, of is given", "event: purchase"),
    ("kind: proportion, event: purchase", "kind: proportion, event: purchase, of: error", "experiments.launch.metrics.sales.of", "`event` and `of` are both given", "remove one"),
    ("kind: proportion, event: purchase", "kind: proportion, event: purchase, quantile: 0.5", "experiments.launch.metrics.sales.quantile", "it belongs to kind quantile", "remove"),
    ("kind: proportion, event: purchase", "kind: proportion, event: purchase, cap: 5", "experiments.launch.metrics.sales.cap", "0 or 1 per unit", "remove"),
    ("kind: proportion, event: purchase", "kind: proportion, event: purchase, limit: 5%", "experiments.launch.metrics.sales.limit", "it belongs to guardrails", "remove"),
    ("kind: proportion, event: purchase", "kind: proportion, event: purchase, within: 7", "experiments.launch.metrics.sales.within", "7 has no unit of time", "write 7s or 7d"),
    ("kind: proportion, event: purchase", "kind: proportion, event: purchase, within: 7 days", "experiments.launch.metrics.sales.within", '"7 days" is not a duration', "7d"),
    ("kind: proportion, event: purchase", "kind: proportion, event: 'a b'", "experiments.launch.metrics.sales.event", "is not an outcome's name", ""),
    ("kind: proportion, event: purchase", "kind: percentage, event: purchase", "experiments.launch.metrics.sales.kind", 'found "percentage"; allowed: proportion, mean', ""),
    ("role: primary", "role: main", "experiments.launch.metrics.sales.role", 'found "main"; allowed: primary, secondary, guardrail', "write one of"),
    ("of: error, margin: 1pp", "of: error, limit: 5", "experiments.launch.metrics.errors.limit", "5 is no level of a proportion", "5%"),
    ("split: {control: 50, treatment: 50}", "split: {control: 1, treatment: 3}", "experiments.launch.split", "sums to 4; must be 100", "add 96 to a variant, or write the same ratio as {control: 25, treatment: 75}"),
    ("mde: 2%", "mde: 0%", "experiments.launch.metrics.sales.mde", "must be more than 0", ""),
    ("analysis: {alpha: 0.05}", "analysis: {alpha: 5%}", "experiments.launch.analysis.alpha", 'found "5%"; allowed: a number over 0 and below 0.5', ""),
    ("analysis: {alpha: 0.05}", "analysis: {alpha: .nan}", "experiments.launch.analysis.alpha", "found .nan", ""),
    ("analysis: {alpha: 0.05}", "analysis: {alpha: true}", "experiments.launch.analysis.alpha", "found true", ""),
    ("analysis: {alpha: 0.05}", "analysis: {min_runtime: 70d, max_runtime: 28d}", "experiments.launch.analysis.max_runtime", "shorter than `min_runtime`", ""),
    ("analysis: {alpha: 0.05}", "analysis: {method: sequential}", "experiments.launch.analysis.method", "allowed: fixed, group_sequential, anytime, bayesian", "write group_sequential"),
    ("analysis: {alpha: 0.05}", "analysis: {planned_units: 1.5}", "experiments.launch.analysis.planned_units", "found 1.5; allowed: a whole number", ""),
    ("stages: [1%, 50%]", "stages: [50%, 1%]", "experiments.launch.rollout.stages[1]", "stage 2 is not above the one before it", "sort"),
    ("stages: [1%, 50%]", "stages: [1%, 1%]", "experiments.launch.rollout.stages[1]", "stages rise", "repeats"),
    ("stages: [1%, 50%]", "stages: [0%, 1%]", "experiments.launch.rollout.stages[0]", "must be more than 0", ""),
    ("stages: [1%, 50%]", "stages: []", "experiments.launch.rollout.stages", "the list is empty", "at least 1"),
    ("stages: [1%, 50%]", "stages: 1%", "experiments.launch.rollout.stages", 'found "1%"; allowed: a list', "[ ]"),
    ("hold: 24h", "hold: 24h, on_breach: explode", "experiments.launch.rollout.on_breach", "allowed: roll_back, pause", ""),
    ('version: "2"', "version: 2", "models.old.version", "found the number 2", 'quote it: "2"'),
    ('"http://127.0.0.1:8502"', "127.0.0.1:8502", "models.new.url", "does not begin with http://", "http://127.0.0.1:8501"),
    ('"http://127.0.0.1:8502"', '"http://127.0.0.1:99999"', "models.new.url", "a port is a number from 1 to 65535", ""),
    ('"http://127.0.0.1:8502"', '"http://127.0.0.1:0"', "models.new.url", "has port 0", ""),
    ('"http://127.0.0.1:8502"', '"http://u:p@h:1"', "models.new.url", "holds a user name or password", ""),
    ('"http://127.0.0.1:8502"', '"http://h:1/p?q=1"', "models.new.url", "has a query or fragment", ""),
    ('"http://127.0.0.1:8502"', '"http://"', "models.new.url", "", ""),
    ('"http://127.0.0.1:8502"', '"http:///path"', "models.new.url", "has no host", ""),
    ('"http://127.0.0.1:8502"', '"http://h:1/a b"', "models.new.url", "a character that no URL has", ""),
    ('"http://127.0.0.1:8502"', "[a]", "models.new.url", "found a list", ""),
    ("path: /churn", "path: churn", "endpoints.churn.match.path", "begins with `/`", ""),
    ("country: {header: x-country}", "country: {}", "endpoints.churn.attributes.country", "none of header, cookie, query, json", ""),
    ("  churn:\n    match", "  no:\n    match", "endpoints.no", "no without quotes is a boolean", 'quote it: "no"'),
    ("  churn:\n    match", "  'a/b':\n    match", "endpoints.a.b", "is not an endpoint's name", ""),
    ("experiments:\n", "holdouts: {q4: 100%}\nexperiments:\n", "holdouts.q4", "must be less than 100%", ""),
    ("experiments:\n", "router: {max_fields: 0}\nexperiments:\n", "router.max_fields", "found 0; allowed: a whole number from 1", ""),
    ("experiments:\n", "router: {max_head: 32k}\nexperiments:\n", "router.max_head", '"32k" is not a size', "64MiB"),
    ("experiments:\n", "router: {response_headers: {variant: x-request-id}}\nexperiments:\n", "router.response_headers", "header `x-request-id` already says something else", "another name"),
    ("experiments:\n", "keep_unit_ids: maybe\nexperiments:\n", "keep_unit_ids", "allowed: true or false", "true or false"),
    ("experiments:\n", "version: 2\nexperiments:\n", "version", "a whole number from 1 to 1", ""),
    ("experiments:\n", "<<: {a: 1}\nexperiments:\n", "<<", "merge keys", ""),
    ("experiments:\n", "experimentz: {}\nexperiments:\n", "experimentz", "unknown key `experimentz`", "did you mean `experiments`?"),
]  # fmt: skip


def problems_of(text: str, name: str = "x.yaml") -> tuple[Problem, ...]:
    return check_experiment(text, name=name)[1]


def test_the_base_of_these_tests_has_no_problem() -> None:
    assert problems_of(BASE) == ()


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "fix"), CASES, ids=[f"{case[2]}-{index}" for index, case in enumerate(CASES)]
)
def test_a_mistake_is_told_with_place_and_fix(old: str, new: str, path: str, message: str, fix: str) -> None:
    assert BASE.count(old) == 1
    text = BASE.replace(old, new)
    file, problems = check_experiment(text, name="x.yaml")
    assert file is None
    found = [problem for problem in problems if not problem.is_warning and problem.path == path]
    assert found, [str(problem) for problem in problems]
    assert any(message in problem.message and fix in problem.fix for problem in found), [
        str(problem) for problem in found
    ]
    # The place is on the lines that were changed, or on the mapping that lacks something.
    slack = 5 if "is missing" in message else 3
    changed = BASE[: BASE.index(old)].count("\n") + 1
    assert all(changed - slack <= problem.line <= changed + 3 for problem in found)
    assert all(problem.fix for problem in found)


def test_all_mistakes_are_told_at_once_and_in_file_order() -> None:
    text = BASE
    for old, new in {
        "    model: old\n": "    model: oldest\n",
        "endpoint: churn": "endpoint: chrun",
        "treatment: {model: new}": "treatment: {model: neww}",
        "treatment: 50}": "treatment: 47}",
        "alpha: 0.05": "alpha: 5",
    }.items():
        text = text.replace(old, new)
    problems = problems_of(text)
    assert [problem.line for problem in problems] == [7, 11, 15, 16, 21]
    with pytest.raises(ConfigError, match=r"x\.yaml has 5 mistakes") as info:
        parse_experiment(text, name="x.yaml")
    assert info.value.problems == problems


def test_one_mistake_does_not_make_others_up() -> None:
    """A metric whose role is misspelt may be the primary one: do not say that there is none."""
    assert len(problems_of(BASE.replace("role: primary", "role: main"))) == 1
    assert len(problems_of(BASE.replace("country: {header: x-country}", "country: {heder: x-country}"))) == 2


def test_a_problem_prints_as_editors_expect_it() -> None:
    (problem,) = problems_of(BASE.replace("treatment: 50}", "treatment: 47}"))
    assert str(problem) == "x.yaml:16:12: experiments.launch.split: sums to 97; must be 100: add 3 to a variant"


def test_both_lines_of_a_duplicate_key_are_named() -> None:
    text = BASE + "models:\n  x: {url: 'http://h'}\n"
    (problem,) = problems_of(text)
    assert (problem.path, problem.line) == ("models", 23)
    assert problem.message == "key `models` stands twice: in line 1 and in line 23"


def test_names_that_are_too_long_or_strange_are_refused() -> None:
    for name in ("a" * 129, "a b", "a:b", "", "ä"):
        problems = problems_of(BASE.replace("  launch:", f"  {json.dumps(name)}:"))
        assert any("is not an experiment's name" in problem.message for problem in problems)
    assert problems_of(BASE.replace("  launch:", f"  {'a' * 128}:")) == ()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "the file is empty"),
        ("# only a comment\n", 0, "the file is empty"),
        ("models:\n\tx: 1\n", 2, "a tab; YAML is indented with spaces"),
        (
            "models: {x: [1}\n",
            1,
            "not YAML: did not find expected ',' or ']' while parsing a flow sequence, which begins in line 1",
        ),
        (
            "models:\n  x: 1\n y: 2\n",
            3,
            "not YAML: did not find expected key while parsing a block mapping, which begins in line 1",
        ),
        ("a: b: c\n", 1, "not YAML: a `:` where none can be"),
        ("a: %2\n", 1, "not YAML: '%' cannot begin a value"),
        ('a: 1\nb: "c\nd: 1\n', 2, "not YAML: the quoted text that begins here has no end"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("a: *x\n", 1, "alias *x stands for nothing"),
        ("a: !!python/object:os.system x\n", 1, "tag tag:yaml.org,2002:python/object:os.system is not read"),
        ("a: \x00\n", 1, "a character that YAML does not allow"),
        ("just text\n", 1, 'found "just text"; allowed: a mapping'),
        ("- a\n- b\n", 1, "found a list; allowed: a mapping"),
        ("? [a, b]\n: 1\n", 1, "a key that is a list or mapping"),
    ],
)
def test_text_that_is_no_experiment_file_says_why(text: str, line: int, message: str) -> None:
    problems = problems_of(text)
    assert any(problem.line == line or not line for problem in problems if problem.message.startswith(message)), (
        problems
    )


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('{"models": }', 1, 12, "not JSON: a value was expected"),
        ('{"a": 1,\n "a": 2}', 2, 2, "key `a` stands twice"),
        ('{"a": 1,}', 1, 9, "a key in double quotes was expected"),
        ('{"a" 1}', 1, 6, "no `:` after the key"),
        ('{"a": [1 2]}', 1, 10, "not JSON: `,` or `]`"),
        ('{"a": "x', 1, 7, "not JSON: Unterminated string"),
        ('{"a": NaN}', 1, 7, "not JSON: a value was expected"),
        ('{"a": 01}', 1, 8, "not JSON: `,` or `}`"),
        ("{} {}", 1, 4, "text after the end"),
        ("", 1, 1, "not JSON"),
    ],
)
def test_broken_json_names_the_place(text: str, line: int, column: int, message: str) -> None:
    problems = problems_of(text, "x.json")
    assert any((p.line, p.column) == (line, column) and p.message.startswith(message) for p in problems), problems


def test_warnings_do_not_keep_a_file_from_loading() -> None:
    metrics = BASE[BASE.index("    metrics:") : BASE.index("    analysis:")]
    file, problems = check_experiment(BASE.replace(metrics, ""), name="x.yaml")
    assert file is not None
    assert [(problem.is_warning, problem.path) for problem in problems] == [(True, "experiments.launch")]
    assert "no metrics" in problems[0].message


SECOND = """\
  second:
    endpoint: churn
    unit: {header: x-user-id}
    variants: {control: {model: old}, treatment: {model: new}}
    split: {control: 50, treatment: 50}
    metrics: {sales: {role: primary, kind: mean, event: purchase, mde: 2%}}
"""


def test_two_experiments_on_one_endpoint_without_a_shared_layer_are_a_warning() -> None:
    (problem,) = problems_of(BASE + SECOND)
    assert problem.is_warning
    assert "share no layer" in problem.message
    layered = (BASE + SECOND).replace("    endpoint: churn\n", "    endpoint: churn\n    layer: l\n")
    assert problems_of(layered) == ()


def test_overlapping_slices_of_a_layer_are_a_mistake() -> None:
    first = BASE.replace("    endpoint: churn\n", "    endpoint: churn\n    layer: {name: l, from: 0%, to: 60%}\n")
    second = SECOND.replace("    endpoint: churn\n", "    endpoint: churn\n    layer: {name: l, from: 50%, to: 100%}\n")
    (problem,) = problems_of(first + second)
    assert problem.message == "slice 0.5 to 1 of layer `l` overlaps 0 to 0.6 of `launch`"


def test_a_layer_without_free_space_is_a_mistake() -> None:
    first = BASE.replace("    endpoint: churn\n", "    endpoint: churn\n    layer: {name: l, from: 0%, to: 100%}\n")
    second = SECOND.replace("    endpoint: churn\n", "    endpoint: churn\n    layer: l\n")
    (problem,) = problems_of(first + second)
    assert "has no free space left" in problem.message


def test_a_salt_used_twice_is_a_warning() -> None:
    problems = problems_of(BASE + SECOND + "    salt: launch\n")
    assert any("also that of `launch`" in problem.message and problem.is_warning for problem in problems)


def test_two_endpoints_that_match_the_same_requests_are_a_mistake() -> None:
    text = BASE.replace("experiments:\n", "  other: {match: {path: /churn}, model: old}\nexperiments:\n")
    (problem,) = problems_of(text)
    assert "matches the same requests as `churn`" in problem.message


HOSTILE = {
    "too large": "a: " + "x" * (1 << 20),
    "too deep": "a: " + "[" * 5000,
    "too deep in JSON": '{"a": ' + "[" * 5000,
    "too many values": "a: [" + "1," * 200_000 + "]",
    "too many keys": "models: {" + ",".join(f"m{i}: {{}}" for i in range(60_000)) + "}",
    "unknown keys without end": "".join(f"modelz{i}: 1\n" for i in range(60_000)),
    "unknown names without end": BASE + "holdouts: {" + ",".join(f"h{i}: 9" for i in range(30_000)) + "}\n",
    "billion laughs": "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20)),
    "alias to itself": "a: &a [*a]\n",
    "a very long number": f"version: {'9' * 500_000}\n",
    "a very long exponent": "version: 1e" + "9" * 500_000 + "\n",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_within_limits(text: str) -> None:
    """Bytes, depth, values, names and problems are bounded, so the time to refuse a file is."""
    file, problems = check_experiment(text, name="x.yaml")
    assert file is None
    assert 1 <= len(problems) <= 201
