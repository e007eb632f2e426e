/**
 * Every route of openapi.yaml on a real server with the demo model, over real sockets: requests that the document allows, the same
 * after accidents, and bytes that are no requests. What is in openapi.yaml is tried; nothing here names a field that must be there.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { effort } from "../support/effort.ts";
import { lacking } from "../support/requirements.ts";
import { checkAnswer, OPERATIONS, operationOf, type Operation } from "./support/api.ts";
import { exchange, requestBytes, type RawRequest } from "./support/raw-http.ts";
import { mutated, printable, requestFor, type World } from "./support/requests.ts";
import { holds, runsOf, SEED } from "./support/runs.ts";
import { ADMIN_KEY, startFuzzServer, type FuzzServer } from "./support/server.ts";

const server = await startFuzzServer(t, [
  ...["--max-batch", "8", "--max-queue", "64", "--training", "on"],
  ...["--chat-template", "test/golden/chat/chatml.jinja"],
]);
const witness = await server.createUser("witness");
const tester = await server.createUser("tester");
await server.put(witness, "known", "intent");
const expected = await server.ask(witness, "known");

const adapter = (name: string): [string, Uint8Array][] =>
  ["adapter_config.json", "adapter_model.safetensors"].map((file) => [
    file,
    readFileSync(join("prefixes", name, file)),
  ]);
const world: World = {
  known: {
    id: ["a", "b", "c", "tester/a", "admin/intent", "intent"],
    model: ["a", "tester/a", "intent", "admin/intent", "demo"],
    content: ["i want to book a flight\n=>", "It was finished on Friday, August 1, 2014.\n=>"],
    prefix_id: [null, null, "a", "tester/a", "admin/intent", "admin/datenorm", "admin/truecase"],
    user: ["a", "b", "c", "nobody"],
    visibility: ["private", "shared"],
    shared_with: ["a", "tester", "admin"],
    readable_by: ["witness", "tester", "admin"],
    owner: ["me", "others", "all"],
    file: ["adapter_config.json", "adapter_model.safetensors", "x"],
    expires_at: ["2100-01-01T00:00:00Z", "2100-13-01T00:00:00Z", null],
    after: ["a", "b"],
    training_file: ["file-0123456789abcdef01234567", "x"],
    "if-match": ["*", '"x"', 'W/"x"'],
    "if-none-match": ["*", '"x"'],
    prompt: ["i want to book a flight\n=>", "It was finished on Friday, August 1, 2014.\n=>", [1, 2, 3]],
    text: ["three blind mice ,"],
  },
  keys: [
    { weight: 9, value: `Bearer ${ADMIN_KEY}` },
    { weight: 9, value: `Bearer ${tester}` },
    { weight: 1, value: "" },
    { weight: 1, value: "Bearer pfx_0000" },
  ],
  adapters: [adapter("intent"), adapter("datenorm").reverse()],
};

/** Of each operation: how many answers of each class of status there were. */
const answered = new Map<string, Map<string, number>>();

async function send(to: FuzzServer, request: RawRequest): Promise<void> {
  const response = await exchange(to.port, requestBytes(request));
  if (response === null) throw new Error(`${request.method} ${request.target}: closed without an answer`);
  checkAnswer(request, response);
  const counts = answered.get(operationOf(request)?.operationId ?? "none") ?? new Map<string, number>();
  const status = `${Math.floor(response.status / 100)}xx`;
  answered.set(operationOf(request)?.operationId ?? "none", counts.set(status, (counts.get(status) ?? 0) + 1));
}

/** All at once; the error of the first that fails, with what the log says of it. */
async function sendAll(to: FuzzServer, requests: readonly RawRequest[]): Promise<void> {
  const failed = (await Promise.allSettled(requests.map((request) => send(to, request)))).find(
    (result) => result.status === "rejected",
  );
  if (failed !== undefined) throw new Error(`${String(failed.reason)}\n${to.errors().slice(-1).join("")}`);
}

/** Fields of the bodies that it takes: the more there are, the more there is to try. */
function fieldsOf({ requestBody }: Operation): number {
  return Object.values(requestBody?.content ?? {}).reduce(
    (sum, { schema }) => sum + Object.keys(schema.properties ?? {}).length,
    0,
  );
}

const valid = fc.oneof(
  ...OPERATIONS.map((operation) => ({ weight: 8 + fieldsOf(operation), arbitrary: requestFor(operation, world) })),
);
const batch = fc.array(fc.oneof(valid, mutated(valid)).map(printable), { minLength: 1, maxLength: 8 });

t.test("each operation, as openapi.yaml describes it", async (t) => {
  for (const operation of OPERATIONS)
    for (const request of fc.sample(requestFor(operation, world), { numRuns: 2, seed: SEED }))
      await t.resolves(send(server, printable(request)), operation.operationId);
});

t.test("every answer is one that openapi.yaml lists for its route", async (t) => {
  await holds(
    t,
    900,
    fc.asyncProperty(batch, (requests) => sendAll(server, requests)),
    { unbiased: true },
  );
  for (const [name, counts] of [...answered].sort()) t.comment(name, JSON.stringify(Object.fromEntries(counts)));
});

const GENERATING = ["generate", "generateWithPrefix", "createCompletion", "createChatCompletion"];

// Else nothing but refusals would have been tried. A short run proves nothing of the kind.
t.test(
  "each operation was tried often, and requests to generate have often succeeded",
  { skip: lacking("fuzz-runs") },
  async (t) => {
    const of = (name: string): Map<string, number> => answered.get(name) ?? new Map<string, number>();
    const rare = OPERATIONS.filter(
      ({ operationId }) => [...of(operationId).values()].reduce((sum, count) => sum + count, 0) < runsOf(900) / 150,
    );
    t.same(
      rare.map(({ operationId }) => operationId),
      [],
      "each operation was tried often",
    );
    const generated = GENERATING.reduce((sum, name) => sum + (of(name).get("2xx") ?? 0), 0);
    t.ok(generated > effort({ short: 0, long: runsOf(900) / 40 }), "and requests to generate have often succeeded");
  },
);

t.test("bytes that are hardly HTTP are refused or dropped", async (t) => {
  const piece = fc.oneof(
    fc.constantFrom(
      "GET ",
      "POST ",
      "/",
      "/generate",
      " HTTP/1.1",
      " HTTP/9.9",
      "\r\n",
      "\n",
      "\r",
      "\r\n\r\n",
      "Host: 127.0.0.1\r\n",
      "Host: a\r\nHost: b\r\n",
      "Content-Length: 5\r\n",
      "Content-Length: -1\r\n",
      "Content-Length: 99999999999999999999\r\n",
    ),
    fc.constantFrom(
      "Transfer-Encoding: chunked\r\n",
      "Transfer-Encoding: gzip, chunked\r\n",
      "5\r\nhello\r\n",
      "0\r\n\r\n",
      "fffffffffffffffff\r\n",
      "Connection: upgrade\r\nUpgrade: h2c\r\n",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      "\x16\x03\x01",
      "Authorization: Bearer \0\r\n",
      ": x\r\n",
      " folded\r\n",
      "{}",
    ),
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
  );
  const garbage = fc
    .array(piece, { minLength: 1, maxLength: 10 })
    .map((pieces) => Buffer.from(pieces.join(""), "latin1"));
  await holds(
    t,
    400,
    fc.asyncProperty(fc.array(garbage, { minLength: 1, maxLength: 8 }), async (all) => {
      const answers = await Promise.all(all.map((bytes) => exchange(server.port, bytes, { hangUp: true })));
      const strange = answers.find((answer) => answer !== null && answer.status >= 500);
      if (strange) throw new Error(`${strange.status} ${strange.body.toString()}`);
    }),
  );
});

t.test("a request cut off at any byte, or longer or shorter than it says, gets an answer or none", async (t) => {
  const lie = fc.record({ request: valid, cut: fc.nat(), claimed: fc.option(fc.integer({ min: -2, max: 400_000 })) });
  await holds(
    t,
    400,
    fc.asyncProperty(fc.array(lie, { minLength: 1, maxLength: 8 }), async (lies) => {
      const sent = lies.map(({ request, cut, claimed }) => {
        const bytes = requestBytes(
          claimed === null
            ? request
            : { ...request, headers: [...request.headers, ["content-length", String(claimed)]] },
        );
        return claimed === null ? bytes.subarray(0, 1 + (cut % bytes.length)) : bytes;
      });
      const answers = await Promise.all(sent.map((bytes) => exchange(server.port, bytes, { hangUp: true })));
      const strange = answers.find((answer) => answer !== null && answer.status >= 500);
      if (strange) throw new Error(`${strange.status} ${strange.body.toString()}`);
    }),
  );
});

t.test("without keys", async (t) => {
  const local = await startFuzzServer(t, ["--max-batch", "4", "--training", "on"], {});
  await holds(
    t,
    100,
    fc.asyncProperty(batch, (requests) => sendAll(local, requests)),
    { unbiased: true },
  );
  await local.idle();
});

t.test(
  "afterwards nothing runs or waits, nothing is stored that nobody put, and the answers are what they were",
  async (t) => {
    await server.idle();
    t.same(server.errors(), [], "no errors in the log");
    t.same(await server.ask(witness, "known"), expected);
    const list = async (key: string, path: string, what: string): Promise<string[]> => {
      const { status, body } = await server.json(key, "GET", path);
      t.equal(status, 200);
      return (body[what] as { id: string }[]).map(({ id }) => id);
    };
    t.same(await list(witness, "/prefixes?owner=me&limit=1000", "prefixes"), ["known"], "another user's prefixes");
    for (const key of [tester, ADMIN_KEY]) {
      for (const id of await list(key, "/prefixes?owner=me&limit=1000", "prefixes"))
        t.equal((await server.json(key, "DELETE", `/prefixes/${encodeURIComponent(id)}`)).status, 204, id);
      t.same(await list(key, "/prefixes?owner=me", "prefixes"), []);
    }
    for (const id of await list(ADMIN_KEY, "/admin/users?limit=1000", "users"))
      t.equal((await server.json(ADMIN_KEY, "DELETE", `/admin/users/${id}`)).status, 200, id);
    t.same(await list(ADMIN_KEY, "/admin/users", "users"), []);
    t.equal(await server.metric("prefixd_prefix_cache_bytes"), 0, "what is removed is in no cache");
  },
);
