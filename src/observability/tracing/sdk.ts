/** The only file that knows OpenTelemetry's packages; loaded if traces are wanted. */
import type { IncomingHttpHeaders } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import {
  defaultTextMapGetter,
  diag,
  DiagLogLevel,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  type HrTime,
  type Span,
  type Tracer,
} from "@opentelemetry/api";
import { setGlobalErrorHandler, W3CTraceContextPropagator } from "@opentelemetry/core";
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { BasicTracerProvider, BatchSpanProcessor, type SpanExporter } from "@opentelemetry/sdk-trace-base";
import { VERSION } from "../../version.ts";
import type { Logger } from "../logging.ts";
import type { Attributes, OtlpProtocol, RequestSpan, Tracing } from "./trace.ts";

/** Milliseconds that a stop waits for the last spans to be taken. */
const FLUSH_MS = 3_000;
/** Milliseconds between two lines that tell of failed exports. */
const COMPLAIN_MS = 60_000;

export class OtelTracing implements Tracing {
  readonly #provider: BasicTracerProvider;
  readonly #logger: Logger;
  readonly #tracer: Tracer;
  readonly #propagator = new W3CTraceContextPropagator();

  private constructor(provider: BasicTracerProvider, logger: Logger) {
    this.#provider = provider;
    this.#logger = logger;
    this.#tracer = provider.getTracer("prefixd", VERSION);
  }

  static async open(protocol: OtlpProtocol, logger: Logger): Promise<OtelTracing> {
    complainTo(logger);
    const resource = defaultResource()
      .merge(resourceFromAttributes({ "service.name": "prefixd", "service.version": VERSION }))
      .merge(detectResources({ detectors: [envDetector] }));
    const exporter = await exporterFor(protocol);
    const spanProcessors = [new BatchSpanProcessor(exporter)];
    return new OtelTracing(new BasicTracerProvider({ resource, spanProcessors }), logger);
  }

  begin(name: string, headers: IncomingHttpHeaders, attributes: Attributes): RequestSpan {
    const parent = this.#propagator.extract(ROOT_CONTEXT, headers, defaultTextMapGetter);
    const clock = new WallClock();
    const options = { kind: SpanKind.SERVER, attributes: own(attributes), startTime: clock.at(performance.now()) };
    return new OtelSpan(this.#tracer, this.#tracer.startSpan(name, options, parent), clock);
  }

  async close(): Promise<void> {
    // What is not taken by then is lost: a collector that is away must not hold up a stop.
    const timer = new AbortController();
    const late = sleep(FLUSH_MS, "late", { signal: timer.signal }).catch(() => undefined);
    const first = await Promise.race([this.#provider.shutdown().catch(() => undefined), late]);
    timer.abort();
    if (first === "late")
      this.#logger.warn({ ms: FLUSH_MS }, "the last spans were not exported: the collector does not answer");
  }
}

/** Times of performance.now() as times of day, all of one request with the same offset: the SDK corrects only ends. */
class WallClock {
  readonly #offset = Date.now() - performance.now();

  /** Seconds since 1970, and nanoseconds. */
  at(ms: number): HrTime {
    const seconds = Math.floor((this.#offset + ms) / 1000);
    return [seconds, Math.round((this.#offset + ms - seconds * 1000) * 1e6)];
  }
}

class OtelSpan implements RequestSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly #tracer: Tracer;
  readonly #span: Span;
  readonly #clock: WallClock;

  constructor(tracer: Tracer, span: Span, clock: WallClock) {
    this.#tracer = tracer;
    this.#span = span;
    this.#clock = clock;
    ({ traceId: this.traceId, spanId: this.spanId } = span.spanContext());
  }

  get recording(): boolean {
    return this.#span.isRecording();
  }

  set(attributes: Attributes): void {
    this.#span.setAttributes(own(attributes));
  }

  child(name: string, from: number, to: number, failed: boolean): void {
    const span = this.#tracer.startSpan(
      name,
      { startTime: this.#clock.at(from) },
      trace.setSpan(ROOT_CONTEXT, this.#span),
    );
    if (failed) span.setStatus({ code: SpanStatusCode.ERROR });
    span.end(this.#clock.at(to));
  }

  end(at: number, failure: string | null): void {
    if (failure !== null) this.#span.setStatus({ code: SpanStatusCode.ERROR, message: failure });
    this.#span.end(this.#clock.at(at));
  }
}

/** The SDK's own types want arrays that can be changed. */
const own = (attributes: Attributes): Record<string, string | number | boolean | string[]> =>
  attributes as Record<string, string | number | boolean | string[]>;

async function exporterFor(protocol: OtlpProtocol): Promise<SpanExporter> {
  const { OTLPTraceExporter } =
    protocol === "http/json"
      ? await import("@opentelemetry/exporter-trace-otlp-http")
      : await import("@opentelemetry/exporter-trace-otlp-proto");
  return new OTLPTraceExporter();
}

/** Passes the SDK's warnings on, and failed exports once a minute. */
function complainTo(logger: Logger): void {
  const warn = (message: string): void => logger.warn({ problem: message.slice(0, 500) }, "tracing");
  const nothing = (): void => {};
  diag.setLogger(
    { error: warn, warn, info: nothing, debug: nothing, verbose: nothing },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  );
  let since = -Infinity;
  let failed = 0;
  setGlobalErrorHandler((error: unknown) => {
    failed++;
    if (performance.now() - since < COMPLAIN_MS) return;
    since = performance.now();
    logger.warn({ err: error, failed }, "spans could not be exported");
    failed = 0;
  });
}
