"""Rate cards: what one token of each kind costs, in integers, and when.

A *card* is what a provider's price table says of one model at one moment: `Rates` for requests of ordinary length, and other
`Rates` above each of its thresholds (a cliff: the whole request is billed at the rates of its length, output and cache too).
A *timeline* is the cards of one model and service tier over time. Everything is compiled once and immutable.

Rates are whole pico-USD per token, or per request for searches and request fees. The few that are no whole number (1/12 USD per
million) make all rates of their `Rates` multiples of 1/`scale`; then each component is rounded half-even once (`cost.py`).

A rate that a card lacks is never 0: the nearest rate that it has is used, and the bit in `missing` makes the price say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from itertools import pairwise
from math import lcm
from typing import Any, Final

NANO: Final = 1_000_000_000
PUSD: Final = 10**12
#: The ends of time: OTLP's timestamps are unsigned 64-bit nanoseconds, so nothing lies outside.
EARLIEST: Final = -(1 << 63)
LATEST: Final = 1 << 64

#: Rates per token; in USD they are stated per million tokens. The names are also those of `[[prices.override]]`.
TOKEN_RATES: Final = (
    "input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "input_image", "input_video",
    "cache_read_audio", "output_audio", "output_image", "output_reasoning",
)  # fmt: skip
#: Rates per request; in USD they are stated per thousand.
REQUEST_RATES: Final = ("web_search", "request")

# Bits of `Rates.missing`: this rate is not listed.
NO_CACHE_READ: Final = 1
NO_CACHE_WRITE_5M: Final = 2
NO_CACHE_WRITE_1H: Final = 4
NO_AUDIO_IN: Final = 8
NO_AUDIO_OUT: Final = 16
NO_IMAGE_OUT: Final = 32
NO_WEB_SEARCH: Final = 64
NO_OUTPUT: Final = 128

#: A rate as it is given: one number, or a base and (above so many input tokens, rate) pairs.
RawRate = tuple[Fraction, tuple[tuple[int, Fraction], ...]]
RawRates = dict[str, RawRate]


class Rates:
    """What each kind of token costs in requests of one range of lengths. All in 1/`scale` pico-USD."""

    __slots__ = (
        "audio_in", "audio_out", "cache_read_audio", "image_in", "image_out", "missing", "reasoning", "request", "scale", "text",
        "video_in", "web_search",
    )  # fmt: skip

    def __init__(self, exact: Mapping[str, Fraction]) -> None:
        scale = lcm(*(rate.denominator for rate in exact.values()))
        rate = {name: int(value * scale) for name, value in exact.items()}
        get = rate.get
        missing = 0

        def listed(name: str, instead: int, bit: int) -> int:
            nonlocal missing
            value = get(name)
            if value is not None:
                return value
            missing |= bit
            return instead

        text_in = rate["input"]
        text_out = listed("output", 0, NO_OUTPUT)
        read = listed("cache_read", text_in, NO_CACHE_READ)
        write_5m = listed("cache_write_5m", text_in, NO_CACHE_WRITE_5M)
        write_1h = listed("cache_write_1h", write_5m, NO_CACHE_WRITE_1H)
        self.scale = scale
        self.text = (text_in, read, write_5m, write_1h, text_out)  #: per text token: uncached, read, written for 5m, 1h, output
        self.audio_in = listed("input_audio", text_in, NO_AUDIO_IN)
        self.image_in = get("input_image", text_in)  # providers bill pictures as so many text tokens where they list no rate
        self.video_in = get("input_video", text_in)
        self.cache_read_audio = get("cache_read_audio", read)
        self.audio_out = listed("output_audio", text_out, NO_AUDIO_OUT)
        self.image_out = listed("output_image", text_out, NO_IMAGE_OUT)
        self.reasoning = get("output_reasoning")  #: None: reasoning is billed as output, as nearly everywhere
        self.web_search = listed("web_search", 0, NO_WEB_SEARCH)  #: per search
        self.request = get("request", 0)  #: per call
        self.missing = missing


class Card:
    """Rates by the length of the request."""

    __slots__ = ("base", "raw", "tiers")

    def __init__(self, raw: RawRates) -> None:
        self.raw = raw
        self.base = Rates({name: base for name, (base, _) in raw.items()})
        thresholds = sorted({above for _, tiers in raw.values() for above, _ in tiers})
        #: (above so many input tokens, rates), longest first
        self.tiers = tuple((above, Rates(_rates_above(raw, above))) for above in reversed(thresholds))

    def rates(self, input_total: int) -> Rates:
        """The rates of a request with so many input tokens, cached ones included."""
        for above, rates in self.tiers:
            if input_total > above:
                return rates
        return self.base


def _rates_above(raw: RawRates, threshold: int) -> dict[str, Fraction]:
    exact: dict[str, Fraction] = {}
    for name, (base, tiers) in raw.items():
        exact[name] = base
        for above, rate in tiers:
            if above <= threshold:
                exact[name] = rate
    return exact


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the day, in UTC, on some days of the week by a calendar of its own offset."""

    start: int  #: seconds since midnight UTC, included
    end: int  #: excluded; before `start` when it spans midnight
    weekdays: frozenset[int] | None = None  #: Monday is 0; None: every day
    offset: int = 0  #: seconds east of UTC of the calendar that names the weekday

    def holds(self, unix_nano: int) -> bool:
        """Whether a moment is inside."""
        seconds = unix_nano // NANO
        of_day = seconds % 86_400
        inside = self.start <= of_day < self.end if self.start <= self.end else not self.end <= of_day < self.start
        if not inside or self.weekdays is None:
            return inside
        return ((seconds + self.offset) // 86_400 + 3) % 7 in self.weekdays  # 1970-01-01 was a Thursday


@dataclass(frozen=True, slots=True)
class Price:
    """Rates with the condition under which they hold. In a list of them the last that holds decides, else the first."""

    rates: RawRates
    start: int = EARLIEST  #: unix nanoseconds, included
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """Other rates for requests of one service tier (`when`), from a moment on. Rates it does not name stay the standard ones."""

    when: Mapping[str, str]
    rates: RawRates
    start: int = EARLIEST


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of a timeline in which no date changes anything."""

    start: int  #: unix nanoseconds, included
    end: int  #: excluded
    choices: tuple[tuple[Window | None, Card | None], ...]  #: the first whose window holds; the last has none. None: no rate
    tier_listed: bool  #: the asked service tier has rates of its own here

    def card(self, unix_nano: int) -> Card | None:
        """The card at a moment of this segment; None: the list has no rate then."""
        for window, card in self.choices:
            if window is None or window.holds(unix_nano):
                return card
        raise AssertionError("the last choice of a segment has no window")


def timeline(
    prices: Sequence[Price], variants: Iterable[Variant] = (), *, context: Mapping[str, str] | None = None, factor: Fraction | None = None
) -> tuple[Segment, ...]:
    """The cards of a model over time for one service tier (`context`), gapless, earliest first.

    Several variants may fit: for each rate the first of them that names it counts. `factor` multiplies every rate.
    """
    fitting = [v for v in variants if context and all(context.get(key) == value for key, value in v.when.items())]
    bounds = sorted({EARLIEST, LATEST, *(price.start for price in prices), *(variant.start for variant in fitting)})
    segments: list[Segment] = []
    for start, end in pairwise(bounds):
        instead: RawRates = {}
        for variant in fitting:
            if variant.start <= start:
                for name, rate in variant.rates.items():
                    instead.setdefault(name, rate)
        choices: list[tuple[Window | None, Card | None]] = []
        for price in reversed(prices):
            if price.start <= start:
                choices.append((price.window, _card({**price.rates, **instead}, factor)))
                if price.window is None:
                    break
        else:
            choices.append((None, _card({**prices[0].rates, **instead}, factor)))
        segments.append(Segment(start, end, tuple(choices), bool(instead)))
    return tuple(segments)


def _card(raw: RawRates, factor: Fraction | None) -> Card | None:
    if "input" not in raw:
        return None
    if factor is not None:
        raw = {name: (base * factor, tuple((above, rate * factor) for above, rate in tiers)) for name, (base, tiers) in raw.items()}
    return Card(raw)


def segment_at(segments: Sequence[Segment], unix_nano: int) -> Segment:
    """The segment of a timeline that holds a moment."""
    for segment in segments:
        if segment.start <= unix_nano < segment.end:
            return segment
    return segments[-1 if unix_nano >= LATEST else 0]


# Reading what files hold. The snapshot states pico-USD per token (`unit = "pusd"`), people state USD per million ("usd").


def read_rates(given: Mapping[str, Any], *, unit: str) -> RawRates:
    """Rates of a price table: name -> number, or -> [base, [above, number], ...].

    Raises:
        ValueError: an unknown name, or something that is no rate; the message names it.
    """
    out: RawRates = {}
    for name, value in given.items():
        if name in TOKEN_RATES:
            per = 1_000_000
        elif name in REQUEST_RATES:
            per = 1_000
        else:
            raise ValueError(f"{name!r} is no rate; known are {', '.join((*TOKEN_RATES, *REQUEST_RATES))}")
        factor = Fraction(1) if unit == "pusd" else Fraction(PUSD, per)
        base, *tiers = value if isinstance(value, list) else [value]
        out[name] = (read_number(base, name) * factor, tuple((int(above), read_number(rate, name) * factor) for above, rate in tiers))
    return out


def read_number(value: Any, name: str) -> Fraction:
    """A rate or a factor, >= 0, exactly: a float counts as what it prints as, a string may be a fraction "1/12"."""
    try:
        number = Fraction("nan" if isinstance(value, bool) else str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{name} = {value!r} is no number") from error
    if number < 0:
        raise ValueError(f"{name} = {value!r} is negative")
    return number


def read_moment(value: Any, name: str) -> int:
    """Unix nanoseconds of a date (its midnight UTC), a date with time (UTC where it names no offset), or of nanoseconds as they are.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{name} = {value!r} is no date") from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise ValueError(f"{name} = {value!r} is no date")  # noqa: TRY004 -- one kind of error for whatever a file may hold
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    since: timedelta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NANO + since.microseconds * 1_000


def read_price(given: Mapping[str, Any], *, unit: str) -> Price:
    """One row of a model's prices. `window` is ["HH:MM", "HH:MM"] in UTC; `weekdays` (1 = Monday) go by `utc_offset_hours`."""
    window = None
    if "window" in given:
        start, end = (_seconds_of_day(text) for text in given["window"])
        days = given.get("weekdays")
        weekdays = frozenset(day - 1 for day in days) if days else None
        window = Window(start, end, weekdays, int(given.get("utc_offset_hours", 0)) * 3_600)
    return Price(read_rates(given["rates"], unit=unit), read_moment(given["from"], "from") if "from" in given else EARLIEST, window)


def read_variant(given: Mapping[str, Any], *, unit: str) -> Variant:
    """One row of a model's service tiers."""
    start = read_moment(given["from"], "from") if "from" in given else EARLIEST
    return Variant(dict(given["when"]), read_rates(given["rates"], unit=unit), start)


def _seconds_of_day(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 3_600 + int(minutes) * 60
