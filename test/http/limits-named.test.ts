/** Every 413, 415 and 429 says which limit was met, its value, and what was asked for: over all routes of openapi.yaml. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { InjectOptions } from "fastify";
import t from "tap";
import { parse } from "yaml";
import { checkQueueLimits } from "../../src/engine/scheduling/admission.ts";
import { PrefixdError, type ErrorCode } from "../../src/errors.ts";
import { MemoryTokenBuckets, UserTokenRate } from "../../src/users/token-rate.ts";
import { buildTestApp } from "../support/app.ts";
import { engineRequest } from "../support/model.ts";
import { ROOT } from "../support/program.ts";
import { trainingService } from "../support/training-store.ts";

interface Operation {
  readonly operationId: string;
  readonly requestBody?: { readonly content: Readonly<Record<string, unknown>> };
  readonly responses: Readonly<Record<string, { readonly description: string }>>;
}
const { paths } = parse(readFileSync(join(ROOT, "openapi.yaml"), "utf8")) as {
  paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
};
const operations = Object.entries(paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, operation]) => ({ verb, path, operation })),
);

/** A path with something for each of its parameters. */
const url = (path: string): string => path.replace(/\{[^}]*\}/g, "x");
const BODY_LIMIT = 65_536;

t.test("413 and 415 of each operation", async (t) => {
  // With keys off the admin's routes for users answer before they look at the body.
  const { fastify } = await buildTestApp(t, { keyed: true, training: trainingService(t).training });
  const send = async (
    verb: string,
    path: string,
    type: string | undefined,
    payload: string,
  ): Promise<{ status: number; code: string; detail: string }> => {
    const answer = await fastify.inject({
      method: verb.toUpperCase(),
      url: url(path),
      headers: {
        authorization: "Bearer test-admin-key-0123456789abcdef0123456789",
        ...(type === undefined ? {} : { "content-type": type }),
      },
      payload,
    } as InjectOptions);
    const body = answer.json<{ code?: string; detail?: string; error?: { code: string; message: string } }>();
    return {
      status: answer.statusCode,
      code: body.code ?? body.error?.code ?? "",
      detail: body.detail ?? body.error?.message ?? "",
    };
  };
  const tried = { 413: [] as string[], 415: [] as string[] };
  for (const { verb, path, operation } of operations) {
    if (verb === "get") continue;
    const { operationId: id, requestBody, responses } = operation;
    const types = Object.keys(requestBody?.content ?? {});
    const refused = await send(verb, path, "text/csv", "a,b");
    t.match(refused, { status: 415, code: "unsupported_media_type", detail: /The request has "text\/csv"\.$/ }, id);
    for (const taken of types) t.ok(refused.detail.includes(taken), `${id}: ${refused.detail}`);
    if (types.length === 0) t.match(refused.detail, /takes no body/, id);
    const form = await send(verb, path, "multipart/form-data; boundary=x", "--x--\r\n");
    if (!types.includes("multipart/form-data")) t.match(form, { status: 415, detail: /"multipart\/form-data/ }, id);
    t.ok("415" in responses, `${id} documents 415`);
    tried[415].push(id);
    if (types.length > 0 && !types.includes("application/json")) continue;
    const long = `{"x":"${"y".repeat(BODY_LIMIT)}"}`;
    const large = await send(verb, path, "application/json", long);
    t.match(large, { status: 413, code: "body_too_large" }, id);
    t.match(
      large.detail,
      `at most ${BODY_LIMIT} bytes (--request-body-limit). The request has ${long.length} bytes.`,
      id,
    );
    t.ok("413" in responses, `${id} documents 413`);
    tried[413].push(id);
  }
  t.ok(tried[413].length > 15 && tried[415].length > 17, `${tried[413].length} and ${tried[415].length} operations`);
  t.match(
    (await send("post", "/generate", "application/json; charset=utf-16", "{}")).detail,
    /UTF-8.*"application\/json; /,
  );
});

/** What meets each limit that answers 429, and what its answer must say. */
const REFUSALS: Readonly<Partial<Record<ErrorCode, readonly [meet: () => Promise<unknown>, says: RegExp]>>> = {
  token_rate_exceeded: [
    async () => {
      const rate = new UserTokenRate(new MemoryTokenBuckets(() => 0), () => 600);
      await rate.admit("ann", 700);
      await rate.admit("ann", 25);
    },
    /^tokens_per_minute of this user is 600, and 700 are used up; this request may take 25 more\.$/,
  ],
  user_queue_full: [
    () => queued(3, 100, 3),
    /^max_queued of this user is 3, and 3 requests wait; this one would be one more\.$/,
  ],
  queue_full: [() => queued(8, 4, null), /^--max-queue is 4, and 8 requests wait; this one would be one more\.$/],
};

/** A request of ann's behind `waiting` others of hers. */
async function queued(waiting: number, maxQueue: number, maxQueued: number | null): Promise<void> {
  const queue = Array.from({ length: waiting }, () => ({ tenant: "ann" })) as never[];
  const shares = { of: () => ({ weight: 1, maxRunning: null, maxQueued }) };
  checkQueueLimits(
    engineRequest({ promptIds: Int32Array.of(1), tenant: "ann" }),
    queue,
    { maxQueue, freeRows: 0 },
    shares,
  );
}

t.test("429: every code that any operation documents", async (t) => {
  const documented = new Set(
    operations.flatMap(({ operation }) =>
      [...(operation.responses["429"]?.description ?? "").matchAll(/`([a-z_]+)`:/g)].map(([, code]) => code!),
    ),
  );
  t.same([...documented].sort(), Object.keys(REFUSALS).sort());
  for (const [code, [meet, says]] of Object.entries(REFUSALS)) {
    const error = await meet().catch((error: unknown) => error);
    t.ok(error instanceof PrefixdError && error.status === 429, code);
    t.match(error, { code, message: says, limit: { quota: Number } });
  }
});
