"""The vectors of counting that take several spans: what real stacks write, and what it comes to.

Ids v01..v54 are those of the table of vectors that the rules were settled on; the ones of a single span stand with the reading
of usage. Each result is uncached input / cache read / cache written / output, over all counted calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from receiver.core.calls import Doubt
from tests.unit.spans import Books, Story, buckets, reading, tokens

if TYPE_CHECKING:
    from receiver.core.usage import Reading

OPENAI = "opentelemetry.instrumentation.openai.v1"
OI_LANGCHAIN = "openinference.instrumentation.langchain"
OI_OPENAI = "openinference.instrumentation.openai"
ANTHROPIC_SDK = "com.anthropic.sdk.python"
VERCEL = {"scope": "ai", "version": ""}

Result = tuple[int, int, int, int]
Vector = Callable[[Story], object]


def chat(used_in: int | str, used_out: int | str, **more: Any) -> dict[str, Any]:
    """A model call in the semantic conventions' words; dots in keys are written as __."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": "gpt-4o",
        "gen_ai.usage.input_tokens": used_in,
        "gen_ai.usage.output_tokens": used_out,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def agent(used_in: int | None = None, used_out: int | None = None, op: str = "invoke_agent", **more: Any) -> dict[str, Any]:
    """An agent's span, with or without a sum."""
    usage = {} if used_in is None else {"gen_ai.usage.input_tokens": used_in, "gen_ai.usage.output_tokens": used_out}
    return {"gen_ai.operation.name": op, **usage, **{key.replace("__", "."): value for key, value in more.items()}}


TOOL = {"gen_ai.operation.name": "execute_tool"}


def oi(
    kind: str, used_in: int | None = None, used_out: int | None = None, read: int | None = None, write: int | None = None
) -> dict[str, Any]:
    """A span in OpenInference's words."""
    stated = {
        "llm.token_count.prompt": used_in,
        "llm.token_count.completion": used_out,
        "llm.token_count.prompt_details.cache_read": read,
        "llm.token_count.prompt_details.cache_write": write,
    }
    named = {"llm.model_name": "gpt-4o"} if kind == "LLM" else {}
    return {"openinference.span.kind": kind, **named, **{key: value for key, value in stated.items() if value is not None}}


def v05(story: Story) -> None:
    """Vercel 5: the outer span holds the last step only, the inner ones leave cached input out."""
    outer = story.span(
        {
            "ai.operationId": "ai.generateText",
            "ai.model.provider": "anthropic.messages",
            "ai.usage.inputTokens": 20,
            "ai.usage.outputTokens": 7,
        },
        **VERCEL,
    )
    for at, used_in, used_out, read in (((1, 40), 10, 5, 4000), ((50, 90), 20, 7, None)):
        cached = {} if read is None else {"ai.usage.cachedInputTokens": read}
        step = {
            "ai.operationId": "ai.generateText.doGenerate",
            "ai.model.provider": "anthropic.messages",
            "ai.usage.inputTokens": used_in,
            "ai.usage.outputTokens": used_out,
            **cached,
        }
        story.span(step, under=outer, at=at, **VERCEL)


def v07(story: Story) -> None:
    """Strands: the agent's lifetime total over a cycle over chats."""
    top = story.span(agent(900, 90), scope="strands.telemetry.tracer", version="1.62.0", kind=1)
    cycle = story.span({"event_loop.cycle_id": "1"}, under=top, scope="strands.telemetry.tracer", version="1.62.0", at=(1, 99))
    story.span(chat(100, 10), under=cycle, scope="strands.telemetry.tracer", version="1.62.0", at=(2, 40))
    story.span(chat(200, 20), under=cycle, scope="strands.telemetry.tracer", version="1.62.0", at=(50, 90))


def v08(story: Story) -> object:
    """OpenInference on the Claude agent SDK: the agent span is the only carrier."""
    top = story.span(oi("AGENT", 1000, 77, 900, 50), scope="openinference.instrumentation.claude_agent_sdk")
    return story.span(oi("TOOL"), under=top, scope="openinference.instrumentation.claude_agent_sdk", at=(10, 90))


def v09(story: Story) -> None:
    """The tool calls a model: the agent's own calls are not instrumented, so both count."""
    tool = v08(story)
    story.span(oi("LLM", 10, 1), under=tool, scope=OI_OPENAI, at=(20, 80))  # type: ignore[arg-type]  # a Span


def v10(story: Story) -> None:
    """Two instrumentations of one call, nested."""
    outer = story.span(oi("LLM", 100, 9), scope=OI_LANGCHAIN)
    story.span(chat(100, 9, gen_ai__usage__cache_read__input_tokens=20), under=outer, scope=OPENAI, at=(1, 99))


def v11(story: Story) -> None:
    """The inner one of them shows no usage (a stream)."""
    outer = story.span(oi("LLM", 100, 9), scope=OI_LANGCHAIN)
    story.span({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}, under=outer, scope=OPENAI, at=(1, 99))


def v12(story: Story) -> None:
    """Google ADK: `call_llm` and its child both carry the usage."""
    top = story.span(agent(), scope="gcp.vertex.agent")
    call = story.span(
        {"gen_ai.system": "gcp.vertex.agent", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 9},
        under=top, scope="gcp.vertex.agent", name="call_llm", at=(1, 99),
    )  # fmt: skip
    story.span(
        {**chat(100, 9), "gen_ai.operation.name": "generate_content"},
        under=call, scope="opentelemetry.instrumentation.google_genai", at=(2, 98),
    )  # fmt: skip


def v13(story: Story) -> None:
    """An embedding inside a chat is a lookup: another call."""
    outer = story.span(chat(100, 9), scope="litellm")
    lookup = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "text-embedding-3-small", "gen_ai.usage.input_tokens": 7}
    story.span(lookup, under=outer, scope=OPENAI, at=(1, 20))


def v14(story: Story) -> None:
    """A callback's span beside the client's, one response id."""
    top = story.span(agent())
    story.span(chat(100, 9, gen_ai__response__id="chatcmpl-1abcdef"), under=top, scope="litellm", at=(1, 99))
    story.span(chat(100, 9, gen_ai__response__id="chatcmpl-1abcdef"), under=top, scope=OPENAI, at=(2, 98))


def v15(story: Story) -> None:
    """One scope, no ids: two equal calls."""
    top = story.span(agent())
    story.span(chat(100, 9), under=top, at=(1, 99))
    story.span(chat(100, 9), under=top, at=(2, 98))


def v16(story: Story) -> None:
    """A tool, inside a call that stays open around it, calls a model."""
    outer = story.span(chat(100, 9))
    tool = story.span(TOOL, under=outer, at=(20, 80))
    story.span(chat(50, 3), under=tool, at=(30, 70))


def v19(story: Story) -> None:
    """The chat's parent was not exported; the agent whose time contains it adopts it."""
    story.span(agent(100, 9))
    story.span(chat(100, 9), under=b"lostlost", at=(10, 90))


def v22(story: Story) -> None:
    """Codex: the turn repeats its call, whose span has no class and no model."""
    turn = story.span(
        {
            "codex.turn.token_usage.input_tokens": "14095",
            "codex.turn.token_usage.output_tokens": "5",
            "codex.turn.token_usage.cached_input_tokens": "10624",
            "model": "gpt-5-codex",
        },
        scope="codex_otel", name="session_task.turn",
    )  # fmt: skip
    story.span(
        {"gen_ai.usage.input_tokens": 14095, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.cache_read.input_tokens": 10624},
        under=turn, scope="codex_otel", name="handle_responses", at=(1, 99),
    )  # fmt: skip


def v23(story: Story) -> None:
    """Copilot CLI: an agent span of CLIENT kind with chats below is a sum."""
    top = story.span(agent(300, 30), scope="github.copilot", kind=3)
    story.span(chat(100, 10), under=top, scope="github.copilot", at=(1, 40))
    story.span(chat(200, 20), under=top, scope="github.copilot", at=(50, 90))


def v24(story: Story) -> None:
    """Bedrock Agents: an agent span of CLIENT kind alone is the call."""
    story.span(agent(300, 30), scope="opentelemetry.instrumentation.botocore.bedrock-runtime", kind=3)


def v25(story: Story) -> None:
    """An instrumentor over the SDK's own span over the platform's server span."""
    named = {"gen_ai__response__id": "msg_01abcdef", "gen_ai__response__model": "claude-sonnet-4-5"}
    outer = story.span(chat(105, 9, **named), scope="opentelemetry.instrumentation.anthropic")
    sdk = story.span(chat(105, 9, gen_ai__usage__cache_read__input_tokens=100, **named), under=outer, scope=ANTHROPIC_SDK, at=(1, 99))
    story.span(chat(105, 9, **named), under=sdk, scope="com.anthropic.claude-platform", service="platform", kind=2, at=(2, 98))


def v26(story: Story) -> None:
    """LiteLLM answered from its own cache: nothing was billed."""
    story.span(chat(100, 9, litellm__cache_hit="true"), scope="litellm")


def v27(story: Story) -> None:
    """A workflow whose only call lies behind a tool, with equal sums: it repeats that call."""
    top = story.span(agent(100, 9, op="invoke_workflow"))
    tool = story.span(TOOL, under=top, at=(1, 99))
    story.span(chat(100, 9), under=tool, at=(2, 98))


def v29(story: Story) -> None:
    """One span delivered twice."""
    for _ in range(2):
        story.span(chat(100, 9), span_id=b"samesame")


def lost_context(story: Story, *, read: int | None, inner_at: tuple[float, float], service: str = "app") -> None:
    """A framework's callback in one trace, the client's span the root of another."""
    top = story.span(oi("AGENT"), scope=OI_LANGCHAIN)
    story.span(oi("LLM", 100, 9, read), under=top, scope=OI_LANGCHAIN, at=(1, 90))
    story.span(chat(100, 9, gen_ai__response__id="chatcmpl-1abcdef"), trace=2, scope=OPENAI, service=service, at=inner_at)


def v30(story: Story) -> None:
    """Lost context: the client's root span lies inside the framework's."""
    lost_context(story, read=20, inner_at=(2, 89))


def v31(story: Story) -> None:
    """Two equal parallel calls, each told twice, stay two."""
    top = story.span(oi("AGENT"), scope=OI_LANGCHAIN)
    for place, trace in enumerate((2, 3)):
        story.span(oi("LLM", 100, 9), under=top, scope=OI_LANGCHAIN, at=(1 + place, 90 + place))
        story.span(chat(100, 9), trace=trace, scope=OPENAI, at=(2 + place, 89 + place))


def v32(story: Story) -> None:
    """Not inside: the root call came after the framework's."""
    lost_context(story, read=None, inner_at=(101, 190))


def v33(story: Story) -> None:
    """Not the same process."""
    lost_context(story, read=None, inner_at=(2, 89), service="other")


def v34(story: Story) -> None:
    """The framework lost the cache counts, and shows the fresh input only."""
    outer = {
        "gen_ai.span.kind": "LLM",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 71,
    }
    story.span(outer, scope="traceai_langchain")
    inner = chat(4092, 71, gen_ai__response__model="claude-sonnet-4-5-20250929", gen_ai__response__id="msg_01abcdef")
    inner |= {"gen_ai.usage.cache_read.input_tokens": 3072, "gen_ai.usage.cache_write.input_tokens": 900}
    story.span(inner, trace=2, scope=ANTHROPIC_SDK, at=(1, 99))


def v35(story: Story) -> None:
    """A stream's siblings with one id, whose output counts differ by Anthropic's message_start."""
    top = story.span(agent())
    cached = {"gen_ai__usage__cache_read__input_tokens": 5230, "gen_ai__response__id": "msg_01abcdef"}
    story.span(
        chat(5829, 221, gen_ai__usage__cache_creation__input_tokens=412, **cached),
        under=top, scope="opentelemetry.instrumentation.anthropic", at=(1, 99),
    )  # fmt: skip
    story.span(chat(5829, 219, gen_ai__usage__cache_write__input_tokens=412, **cached), under=top, scope=ANTHROPIC_SDK, at=(2, 98))


def v36(story: Story) -> None:
    """Mistral's own span has no operation and mixes old and new names."""
    top = story.span(agent())
    story.span(
        chat(8334, 325, gen_ai__response__id="cmpl-1abcdef", gen_ai__response__model="mistral-large-latest"),
        under=top, scope="opentelemetry.instrumentation.mistralai", at=(1, 99),
    )  # fmt: skip
    own = {"gen_ai.usage.prompt_tokens": 8334, "gen_ai.usage.output_tokens": 325, "gen_ai.request.model": "mistral-large-latest"}
    story.span(own, under=top, scope="mistralai_sdk_tracer", at=(2, 98))


def v37(story: Story) -> None:
    """Pydantic AI over Logfire's stream, told four times."""
    named = {"gen_ai__response__model": "claude-sonnet-4-5"}
    top = story.span(chat(5606, 791, **named), scope="pydantic-ai", version="1.0")
    message = story.span(
        {"gen_ai.operation.name": "chat", "gen_ai.request.model": "claude-sonnet-4-5"}, under=top, scope="logfire.anthropic", at=(1, 90)
    )
    sdk = chat(5606, 791, **named) | {"gen_ai.usage.cache_read.input_tokens": 4096, "gen_ai.usage.cache_write.input_tokens": 1300}
    story.span(sdk, under=message, scope=ANTHROPIC_SDK, at=(2, 89))
    log = {
        "logfire.span_type": "log",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "duration": 0.08,
        "gen_ai.usage.input_tokens": 5606,
        "gen_ai.usage.output_tokens": 791,
        "gen_ai.usage.raw": '{"input_tokens":210,"cache_read_input_tokens":4096,"cache_creation_input_tokens":1300,"output_tokens":791}',
    }
    story.span(log, under=top, scope="logfire.anthropic", at=(91, 91))


def v42(story: Story) -> None:
    """Ollama draws its ids from a thousand numbers: one scope, one id, one after the other are two calls."""
    top = story.span(agent())
    story.span(chat(100, 9, gen_ai__response__id="chatcmpl-417"), under=top, at=(1, 40))
    story.span(chat(120, 9, gen_ai__response__id="chatcmpl-417"), under=top, at=(50, 90))


def v47(story: Story) -> None:
    """AG2 repeats each model call as a span of no length."""
    top = story.span(agent(), scope="ag2")
    story.span(chat(100, 9), under=top, scope="ag2", at=(1, 90))
    story.span(
        {"ag2.usage.kind": "model_call", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 9},
        under=top,
        scope="ag2",
        at=(90, 90),
    )


def v48(story: Story) -> None:
    """ADK for TypeScript keeps `call_llm` open around tools and the agents they start."""
    usage = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 9, "gen_ai.request.model": "gemini-2.5-flash"}
    outer = story.span(usage, scope="gcp.vertex.agent", name="call_llm")
    tool = story.span(TOOL, under=outer, scope="gcp.vertex.agent", at=(10, 90))
    inner = story.span(agent(), under=tool, scope="gcp.vertex.agent", at=(11, 89))
    usage = {"gen_ai.usage.input_tokens": 50, "gen_ai.usage.output_tokens": 5, "gen_ai.request.model": "gemini-2.5-flash"}
    story.span(usage, under=inner, scope="gcp.vertex.agent", name="call_llm", at=(12, 88))


def gateway(story: Story, *, at: tuple[float, float]) -> None:
    """A client's span, and the gateway's in a trace of its own."""
    story.span({**oi("LLM", 100, 9), "llm.model_name": "smart"}, scope=OI_OPENAI, at=(10, 90))
    server = story.span({"http.route": "/v1/chat/completions"}, trace=2, scope="litellm", service="litellm-proxy", kind=2, at=at)
    inner = chat(100, 9, gen_ai__request__model="smart")
    story.span(inner, under=server, trace=2, scope="litellm", service="litellm-proxy", at=at)


def v50(story: Story) -> None:
    """A gateway that nobody passed the trace context to."""
    gateway(story, at=(20, 80))


def v51(story: Story) -> None:
    """Not within the client's call."""
    gateway(story, at=(20, 180))


def v52(story: Story) -> None:
    """The client's embedding beside a wrapper that holds nothing but its own."""
    top = story.span({})
    wrapper = story.span({"ai.operationId": "ai.embed", "ai.model.id": "text-embedding-3-small"}, under=top, at=(1, 99), **VERCEL)
    inner = {"ai.operationId": "ai.embed.doEmbed", "ai.model.id": "text-embedding-3-small", "ai.usage.tokens": 7}
    story.span(inner, under=wrapper, at=(2, 98), **VERCEL)
    own = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "text-embedding-3-small", "gen_ai.usage.input_tokens": 7}
    story.span(own, under=top, scope="@opentelemetry/instrumentation-openai", at=(3, 97))


VECTORS: list[tuple[Vector, Result, int]] = [
    (v05, (30, 4000, 0, 12), 2),
    (v07, (300, 0, 0, 30), 2),
    (v08, (50, 900, 50, 77), 1),
    (v09, (60, 900, 50, 78), 2),
    (v10, (80, 20, 0, 9), 1),
    (v11, (100, 0, 0, 9), 1),
    (v12, (100, 0, 0, 9), 1),
    (v13, (107, 0, 0, 9), 2),
    (v14, (100, 0, 0, 9), 1),
    (v15, (200, 0, 0, 18), 2),
    (v16, (150, 0, 0, 12), 2),
    (v19, (100, 0, 0, 9), 1),
    (v22, (3471, 10624, 0, 5), 1),
    (v23, (300, 0, 0, 30), 2),
    (v24, (300, 0, 0, 30), 1),
    (v25, (5, 100, 0, 9), 1),
    (v26, (0, 0, 0, 0), 0),
    (v27, (100, 0, 0, 9), 1),
    (v29, (100, 0, 0, 9), 1),
    (v30, (80, 20, 0, 9), 1),
    (v31, (200, 0, 0, 18), 2),
    (v32, (200, 0, 0, 18), 2),
    (v33, (200, 0, 0, 18), 2),
    (v34, (120, 3072, 900, 71), 1),
    (v35, (187, 5230, 412, 219), 1),
    (v36, (8334, 0, 0, 325), 1),
    (v37, (210, 4096, 1300, 791), 1),
    (v42, (220, 0, 0, 18), 2),
    (v47, (100, 0, 0, 9), 1),
    (v48, (150, 0, 0, 14), 2),
    (v50, (100, 0, 0, 9), 1),
    (v51, (200, 0, 0, 18), 2),
    (v52, (7, 0, 0, 0), 1),
]


@pytest.mark.parametrize(("tell", "expected", "calls"), VECTORS, ids=[vector[0].__name__ for vector in VECTORS])
def test_vector(tell: Vector, expected: Result, calls: int) -> None:
    """Each vector comes to its buckets, in so many calls, in whichever order its spans come."""
    story = Story()
    tell(story)
    for spans in (story.spans, story.spans[::-1]):
        counted = Story(spans=list(spans)).count()
        assert buckets(counted.calls) == expected
        assert len(counted.calls) == calls


@pytest.mark.parametrize(("tell", "calls"), [(v30, 2), (v34, 2)], ids=["v30", "v34"])
def test_the_lost_context_rule_can_be_switched_off(tell: Vector, calls: int) -> None:
    """Without it, the two tellers stay two calls, and the doubt says so."""
    story = Story()
    tell(story)
    counted = story.count(lost_context=False)
    assert len(counted.calls) == calls
    assert all(Doubt.SUSPECTED_DOUBLE in call.doubts for call in counted.calls)


def test_the_gateway_rule_can_be_switched_off() -> None:
    """Without it, a client's and a gateway's span are two calls."""
    story = Story()
    v50(story)
    assert len(story.count(gateway=False).calls) == 2


def test_v33_twins_that_no_rule_joins_are_doubted() -> None:
    """Two counted calls that agree at one time from two scopes are suspected to be one."""
    story = Story()
    v33(story)
    assert [Doubt.SUSPECTED_DOUBLE in call.doubts for call in story.count().calls] == [True, True]


def late_agent(books: Books, story: Story, *, behind_a_tool: bool) -> None:
    """An agent's sum is released; then its calls come."""
    top = story.span(agent(300, 30))
    books.release([top])
    if behind_a_tool:
        tool = story.span(TOOL, under=top, at=(1, 50))
        late = [tool, story.span(chat(100, 10), under=tool, at=(2, 40))]
    else:
        late = [story.span(chat(100, 10), under=top, at=(1, 40)), story.span(chat(200, 20), under=top, at=(50, 90))]
    books.release(late)


def test_v43_calls_below_a_charged_sum_come_late() -> None:
    """300/30 was charged as the agent's own; the calls it sums up add nothing."""
    books = Books()
    late_agent(books, Story(), behind_a_tool=False)
    assert buckets(books.calls) == (300, 0, 0, 30)


def test_v44_a_tools_call_below_a_charged_agent_comes_late() -> None:
    """The sums differ and a tool lies between: the agent's own calls are not instrumented, so both are charged."""
    books = Books()
    late_agent(books, Story(), behind_a_tool=True)
    assert buckets(books.calls) == (400, 0, 0, 40)


@pytest.mark.parametrize("together", [True, False], ids=["one group", "one after the other"])
def test_v45_a_running_total_is_counted_by_its_differences(together: bool) -> None:
    """100/10, 300/30, then 50/5 of a new object: 350/35 in all, whether they are released together or not."""
    story, books = Story(), Books()
    for trace, (used_in, used_out) in enumerate(((100, 10), (300, 30), (50, 5)), 1):
        start = 100.0 * trace
        story.span(
            agent(used_in, used_out, gen_ai__agent__name="helper", gen_ai__request__model="gpt-4o"),
            trace=trace, scope="strands.telemetry.tracer", version="1.62.0", at=(start, start + 90),
        )  # fmt: skip
    for spans in [story.spans] if together else [[span] for span in story.spans]:
        books.release(spans)
    assert buckets(books.calls) == (350, 0, 0, 35)


def test_v53_a_call_without_a_model_is_of_its_nearest_ancestors() -> None:
    """No span of the call names a model: the agent's is taken. A call that names one, known or not, keeps its own."""
    story = Story()
    top = story.span(agent(gen_ai__request__model="gpt-4o"))
    usage = tokens(100, 9)
    nameless: Reading = reading("L", usage, models=())
    story.span(nameless, under=top, at=(1, 40))
    story.span(reading("L", usage, models=("house-model-7",)), under=top, at=(50, 90))
    assert [call.reading.models for call in story.count().calls] == [("gpt-4o",), ("house-model-7",)]
