"""From the spans of a Group to model calls, each once.

Several spans tell of one call: a framework and the client library below it are both instrumented, agents repeat the sum of their
calls, a gateway writes its own trace. The rules run in this order, each on what the one before it left:

  1. `tree`        who stands above whom; parents that were lost on the way are repaired
  2. `nesting`     the innermost carriers of usage are counted; what only repeats them counts 0
  3. `twins`       counted calls that are told twice side by side, or in another trace, become one; what only repeats the
     `beside`      sum of calls that stand elsewhere counts 0
  4. `late`        what an earlier generation charged, or what its sum stands for, is not charged again
  5. `same`        the paying span's reading is completed from the other spans of its call
  6. `cumulative`  of a running total only the difference to its last value is counted
  7. `missing`     model calls that show no usage are listed: never $0 in silence
  8. `doubts`      what is not sure is said, and changes no number

Nothing depends on the order in which spans came. Everything is linear in the spans, or n log n, whatever a client sends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from receiver.core.calls.beside import sums_of_calls_beside
from receiver.core.calls.call import Counted, Doubt, LLMCall, Missing
from receiver.core.calls.cumulative import LastValues, difference, is_running_total, key_of, last_step_only, spring_differences
from receiver.core.calls.doubts import of_reading, of_spans, outer_differs, settled, stands_for_several, suspected_doubles, wrapper_differs
from receiver.core.calls.late import Charged, Outcome
from receiver.core.calls.missing import DROPPED, SAMPLED, reason_of, without_usage
from receiver.core.calls.nesting import Candidate, Member, nest, reading_of, tokens_of
from receiver.core.calls.raw_requests import add_answers
from receiver.core.calls.same import complete
from receiver.core.calls.tree import Tree
from receiver.core.calls.twins import CountOptions, join_twins
from receiver.core.usage import Reader, Rules
from receiver.core.usage.reading import Klass, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from receiver.core.span import Span
    from receiver.core.window.group import Group, ReleasedTrace

__all__ = ["CountOptions", "Counted", "Doubt", "LLMCall", "Missing", "Tree", "count"]

_DEFAULT = CountOptions()
_BY_START = attrgetter("start_unix_nano", "span_id")


def count(group: Group, *, rules: Rules, last_values: LastValues, options: CountOptions = _DEFAULT) -> Counted:
    """The calls of a Group that are to be charged now, and what is missing from it.

    `rules` read spans that have no reading yet (those of an earlier generation, restored from the journal). `last_values` tells
    the last value of a cumulative source, None when there is none; the new ones are in `Counted.cumulative`.
    """
    tree = Tree(group)
    return _plain(group, tree) or _Count(group, tree, rules, last_values, options).run()


def _plain(group: Group, tree: Tree) -> Counted | None:
    """Count the calls of one trace in which no rule has anything to decide; None when one may have.

    Most traces are so: all usage stands on model-call spans of one scope, none of which is a parent, and no id comes twice. What
    follows then is that each of them is a call; the long way would say the same.
    """
    if len(group.traces) != 1:
        return None
    trace = group.traces[0]
    if trace.generation or trace.earlier:
        return None
    model_call = Klass.MODEL_CALL
    carriers: list[Span] = []
    response_ids: set[str] = set()
    scope = None
    for span in trace.spans:
        reading = span.reading
        if reading is None or span.sampled or span.dropped_attributes:
            return None
        if reading.klass is not model_call:
            if reading.tokens is not None or reading.emitted_cost_pusd:
                return None
            continue
        tokens = reading.tokens
        if tokens is None or not tokens.input_total or not reading.models:
            return None
        if reading.cumulative or reading.cache_hit or reading.usage_incomplete or reading.clamped or reading.rejected:
            return None
        if scope is None:
            scope = span.source.scope
        elif span.source.scope != scope:
            return None
        response_id = reading.response_id
        if response_id:
            if response_id in response_ids:
                return None
            response_ids.add(response_id)
        carriers.append(span)
    counted = Counted([], [], {}, {})
    if not carriers:
        return counted
    parents = tree.index(trace.key.trace_id)
    if tree.repaired or not set(carriers).isdisjoint(parents.values()):
        return None
    if len(carriers) > 1:
        carriers.sort(key=_BY_START)
    account, calls, counters = group.account, counted.calls, counted.counters
    for span in carriers:
        reading = reading_of(span)
        doubts = set() if reading.known_emitter and reading.mode_in_table and not reading.drops_cache else of_reading(reading)
        if Doubt.CACHE_MODE_GUESS in doubts:
            key = ("cache_mode_guess_total", (scope or "",))
            counters[key] = counters.get(key, 0) + 1
        calls.append(LLMCall(account=account, span=span, reading=reading, tree=tree, doubts=doubts))
    return counted


class _Count:
    """One run over one Group."""

    def __init__(self, group: Group, tree: Tree, rules: Rules, last_values: LastValues, options: CountOptions) -> None:
        self.group = group
        self.rules = rules
        self.last_values = last_values
        self.options = options
        self.tree = tree
        self.counters: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.counted = Counted([], [], self.counters, {})
        self.carriers: list[Span] = []
        self.bare: list[Span] = []  # model-call spans without usage and cost
        self.raw: list[Span] = []  # never counted, but they show what the provider answered to the call above them
        self.aggregates: dict[Span, Sequence[Member]] = {}
        self.merged: list[tuple[Span, Span]] = []
        self.late = any(trace.generation for trace in group.traces)
        self.earlier: set[Span] = {span for trace in group.traces for span in trace.earlier} if self.late else set()

    def run(self) -> Counted:
        candidates: list[Candidate] = []
        for trace in self.group.traces:
            carriers, bare = self._carriers_of(trace)
            if carriers:
                nesting = nest(carriers, self.tree)
                candidates += nesting.candidates
                self.aggregates |= nesting.aggregates
                self.merged += nesting.merged
                self.carriers += carriers
            self.bare += bare
        if len(candidates) > 1:
            candidates = join_twins(candidates, self.tree, self.options)
            beside = sums_of_calls_beside(candidates)
            if beside:
                self.aggregates |= beside
                candidates = [candidate for candidate in candidates if candidate.span not in beside]
        if self.raw and candidates:
            add_answers(self.raw, candidates, self.tree)
        if candidates:
            self._charge(candidates)
        if self.bare:
            self._miss(candidates)
        if self.aggregates or self.merged:
            self._tell_of_wrappers(candidates)
        if self.tree.adopted:
            self.counters["parent_adopted_total", ()] += self.tree.adopted
        self.counted.calls.sort(key=lambda call: (call.span.start_unix_nano, call.span.trace_id, call.span.span_id))
        return self.counted

    def _carriers_of(self, trace: ReleasedTrace) -> tuple[list[Span], list[Span]]:
        """The spans of a trace that hold usage or a cost, and the model-call spans that hold none; notes what was lost upstream."""
        carriers: list[Span] = []
        bare: list[Span] = []
        never, model_call = Klass.NEVER, Klass.MODEL_CALL
        raw: list[Span] = []
        lossy = False
        for span in self.tree.trace_spans(trace.key.trace_id):
            reading = span.reading
            if reading is None:
                reading = span.reading = Reader(self.rules).read(span)
            if span.sampled or span.dropped_attributes:
                lossy = True
            tokens = reading.tokens
            if (tokens is not None and (tokens.input_total > 0 or tokens.output_total > 0)) or reading.emitted_cost_pusd:
                if reading.klass is not never:
                    carriers.append(span)
                elif span.name in self.rules.never_names:
                    raw.append(span)
            elif reading.klass is model_call:
                bare.append(span)
        if len(carriers) > 1 or bare:
            spans = self.tree.trace_spans(trace.key.trace_id)
            self.tree.index(trace.key.trace_id)
            if self.tree.trace_spans(trace.key.trace_id) is not spans:  # a span id came twice: the index kept the first
                return self._carriers_of(trace)
        self.raw += raw
        if lossy:
            self._tell_of_losses(trace)
        return carriers, bare

    def _tell_of_losses(self, trace: ReleasedTrace) -> None:
        missing = self.counted.missing
        sampled = [span for span in trace.spans if span.sampled]
        if sampled and not any(span.sampled for span in trace.earlier):
            first = min(sampled, key=lambda span: (not span.is_root, span.start_unix_nano, span.span_id))
            missing.append(self._missing(first, SAMPLED))
        missing += [self._missing(span, DROPPED) for span in trace.spans if span.dropped_attributes]

    def _missing(self, span: Span, reason: str) -> Missing:
        reading = reading_of(span)
        return Missing(account=self.group.account, span=span, model=reading.models[0] if reading.models else None, reason=reason)

    # ------------------------------------------------------------------------------------------------------------ calls

    def _charge(self, candidates: list[Candidate]) -> None:
        """Rules 4 to 6, and the doubts and counters that belong to one call."""
        charge_now = self._not_charged_yet(candidates) if self.late else candidates
        running = [candidate for candidate in charge_now if reading_of(candidate.span).cumulative]
        spring: dict[Span, Reading] = {}
        if running:
            spring = spring_differences([candidate.span for candidate in candidates], self.tree)
            running = [candidate for candidate in running if is_running_total(candidate.span)]
        totals = self._differences(running) if running else {}
        doubled = suspected_doubles(candidates)
        suspects = {id(candidates[place]) for place in doubled} if doubled else ()
        for candidate in charge_now:
            span = candidate.span
            reading = totals.get(span) or spring.get(span) or reading_of(span)
            if candidate.others:
                reading = self._tell_of_joined(candidate, reading)
            if last_step_only(reading):
                reading = replace(reading, usage_incomplete=True)
            if not reading.models:
                reading = self._with_a_model_from_above(candidate, reading)
            if reading.cache_hit or (candidate.others and any(reading_of(other).cache_hit for other in candidate.others)):
                self._tell_of_cache_hit(span, reading)
                continue
            if (totals or spring) and tokens_of(reading) == (0, 0) and not reading.emitted_cost_pusd:
                continue  # nothing was used since the last value
            doubts = of_reading(reading)
            if candidate.others or span.sampled or span.dropped_attributes:
                doubts |= of_spans(candidate)
                if doubts and candidate.others and settled(candidate):
                    doubts -= {Doubt.UNKNOWN_EMITTER, Doubt.CACHE_MODE_GUESS}
            if suspects and id(candidate) in suspects:
                doubts.add(Doubt.SUSPECTED_DOUBLE)
            if span in totals and totals[span] is not reading_of(span):
                doubts.add(Doubt.OUTER_WITHOUT_INNER)
            if doubts or reading.usage_incomplete:
                self._tell_of_doubts(span, reading, doubts)
            self.counted.calls.append(
                LLMCall(
                    account=self.group.account, span=span, merged=tuple(candidate.others), reading=reading, tree=self.tree, doubts=doubts
                )
            )

    def _not_charged_yet(self, candidates: list[Candidate]) -> list[Candidate]:
        charged = Charged({trace.key.trace_id: trace.charged for trace in self.group.traces}, self.aggregates, self.tree)
        fate: dict[Span, Outcome] = {}
        new = []
        for candidate in candidates:
            outcome = charged.judge(candidate)
            fate |= dict.fromkeys(candidate.spans, outcome)
            if outcome is Outcome.CHARGED and not (candidate.span in self.earlier and is_running_total(candidate.span)):
                new.append(candidate)  # (a running total that was no call when it came had not risen; its last value has moved on)
        for trace in self.group.traces:
            if trace.generation:
                for span in trace.spans:
                    usual = Outcome.AGGREGATE if span in self.aggregates else Outcome.NO_USAGE
                    self.counters["late_span_total", (fate.get(span, usual).value,)] += 1
        return new

    def _differences(self, running: list[Candidate]) -> dict[Span, Reading]:
        """What running totals rose by, in order of time: each value is the last one of the next."""
        found: dict[Span, Reading] = {}
        values = self.counted.cumulative
        for span in sorted(
            (candidate.span for candidate in running), key=lambda span: (span.end_unix_nano, span.start_unix_nano, span.span_id)
        ):
            reading = reading_of(span)
            assert reading.tokens is not None
            key = key_of(span, self.tree, self.group.account)
            found[span] = difference(reading, values[key] if key in values else self.last_values(key))
            values[key] = tuple(reading.tokens)
        return found

    def _tell_of_joined(self, candidate: Candidate, reading: Reading) -> Reading:
        for rule in candidate.rules:
            self.counters["sibling_dedup_total", (rule,)] += 1
        return complete(reading, [reading_of(other) for other in candidate.others])

    def _with_a_model_from_above(self, candidate: Candidate, reading: Reading) -> Reading:
        """The nearest ancestor's model, only when no span of the call names one (Codex' `handle_responses`)."""
        for span in candidate.spans:
            for above in self.tree.ancestors(span):
                named = reading_of(above)
                if named.models:
                    provider = reading.provider or named.provider
                    return replace(reading, models=named.models, model_requested=named.model_requested, provider=provider)
        return reading

    def _tell_of_cache_hit(self, span: Span, reading: Reading) -> None:
        """Answered from the emitter's own cache: nothing was billed, so it is no call, and its usage is a statistic."""
        scope = span.source.scope
        used = tokens_of(reading)
        self.counters["response_cache_hits_total", (scope,)] += 1
        self.counters["response_cache_hit_tokens_total", (scope,)] += used[0] + used[1]

    def _tell_of_doubts(self, span: Span, reading: Reading, doubts: Collection[Doubt]) -> None:
        scope = span.source.scope
        if Doubt.CACHE_MODE_GUESS in doubts:
            self.counters["cache_mode_guess_total", (scope,)] += 1
        if reading.clamped:
            self.counters["bucket_clamped_total", ()] += reading.clamped
        if reading.usage_incomplete:
            self.counters["usage_incomplete_total", (scope,)] += 1

    # ------------------------------------------------------------------------------------------------- what is not counted

    def _miss(self, candidates: list[Candidate]) -> None:
        left, stands_for = without_usage(self.bare, candidates, self.carriers, self.tree, self.options)
        self.counted.missing += [self._missing(span, reason_of(span)) for span in left if span not in self.earlier]
        if stands_for:
            for call in self.counted.calls:
                if stands_for_several(stands_for[call.span]):
                    call.doubts.add(Doubt.OUTER_WITHOUT_INNER)

    def _tell_of_wrappers(self, candidates: list[Candidate]) -> None:
        """Counters of what repeats counted calls, and the doubt where it repeats them with other numbers."""
        payer_of = {span: candidate.span for candidate in candidates for span in candidate.spans}
        call_of = {call.span: call for call in self.counted.calls}
        for span, members in self.aggregates.items():
            if span not in self.earlier:
                used = tokens_of(reading_of(span))
                self.counters["aggregate_suppressed_tokens_total", (span.source.scope,)] += used[0] + used[1]
            if wrapper_differs(span, members, payer_of):
                for member in members:
                    call = call_of.get(payer_of.get(member.span, member.span))
                    if call is not None:
                        call.doubts.add(Doubt.WRAPPER_DIFFERS)
        for outer, inner in self.merged:
            if outer not in self.earlier or inner not in self.earlier:
                self.counters["same_call_merged_total", (outer.source.scope, inner.source.scope)] += 1
            call = call_of.get(payer_of[inner])
            if call is not None and outer_differs(reading_of(outer), reading_of(inner), reading_of(call.span)):
                call.doubts.add(Doubt.WRAPPER_DIFFERS)
