// Sends one agent with two model calls through a real exporter of the JavaScript SDK.
//   node send.js grpc|json|proto URL   -> prints {"trace_id": ..., "ok": true|false, "error": ...}
"use strict";
const { trace, context, SpanKind } = require("@opentelemetry/api");
const { BasicTracerProvider, SimpleSpanProcessor, InMemorySpanExporter } = require("@opentelemetry/sdk-trace-node");
const { resourceFromAttributes } = require("@opentelemetry/resources");

const [kind, url] = process.argv.slice(2);
const packages = {
  grpc: "@opentelemetry/exporter-trace-otlp-grpc",
  json: "@opentelemetry/exporter-trace-otlp-http",
  proto: "@opentelemetry/exporter-trace-otlp-proto",
};
const { OTLPTraceExporter } = require(packages[kind]);
const exporter = new OTLPTraceExporter({ url });

const memory = new InMemorySpanExporter();
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({ "service.name": `js-${kind}` }),
  spanProcessors: [new SimpleSpanProcessor(memory)],
});
const tracer = provider.getTracer("opentelemetry.instrumentation.genai.openai", "1.3.0");

const agent = tracer.startSpan("invoke_agent planner", {
  attributes: { "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner", "user.id": "u-js" },
});
for (let i = 0; i < 2; i += 1) {
  const call = tracer.startSpan(
    "chat gpt-4o",
    {
      kind: SpanKind.CLIENT,
      attributes: {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o", "gen_ai.response.id": `resp_js_${kind}_${i}`,
        "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 500,
      },
    },
    trace.setSpan(context.active(), agent),
  );
  call.end();
}
agent.end();

provider.forceFlush().then(() => {
  exporter.export(memory.getFinishedSpans(), (result) => {
    console.log(JSON.stringify({
      trace_id: agent.spanContext().traceId, ok: result.code === 0, error: result.error ? String(result.error) : null,
    }));
    exporter.shutdown().then(() => process.exit(0));
  });
});
