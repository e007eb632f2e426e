import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import t, { type Test } from "tap";
import { AnswerWriter } from "../../src/cli/answer-writer.ts";
import { generate } from "../../src/cli/generate.ts";
import { CommandError } from "../../src/cli/command-error.ts";
import { ConfigError } from "../../src/errors.ts";
import { createApiKey } from "../../src/users/api-key.ts";
import { NO_LIMITS } from "../../src/users/types.ts";
import { buildTestApp } from "../support/app.ts";
import { freePort } from "../support/free-port.ts";

/** What `prefixd generate` prints, and the message with which it fails, if it does. */
async function run(args: readonly string[], input = ""): Promise<{ out: string; err: string | null }> {
  let out = "";
  const stdout = { write: (text: string) => (out += text) };
  const err = await generate(args, { stdin: Readable.from([Buffer.from(input)]), stdout }).then(
    () => null,
    (error: unknown) => (error instanceof CommandError ? error.message : Promise.reject(error as Error)),
  );
  return { out, err };
}

/** What is written to a terminal or a file by one call after another on an AnswerWriter. */
function written(names: readonly string[], isTTY: boolean, use: (writer: AnswerWriter) => void): string {
  let all = "";
  use(new AnswerWriter(names, { isTTY, write: (text: string) => (all += text) }, false));
  return all;
}

t.test("answers are printed one below the other, in whatever order their parts arrive", async (t) => {
  t.equal(
    written(["one"], false, (writer) => {
      writer.add(0, 0, " a");
      writer.add(0, 0, "b");
      writer.end(0);
    }),
    " ab\n",
    "a single answer has no name",
  );
  t.equal(
    written(["long", "b", "failed", "empty"], false, (writer) => {
      writer.add(1, 0, " B1");
      writer.add(0, 0, " A1");
      writer.add(1, 0, " B2");
      writer.end(1);
      writer.end(2);
      writer.add(0, 0, " A2");
      writer.end(0);
      writer.add(3, 0, "");
      writer.end(3);
    }),
    "long:   A1 A2\nb:      B1 B2\nempty: \n",
  );
  t.equal(
    written(["p", "q"], false, (writer) => {
      writer.add(0, 1, " second");
      writer.add(0, 0, " first");
      writer.end(1);
      writer.end(0);
    }),
    "p: first\np: second\n",
    "choices",
  );
  const shown: string[] = [];
  const writer = new AnswerWriter(["p", "q"], { write: (text: string) => shown.push(text) }, false);
  writer.add(1, 0, " late");
  t.same(shown, []);
  writer.add(0, 0, " now");
  t.same(shown, ["p:", " now"], "the first is printed as it comes");
});

t.test("no text can control a terminal; files get every byte", async (t) => {
  const text = "a\u001b[2J\tb\nc\r";
  const use = (writer: AnswerWriter): void => {
    writer.add(0, 0, text);
    writer.end(0);
  };
  t.equal(written(["p"], true, use), "a\\u001b[2J\tb\nc\\u000d\n");
  t.equal(written(["p"], false, use), `${text}\n`);
});

async function setUp(
  t: Test,
): Promise<{ url: string; keyFile: string; app: Awaited<ReturnType<typeof buildTestApp>> }> {
  const app = await buildTestApp(t, { keyed: true });
  const url = `http://127.0.0.1:${await app.listen()}`;
  const now = new Date().toISOString();
  const { id, key, hash } = createApiKey();
  await app.users.createUser({ id: "ann", weight: 1, limits: NO_LIMITS, createdAt: now, updatedAt: now });
  await app.users.putKey({ id, user: "ann", hash, createdAt: now, expiresAt: null });
  const keyFile = join(t.testdir(), "key");
  writeFileSync(keyFile, `${key}\n`);
  for (const [name, length] of [
    ["one", 1],
    ["three", 3],
  ] as const)
    await app.registry.register({ user: "ann", name }, { kind: "hard", ids: new Int32Array(length).fill(65) });
  return { url, keyFile, app };
}

t.test("one prefix, several, the base model; parameters; a prompt from standard input", async (t) => {
  const { url, keyFile, app } = await setUp(t);
  const as = (args: readonly string[], input = ""): ReturnType<typeof run> =>
    run([...args, "--url", url, "--key-file", keyFile], input);
  // The fake engine counts on from the prompt's last byte.
  t.same(await as(["=a", "--prefix", "one", "--max-new-tokens", "3"]), { out: "bcd\n", err: null });
  t.same(await as(["a", "--prefix", "three", "--prefix", "one", "--base", "--max-new-tokens", "2"]), {
    out: "three: bc\none:   bc\n(base):bc\n",
    err: null,
  });
  t.same(
    app.engine.submitted.slice(1).map(({ prefix }) => prefix?.length ?? null),
    [3, 1, null],
    "virtual tokens",
  );
  t.match(await as(["-", "--stop", "d", "--max-new-tokens", "5"], "a\n"), { out: "bc\n" });
  const sampled = ["--temperature", "0.5", "--top-k", "0", "--seed", "7", "--set", "n=2", "--set", 'bad_words=["x"]'];
  t.match(await as(["a", "--prefix", "one", "--max-new-tokens", "2", ...sampled]), { out: "bc\ncd\n", err: null });
  t.match(app.engine.submitted.at(-1), { n: 2, sampling: { temperature: 0.5, topK: 0 } });
  t.match(await as(["a", "--sample", "--max-new-tokens", "1", "--set", "best_of=3"]), { out: "b\n" }, "not streamed");
  const lines = (await as(["a", "--prefix", "one", "--base", "--json"])).out.trimEnd().split("\n");
  t.match(
    lines.map((line) => JSON.parse(line) as unknown),
    [{ prefix: { id: "one" } }, { prefix: null, choices: [{ finish_reason: "length" }] }],
  );
  const { out, err } = await as(["a", "--prefix", "one", "--prefix", "none", "--max-new-tokens", "1"]);
  t.equal(out, "one: b\n", "the others go on");
  t.match(
    err,
    /^none: There is no such prefix\.\n {2}prefix_not_found, request \S+\n {2}prefixd list shows the prefixes that you may use$/,
  );
  t.match(await run(["a", "--url", url]), {
    err: /unauthorized, request \S+\n {2}no key was sent: give PREFIXD_KEY or --key-file FILE$/,
  });
  const otherFile = `${keyFile}-other`;
  writeFileSync(otherFile, "pfx_0");
  t.match(await run(["a", "--url", url, "--key-file", otherFile]), {
    err: /unauthorized, request \S+\n {2}the server does not know the key that was sent/,
  });
  t.match(await as(["a", "--temperature", "-1"]), {
    out: "",
    err: /^temperature must be >= 0.*\n {2}invalid_parameter, request/,
  });
});

t.test("the form of the answer", async (t) => {
  const { url, keyFile, app } = await setUp(t);
  const schema = join(dirname(keyFile), "schema.json");
  writeFileSync(schema, '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}');
  const as = (...args: string[]): ReturnType<typeof run> =>
    run(["a", "--prefix", "one", "--max-new-tokens", "2", ...args, "--url", url, "--key-file", keyFile]);
  /** Characters that may come first. */
  const first = (): string => {
    const { constraint } = app.engine.submitted.at(-1)!;
    const ids = Array.from({ length: 256 }, (_, id) => id).filter((id) => constraint!.allows(id));
    return String.fromCharCode(...ids);
  };
  t.same(await as("--choice", "bc", "--choice", "no, thanks"), { out: "bc\n", err: null });
  t.equal(first(), " bn");
  t.same(await as("--regex", "[b-d]{2,}|7"), { out: "bc\n", err: null });
  t.equal(first(), " 7bcd");
  t.match(await as("--json-schema", schema), { err: null });
  t.equal(first(), " {");
  t.match(await as("--regex", "b.*", "--set", "n=2", "--sample"), { out: "bc\ncd\n" }, "with any other flag");
  t.match(await as("--regex", "a(?=b)"), { out: "", err: /at character 2.*\n {2}constraint_unsupported, request/ });
});

t.test("broken streams", async (t) => {
  let answer = "";
  const server = createServer((_, response) => void response.end(answer));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const event = 'data: {"choices":[{"index":0,"text":" so far"}]}\n\n';
  const asked = async (...pieces: string[]): ReturnType<typeof run> => {
    answer = pieces.join("");
    return run(["a", "--url", url]);
  };
  t.same(await asked(event, event, "data: [DONE]\n\n"), { out: " so far so far\n", err: null });
  t.same(await asked(event), {
    out: " so far\n",
    err: `the response of ${url}/generate was cut off (it has no end)`,
  });
  t.same(await asked(event, 'event: error\ndata: {"detail":"It broke.","code":"model_failed"}\n\n'), {
    out: " so far\n",
    err: "It broke.\n  model_failed",
  });
  t.match(await asked("<html>"), { out: "", err: /cut off/ });
  t.match(await asked("data: <html>\n\n"), { out: "", err: `${url}/generate did not answer as prefixd does` });
  const gone = `http://127.0.0.1:${await freePort()}`;
  const { err } = await run(["a", "--prefix", "one", "--prefix", "two", "--url", gone]);
  t.match(err, /^no server answers at [^\n]*$/, "a reason common to all is told once");
});

t.test("bad usage", async (t) => {
  const refused = async (...args: string[]): Promise<string> => {
    const error: unknown = await generate(args).catch((error: unknown) => error);
    return error instanceof ConfigError ? error.message : (t.fail(String(error)) as never);
  };
  t.match(await refused(), /takes one prompt/);
  t.match(await refused("a", "b"), /takes one prompt/);
  t.match(await refused("a", "--top-k", "many"), "--top-k many: expected a number");
  t.match(await refused("a", "--top-k="), "--top-k: a value is missing");
  t.match(await refused("a", "--set", "n"), "--set n: expected FIELD=JSON");
  t.match(await refused("a", "--set", "stop=x"), /--set stop=x: the value is not JSON; .*stop='"..."'/);
  t.match(await refused("a", "--set", "stream=true"), "--set stream: not with this command");
  t.match(await refused("a", "--choice", "x", "--regex", "y"), "--regex: not with --choice; an answer has one form");
  t.match(await refused("a", "--json-schema", "/nowhere"), "--json-schema /nowhere: there is no such file or folder");
  const noJson = join(t.testdir(), "schema");
  writeFileSync(noJson, "{");
  t.match(await refused("a", "--json-schema", noJson), /--json-schema \S+: is not JSON \(/);
  t.match(await refused("a", "--key-file", "/nowhere"), "--key-file /nowhere: there is no such file or folder");
});
