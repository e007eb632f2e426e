/** Requests for every route, ordinary ones and the worst it accepts, to measure the event loop's turns. */
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { effort } from "./effort.ts";
import { record } from "../prefixes/records.ts";
import { adapterForm } from "./server.ts";
import { ROUTES_WITH_BODY, worstBodies } from "./worst-bodies.ts";

/** One request, or several one after another, of a route of openapi.yaml. */
export interface RouteLoad {
  readonly route: string;
  readonly what: string;
  readonly path: string;
  readonly body?: string | (() => FormData);
  /** True if the server refuses it. */
  readonly refused?: boolean;
  /** Events after which a stream without an end is left. */
  readonly events?: number;
}

export const LOAD_ADMIN_KEY = "event-loop-0123456789abcdef0123456789abcdef";
/** Prefixes in the store beforehand, and the users each is shared with. */
const [SHARED, GUESTS] = [100, 1000];
const MIB = 1024 ** 2;
/** The name of the base model. */
const MODEL = "demo";

/** Fills an LMDB store with widely shared prefixes, before a server opens it. */
export async function fillStore(dir: string): Promise<void> {
  const store = await openLmdbStore({ dir });
  const guests = Array.from({ length: GUESTS }, (_, i) => `guest-${i}-${"x".repeat(50)}`);
  for (let i = 0; i < SHARED; i++) {
    const key = { user: i % 2 === 0 ? "admin" : "others", name: `shared-${i}` };
    await store.put(await record(key, i));
    await store.patchMeta(key, { visibility: "shared", readable_by: guests });
  }
  await store.close();
}

/** `positions` is the model's n_positions, `folder` a PEFT adapter that fits it. */
export function routeLoads(positions: number, folder: string): RouteLoad[] {
  const ids = Array.from({ length: positions - 40 }, (_, i) => 100 + (i % 1000));
  const words = Array.from({ length: 256 }, (_, i) =>
    i % 2 === 0 ? `word ${i} ${"a".repeat(110)}` : Array.from({ length: 64 }, (_, j) => 100 + ((i * j) % 3000)),
  );
  const everything = {
    do_sample: true,
    repetition_penalty: 1.2,
    presence_penalty: 0.5,
    frequency_penalty: 0.5,
    no_repeat_ngram_size: 2,
    bad_words: words,
    typical_p: 0.9,
    top_p: 0.9,
    top_k: 0,
    eta_cutoff: 1e-3,
    logit_bias: Object.fromEntries(Array.from({ length: 512 }, (_, i) => [i, 1])),
    sequence_bias: Array.from({ length: 512 }, (_, i) => [
      Array.from({ length: 64 }, (_, j) => 600 + ((i + j) % 3000)),
      1,
    ]),
    suppress_tokens: Array.from({ length: 1024 }, (_, i) => 1000 + i),
    stop: Array.from({ length: 16 }, (_, i) => `${"ab".repeat(127)}${i}`.slice(-256)),
    min_new_tokens: 4,
  };
  const manyProperties = Object.fromEntries(
    Array.from({ length: 60 }, (_, i) => [
      `property ${i}`,
      { type: "number", minimum: -i - 0.5, maximum: i * 1000.25 },
    ]),
  );
  const prompts = Array.from({ length: 64 }, () => ids);
  // The longest turns come from the first few of them; the others take the model's time.
  const some = effort({ short: 1 / 8, long: 1 / 2 });
  const echo = {
    prompts: prompts.slice(0, 16 * some),
    n: 4,
    do_sample: true,
    echo: true,
    logprobs: 20,
    max_new_tokens: 2,
    return_token_ids: true,
  };
  const structured: readonly (readonly [what: string, body: object])[] = [
    ["as many choices as may be", { choice: Array.from({ length: 1024 }, (_, i) => `${(i * 7919) % 10_007} ${i}`) }],
    ["wide masks, all different", { regex: "(a|[^x]|.)*[^y]([^a-f]|b){60}" }],
    ["a long string", { json: { type: "string", maxLength: 5_500 } }],
    ["many properties", { json: { type: "object", properties: manyProperties } }],
  ];
  const generate: readonly (readonly [what: string, body: object])[] = [
    ["a short prompt", { prompt: "once upon a time", max_new_tokens: 16 }],
    ["a stream", { prompt: "once upon a time", max_new_tokens: 16, stream: true, logprobs: 5 }],
    [`${64 * some} long prompts`, { prompts: prompts.slice(0, 64 * some), max_new_tokens: 1 }],
    [
      "many prompts of n 8 with every processor",
      {
        prompts: prompts.slice(0, 64 * some).map((prompt) => prompt.slice(0, 50)),
        n: 8,
        max_new_tokens: 4,
        ...everything,
      },
    ],
    [
      "a beam search with everything",
      {
        prompt: ids.slice(0, 100),
        num_beams: 8,
        n: 8,
        logprobs: 20,
        echo: true,
        max_new_tokens: 16,
        no_repeat_ngram_size: 2,
        bad_words: words,
      },
    ],
    [
      "best_of with logprobs",
      {
        prompts: prompts.slice(0, Math.max(1, 4 * some)),
        best_of: 8,
        n: 8,
        do_sample: true,
        logprobs: 20,
        max_new_tokens: 16,
        return_token_ids: true,
      },
    ],
    ...structured.map(([what, structured_outputs]): [string, object] => [
      `structured: ${what}`,
      { prompt: "once upon a time", do_sample: true, top_k: 0, n: 4, max_new_tokens: 24, structured_outputs },
    ]),
    ["a long echo with logprobs", echo],
    ["a long echo with logprobs, streamed", { ...echo, stream: true }],
    ["an answer that would be too large", { ...echo, prompts, n: 8, max_new_tokens: 40 }],
  ];
  // All of them are tried in test/http/worst-bodies.test.ts.
  const slow = ["a list of -1", 'a list of ""', 'a text of "the"', "an object beside half a character"];
  // If two routes take the same body, the first one's bodies are enough.
  const routes = ROUTES_WITH_BODY.filter(
    ({ body }, i) => ROUTES_WITH_BODY.findIndex((other) => JSON.stringify(other.body) === JSON.stringify(body)) === i,
  );
  const all = routes.flatMap((route) =>
    [...worstBodies(route, MIB - 1024)]
      .filter(
        ([name]) =>
          slow.some((one) => name.endsWith(one)) && /^(a body|prompts?|text|token_ids|shared_with) /.test(name),
      )
      .map(([what, body]) => ({ route, what, body })),
  );
  const bodies = all
    .filter((_, index) => index % effort({ short: 3, long: 1 }) === 0)
    .map(({ route: { method, path }, what, body }): RouteLoad => {
      const actual = path.replace("{id}", "mine").replace("{user}", "ann");
      return { route: `${method} ${path}`, what: `1 MiB, ${what}`, path: actual, body: body(), refused: true };
    });
  const json = (route: string, what: string, path: string, body: object): RouteLoad => ({
    route,
    what,
    path,
    body: JSON.stringify(body),
  });
  const get = (path: string, what = "", actual = path): RouteLoad => ({ route: `GET ${path}`, what, path: actual });
  const adapter = { what: "an adapter", body: () => adapterForm(folder) };
  return [
    json("POST /admin/users", "", "/admin/users", { id: "ann" }),
    json("POST /admin/users/{user}/keys", "", "/admin/users/ann/keys", {}),
    json("PATCH /admin/users/{user}", "", "/admin/users/ann", { weight: 2 }),
    { ...adapter, route: "PUT /prefixes/{id}", path: "/prefixes/mine" },
    json("PUT /prefixes/{id}", "a long hard prompt", "/prefixes/hard", { token_ids: ids }),
    { ...adapter, route: "PUT /prefixes/{id}/adapter", path: "/prefixes/mine/adapter" },
    json("PUT /prefixes/{id}/prompt", "a long hard prompt", "/prefixes/hard/prompt", { token_ids: ids }),
    json("PATCH /prefixes/{id}", "", "/prefixes/mine", { visibility: "private", shared_with: ["ann"] }),
    ...generate.flatMap(([what, body]) => [
      { ...json("POST /generate", what, "/generate", body), refused: what.startsWith("an answer that") },
      ...(what.startsWith("a s") ? [json("POST /prefixes/{id}/generate", what, "/prefixes/mine/generate", body)] : []),
    ]),
    json("POST /v1/completions", "a stream", "/v1/completions", {
      model: MODEL,
      prompt: "once upon a time",
      stream: true,
    }),
    json("POST /v1/completions", "a long echo with logprobs", "/v1/completions", {
      model: MODEL,
      prompt: prompts.slice(0, 16 * some),
      n: 4,
      echo: true,
      logprobs: 20,
      max_tokens: 2,
      return_token_ids: true,
    }),
    { route: "POST /v1/files", what: "examples", path: "/v1/files", body: () => trainingForm(EXAMPLE.repeat(20_000)) },
    ...Object.entries({
      "short bad lines": "{}\n".repeat(300_000),
      "one line": "x".repeat(4 * MIB),
      "long bad lines": `{"prompt":"${"a\\n".repeat(MIB / 4)}","completion":1}\n`.repeat(8),
      "deep lines": `{"prompt":${"[".repeat(MIB - 100)}\n`.repeat(8),
      "lines of many values": `{"prompt":[${"0,".repeat(MIB / 2 - 100)}0]}\n`.repeat(8),
    }).map(
      ([what, content]): RouteLoad => ({
        route: "POST /v1/files",
        what,
        path: "/v1/files",
        body: () => trainingForm(content),
        refused: true,
      }),
    ),
    get("/v1/files"),
    get("/v1/fine_tuning/jobs"),
    ...["GET /v1/files/{file}", "GET /v1/files/{file}/content", "DELETE /v1/files/{file}"].map(unknownId),
    ...["", "/events", "/checkpoints"].map((path) => unknownId(`GET /v1/fine_tuning/jobs/{job}${path}`)),
    unknownId("POST /v1/fine_tuning/jobs/{job}/cancel"),
    {
      ...json("POST /v1/fine_tuning/jobs", "", "/v1/fine_tuning/jobs", { model: MODEL, training_file: "file-x" }),
      refused: true,
    },
    json("POST /v1/chat/completions", "a stream", "/v1/chat/completions", {
      model: MODEL,
      messages: [{ role: "user", content: "once upon a time" }],
      max_tokens: 16,
      logprobs: true,
      top_logprobs: 20,
      stream: true,
    }),
    ...[
      { what: "many messages", length: 1 },
      { what: "long messages", length: 800 },
    ].map(({ what, length }) => ({
      ...json("POST /v1/chat/completions", what, "/v1/chat/completions", {
        model: MODEL,
        messages: Array.from({ length: 256 }, () => ({
          role: "user",
          content: [{ type: "text", text: "word ".repeat(length) }],
        })),
      }),
      refused: true,
    })),
    json("POST /tokenize", "a long text", "/tokenize", { prompt: "a1!".repeat(20_000), return_token_strs: true }),
    json("POST /detokenize", "many ids", "/detokenize", {
      tokens: Array.from({ length: 65_536 }, (_, id) => id % 4096),
    }),
    ...bodies,
    get("/prefixes", "1000, of which 100 are shared with 1000 users each", "/prefixes?limit=1000"),
    get("/prefixes/{id}", "", "/prefixes/shared-0"),
    get("/prefixes/{id}/adapter", "", "/prefixes/mine/adapter"),
    get("/prefixes/{id}/adapter/{file}", "", "/prefixes/mine/adapter/adapter_model.safetensors"),
    get("/prefixes/{id}/versions", "", "/prefixes/mine/versions"),
    {
      ...json("POST /prefixes/{id}/restore", "", "/prefixes/mine/restore", { digest: "0".repeat(64) }),
      refused: true,
    },
    { route: "POST /admin/backup", what: "", path: "/admin/backup" },
    get("/admin/users", "", "/admin/users?limit=1000"),
    get("/admin/users/{user}", "", "/admin/users/ann"),
    get("/admin/users/{user}/usage", "", "/admin/users/ann/usage"),
    get("/usage", "a page of 1000", "/usage?limit=1000"),
    get("/admin/usage", "a page of 1000", "/admin/usage?limit=1000"),
    get("/v1/models", "1000, of which 100 are shared with 1000 users each"),
    get("/v1/models/{model}", "", "/v1/models/shared-0"),
    get("/model"),
    get("/tokenizer_info"),
    get("/model/embeddings"),
    get("/health/live"),
    get("/health/ready"),
    get("/metrics"),
    { ...get("/admin/live"), events: 3 },
    {
      route: "DELETE /admin/users/{user}/keys/{key}",
      what: "",
      path: "/admin/users/ann/keys/0123456789abcdef",
      refused: true,
    },
    { route: "DELETE /v1/models/{model}", what: "", path: "/v1/models/hard" },
    { route: "DELETE /prefixes/{id}", what: "", path: "/prefixes/mine" },
    { route: "DELETE /admin/users/{user}", what: "", path: "/admin/users/ann" },
  ];
}

const EXAMPLE = `{"prompt": "a text\\n=>", "completion": " another"}\n`;

function trainingForm(content: string): FormData {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", new Blob([content]), "examples.jsonl");
  return form;
}

/** A request for a file or a job that does not exist. */
const unknownId = (route: string): RouteLoad => ({
  route,
  what: "",
  path: route.slice(route.indexOf(" ") + 1).replace(/\{\w+\}/, "file-0123456789abcdef01234567"),
  refused: true,
});

/** Sends a request, reads the response to its end, and returns the status. */
export async function send(url: string, { route, path, body, events }: RouteLoad): Promise<number> {
  const method = route.slice(0, route.indexOf(" "));
  const headers = {
    authorization: `Bearer ${LOAD_ADMIN_KEY}`,
    ...(typeof body === "string" ? { "content-type": "application/json" } : {}),
  };
  const response = await fetch(url + path, {
    method,
    headers,
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : body() }),
  });
  if (events === undefined) await response.arrayBuffer();
  else await readEvents(response.body!, events);
  return response.status;
}

async function readEvents(body: ReadableStream<Uint8Array>, count: number): Promise<void> {
  let seen = 0;
  for await (const bytes of body) {
    seen += Buffer.from(bytes).toString().split("\n\n").length - 1;
    if (seen >= count) return;
  }
}
