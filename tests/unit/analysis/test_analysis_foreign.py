"""Tables that Fairtrial did not collect: every mistake is named; numbers are those of scipy and statsmodels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from fairtrial.analysis.foreign import analyze, parse_split
from fairtrial.analysis.foreign_csv import DataError
from fairtrial.analysis.foreign_metrics import ForeignMetric, parse_metric
from fairtrial.model.errors import ConfigError, FairtrialError, NotFoundError
from fairtrial.model.experiment import Better, MetricKind
from fairtrial.model.view import CheckState, EffectInterval, ExperimentView, VerdictKind

GOOD = """user,arm,bought,amount,clicks,views
a,A,0,1.5,1,4
b,A,1,2.5,2,5
c,B,1,3.5,3,6
d,B,1,4.5,0,7
"""


def ask(data: object, *metrics: str | ForeignMetric, **more: object) -> ExperimentView:
    question: dict[str, object] = {"unit": "user", "variant": "arm", "control": "A", **more}
    return analyze(data, metrics=list(metrics or ("conv=proportion(bought)",)), **question)  # type: ignore[arg-type]


def effect_of(view: ExperimentView, metric: int = 0) -> EffectInterval:
    effect = view.metrics[metric].comparisons[0].effect
    assert effect is not None
    return effect


def levels_of(view: ExperimentView) -> list[float | None]:
    return [value.value for value in view.metrics[0].values]  # noqa: PD011 - no data frame


@pytest.fixture(scope="module")
def crowd() -> pd.DataFrame:
    rng = np.random.default_rng(20261122)
    arm = rng.choice(["A", "B"], 6000)
    is_treated = arm == "B"
    return pd.DataFrame(
        {
            "user": [f"0{number}" for number in range(6000)],
            "arm": arm,
            "bought": (rng.random(6000) < np.where(is_treated, 0.25, 0.2)).astype(int),
            "amount": rng.exponential(np.where(is_treated, 11.0, 10.0)),
            "clicks": rng.poisson(3, 6000),
            "views": rng.poisson(9, 6000) + 1,
        }
    )


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_mean_is_welchs_test(crowd: pd.DataFrame) -> None:
    effect = effect_of(ask(crowd, "rev=mean(amount)"))
    treated, control = (crowd.amount[crowd.arm == name] for name in ("B", "A"))
    expected = stats.ttest_ind(treated, control, equal_var=False)
    bounds = expected.confidence_interval()
    assert effect.estimate == pytest.approx(treated.mean() - control.mean(), rel=1e-12)
    assert effect.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (effect.lower, effect.upper) == pytest.approx((bounds.low, bounds.high), rel=1e-9)


def test_a_proportion_is_agresti_and_caffos_interval(crowd: pd.DataFrame) -> None:
    effect = effect_of(ask(crowd, "conv=proportion(bought)"))
    bought = {arm: rows.bought for arm, rows in crowd.groupby("arm")}
    b, n, a, m = (int(f(bought[arm])) for arm in ("B", "A") for f in (sum, len))
    low, high = confint_proportions_2indep(b, n, a, m, method="agresti-caffo")
    assert effect.estimate == pytest.approx(b / n - a / m, rel=1e-12)
    assert effect.lower is not None
    assert effect.upper is not None
    assert effect.upper - effect.lower == pytest.approx(high - low, rel=1e-9)


def test_a_ratio_is_the_delta_method(crowd: pd.DataFrame) -> None:
    effect = effect_of(ask(crowd, "ctr=ratio(clicks,views)"))

    def variance(rows: pd.DataFrame) -> float:
        ratio = rows.clicks.sum() / rows.views.sum()
        return float((rows.clicks - ratio * rows.views).var() / (len(rows) * rows.views.mean() ** 2))

    parts = [crowd[crowd.arm == name] for name in ("A", "B")]
    assert effect.std_error == pytest.approx(np.sqrt(sum(map(variance, parts))), rel=1e-9)


def test_a_quantile_is_that_of_all_rows(crowd: pd.DataFrame) -> None:
    view = ask(crowd, "p95=quantile(amount,0.95):lower")
    expected = [float(np.quantile(crowd.amount[crowd.arm == arm], 0.95, method="inverted_cdf")) for arm in "AB"]
    assert levels_of(view) == expected
    assert view.metrics[0].better == "lower"


def test_many_rows_per_unit_are_clusters_and_not_more_units(crowd: pd.DataFrame) -> None:
    one = effect_of(ask(crowd, "rate=ratio(clicks,1)"))
    five = effect_of(ask(pd.concat([crowd] * 5), "rate=ratio(clicks,1)"))
    assert five.std_error == pytest.approx(one.std_error, rel=1e-9)
    assert five.estimate == pytest.approx(one.estimate, rel=1e-9)


def test_csv_parquet_and_data_frames_give_the_same_view(tmp_path: Path, crowd: pd.DataFrame) -> None:
    crowd.to_csv(tmp_path / "table.csv", index=False)
    crowd.to_parquet(tmp_path / "table.parquet")
    sources: list[object] = [
        crowd,
        pa.Table.from_pandas(crowd),
        tmp_path / "table.parquet",
        str(tmp_path / "table.csv"),
    ]
    metrics = ("conv=proportion(bought)", "rev=mean(amount)", "ctr=ratio(clicks,views)")
    views = [ask(source, *metrics, name="same") for source in sources]
    assert views[0] == views[1] == views[2]
    assert effect_of(views[3], 1).estimate == pytest.approx(effect_of(views[0], 1).estimate, rel=1e-12)


def test_the_first_metric_decides_and_the_others_are_adjusted(crowd: pd.DataFrame) -> None:
    view = ask(crowd, "conv=proportion(bought)", "rev=mean(amount)", "ctr=ratio(clicks,views)")
    assert view.verdict.kind is VerdictKind.SHIP
    assert view.verdict.variant == "B"
    assert [metric.role for metric in view.metrics] == ["primary", "secondary", "secondary"]
    assert [metric.comparisons[0].adjusted_p_value is not None for metric in view.metrics] == [False, True, True]


def test_a_metric_where_lower_is_better_is_worse_when_it_rises(crowd: pd.DataFrame) -> None:
    view = ask(crowd, "cost=mean(amount):lower")
    assert view.metrics[0].comparisons[0].state == "worse"
    assert view.verdict.kind is VerdictKind.ROLL_BACK


def test_three_variants_share_alpha(crowd: pd.DataFrame) -> None:
    table = crowd.assign(arm=np.where(crowd.index % 3 == 0, "C", crowd.arm))
    view = ask(table)
    assert [comparison.variant for comparison in view.metrics[0].comparisons] == ["B", "C"]
    assert effect_of(view).level == pytest.approx(0.975)


@pytest.mark.parametrize("method", ["fixed", "anytime", "bayesian", "group_sequential"])
def test_every_method_says_what_it_is(crowd: pd.DataFrame, method: str) -> None:
    planned = 12_000 if method == "group_sequential" else None
    view = ask(crowd, method=method, planned_units=planned, alpha=0.1)
    assert (view.method, view.alpha, view.status) == (method, 0.1, "analysed")
    assert effect_of(view).level == pytest.approx(0.9)


# --- units and splits ------------------------------------------------------------------------------------------------


def test_units_in_two_variants_are_set_apart(crowd: pd.DataFrame) -> None:
    extra = crowd.head(3).assign(arm=lambda rows: np.where(rows.arm == "A", "B", "A"))
    view = ask(pd.concat([crowd, extra]))
    assert sum(variant.units for variant in view.variants) == 5997
    assert next(check for check in view.health if check.name == "crossover").details["units"] == 3


def test_an_intended_split_turns_the_sample_ratio_check_on(crowd: pd.DataFrame) -> None:
    def srm(**more: object) -> CheckState:
        return next(check.state for check in ask(crowd, **more).health if check.name == "srm")

    assert srm() is CheckState.WAITING
    assert srm(split="A=50,B=50") is CheckState.OK
    assert srm(split={"A": 0.9, "B": 0.1}) is CheckState.FAILED
    assert ask(crowd, split="A=9,B=1").verdict.kind is VerdictKind.INVALID


def sizes(control: int, treatment: int, **more: object) -> ExperimentView:
    """A table of so many units, of which 20 % of control and 60 % of treatment bought."""
    arms = ["A"] * control + ["B"] * treatment
    bought = [int(n % 5 < 1) for n in range(control)] + [int(n % 5 < 3) for n in range(treatment)]
    return ask(pd.DataFrame({"user": range(control + treatment), "arm": arms, "bought": bought}), **more)


def test_a_table_looked_at_once_is_held_against_the_split_by_chi_squared() -> None:
    """300 and 200 of 500 halves: chi-squared says 8e-6, a test for any number of looks only 0.001."""
    view = sizes(300, 200, split="A=50,B=50")
    srm = next(check for check in view.health if check.name == "srm")
    assert view.verdict.kind is VerdictKind.INVALID
    assert srm.details["p_value"] == pytest.approx(stats.chisquare([300, 200]).pvalue)
    assert srm.details["test"] == "chi_squared"
    watched = sizes(300, 200, split="A=50,B=50", method="anytime")
    assert next(check for check in watched.health if check.name == "srm").details["test"] == "sequential"


def test_a_table_whose_split_is_in_doubt_does_not_ship() -> None:
    view = sizes(282, 218, split="A=50,B=50")
    assert view.verdict.kind is VerdictKind.INCONCLUSIVE
    assert [reason.code for reason in view.verdict.reasons] == ["primary_better", "srm_suspected"]
    assert sizes(260, 240, split="A=50,B=50").verdict.kind is VerdictKind.SHIP


def test_a_handful_of_units_is_no_chi_squared_mismatch() -> None:
    """One of two units in an arm of 1 %: chi-squared says 1e-12, chance says 2 %."""
    srm = next(check for check in sizes(1, 1, split="A=99,B=1").health if check.name == "srm")
    assert (srm.state, srm.details["test"]) == (CheckState.OK, "sequential")


@pytest.mark.parametrize("method", ["fixed", "anytime", "bayesian"])
def test_a_table_without_a_plan_speaks_of_none(method: str) -> None:
    table = pd.DataFrame({"user": range(400), "arm": ["A", "B"] * 200, "bought": [0, 0, 1, 1] * 100})
    (reason,) = ask(table, method=method).verdict.reasons
    assert reason.message.startswith("this table does not decide conv of B: ")
    assert "plan" not in reason.message + reason.unblocks
    assert "table" in reason.unblocks


def test_a_split_is_normalised() -> None:
    assert parse_split("control=50%, treatment=30") == {"control": 0.625, "treatment": 0.375}


# --- mistakes --------------------------------------------------------------------------------------------------------

SHORT_METRIC = "conv=proportion(bought)"
BAD_VALUES = {
    "empty": ("d,B,1,4.5,0,7", "d,B,1,,0,7", "mean(amount)", r"column 'amount' is empty in row 4"),
    "text": ("d,B,1,4.5,0,7", "d,B,1,much,0,7", "mean(amount)", r"column 'amount' is 'much' in row 4"),
    "nan": ("c,B,1,3.5", "c,B,1,NaN", "mean(amount)", r"column 'amount' is 'NaN' in row 3"),
    "infinite": ("c,B,1,3.5", "c,B,1,inf", "mean(amount)", r"finite number"),
    "not 0 or 1": ("c,B,1,3.5", "c,B,2,3.5", "proportion(bought)", r"column 'bought' is '2' in row 3 .* 0 or 1"),
    "no unit": ("c,B,1,3.5", ",B,1,3.5", "mean(amount)", r"column 'user' is empty in row 3"),
    "no variant": ("c,B,1,3.5", "c,,1,3.5", "mean(amount)", r"column 'arm' is empty in row 3"),
    "twice": ("d,B,1", "c,B,1", "mean(amount)", r"unit 'c' has 2 rows \(3, 4\).*m=ratio\(amount,1\)"),
    "bad denominator": ("3,6", "3,x", "ratio(clicks,views)", r"column 'views' is 'x' in row 3"),
    "one variant": ("c,B,1,3.5,3,6\nd,B,1,4.5,0,7\n", "", "mean(amount)", r"holds 1 variants"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_table_is_refused_by_column_and_row(tmp_path: Path, case: str) -> None:
    old, new, metric, message = BAD_VALUES[case]
    assert old in GOOD
    path = tmp_path / "units.csv"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(DataError, match=message):
        ask(path, f"m={metric}")


BAD_QUESTIONS: dict[str, tuple[dict[str, object], tuple[str, ...], str]] = {
    "unit column": ({"unit": "usr"}, (SHORT_METRIC,), "unit: the table has no column 'usr'; did you mean 'user'"),
    "metric column": ({}, ("m=mean(amuont)",), "metric 'm': .* 'amuont'; did you mean 'amount'"),
    "far column": ({}, ("m=mean(zzz)",), "there are: user, arm, bought"),
    "control": ({"control": "C"}, (SHORT_METRIC,), "control 'C' is not in column 'arm'; there are: A, B"),
    "grammar": ({}, ("conv proportion bought",), "NAME=kind"),
    "kind": ({}, ("m=median(amount)",), "allowed: proportion, mean, count, ratio, quantile"),
    "events only": ({}, ("m=retention(amount)",), "allowed: proportion, mean, count, ratio, quantile"),
    "ratio": ({}, ("m=ratio(clicks)",), r"ratio\(numerator,denominator\)"),
    "zero rows": ({}, ("m=ratio(clicks,0)",), "denominator 0 is not above 0"),
    "quantile": ({}, ("m=quantile(amount)",), r"quantile\(column,0.95\)"),
    "quantile range": ({}, ("m=quantile(amount,95)",), "between 0 and 1"),
    "quantile text": ({}, ("m=quantile(amount,p95)",), "'p95' is not a number"),
    "too many": ({}, ("m=mean(amount,clicks)",), r"mean\(column\)"),
    "direction": ({}, ("m=mean(amount):up",), "allowed: higher, lower"),
    "same name": ({}, (SHORT_METRIC, SHORT_METRIC), "'conv' is given 2 times"),
    "method": ({"method": "peek"}, (SHORT_METRIC,), "allowed: fixed, group_sequential, anytime, bayesian"),
    "alpha": ({"alpha": 5.0}, (SHORT_METRIC,), "between 0 and 0.5"),
    "no plan": ({"method": "group_sequential"}, (SHORT_METRIC,), "needs planned_units"),
    "split name": ({"split": "A=50,C=50"}, (SHORT_METRIC,), "split names A, C; the table has A, B"),
    "split form": ({"split": "50/50"}, (SHORT_METRIC,), "NAME=SHARE"),
    "split zero": ({"split": "A=100,B=0"}, (SHORT_METRIC,), "'B=0' is not NAME=SHARE"),
}


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_a_bad_question_is_refused_with_what_is_allowed(tmp_path: Path, case: str) -> None:
    more, metrics, message = BAD_QUESTIONS[case]
    path = tmp_path / "units.csv"
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match=message):
        ask(path, *metrics, **more)


def test_the_good_table_is_good(tmp_path: Path) -> None:
    (tmp_path / "units.csv").write_text(GOOD)
    view = ask(tmp_path / "units.csv", "m=mean(amount)", "c=count(clicks)")
    assert effect_of(view).estimate == 2.0


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    text = "user,arm,bought\n" + "".join(f"{n},{'AB'[n % 2]},{'True' if n % 3 else 'false'}\n" for n in range(60))
    (tmp_path / "units.csv").write_text(text)
    assert levels_of(ask(tmp_path / "units.csv"))[0] == pytest.approx(2 / 3)


def test_leading_zeros_of_unit_ids_are_kept(tmp_path: Path) -> None:
    text = "user,arm,bought\n" + "".join(f"{unit},{arm},1\n" for unit, arm in [("1", "A"), ("01", "B"), ("001", "A")])
    (tmp_path / "units.csv").write_text(text)
    assert sum(variant.units for variant in ask(tmp_path / "units.csv").variants) == 3


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("absent.csv", None, NotFoundError),
        ("empty.csv", b"", FairtrialError),
        ("header.csv", b"user,arm,bought\n", DataError),
        ("torn.parquet", b"PAR1 and then nothing", DataError),
        ("binary.csv", bytes(range(256)) * 20, FairtrialError),
    ],
)
def test_a_file_that_is_no_table_is_an_error_of_ours(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        ask(tmp_path / name)


def test_something_that_is_no_table_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be read as a table"):
        ask(42)


def test_columns_with_odd_names_are_just_names() -> None:
    odd = 'a "quoted", odd; DROP TABLE entry --'
    table = pd.DataFrame({"the user's id": range(40), "arm?": ["A", "B"] * 20, odd: [0.0, 1.0, 2.0, 5.0] * 10})
    metric = ForeignMetric("m", MetricKind.MEAN, odd, better=Better.HIGHER)
    view = analyze(table, unit="the user's id", variant="arm?", control="A", metrics=[metric])
    assert effect_of(view).estimate == 2.0


def test_a_metric_can_be_quoted() -> None:
    metric = parse_metric('rate = ratio("clicks, all", views) : lower')
    assert (metric.column, metric.denominator, metric.better) == ("clicks, all", "views", Better.LOWER)
