/** A start that cannot succeed fails at once with a one-line error that names the cause. */
import { spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { cpSync, mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { parseSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { bareNode, ROOT, SOURCES } from "../support/program.ts";
import { safetensors } from "../support/safetensors.ts";
import { adapterForm, runCli, startServerProcess, temporaryFolder, withoutSettings } from "../support/server.ts";

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const cache = ["--cache-dir", join(folder.path, "cache")];
const store = ["--store", `lmdb:${join(folder.path, "store")}`];

const brokenModel = join(folder.path, "broken");
cpSync("models/demo", brokenModel, { recursive: true });
truncateSync(join(brokenModel, "model.safetensors"), 1_000_000);
const file = join(folder.path, "file");
writeFileSync(file, "");
const badPrefixes = join(folder.path, "prefixes");
mkdirSync(join(badPrefixes, "half"), { recursive: true });
writeFileSync(join(badPrefixes, "half", "adapter_config.json"), "{}");

const ownDefaults = join(folder.path, "own-defaults");
cpSync("models/demo", ownDefaults, { recursive: true });
writeFileSync(
  join(ownDefaults, "generation_config.json"),
  JSON.stringify({ eos_token_id: [4095, 12], guidance_scale: 1.5, repetition_penalty: 1.3 }),
);

const CASES: readonly (readonly [what: string, args: readonly string[], message: RegExp])[] = [
  ["an unknown flag", ["--max-bach", "3"], /--max-bach/],
  ["a value out of range", ["--max-batch", "0"], /--max-batch 0/],
  [
    "an arithmetic that the device has not",
    ["--precision", "fp16"],
    /--precision fp16: --device cpu takes fp32 or int8/,
  ],
  ["an address that others can reach", ["--host", "0.0.0.0"], /--host 0\.0\.0\.0: without keys/],
  ["no such model", ["--model", join(folder.path, "nowhere")], /nowhere/],
  ["a model that is cut off", ["--model", brokenModel], /model\.safetensors/],
  [
    "a model whose own defaults cannot be applied",
    ["--model", ownDefaults],
    /^prefixd: generation_config\.json: guidance_scale 1\.5 is not supported .*--generation-config none/,
  ],
  ["a store that cannot be made", ["--store", `lmdb:${file}`], /store/],
  ["an adapter folder without weights", ["--prefixes", badPrefixes], /half has no readable adapter_model\.safetensors/],
];

for (const [what, args, message] of CASES) {
  t.test(what, async (t) => {
    const { exited, stderr } = runCli(["serve", "--port", "0", ...cache, ...store, ...args]);
    t.not(await exited, 0);
    t.match(stderr(), message);
    t.equal(stderr().trim().split("\n").length, 1, "one line");
  });
}

t.test("int8 on a processor that does not multiply exactly is refused", (t) => {
  const script = fileURLToPath(new URL("children/inexact.ts", import.meta.url));
  const args = ["serve", "--port", "0", "--precision", "int8", ...cache, ...store];
  const [program, operands] = bareNode(...SOURCES, script, ...args);
  const { status, stderr } = spawnSync(program, operands, { encoding: "utf8", env: withoutSettings() });
  t.equal(status, 1);
  t.match(
    stderr,
    /^prefixd: --precision int8 cannot be used: ONNX Runtime's 8-bit products are not exact on this processor \(a sum of \d+ comes out as [\d.]+\)\. --precision fp32 works on every processor\.\n$/,
  );
  t.end();
});

t.test("a model's defaults are applied and shown; with --generation-config none only its EOS ids", async (t) => {
  const start = async (...args: string[]): Promise<{ defaults: unknown; choice: unknown }> => {
    const server = await startServerProcess(["--model", ownDefaults, ...cache, ...store, ...args]);
    t.teardown(() => server.signal("SIGKILL"));
    const { generation_defaults: defaults } = (await (await fetch(`${server.url}/model`)).json()) as {
      generation_defaults: unknown;
    };
    const body = JSON.stringify({ prompt: "a", max_new_tokens: 4, logit_bias: { 12: 100 } });
    const { choices } = (await (
      await fetch(`${server.url}/generate`, { method: "POST", headers: { "content-type": "application/json" }, body })
    ).json()) as { choices: unknown[] };
    server.signal("SIGTERM");
    await server.exited;
    return { defaults, choice: choices[0] };
  };
  const without = await start("--generation-config", "none");
  t.same(without.defaults, {});
  t.match(without.choice, { finish_reason: "eos" }, "token 12 is one of its EOS ids");
  writeFileSync(
    join(ownDefaults, "generation_config.json"),
    JSON.stringify({ eos_token_id: [4095, 12], suppress_tokens: [12] }),
  );
  const own = await start();
  t.same(own.defaults, { suppress_tokens: [12] });
  t.match(own.choice, { finish_reason: "length" });
});

t.test("a port in use ends the start", async (t) => {
  const blocker = createServer().listen(0, "127.0.0.1");
  await once(blocker, "listening");
  t.teardown(() => blocker.close());
  const { port } = blocker.address() as AddressInfo;
  const { exited, stderr } = runCli(["serve", "--port", String(port), ...cache, ...store]);
  t.equal(await exited, 1);
  t.match(stderr(), /EADDRINUSE/);
});

t.test("bad command lines", async (t) => {
  const help = runCli(["--help"]);
  t.equal(await help.exited, 0);
  t.match(help.stdout(), /serve \[flags\]/);
  const unknown = runCli(["sreve"]);
  t.equal(await unknown.exited, 2);
  t.match(unknown.stderr(), /no such command: sreve/);
  const version = runCli(["--version"]);
  t.equal(await version.exited, 0);
  t.match(version.stdout(), /^\d+\.\d+\.\d+\n$/);
  const build = runCli(["build", ...cache]);
  t.equal(await build.exited, 0);
  t.match(build.stdout(), /model\.onnx\n$/);
});

/**
 * A prefix saved with the demo's embeddings, as PEFT does for a base loaded in fp32: 8 MB. `change` is added to the
 * last number.
 */
async function withEmbeddings(dir: string, change = 0): Promise<string> {
  cpSync("prefixes/intent", dir, { recursive: true });
  const checkpoint = await openCheckpoint("models/demo");
  const pieces: Buffer[] = [];
  for await (const piece of checkpoint.tensor("wte.weight").chunks(1 << 20))
    pieces.push(Buffer.from(piece.slice().buffer));
  const data = Buffer.concat(pieces);
  await checkpoint.close();
  data.writeFloatLE(data.readFloatLE(data.length - 4) + change, data.length - 4);
  const copy = { dtype: "F32", shape: [4096, 256], data };
  const file = join(dir, "adapter_model.safetensors");
  const bytes = readFileSync(file);
  const { start, end, dtype, shape } = parseSafetensorsHeader(bytes, bytes.length, {
    maxHeaderBytes: 1000,
  }).tensors.get("prompt_embeddings")!;
  writeFileSync(
    file,
    safetensors({
      "base_model.lm_head.weight": copy,
      "base_model.transformer.wte.weight": copy,
      prompt_embeddings: { dtype, shape, data: bytes.subarray(start, end) },
    }),
  );
  return dir;
}

t.test("adapters in the layouts that people have, from a folder and by push", async (t) => {
  const prefixes = join(folder.path, "as people have them");
  const copies = await withEmbeddings(join(prefixes, "copies"));
  symlinkSync(join(ROOT, "prefixes/intent"), join(prefixes, "linked"));
  cpSync("prefixes/intent", join(prefixes, "my adapter"), { recursive: true });
  const elsewhere = join(prefixes, "elsewhere");
  cpSync("prefixes/intent", elsewhere, { recursive: true });
  const config = readFileSync(join(elsewhere, "adapter_config.json"), "utf8");
  writeFileSync(join(elsewhere, "adapter_config.json"), config.replace("prefixd/demo", "./other"));
  const args = [...cache, "--store", `lmdb:${join(folder.path, "as-people")}`, "--prefixes", prefixes];
  const server = await startServerProcess(args);
  t.teardown(() => server.signal("SIGKILL"));
  t.same(
    server.log.filter(({ msg }) => msg === "registered").map(({ prefix }) => prefix),
    ["copies", "elsewhere", "linked"],
  );
  const other = 'The adapter was trained on "./other" (base_model_name_or_path); the base model served here is "demo".';
  t.match(
    server.log.filter(({ level }) => level === "warn"),
    [
      { path: join(prefixes, "my adapter"), reason: /^its name cannot be/, msg: "left out of --prefixes" },
      { prefix: "elsewhere", base_model_name_or_path: "./other", msg: other },
    ],
  );
  const show = async (id: string): Promise<unknown> => (await fetch(`${server.url}/prefixes/${id}`)).json();
  const stored = { "adapter_model.safetensors": 82_008 };
  t.match(await show("copies"), { files: stored, warnings: [] });

  const push = async (...dir: string[]): Promise<{ code: number | string; out: string; err: string }> => {
    const cli = runCli(["push", ...dir, "--json", "--url", server.url]);
    return { code: await cli.exited, out: cli.stdout(), err: cli.stderr() };
  };
  const pushed = await push(copies, "--id", "pushed");
  t.match(pushed, { code: 0, err: "" });
  t.match(JSON.parse(pushed.out), { id: "pushed", files: stored });
  const pull = runCli(["pull", "pushed", join(folder.path, "pulled"), "--url", server.url]);
  t.equal(await pull.exited, 0, pull.stderr());
  const digestOf = ({ out }: { out: string }): unknown => (JSON.parse(out) as { digest: unknown }).digest;
  t.equal(digestOf(await push(join(folder.path, "pulled"))), digestOf(pushed), "without the copies it is the same");
  const form = adapterForm(copies);
  form.append("model_card", new Blob(["# Card"]), "README.md");
  t.match(
    await (await fetch(`${server.url}/prefixes/sent`, { method: "PUT", body: form })).json(),
    { files: stored },
    "and all 8 MB by HTTP",
  );
  const changed = await push(await withEmbeddings(join(folder.path, "changed"), 1e-3));
  t.match(changed, {
    code: 1,
    out: "",
    err: /differ from the adapter's base_model\.lm_head\.weight and base_model\.transformer\.wte\.weight/,
  });
  t.match(await push(elsewhere), { code: 0, err: `prefixd: warning: ${other}\n` });

  await t.test("push registers a folder with a running server", async (t) => {
    const push = runCli(["push", "prefixes/intent", "--id", "at-once", "--json", "--url", server.url]);
    t.equal(await push.exited, 0);
    t.match(JSON.parse(push.stdout()), {
      id: "at-once",
      virtual_tokens: 10,
      base_model_name_or_path: "prefixd/demo",
      warnings: [],
    });
    t.equal(push.stderr(), "");
    const again = runCli(["push", "models/demo", "--url", server.url]);
    t.equal(await again.exited, 1);
    t.match(again.stderr(), /adapter_config\.json/);
    const nobody = runCli(["push", "prefixes/intent", "--url", "http://127.0.0.1:9"]);
    t.equal(await nobody.exited, 1);
    t.match(nobody.stderr(), /no server answers/);
  });

  server.signal("SIGTERM");
  await server.exited;
  const strict = runCli(["serve", "--port", "0", ...args, "--require-base-name"]);
  t.equal(await strict.exited, 1);
  t.equal(strict.stderr(), `prefixd: ${elsewhere}: ${other}\n`);
});
