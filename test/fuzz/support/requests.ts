/** Requests that openapi.yaml allows, and what can be done to them on the way. */
import fc from "fast-check";
import type { Operation, Parameter, Schema } from "./api.ts";
import { anyText, valueOf, type Known } from "./from-schema.ts";
import { requestBytes, type RawRequest } from "./raw-http.ts";

export interface World {
  /** Of fields and parameters: ids of what may exist, texts of which something comes. */
  readonly known: Known;
  /** Values of Authorization; "": the header is left out. */
  readonly keys: readonly { readonly weight: number; readonly value: string }[];
  /** Files of an upload: name and bytes. */
  readonly adapters: readonly (readonly (readonly [name: string, data: Uint8Array])[])[];
}

const BOUNDARY = "----fuzz";

/** Percent-encoded as a browser would; halves of surrogate pairs become U+FFFD. */
export const percentEncoded = (text: string): string => encodeURIComponent(Buffer.from(text).toString());

export function formBytes(files: readonly (readonly [name: string, data: Uint8Array])[]): Buffer {
  const parts = files.flatMap(([name, data]) => [
    Buffer.from(
      `--${BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\nContent-Type: application/octet-stream\r\n\r\n`,
    ),
    data,
    Buffer.from("\r\n"),
  ]);
  return Buffer.concat([...parts, Buffer.from(`--${BOUNDARY}--\r\n`)]);
}

export const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

/** What a client may send that keeps to openapi.yaml, whether or not the server can do it. */
export function requestFor(operation: Operation, world: World): fc.Arbitrary<RawRequest> {
  const of = (place: Parameter["in"]): Parameter[] =>
    operation.parameters.filter((parameter) => parameter.in === place);
  const given = (parameters: readonly Parameter[]): fc.Arbitrary<[string, string][]> =>
    fc.tuple(...parameters.map((parameter) => valueOfParameter(parameter, world.known))).map((all) => all.flat());
  const path = given(of("path")).map((values) => {
    const byName = new Map(values);
    return operation.path.replace(/\{(\w+)\}/g, (_, name: string) => percentEncoded(byName.get(name) || "0"));
  });
  const query = given(of("query")).map((values) =>
    values.length === 0 ? "" : `?${values.map(([name, value]) => `${name}=${percentEncoded(value)}`).join("&")}`,
  );
  const key = fc.oneof(...world.keys.map(({ weight, value }) => ({ weight, arbitrary: fc.constant(value) })));
  return fc
    .tuple(path, query, given(of("header")), key, bodyFor(operation, world))
    .map(([at, search, headers, authorization, { type, body }]) => ({
      method: operation.method,
      target: at + search,
      headers: [
        ...(authorization === "" ? [] : [["authorization", authorization] as const]),
        ...headers.map(([name, value]) => [name, value.replace(/[^\x20-\x7e]/g, "?")] as const),
        ...(type === null ? [] : [["content-type", type] as const]),
      ],
      body,
    }));
}

/** The parameter's name and value, or nothing. */
function valueOfParameter(
  { name, schema, required = false }: Parameter,
  known: Known,
): fc.Arbitrary<[string, string][]> {
  const value = valueOf(schema, known, name).map((one): [string, string][] => [[name, String(one)]]);
  return required ? value : fc.oneof(value, fc.constant<[string, string][]>([]));
}

function bodyFor(
  { requestBody }: Operation,
  world: World,
): fc.Arbitrary<{ type: string | null; body: Uint8Array | null }> {
  if (requestBody === undefined) return fc.constant({ type: null, body: null });
  return fc.oneof(
    ...Object.entries(requestBody.content).map(([type, { schema, example }]) => {
      if (type === "multipart/form-data")
        return fc.constantFrom(...world.adapters).map((files) => ({ type: FORM_TYPE, body: formBytes(files) }));
      return fc
        .tuple(usualBody(schema, example, world.known), valueOf(schema, world.known))
        .map(([usual, value]) => ({ type, body: Buffer.from(JSON.stringify({ ...usual, ...(value as object) })) }));
    }),
  );
}

/** What a schema cannot ask for, which of several fields must be there, comes from the example; without one, one field of any. */
function usualBody({ properties = {} }: Schema, example: unknown, known: Known): fc.Arbitrary<object> {
  if (typeof example === "object" && example !== null)
    return fc.oneof({ weight: 9, arbitrary: fc.constant(example) }, { weight: 1, arbitrary: fc.constant({}) });
  return fc.oneof(
    ...Object.entries(properties).map(([name, schema]) =>
      valueOf(schema, known, name).map((value) => ({ [name]: value })),
    ),
  );
}

/** Something else than what belongs somewhere. */
const junk: fc.Arbitrary<unknown> = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  anyText,
  fc.constantFrom<unknown>(
    null,
    true,
    0,
    -1,
    0.5,
    1e308,
    -1e308,
    5e-324,
    2 ** 31,
    2 ** 32,
    2 ** 53,
    "",
    " ",
    "\u0000",
    "\ud800",
    "__proto__",
    "../../etc/passwd",
    "x".repeat(100_000),
    [],
    {},
    [[]],
    { __proto__: null, constructor: 1 },
  ),
  fc.constantFrom<unknown>(
    "\u00e9".repeat(3000),
    Array.from({ length: 5000 }, (_, i) => i),
    Array.from({ length: 300 }, () => "a"),
  ),
);

/** A change to a request. `at` chooses where; `value` is put there. */
type Mutation = (request: RawRequest, at: number, value: unknown) => RawRequest;

const textOf = ({ body }: RawRequest): string => Buffer.from(body ?? []).toString();
const withText = (request: RawRequest, text: string): RawRequest => ({ ...request, body: Buffer.from(text) });
const withBytes = (request: RawRequest, change: (bytes: Buffer) => Buffer): RawRequest => ({
  ...request,
  body: change(Buffer.from(request.body ?? [])),
});
const withHeader = (request: RawRequest, name: string, value: string): RawRequest => ({
  ...request,
  headers: [...request.headers.filter(([given]) => given !== name), [name, value]],
});
const pick = <T>(at: number, from: readonly T[]): T => from[at % from.length]!;
const jsonOf = (value: unknown): string => JSON.stringify(value) ?? "null";

/** One value somewhere inside the JSON body becomes another, or is gone. */
function replaceValue(request: RawRequest, at: number, value: unknown): RawRequest {
  let root: unknown;
  try {
    root = JSON.parse(textOf(request));
  } catch {
    return request;
  }
  const places: ((value: unknown) => void)[] = [];
  const visit = (node: unknown): void => {
    if (typeof node !== "object" || node === null) return;
    for (const key of Object.keys(node)) {
      places.push((replacement) => void Object.assign(node, { [key]: replacement }));
      visit((node as Record<string, unknown>)[key]);
    }
  };
  visit(root);
  if (places.length === 0) return withText(request, jsonOf(value));
  pick(at, places)(value);
  return withText(request, jsonOf(root));
}

const CONTENT_TYPES = [
  "application/json",
  "application/json; charset=utf-16",
  "APPLICATION/JSON",
  "text/plain",
  "application/x-www-form-urlencoded",
  "multipart/form-data",
  FORM_TYPE,
  "multipart/form-data; boundary=",
  "application/octet-stream",
  ";",
  "json",
  "application/problem+json",
  "x".repeat(500),
];
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "SEARCH"];
const ODD_HEADERS: readonly (readonly [string, string])[] = [
  ["expect", "100-continue"],
  ["expect", "the unexpected"],
  ["content-encoding", "gzip"],
  ["accept", "image/png"],
  ["accept-encoding", "zstd;q=-1"],
  ["host", "evil.example"],
  ["host", ""],
  ["x-request-id", "\x80\xff"],
  ["x-request-id", "a b"],
  ["cookie", "=;=;"],
  ["range", "bytes=0-0"],
  ["upgrade", "websocket"],
  ["upgrade", "h2c"],
  ["if-match", "*, *"],
  ["if-none-match", 'W/"\x80'],
  ["authorization", "Bearer"],
  ["authorization", "Basic Og=="],
  ["authorization", `Bearer ${"x".repeat(4000)}`],
  ["x-long", "y".repeat(20_000)],
  ["accept-version", "9.9.9"],
  ["x-forwarded-for", "::1"],
  ["te", "trailers"],
];

const MUTATIONS: Readonly<Record<string, Mutation>> = {
  replaceValue,
  unknownField: (request, at, value) =>
    withText(
      request,
      textOf(request).replace(
        "{",
        `{${jsonOf(pick(at, ["x", "__proto__", "constructor", "Prompt", "max_tokens", "\u0000", "y".repeat(9000)]))}:${jsonOf(value)},`,
      ),
    ),
  duplicateKey: (request) => withText(request, textOf(request).replace(/\{(\s*"[^"]*"\s*:\s*[^,{}[\]]+)/, "{$1,$1")),
  deep: (request, at) =>
    withText(request, textOf(request).replace(/:/, `:${pick(at, ["[", '{"a":'])}`.repeat(1 + (at % 50_000)))),
  hugeNumber: (request, at) =>
    withText(
      request,
      textOf(request).replace(
        /:\s*-?\d[\d.eE+-]*/,
        `:${pick(at, ["1e999", "-1e999", `1${"0".repeat(400)}`, "1e-999", "01", "0x10", "NaN", "1_0", "-0", "1.0"])}`,
      ),
    ),
  cutBody: (request, at) => withBytes(request, (bytes) => bytes.subarray(0, at % (bytes.length + 1))),
  insertBytes: (request, at, value) =>
    withBytes(request, (bytes) =>
      Buffer.concat([
        bytes.subarray(0, at % (bytes.length + 1)),
        Buffer.from(jsonOf(value).slice(0, 200), "latin1"),
        bytes.subarray(at % (bytes.length + 1)),
      ]),
    ),
  flipByte: (request, at) =>
    withBytes(request, (bytes) => {
      if (bytes.length > 0) bytes[at % bytes.length]! ^= 1 << (at % 8);
      return bytes;
    }),
  otherBody: (request, _at, value) => withText(request, jsonOf(value)),
  hugeBody: (request) => withText(request, `${textOf(request)}${" ".repeat(1_200_000)}`),
  noBody: (request) => ({ ...request, body: null }),
  contentType: (request, at) => withHeader(request, "content-type", pick(at, CONTENT_TYPES)),
  noHeaders: (request) => ({ ...request, headers: request.headers.filter(([name]) => name === "authorization") }),
  oddHeader: (request, at) => withHeader(request, ...pick(at, ODD_HEADERS)),
  method: (request, at) => ({ ...request, method: pick(at, METHODS) }),
  query: (request, at, value) => ({
    ...request,
    target: `${request.target}${request.target.includes("?") ? "&" : "?"}${pick(at, ["limit", "after", "from", "to", "keep_usage", "x", "__proto__", "limit[]", "%00", "%"])}=${pick(at >> 4, [percentEncoded(jsonOf(value).slice(0, 2000)), "%", "%ff", "%00", "-1", "1e3", ""])}`,
  }),
  target: (request, at) => {
    const insert = pick(at, [
      "%2F",
      "%00",
      "%ff",
      "%",
      "%2e%2e%2f",
      "/",
      "//",
      "/../",
      ";x",
      "\x80",
      "?",
      "#",
      "%25",
      "*",
      `${"a".repeat(600)}`,
      "'",
      '"',
      "<",
      "\\",
      "%0d%0aX:%20y",
    ]);
    const place = 1 + ((at >> 5) % request.target.length);
    return { ...request, target: request.target.slice(0, place) + insert + request.target.slice(place) };
  },
};

/** A request after up to three mutations. */
export function mutated(request: fc.Arbitrary<RawRequest>): fc.Arbitrary<RawRequest> {
  const mutation = fc.tuple(fc.constantFrom(...Object.keys(MUTATIONS)), fc.nat(), junk);
  return fc
    .tuple(request, fc.array(mutation, { minLength: 1, maxLength: 3 }))
    .map(([start, steps]) => steps.reduce((changed, [name, at, value]) => MUTATIONS[name]!(changed, at, value), start));
}

/** In a counterexample it shows as its bytes, the longest ones cut. */
export function printable(request: RawRequest): RawRequest {
  return {
    ...request,
    [fc.toStringMethod]: () => JSON.stringify(requestBytes(request).toString("latin1").slice(0, 2000)),
  } as RawRequest;
}
