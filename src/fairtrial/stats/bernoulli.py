"""Is an event rate above (or below) a limit? Exact at any count, at any look: for hard limits on errors.

The e-value compares the data under a beta mixture of rates beyond the limit with the data at the limit. Under any rate
on the right side of the limit it is a non-negative supermartingale, so 1/e is a p-value that survives peeking (Ville's
inequality); no normal approximation, hence no minimum of events. Method of mixtures: Robbins 1970; the one-sided,
truncated mixture as in Howard, Ramdas, McAuliffe & Sekhon 2021, section 3.
"""

from __future__ import annotations

import math

from scipy import special

from fairtrial.stats.result import p_value_of_log_e


def rate_above(events: int, units: int, limit: float) -> float:
    """Anytime-valid p-value of "the event rate is at most `limit`". 0 <= events <= units; limit in (0, 1).

    The mixture is uniform over (limit, 1): a failing model is caught after a handful of units.
    """
    if not 0 <= events <= units:
        raise ValueError(f"{events} events of {units} units; events must lie between 0 and the units")
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit is {limit}; must lie between 0 and 1")
    a, b = 1.0 + events, 1.0 + units - events
    # Mass of the beta(a, b) posterior beyond the limit, over the same of the uniform prior. When it underflows the
    # evidence is nil: the data sit far below the limit.
    beyond = float(special.betaincc(a, b, limit))
    if beyond == 0.0:
        return 1.0
    log_e = float(special.betaln(a, b)) + math.log(beyond) - math.log1p(-limit)
    log_e -= events * math.log(limit) + (units - events) * math.log1p(-limit)
    return p_value_of_log_e(log_e)


def rate_below(events: int, units: int, limit: float) -> float:
    """Anytime-valid p-value of "the event rate is at least `limit`"; the mirror image of `rate_above`."""
    return rate_above(units - events, units, 1.0 - limit)
