/** Traces as the rest of the server knows them. Nothing here loads OpenTelemetry. */
import type { IncomingHttpHeaders } from "node:http";

/** The protocols of OTLP that are spoken here; the first is the default. */
export const OTLP_PROTOCOLS = ["http/protobuf", "http/json"] as const;
export type OtlpProtocol = (typeof OTLP_PROTOCOLS)[number];

/** Numbers and names, never what a request says. */
export type Attributes = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** A request's span. Times are those of performance.now(). */
export interface RequestSpan {
  /** 32 and 16 hexadecimal digits. */
  readonly traceId: string;
  readonly spanId: string;
  /** Whether it will be exported; if not, attributes and children need not be computed. */
  readonly recording: boolean;
  set(attributes: Attributes): void;
  /** A part of the request that has ended. `failed`: it ended with the request's error. */
  child(name: string, from: number, to: number, failed: boolean): void;
  /** Call once. `failure`: what the server is to blame for; null: nothing. */
  end(at: number, failure: string | null): void;
}

export interface Tracing {
  /** The span of a request, in its sender's trace if the headers name one. */
  begin(name: string, headers: IncomingHttpHeaders, attributes: Attributes): RequestSpan;
  /** Exports what has ended, for a bounded time. */
  close(): Promise<void>;
}
