import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { deletePrefix } from "../../src/cli/delete.ts";
import { generate } from "../../src/cli/generate.ts";
import { list } from "../../src/cli/list.ts";
import { load } from "../../src/cli/load.ts";
import { pull } from "../../src/cli/pull.ts";
import { push } from "../../src/cli/push.ts";
import { share } from "../../src/cli/share.ts";
import { users } from "../../src/cli/users.ts";
import { isFileName } from "../../src/cli/whole-folder.ts";
import { ConfigError } from "../../src/errors.ts";
import { oneLine } from "../../src/one-line.ts";
import { createApiKey } from "../../src/users/api-key.ts";
import { NO_LIMITS } from "../../src/users/types.ts";
import { ADAPTER, buildTestApp, type TestApp } from "../support/app.ts";
import { fakeHub } from "../support/fake-hub.ts";
import { freePort } from "../support/free-port.ts";
import { runCli } from "../support/server.ts";

interface Result {
  readonly code: number | string;
  readonly out: string;
  readonly err: string;
}

async function run(args: readonly string[], env: Record<string, string> = {}): Promise<Result> {
  const cli = runCli(args, env);
  const code = await cli.exited;
  return { code, out: cli.stdout(), err: cli.stderr() };
}

interface Setup {
  readonly app: TestApp;
  readonly url: string;
  readonly as: (user: "ann" | "bob", ...args: string[]) => Promise<Result>;
}

/** A server with ann and bob; ann has the adapter `dates` and the hard prompt `polite`. */
async function setUp(t: Test): Promise<Setup> {
  const app = await buildTestApp(t, { keyed: true });
  const url = `http://127.0.0.1:${await app.listen()}`;
  const now = new Date().toISOString();
  const keys: Record<string, string> = {};
  for (const user of ["ann", "bob"]) {
    const { id, key, hash } = createApiKey();
    await app.users.createUser({ id: user, weight: 1, limits: NO_LIMITS, createdAt: now, updatedAt: now });
    await app.users.putKey({ id, user, hash, createdAt: now, expiresAt: null });
    keys[user] = key;
  }
  await app.registry.register(
    { user: "ann", name: "dates" },
    { kind: "peft", config: Buffer.from(ADAPTER[0].data), weights: Buffer.from(ADAPTER[1].data) },
  );
  await app.registry.register({ user: "ann", name: "polite" }, { kind: "hard", ids: Int32Array.of(1, 2) });
  return { app, url, as: (user, ...args) => run(args, { PREFIXD_URL: url, PREFIXD_KEY: keys[user]! }) };
}

/** Files of a folder with their content. */
const contents = (dir: string): Record<string, string> =>
  Object.fromEntries(readdirSync(dir).map((name) => [name, readFileSync(join(dir, name), "utf8")]));
const FILES = Object.fromEntries(ADAPTER.map(({ name, data }) => [name, data]));

async function listening(t: Test, server: Server): Promise<string> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

t.test("list prints a table, or the server's JSON", async (t) => {
  const { app, as } = await setUp(t);
  const { out, err, code } = await as("ann", "list");
  t.match([code, err], [0, ""]);
  const [head, ...rows] = out
    .trimEnd()
    .split("\n")
    .map((line) => line.split(/ {2,}/));
  t.same(head, ["ID", "KIND", "VIRTUAL TOKENS", "BYTES", "UPDATED", "ACCESS"]);
  t.match(rows, [
    ["dates", "PREFIX_TUNING", "10", "640", /^\d{4}-.*Z$/, "owner"],
    ["polite", "HARD_PROMPT", "2", "128", /Z$/, "owner"],
  ]);
  await app.registry.patch({ user: "ann", name: "dates" }, { shared_with: ["bob"] });
  t.match((await as("bob", "list")).out, /^ann\/dates +PREFIX_TUNING.* use$/m);
  t.notMatch((await as("bob", "list", "--owner", "me")).out, /dates/);
  const { prefixes, next } = JSON.parse((await as("bob", "list", "--owner", "others", "--json")).out) as {
    prefixes: unknown[];
    next: null;
  };
  t.match(prefixes, [{ id: "ann/dates", access: "use" }]);
  t.equal(next, null);
  for (let i = 0; i < 1001; i++)
    await app.registry.register({ user: "bob", name: `p${i}` }, { kind: "hard", ids: Int32Array.of(1) });
  t.equal((await as("bob", "list")).out.trimEnd().split("\n").length, 1 + 1001 + 1, "all pages");
});

t.test("share changes only what the flags name, and shows the result", async (t) => {
  const { as } = await setUp(t);
  const lines = async (...args: string[]): Promise<string> => (await as("ann", "share", "dates", ...args)).out;
  t.equal(await lines(), "dates\n  visibility   private\n  used by      nobody else\n  readable by  nobody else\n");
  t.equal(
    await lines("--with", "bob,admin", "--readable-by", "bob"),
    "dates\n  visibility   private\n  used by      bob, admin\n  readable by  bob\n",
  );
  t.equal(
    await lines("--visibility", "shared", "--with", ""),
    "dates\n  visibility   shared\n  used by      every user\n  readable by  bob\n",
  );
  t.match(JSON.parse(await lines("--visibility", "private", "--with", "bob", "--with", "admin", "--json")), {
    visibility: "private",
    shared_with: ["bob", "admin"],
    readable_by: ["bob"],
  });
  t.match((await as("bob", "share", "ann/dates")).out, "ann/dates: you may use and pull it");
  t.match(await as("bob", "share", "ann/dates", "--with", "bob"), {
    code: 1,
    out: "",
    err: /^prefixd: Only the owner, ann, may change this prefix\.\n {2}prefix_not_owned, request [0-9a-f]{16}\n$/,
  });
  t.match(await as("ann", "share", "dates", "--with", "eve,carl"), {
    code: 1,
    err: /^prefixd: There are no users "eve", "carl"; nothing was changed\.\n {2}unknown_users, request \S+\n$/,
  });
});

t.test("pull writes the files of one version, all or none, and nothing else", async (t) => {
  const { app, as } = await setUp(t);
  const dir = t.testdir();
  const at = (name: string): string => join(dir, name);
  t.match(await as("ann", "pull", "dates", at("a/b")), {
    code: 0,
    err: "",
    out: /^pulled dates \(PREFIX_TUNING, 10 virtual tokens, digest [0-9a-f]{64}\) into /,
  });
  t.same(contents(at("a/b")), FILES);
  t.same(readdirSync(at("a")), ["b"], "nothing is left beside it");
  t.match(await as("ann", "pull", "polite", at("polite"), "--json"), { code: 0, out: /^\{.*"kind":"HARD_PROMPT"/ });
  t.same(contents(at("polite")), { "prompt.json": '{"token_ids":[1,2]}' });

  writeFileSync(at("a/b/adapter_config.json"), "mine");
  writeFileSync(at("a/b/README.md"), "mine");
  t.match(await as("ann", "pull", "dates", at("a/b")), {
    code: 1,
    err: /has adapter_config\.json and adapter_model\.safetensors already: .*--force/,
  });
  t.equal(contents(at("a/b"))["adapter_config.json"], "mine");
  t.equal((await as("ann", "pull", "dates", at("a/b"), "--force")).code, 0);
  t.same(contents(at("a/b")), { ...FILES, "README.md": "mine" });
  t.equal((await as("ann", "pull", "polite", at("a/b"))).code, 0, "a folder that has none of the files");

  mkdirSync(at("outside"));
  writeFileSync(at("outside/kept"), "mine");
  mkdirSync(at("linked"));
  symlinkSync(at("outside/kept"), at("linked/adapter_config.json"));
  t.equal((await as("ann", "pull", "dates", at("linked"), "--force")).code, 0);
  t.same(
    [contents(at("outside")), contents(at("linked"))],
    [{ kept: "mine" }, FILES],
    "a link is replaced, not followed",
  );

  await app.registry.patch({ user: "ann", name: "dates" }, { shared_with: ["bob"] });
  t.match(await as("bob", "pull", "ann/dates", at("bobs")), {
    code: 1,
    err: /^prefixd: You may send requests with ann\/dates but not download it.*\n {2}prefix_not_readable/,
  });
  t.notOk(existsSync(at("bobs")));
  await app.registry.patch({ user: "ann", name: "dates" }, { readable_by: ["bob"] });
  t.equal((await as("bob", "pull", "ann/dates", at("bobs"))).code, 0);
  t.same(contents(at("bobs")), FILES);
});

t.test("pull does not trust the server", async (t) => {
  const dir = t.testdir();
  const body = "weights";
  const digest = createHash("sha256").update(body).digest("hex");
  let names: string[] = [];
  let etag = digest;
  const server = createServer((request, response) => {
    if (request.url!.split("/").length > 3) return void response.setHeader("etag", `"${etag}"`).end(body);
    response.end(
      JSON.stringify({
        id: "p\u001b[2J",
        kind: "X",
        virtual_tokens: 1,
        digest,
        files: Object.fromEntries(names.map((name) => [name, body.length])),
      }),
    );
  });
  const url = await listening(t, server);
  const pullIt = (): Promise<Result> => run(["pull", "p", join(dir, "in"), "--url", url]);
  for (const name of ["../out", "/out", "a/b", "..", ".", "", ".bashrc", "a\\b", "a\nb", "C:x"])
    t.equal(isFileName(name), false, JSON.stringify(name));
  names = ["adapter_config.json", "../out"];
  t.match(await pullIt(), { code: 1, err: /lists a file named "\.\.\/out", which is not a plain file name/ });
  names = ["adapter_config.json"];
  etag = "another";
  t.match(await pullIt(), { code: 1, err: /keeps being replaced/ });
  t.same(readdirSync(dir), [], "nothing was written");
  etag = digest;
  const { out } = await pullIt();
  t.match(out, "pulled p\\u001b[2J (X");
  t.same(contents(join(dir, "in")), { "adapter_config.json": body });
});

t.test("push and delete", async (t) => {
  const { app, as } = await setUp(t);
  const dir = t.testdir({ mine: FILES });
  t.match(await as("ann", "push", join(dir, "mine")), {
    code: 0,
    out: /^registered mine \(PREFIX_TUNING, 10 virtual tokens, digest [0-9a-f]{64}\)\n$/,
  });
  t.match(JSON.parse((await as("ann", "push", join(dir, "mine"), "--id", "other", "--json")).out), { id: "other" });
  t.same(await as("ann", "delete", "other"), { code: 0, out: "deleted other\n", err: "" });
  t.equal(app.registry.entries.has("ann/other"), false);
  t.match(await as("ann", "delete", "other"), {
    code: 1,
    err: /^prefixd: There is no such prefix\.\n {2}prefix_not_found, request \S+\n {2}prefixd list shows /,
  });
  t.match(await as("ann", "push", join(dir, "nothing")), {
    code: 2,
    err: /^prefixd: push .*nothing: there is no such file or folder$/m,
  });
});

t.test("push takes an adapter from the hub", async (t) => {
  const { app, url } = await setUp(t);
  const adapter = Object.entries(FILES).map(([name, data]) => [name, Buffer.from(data)] as const);
  const inner = adapter.map(([name, data]) => [`a/inner/${name}`, data] as const);
  const hub = await fakeHub(t, Object.fromEntries([...adapter, ...inner]));
  const key = createApiKey();
  const now = new Date().toISOString();
  await app.users.putKey({ id: key.id, user: "ann", hash: key.hash, createdAt: now, expiresAt: null });
  const env = { PREFIXD_URL: url, PREFIXD_KEY: key.key, HF_ENDPOINT: hub.url, XDG_CACHE_HOME: t.testdir() };
  t.match(await run(["push", "hf:org/tiny@v1"], env), {
    code: 0,
    out: /^registered tiny \(PREFIX_TUNING, 10 virtual tokens/,
    err: /^downloading adapter_config\.json \(\d+ bytes\)\ndownloading adapter_model\.safetensors/,
  });
  t.match(await run(["push", "hf:org/tiny", "--subfolder", "a/inner"], env), { code: 0, out: /^registered inner / });
  t.equal(app.registry.entries.get("ann/inner")?.meta.digest, app.registry.entries.get("ann/tiny")?.meta.digest);
  t.match(await run(["push", "hf:org/other"], env), { code: 1, err: /^prefixd: downloading hf:org\/other from .*404/ });
  t.match(await run(["push", "hf:nothing"], env), {
    code: 2,
    err: /^prefixd: push hf:nothing: expected hf:OWNER\/NAME/,
  });
  t.match(await run(["push", "hf:org/tiny", "--subfolder", "../x"], env), {
    code: 2,
    err: /--subfolder \.\.\/x: expected/,
  });
});

t.test("push accepts a hard prompt that pull wrote", async (t) => {
  const { app, as } = await setUp(t);
  await app.registry.register(
    { user: "ann", name: "rude" },
    { kind: "hard", ids: Int32Array.from(Buffer.from("no")), text: "no" },
  );
  const dir = t.testdir({ both: { ...FILES, "prompt.json": "{}" }, neither: { "prompt.json": "[]" } });
  for (const name of ["polite", "rude"]) {
    const copy = `${name}-again`;
    t.match(await as("ann", "pull", name, join(dir, copy)), { code: 0, err: "" });
    t.match(await as("ann", "push", join(dir, copy)), { code: 0, err: "", out: `registered ${copy} (HARD_PROMPT, 2 ` });
    const [old, again] = [name, copy].map((one) => app.registry.entries.get(`ann/${one}`)!);
    t.same(again!.files, old!.files);
    t.equal(again!.meta.digest, old!.meta.digest);
  }
  t.match(await as("ann", "push", join(dir, "both")), {
    code: 1,
    err: /both has both adapter_config\.json and prompt\.json: remove one of them\n$/,
  });
  t.match(await as("ann", "push", join(dir, "neither")), {
    code: 1,
    err: /prompt\.json has neither text nor token_ids\n$/,
  });
});

const COMMANDS = { generate, push, list, pull, delete: deletePrefix, share, users, load };

t.test("bad usage prints one line that says what is wrong, then the usage", async (t) => {
  const refused = async (command: keyof typeof COMMANDS, ...args: string[]): Promise<ConfigError> => {
    const error: unknown = await COMMANDS[command](args).catch((error: unknown) => error);
    if (!(error instanceof ConfigError)) return t.fail(`${command} ${args.join(" ")}: ${String(error)}`) as never;
    t.match(error.message, /^[^\n\u001b\u2028]+$/);
    t.notMatch(error.message, /\\u000a/);
    t.match(error.usage, new RegExp(`^Usage: prefixd ${command} .*\n`), oneLine(`${command} ${args.join(" ")}`));
    t.match(error.usage, /Exit code 0: /);
    return error;
  };
  for (const command of Object.keys(COMMANDS) as (keyof typeof COMMANDS)[]) await refused(command, "--no\nsuch");
  for (const args of [[], ["a", "b"]]) await refused("push", ...args);
  for (const args of [[], ["a", "b", "c"]]) await refused("pull", ...args);
  for (const args of [[], [""], ["a", "b"]]) await refused("delete", ...args);
  for (const args of [[], ["p", "bob"], ["p", "--visibility", "public"], ["p", "--with"]])
    await refused("share", ...args);
  for (const args of [["x"], ["--owner", "x\u001b[2J"]]) await refused("list", ...args);
  for (const args of [[], ["frob\u2028nicate"], ["show"], ["patch", "ann", "--weight", "-1"]])
    await refused("users", ...args);
  await refused("load");
});

t.test("output and exit codes of the program", async (t) => {
  t.match(await run(["share"]), { code: 2, out: "", err: /^prefixd: share takes one id.*\nUsage: prefixd share ID/ });
  t.match(await run(["sreve\u001b[2J"]), { code: 2, err: /^prefixd: no such command: sreve\\u001b\[2J\nUsage: / });
  t.match(await run(["constructor"]), { code: 2 });
  t.match(await run(["--help"]), { code: 0, out: /Exit code 0: done; 1: it failed; 2: bad usage/ });
  for (const command of Object.keys(COMMANDS))
    t.match(
      await run([command, "--help"]),
      { code: 0, err: "", out: new RegExp(`^Usage: prefixd ${command} `) },
      command,
    );
});

t.test("a server that does not answer, or is not prefixd", async (t) => {
  const port = await freePort();
  const gone = `http://127.0.0.1:${port}`;
  t.same(await run(["list", "--url", gone]), {
    code: 1,
    out: "",
    err: `prefixd: no server answers at ${gone} (connect ECONNREFUSED 127.0.0.1:${port})\n`,
  });
  t.match(await run(["delete", "p"], { PREFIXD_URL: `http://localhost:${port}/base/` }), {
    code: 1,
    err: new RegExp(`^prefixd: no server answers at http://localhost:${port}/base \\(.*ECONNREFUSED.*\\)\n$`),
  });
  t.match(await run(["users", "list", "--url", gone], { PREFIXD_ADMIN_KEY: "x".repeat(32) }), {
    code: 1,
    err: /no server answers/,
  });
  for (const bad of ["nonsense", "ftp://127.0.0.1", "127.0.0.1:8080"])
    t.match(await run(["list", "--url", bad]), { code: 2, err: `prefixd: --url ${bad}: expected an address` });
  t.match(await run(["list"], { PREFIXD_URL: "http://ann:secret@127.0.0.1" }), {
    code: 2,
    err: /^prefixd: PREFIXD_URL: must not contain a user or password/,
  });

  const bodies: Record<string, [status: number, body: string]> = {
    html: [502, "<html>Bad Gateway</html>"],
    other: [200, "<html>hello</html>"],
    fields: [
      400,
      JSON.stringify({
        detail: "Two fields are wrong:\nsee below.\u001b[2J",
        code: "invalid_parameter",
        request_id: "r1",
        errors: [{ pointer: "/shared_with/3", detail: "must be a string" }, { detail: "no place" }],
      }),
    ],
  };
  let answer = "";
  const server = createServer((_, response) => {
    const body = bodies[answer];
    if (body === undefined)
      return void response.writeHead(200, { "content-length": "100" }).write("{", () => response.destroy());
    response.writeHead(body[0]).end(body[1]);
  });
  const url = await listening(t, server);
  const show = async (what: string): Promise<Result> => {
    answer = what;
    return run(["share", "p", "--url", url]);
  };
  t.same(await show("html"), { code: 1, out: "", err: `prefixd: ${url}/prefixes/p answered 502 Bad Gateway\n` });
  t.same(await show("other"), { code: 1, out: "", err: `prefixd: ${url}/prefixes/p did not answer as prefixd does\n` });
  t.same(await show("fields"), {
    code: 1,
    out: "",
    err: "prefixd: Two fields are wrong:\nsee below.\\u001b[2J\n  /shared_with/3: must be a string\n  no place\n  invalid_parameter, request r1\n",
  });
  t.match(await show("cut"), {
    code: 1,
    err: new RegExp(`^prefixd: the response of ${url}/prefixes/p was cut off \\(.*\\)\n$`),
  });
});
