/** A collector on loopback: takes what OTLP's exporters send over HTTP, as JSON or protobuf. */
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { all, decode, messages, text, type Field } from "./protobuf.ts";

export interface ReceivedSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  /** "": the trace begins here. */
  readonly parentSpanId: string;
  /** As OTLP numbers them: 1 internal, 2 server. */
  readonly kind: number;
  /** Nanoseconds since 1970. */
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Readonly<Record<string, unknown>>;
  /** 0 unset, 2 error. */
  readonly status: number;
}

interface Received {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export class OtlpReceiver {
  readonly url: string;
  readonly received: Received[] = [];
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async start(): Promise<OtlpReceiver> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const receiver = new OtlpReceiver(server);
    server.on("request", (request, response) => {
      void buffer(request).then((body) => {
        receiver.received.push({ path: request.url ?? "", headers: request.headers, body });
        response.writeHead(200, { "content-type": request.headers["content-type"] ?? "" });
        response.end(request.headers["content-type"] === "application/json" ? "{}" : "");
      });
    });
    return receiver;
  }

  get spans(): ReceivedSpan[] {
    return this.#resources.flatMap(({ spans }) => spans);
  }

  /** Attributes of the resources that spans came from. */
  get resources(): Readonly<Record<string, unknown>>[] {
    return this.#resources.map(({ attributes }) => attributes);
  }

  get #resources(): Resource[] {
    return this.received.flatMap(({ headers, body }) =>
      headers["content-type"] === "application/json" ? fromJson(body) : fromProtobuf(body),
    );
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}

interface Resource {
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly spans: ReceivedSpan[];
}

interface JsonValue {
  readonly stringValue?: string;
  readonly boolValue?: boolean;
  readonly intValue?: number | string;
  readonly doubleValue?: number;
  readonly arrayValue?: { readonly values: readonly JsonValue[] };
}
type JsonAttributes = readonly { readonly key: string; readonly value: JsonValue }[];
interface JsonSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: JsonAttributes;
  readonly status: { readonly code?: number };
}

function fromJson(body: Buffer): Resource[] {
  const { resourceSpans } = JSON.parse(body.toString()) as {
    resourceSpans: { resource: { attributes: JsonAttributes }; scopeSpans: { spans: JsonSpan[] }[] }[];
  };
  return resourceSpans.map(({ resource, scopeSpans }) => ({
    attributes: jsonAttributes(resource.attributes),
    spans: scopeSpans.flatMap(({ spans }) =>
      spans.map(({ startTimeUnixNano, endTimeUnixNano, attributes, status, parentSpanId = "", ...span }) => ({
        ...span,
        parentSpanId,
        start: BigInt(startTimeUnixNano),
        end: BigInt(endTimeUnixNano),
        attributes: jsonAttributes(attributes),
        status: status.code ?? 0,
      })),
    ),
  }));
}

const jsonAttributes = (attributes: JsonAttributes): Record<string, unknown> =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, jsonValue(value)]));

const jsonValue = ({ stringValue, boolValue, intValue, doubleValue, arrayValue }: JsonValue): unknown =>
  arrayValue?.values.map(jsonValue) ??
  stringValue ??
  boolValue ??
  doubleValue ??
  (intValue === undefined ? undefined : Number(intValue));

/** Field numbers of opentelemetry/proto/trace/v1/trace.proto. */
function fromProtobuf(body: Buffer): Resource[] {
  return messages(decode(body), 1).map((resource) => ({
    attributes: attributesOf(messages(resource, 1)[0]!, 1),
    spans: messages(resource, 2).flatMap((scope) => messages(scope, 2).map(spanOf)),
  }));
}

function spanOf(span: Field[]): ReceivedSpan {
  const hex = (number: number): string =>
    Buffer.from((all(span, number)[0] as Uint8Array | undefined) ?? []).toString("hex");
  const time = (number: number): bigint => Buffer.from(all(span, number)[0] as Uint8Array).readBigUInt64LE();
  return {
    name: text(span, 5)[0]!,
    traceId: hex(1),
    spanId: hex(2),
    parentSpanId: hex(4),
    kind: Number(all(span, 6)[0] ?? 0),
    start: time(7),
    end: time(8),
    attributes: attributesOf(span, 9),
    status: Number(messages(span, 15).flatMap((status) => all(status, 3))[0] ?? 0),
  };
}

const attributesOf = (fields: Field[], number: number): Record<string, unknown> =>
  Object.fromEntries(messages(fields, number).map((pair) => [text(pair, 1)[0]!, valueOf(messages(pair, 2)[0] ?? [])]));

function valueOf(value: Field[]): unknown {
  const [field] = value;
  if (field === undefined) return undefined;
  if (field.number === 1) return text(value, 1)[0];
  if (field.number === 2) return field.value === 1n;
  if (field.number === 3) return Number(field.value);
  if (field.number === 4) return Buffer.from(field.value as Uint8Array).readDoubleLE();
  return messages(decode(field.value as Uint8Array), 1).map(valueOf);
}
