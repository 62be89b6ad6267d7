"""The SQL of the unit rows: constant texts over a few names, so that any of them can be pasted into a DuckDB shell.

Names that `refresh.py` provides before a statement runs:
- views over Parquet files: `new_*` (files not counted before), `window_*` (files that can hold events of the units to
  recompute), `lookup_requests` (that can hold requests named by new outcomes), `earlier_outcomes` (counted before, with
  outcomes that can name new requests), `request_outcomes` (any files with outcomes that name requests);
- temporary tables `arm(name, code)` and `rule(...)`, the metrics as rows of constants (`rules.py`);
- tables of one experiment, found through the schema search path: `exp_units`, `unit_metric`, `unit_value`, `traffic`,
  `centre` (`sums.py`),
  `cursor` (files counted) and `named` (files of outcomes that name requests, and when those can have been made).

`cell` is epoch * number of arms + arm: the stratum a unit belongs to. `age` is event time minus first exposure.
"at" and "values" are quoted everywhere: they are reserved words.
"""

from __future__ import annotations

import hashlib
from string import Template
from typing import Final

CREATE_REGISTRY: Final = """
CREATE TABLE IF NOT EXISTS main.about (version VARCHAR);
CREATE TABLE IF NOT EXISTS main.experiment (name VARCHAR, schema_name VARCHAR, digest VARCHAR);
CREATE TABLE IF NOT EXISTS main.look (
  experiment VARCHAR, plan VARCHAR, metric VARCHAR, fraction DOUBLE, "at" BIGINT
);
CREATE TABLE IF NOT EXISTS main.horizon (experiment VARCHAR, plan VARCHAR, planned_units BIGINT);
CREATE TABLE IF NOT EXISTS main.settled (experiment VARCHAR, plan VARCHAR, verdict VARCHAR);
"""

CREATE_TABLES: Final = """
CREATE TABLE exp_units (unit BIGINT, t0 BIGINT, cell INTEGER, arm TINYINT, epoch INTEGER, is_crossover BOOLEAN);
CREATE TABLE unit_metric (unit BIGINT, metric UTINYINT, t0 BIGINT, cell INTEGER, y DOUBLE, d DOUBLE, x DOUBLE);
CREATE TABLE unit_value (unit BIGINT, metric UTINYINT, t0 BIGINT, cell INTEGER, value DOUBLE);
CREATE TABLE traffic (
  epoch INTEGER, arm TINYINT, exposures BIGINT, requests BIGINT, errors BIGINT, fallbacks BIGINT
);
CREATE TABLE centre (metric UTINYINT, y DOUBLE, x DOUBLE);
CREATE TABLE cursor (requests BIGINT, exposures BIGINT, outcomes BIGINT);
CREATE TABLE named (id BIGINT, from_us BIGINT, to_us BIGINT);
"""

CREATE_PLAN: Final = """
CREATE OR REPLACE TEMP TABLE arm (name VARCHAR, code TINYINT);
CREATE OR REPLACE TEMP TABLE rule (
  metric UTINYINT, stream VARCHAR, event VARCHAR, path VARCHAR, low BIGINT, high BIGINT,
  y_start BIGINT, y_end BIGINT, y_form UTINYINT, d_start BIGINT, d_end BIGINT, d_form UTINYINT,
  x_start BIGINT, x_end BIGINT, keeps_values BOOLEAN
);
"""

# First exposure per unit. (at, epoch) are packed into one 128-bit key: its minimum is the first exposure, and the lower
# epoch where a unit met two at the same instant, whatever the order of the rows. Twice as fast as two arg_min.
FIND_TOUCHED: Final = """
CREATE OR REPLACE TEMP TABLE touched AS
SELECT unit, min(("at"::HUGEINT << 32) + epoch) AS first, min(arm) AS low_arm, max(arm) AS high_arm
FROM (
  SELECT unit, "at", epoch, arm.code AS arm FROM new_exposures JOIN arm ON arm.name = variant
  UNION ALL
  SELECT unit, "at", epoch, arm.code AS arm FROM new_requests JOIN arm ON arm.name = variant
)
GROUP BY unit
"""

# A unit is dirty where its rows must be computed from all files: it is new, its first exposure moved to an earlier
# time (late events), or it turned out to have met two arms. Nothing else about a unit can change.
FIND_DIRTY: Final = """
CREATE OR REPLACE TEMP TABLE dirty AS
SELECT unit, t0, (epoch * (SELECT count(*) FROM arm) + arm)::INTEGER AS cell, arm, epoch, is_crossover, is_new
FROM (
  SELECT
    touched.unit,
    (least(touched.first, known.first) >> 32)::BIGINT AS t0,
    (least(touched.first, known.first) & 4294967295)::INTEGER AS epoch,
    least(touched.low_arm, known.arm) AS arm,
    touched.low_arm <> touched.high_arm OR coalesce(known.is_crossover, false)
      OR coalesce(known.arm <> touched.low_arm, false) AS is_crossover,
    known.unit IS NULL AS is_new,
    known.unit IS NULL OR touched.first < known.first AS is_earlier,
    known.is_crossover AS was_crossover
  FROM touched
  LEFT JOIN (SELECT unit, (t0::HUGEINT << 32) + epoch AS first, arm, is_crossover FROM exp_units) known
    ON known.unit = touched.unit
)
WHERE is_earlier OR is_crossover <> was_crossover
"""

COUNT_DIRTY: Final = """
SELECT count(*), count(*) FILTER (is_new), min(t0) FILTER (NOT is_crossover), max(t0) FILTER (NOT is_crossover)
FROM dirty
"""

FORGET_DIRTY: Final = """
DELETE FROM unit_metric WHERE unit IN (SELECT unit FROM dirty WHERE NOT is_new);
DELETE FROM unit_value WHERE unit IN (SELECT unit FROM dirty WHERE NOT is_new);
DELETE FROM exp_units WHERE unit IN (SELECT unit FROM dirty WHERE NOT is_new);
"""

KEEP_DIRTY: Final = "INSERT INTO exp_units SELECT unit, t0, cell, arm, epoch, is_crossover FROM dirty"

# Units whose rows are computed from all files, and units to whose rows the new files only add.
TARGET_DIRTY: Final = """
CREATE OR REPLACE TEMP VIEW target AS SELECT unit, t0, cell FROM dirty WHERE NOT is_crossover
"""
TARGET_CLEAN: Final = """
CREATE OR REPLACE TEMP VIEW target AS
SELECT unit, t0, cell FROM exp_units ANTI JOIN dirty USING (unit) WHERE NOT is_crossover
"""

# An error is what the client saw: a 5xx answer, none at all, or a time-out.
ADD_TRAFFIC: Final = """
INSERT INTO traffic
SELECT epoch, coalesce(arm.code, -1), sum(exposures), sum(requests), sum(errors), sum(fallbacks)
FROM (
  SELECT epoch, variant, count(*) AS exposures, 0 AS requests, 0 AS errors, 0 AS fallbacks
  FROM new_exposures GROUP BY epoch, variant
  UNION ALL
  SELECT epoch, variant, count(*), count(*), count(*) FILTER (outcome IN ('error', 'timeout')),
    count(*) FILTER (outcome = 'fallback')
  FROM new_requests GROUP BY epoch, variant
)
LEFT JOIN arm ON arm.name = variant
GROUP BY ALL
"""

# Per new file of outcomes: how many name a request instead of a unit, and when those requests can have been. A request
# id starts with 12 hex digits of its unix milliseconds; ids of another shape can be from any time.
COUNT_REQUEST_OUTCOMES: Final = """
SELECT filename, count(*), count(ms), min(ms), max(ms)
FROM (
  SELECT filename, try_cast('0x' || substr(request_id, 1, 12) AS BIGINT) AS ms FROM new_outcomes WHERE unit IS NULL
)
GROUP BY filename
"""

# Outcomes of requests, with the unit that the request had. An outcome cannot precede its request: where a client's
# clock says so, the request's time is taken.
RESOLVE_CLEAN: Final = """
CREATE OR REPLACE TEMP TABLE resolved AS
SELECT r.unit, greatest(o."at", r."at") AS "at", o.name, o.value, o."values"
FROM new_outcomes o JOIN lookup_requests r ON r.request_id = o.request_id
WHERE o.unit IS NULL
UNION ALL
SELECT r.unit, greatest(o."at", r."at") AS "at", o.name, o.value, o."values"
FROM earlier_outcomes o JOIN new_requests r ON r.request_id = o.request_id
WHERE o.unit IS NULL
"""
RESOLVE_DIRTY: Final = """
CREATE OR REPLACE TEMP TABLE resolved AS
SELECT r.unit, greatest(o."at", r."at") AS "at", o.name, o.value, o."values"
FROM request_outcomes o
JOIN (SELECT request_id, unit, "at" FROM window_requests SEMI JOIN target USING (unit)) r
  ON r.request_id = o.request_id
WHERE o.unit IS NULL
"""
RESOLVE_NOTHING: Final = """
CREATE OR REPLACE TEMP TABLE resolved (unit BIGINT, "at" BIGINT, name VARCHAR, value DOUBLE, "values" VARCHAR)
"""

# The number an outcome carries for a rule. Outcomes with an object carry named numbers; a rule that names one reads it,
# and falls back to the plain value of outcomes that have no object.
PLAIN_VALUE: Final = "o.value"
NAMED_VALUE: Final = """CASE WHEN rule.path = '' OR o."values" IS NULL THEN o.value
    ELSE try_cast(json_extract_string(o."values", rule.path) AS DOUBLE) END"""

# One row per event of a target unit and rule that the event feeds. prefix: `new` or `window`.
_OUTCOME_EVENTS: Final = """
  SELECT o.unit, u.t0, u.cell, o."at" - u.t0 AS age, $value AS value, rule.*
  FROM ${prefix}_outcomes o
  JOIN rule ON rule.event = o.name AND rule.stream = 'outcomes'
  JOIN target u ON u.unit = o.unit
  WHERE o.unit IS NOT NULL"""
_RESOLVED_EVENTS: Final = """
  SELECT o.unit, u.t0, u.cell, o."at" - u.t0 AS age, $value AS value, rule.*
  FROM resolved o
  JOIN rule ON rule.event = o.name AND rule.stream = 'outcomes'
  JOIN target u ON u.unit = o.unit"""
_REQUEST_EVENTS: Final = """
  SELECT o.unit, u.t0, u.cell, o."at" - u.t0 AS age,
    CASE rule.event
      WHEN 'error' THEN (o.outcome IN ('error', 'timeout'))::DOUBLE
      WHEN 'timeout' THEN (o.outcome = 'timeout')::DOUBLE
      WHEN 'fallback' THEN (o.outcome = 'fallback')::DOUBLE
      WHEN 'latency_s' THEN o.latency_us / 1e6
      WHEN 'upstream_s' THEN o.upstream_us / 1e6
      WHEN 'bytes_out' THEN o.bytes_out::DOUBLE
      ELSE 1.0
    END AS value, rule.*
  FROM ${prefix}_requests o
  JOIN target u ON u.unit = o.unit
  JOIN rule ON rule.stream = 'requests'"""

EVENTS_OF: Final = {"outcomes": _OUTCOME_EVENTS, "resolved": _RESOLVED_EVENTS, "requests": _REQUEST_EVENTS}

# A sum that no rule asks for is a constant: aggregating zeros costs as much as aggregating data.
SUM: Final = Template("""coalesce(sum(CASE WHEN age >= ${s}_start AND age < ${s}_end
    THEN CASE ${s}_form WHEN 0 THEN value WHEN 1 THEN (value > 0)::DOUBLE ELSE 1.0 END ELSE 0.0 END), 0.0)""")
SUM_OF_VALUES: Final = "coalesce(sum(CASE WHEN age >= x_start AND age < x_end THEN value ELSE 0.0 END), 0.0)"
NO_SUM: Final = "0.0::DOUBLE"

UNIT_ROWS: Final = Template("""SELECT unit, metric, max(t0) AS t0, max(cell) AS cell,
  $y AS y,
  $d AS d,
  $x AS x
FROM ($events
) e
WHERE age >= low AND age < high
GROUP BY unit, metric""")

UNIT_VALUES: Final = Template("""INSERT INTO unit_value
SELECT unit, metric, t0, cell, value
FROM ($events
) e
WHERE keeps_values AND age >= y_start AND age < y_end AND value IS NOT NULL""")

ADD_DELTA: Final = """
UPDATE unit_metric SET y = unit_metric.y + delta.y, d = unit_metric.d + delta.d, x = unit_metric.x + delta.x
FROM delta WHERE unit_metric.unit = delta.unit AND unit_metric.metric = delta.metric;
INSERT INTO unit_metric
SELECT unit, metric, t0, cell, y, d, x FROM delta ANTI JOIN unit_metric USING (unit, metric);
"""

# Equal layouts mean equal rows from equal files; a state of another layout is computed anew.
_MEANING: Final = (
    *(CREATE_TABLES, FIND_TOUCHED, FIND_DIRTY, ADD_TRAFFIC, RESOLVE_CLEAN, RESOLVE_DIRTY, PLAIN_VALUE, NAMED_VALUE),
    *(*EVENTS_OF.values(), SUM.template, SUM_OF_VALUES, UNIT_ROWS.template, UNIT_VALUES.template, ADD_DELTA),
)
LAYOUT: Final = hashlib.sha256("\n".join(_MEANING).encode()).hexdigest()[:16]

DROP_TEMPORARIES: Final = """
DROP TABLE IF EXISTS touched; DROP TABLE IF EXISTS dirty; DROP TABLE IF EXISTS resolved; DROP TABLE IF EXISTS delta;
"""

# Views over files. An empty list of files is not a list that DuckDB reads, so it gets an empty relation.
COLUMNS: Final = {
    "exposures": 'unit::BIGINT AS unit, "at"::BIGINT AS "at", variant, epoch::INTEGER AS epoch',
    "requests": (
        'unit::BIGINT AS unit, "at"::BIGINT AS "at", variant, epoch::INTEGER AS epoch, request_id, outcome, '
        "latency_us, upstream_us, bytes_out"
    ),
    "outcomes": 'unit::BIGINT AS unit, "at"::BIGINT AS "at", name, value, "values", request_id, filename',
}
FILTERS: Final = {
    "exposures": "experiment = $experiment",
    "requests": "experiment = $experiment AND kind IS DISTINCT FROM 'shadow'",
    "outcomes": "$names",
}
EMPTY: Final = {
    "exposures": "NULL::BIGINT AS unit, 0::BIGINT AS \"at\", '' AS variant, 0::INTEGER AS epoch",
    "requests": (
        "NULL::BIGINT AS unit, 0::BIGINT AS \"at\", '' AS variant, 0::INTEGER AS epoch, '' AS request_id, "
        "'' AS outcome, 0::BIGINT AS latency_us, 0::BIGINT AS upstream_us, 0::BIGINT AS bytes_out"
    ),
    "outcomes": (
        'NULL::BIGINT AS unit, 0::BIGINT AS "at", \'\' AS name, 0.0::DOUBLE AS value, NULL::VARCHAR AS "values", '
        "'' AS request_id, '' AS filename"
    ),
}
VIEW: Final = Template(
    "CREATE OR REPLACE TEMP VIEW $view AS SELECT $columns "
    "FROM read_parquet($files, union_by_name = true, filename = true, hive_partitioning = false) WHERE $filter"
)
EMPTY_VIEW: Final = Template("CREATE OR REPLACE TEMP VIEW $view AS SELECT $columns WHERE false")
