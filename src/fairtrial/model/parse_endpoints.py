# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Sections `models`, `endpoints` and `router` of the experiment file."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from fairtrial.model.experiment import (
    Endpoint,
    Match,
    Model,
    OnClientEof,
    ResponseHeaders,
    RouterOptions,
    Timeouts,
)
from fairtrial.model.kinds import (
    FIELD_NAME_PATTERN,
    Choice,
    Flag,
    JsonObject,
    Kind,
    MapOf,
    Reference,
    Text,
    WholeNumber,
    name_kind,
    report_not_text,
)
from fairtrial.model.parse_values import DURATION, FIELD, LONG_DURATION, SIZE, Headers
from fairtrial.model.quantities import show_duration
from fairtrial.model.report import Place
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import MapNode, Node, Scalar, shown

_URL_PATTERN: Final = r"^https?://[!-~]{1,2000}$"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])\Z")
_HOST_PATTERN: Final = r"^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])$"


class Url(Kind[str]):
    """`http://host[:port][/path]` or https; nothing that a proxy would have to guess about."""

    def read(self, node: Node, place: Place) -> str | None:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            report_not_text(node, place, "a URL")
            return None
        wrong = _url_mistake(node.value)
        if wrong:
            place.error(node, f"{shown(node)} {wrong}", "write it like http://127.0.0.1:8501")
            return None
        return node.value

    def schema(self) -> JsonObject:
        return {"type": "string", "pattern": _URL_PATTERN}

    def allowed(self) -> str:
        return "`http://host:port[/path]` or https"


def _url_mistake(text: str) -> str:
    """What is wrong with a URL; empty if nothing is."""
    if not re.fullmatch(r"https?://[!-~]{1,2000}", text):
        return "does not begin with http:// or https://, has a character that no URL has, or is too long"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        return f"is not a URL ({exc}); a port is a number from 1 to 65535"
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password; put them into `headers: {authorization: ...}`"
    if parts.query or parts.fragment or "?" in text or "#" in text:
        return "has a query or fragment; only a path may follow the host"
    host = parts.netloc.rsplit(":", 1)[0] if port is not None else parts.netloc
    if not _HOST.match(host):
        return "has no host that could be one"
    return "has port 0; a port is a number from 1 to 65535" if port == 0 else ""


URL = Key(
    "url",
    Url(),
    "Address of the model server; a path replaces the prefix that the endpoint matched.",
    example="http://127.0.0.1:8501",
    is_required=True,
)
VERSION = Key(
    "version",
    Text("a version", r"^[!-~](?:[ -~]{0,126}[!-~])?$", rule="1 to 128 printable ASCII characters"),
    "Version that answers and records name.",
)
MODEL_HOST = Key(
    "host",
    Text("a host", r"^[A-Za-z0-9._:\[\]-]{1,260}$", rule="a host name, with a port if need be"),
    "Value of the Host header sent to the model.",
    "the client's own",
)
MODEL_HEADERS = Key("headers", Headers(), "Headers added to every request to the model.")


def _build_model(fields: Fields) -> Model:
    return Model(
        name=fields.name,
        url=fields.get(URL, ""),
        version=fields.get(VERSION, ""),
        host=fields.get(MODEL_HOST, ""),
        headers=fields.get(MODEL_HEADERS, ()),
    )


MODEL: Final = Section(
    "model", "One model version behind an HTTP address.", (URL, VERSION, MODEL_HOST, MODEL_HEADERS), _build_model
)

PATH = Key(
    "path",
    Text("a path", r"^/[!-\"$->@-~]{0,1023}$", rule="begins with `/`; printable ASCII without `?` and `#`"),
    "Path prefix; it ends at a `/`, `:`, `?` or the end of the path.",
    "`/`",
    "/v1/models/churn",
)
HOST = Key(
    "host",
    Text("a host without port", _HOST_PATTERN, rule="letters, digits, `.`, `_`, `-`, or an IPv6 address in [ ]"),
    "Exact host, without port; case does not matter.",
    "any",
)
MATCH_HEADERS = Key("headers", Headers(), "Exact values of headers.", "any")
BODY_MODEL = Key("model", Text(), "Exact value of `model` at the top of the JSON body.", "any")


def _build_match(fields: Fields) -> Match:
    return Match(
        path=fields.get(PATH, "/"),
        host=fields.get(HOST, "").lower(),
        headers=fields.get(MATCH_HEADERS, ()),
        model=fields.get(BODY_MODEL, ""),
    )


MATCH: Final = Section(
    "match",
    "Which requests an endpoint takes; every part given must hold.",
    (PATH, HOST, MATCH_HEADERS, BODY_MODEL),
    _build_match,
)

_TIMEOUTS: Final = Timeouts()
CONNECT = Key("connect", LONG_DURATION, "To open a connection to the model.", show_duration(_TIMEOUTS.connect_s))
FIRST_BYTE = Key(
    "first_byte", LONG_DURATION, "From request sent to response head.", show_duration(_TIMEOUTS.first_byte_s)
)
IDLE = Key("idle", LONG_DURATION, "Longest silence inside a body, either way.", show_duration(_TIMEOUTS.idle_s))
TOTAL = Key("total", LONG_DURATION, "The whole request.", "no limit")


def _build_timeouts(fields: Fields) -> Timeouts:
    return Timeouts(
        connect_s=fields.get(CONNECT, _TIMEOUTS.connect_s),
        first_byte_s=fields.get(FIRST_BYTE, _TIMEOUTS.first_byte_s),
        idle_s=fields.get(IDLE, _TIMEOUTS.idle_s),
        total_s=fields.find(TOTAL),
    )


TIMEOUTS: Final = Section(
    "timeouts", "How long the router waits for a model.", (CONNECT, FIRST_BYTE, IDLE, TOTAL), _build_timeouts
)

ENDPOINT_MATCH = Key("match", MATCH, "Which requests it takes.", "every request")
STABLE_MODEL = Key(
    "model",
    Reference("models", "model"),
    "The stable model: for everyone not enrolled, and as the fallback.",
    example="churn-2",
    is_required=True,
)
ATTRIBUTES = Key(
    "attributes",
    MapOf(name_kind("an attribute's name"), FIELD),
    "Values of a request that audiences and slots can use.",
    "none",
)
REPEATABLE = Key(
    "repeatable", Flag(), "A request may be sent again, to the stable model, after a model may have seen it.", "true"
)
TIMEOUTS_KEY = Key("timeouts", TIMEOUTS, "How long to wait.", "all at their defaults")
ON_CLIENT_EOF = Key(
    "on_client_eof", Choice(OnClientEof), "What happens upstream when the client goes away before its answer.", "cancel"
)
MAX_BODY = Key("max_body", SIZE, "Largest request body.", "64MiB")


def _build_endpoint(fields: Fields) -> Endpoint:
    written = fields.value_node(ATTRIBUTES)
    names = [key.text for key, _ in written.items] if fields.has(ATTRIBUTES) and isinstance(written, MapNode) else []
    fields.place.report.known[attributes_group(fields.name)] = tuple(names)
    return Endpoint(
        name=fields.name,
        match=fields.get(ENDPOINT_MATCH, Match()),
        model=fields.get(STABLE_MODEL, ""),
        attributes=fields.get(ATTRIBUTES, {}),
        is_repeatable=fields.get(REPEATABLE, True),
        timeouts=fields.get(TIMEOUTS_KEY, _TIMEOUTS),
        on_client_eof=fields.get(ON_CLIENT_EOF, OnClientEof.CANCEL),
        max_body_bytes=fields.get(MAX_BODY, 64 << 20),
    )


def attributes_group(endpoint: str) -> str:
    """Key of `Report.known` for the attributes of an endpoint."""
    return f"endpoints.{endpoint}.attributes"


ENDPOINT: Final = Section(
    "endpoint",
    "One address that clients call.",
    (ENDPOINT_MATCH, STABLE_MODEL, ATTRIBUTES, REPEATABLE, TIMEOUTS_KEY, ON_CLIENT_EOF, MAX_BODY),
    _build_endpoint,
)

_RESPONSE: Final = ResponseHeaders()
_RESPONSE_NAME: Final = Text(
    "a header name", rf"^$|{FIELD_NAME_PATTERN}", rule="a header name, or empty to leave it out"
)
EXPERIMENT_HEADER = Key("experiment", _RESPONSE_NAME, "Names the experiment.", _RESPONSE.experiment)
VARIANT_HEADER = Key("variant", _RESPONSE_NAME, "Names the variant.", _RESPONSE.variant)
VERSION_HEADER = Key(
    "model_version", _RESPONSE_NAME, "Names the version of the model that answered.", _RESPONSE.model_version
)
REQUEST_ID_HEADER = Key(
    "request_id", _RESPONSE_NAME, "The id by which outcomes can refer to the request.", _RESPONSE.request_id
)
_HEADER_KEYS: Final = (EXPERIMENT_HEADER, VARIANT_HEADER, VERSION_HEADER, REQUEST_ID_HEADER)


def _build_response_headers(fields: Fields) -> ResponseHeaders:
    defaults = (_RESPONSE.experiment, _RESPONSE.variant, _RESPONSE.model_version, _RESPONSE.request_id)
    names = [fields.get(key, default).lower() for key, default in zip(_HEADER_KEYS, defaults, strict=True)]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            fields.error(_HEADER_KEYS[index], f"header `{name}` already says something else", "choose another name")
    return ResponseHeaders(*names)


RESPONSE_HEADERS: Final = Section(
    "response_headers",
    "Names of the headers the router adds to answers; an empty name leaves one out.",
    _HEADER_KEYS,
    _build_response_headers,
)

_ROUTER: Final = RouterOptions()
_COUNT: Final = WholeNumber(1, 1_000_000)
RESPONSE_HEADERS_KEY = Key("response_headers", RESPONSE_HEADERS, "Headers added to answers.", "all at their defaults")
MAX_HEAD = Key("max_head", SIZE, "Largest request head.", "32KiB")
MAX_FIELDS = Key("max_fields", _COUNT, "Most header fields of a request.", str(_ROUTER.max_fields))
HEAD_TIMEOUT = Key(
    "head_timeout",
    LONG_DURATION,
    "Longest time a client may take to send a head.",
    show_duration(_ROUTER.head_timeout_s),
)
KEEP_ALIVE = Key(
    "keep_alive", LONG_DURATION, "How long an idle client connection stays open.", show_duration(_ROUTER.keep_alive_s)
)
UPSTREAM_IDLE = Key(
    "upstream_idle",
    LONG_DURATION,
    "How long an idle model connection is kept; below the server's own.",
    show_duration(_ROUTER.upstream_idle_s),
)
DRAIN_DELAY = Key(
    "drain_delay",
    DURATION,
    "After SIGTERM, how long it goes on accepting while /-/healthz says it stops.",
    show_duration(_ROUTER.drain_delay_s),
)
DRAIN_TIMEOUT = Key(
    "drain_timeout",
    LONG_DURATION,
    "After SIGTERM, how long requests may take to finish.",
    show_duration(_ROUTER.drain_timeout_s),
)
MAX_CONNECTIONS = Key("max_connections", _COUNT, "Most client connections of a worker.", str(_ROUTER.max_connections))
MAX_UPSTREAM = Key(
    "max_upstream_connections",
    _COUNT,
    "Most connections of a worker to one model.",
    str(_ROUTER.max_upstream_connections),
)
BREAKER_FAILURES = Key(
    "breaker_failures", _COUNT, "Failures in a row that open a model's breaker.", str(_ROUTER.breaker_failures)
)
BREAKER_OPEN = Key(
    "breaker_open",
    LONG_DURATION,
    "How long a breaker stays open before one request tries again.",
    show_duration(_ROUTER.breaker_open_s),
)


def _build_router(fields: Fields) -> RouterOptions:
    return RouterOptions(
        response_headers=fields.get(RESPONSE_HEADERS_KEY, _RESPONSE),
        max_head_bytes=fields.get(MAX_HEAD, _ROUTER.max_head_bytes),
        max_fields=fields.get(MAX_FIELDS, _ROUTER.max_fields),
        head_timeout_s=fields.get(HEAD_TIMEOUT, _ROUTER.head_timeout_s),
        keep_alive_s=fields.get(KEEP_ALIVE, _ROUTER.keep_alive_s),
        upstream_idle_s=fields.get(UPSTREAM_IDLE, _ROUTER.upstream_idle_s),
        drain_delay_s=fields.get(DRAIN_DELAY, _ROUTER.drain_delay_s),
        drain_timeout_s=fields.get(DRAIN_TIMEOUT, _ROUTER.drain_timeout_s),
        max_connections=fields.get(MAX_CONNECTIONS, _ROUTER.max_connections),
        max_upstream_connections=fields.get(MAX_UPSTREAM, _ROUTER.max_upstream_connections),
        breaker_failures=fields.get(BREAKER_FAILURES, _ROUTER.breaker_failures),
        breaker_open_s=fields.get(BREAKER_OPEN, _ROUTER.breaker_open_s),
    )


ROUTER: Final = Section(
    "router",
    "Sizes, times and counts of the built-in data plane, per worker.",
    (
        RESPONSE_HEADERS_KEY,
        MAX_HEAD,
        MAX_FIELDS,
        HEAD_TIMEOUT,
        KEEP_ALIVE,
        UPSTREAM_IDLE,
        DRAIN_DELAY,
        DRAIN_TIMEOUT,
        MAX_CONNECTIONS,
        MAX_UPSTREAM,
        BREAKER_FAILURES,
        BREAKER_OPEN,
    ),
    _build_router,
)
