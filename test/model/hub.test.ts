import { cpSync } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { resolveAdapter, resolveModel } from "../../src/model/hub.ts";
import { COMMIT, fakeHub } from "../support/fake-hub.ts";

const WEIGHTS = Buffer.alloc(300_000, "weights!");
const FILES: Record<string, Buffer> = {
  "config.json": Buffer.from('{"model_type":"gpt2"}'),
  "tokenizer.json": Buffer.from("{}"),
  "model.safetensors": WEIGHTS,
  "pytorch_model.bin": Buffer.from("pickle"),
  "README.md": Buffer.from("read me"),
  "onnx/model.onnx": Buffer.from("onnx"),
};

t.test("a folder is used as it is", async (t) => {
  t.equal(await resolveModel("models/demo", { cacheDir: t.testdir() }), "models/demo");
});

t.test("downloads what a model needs, once, and works without the hub afterwards", async (t) => {
  const hub = await fakeHub(t, FILES);
  const options = { cacheDir: t.testdir(), hubUrl: `${hub.url}/`, token: "hf_secret" };
  const announced: string[] = [];
  const folder = await resolveModel("org/tiny", { ...options, onFile: (name) => announced.push(name) });
  t.equal(folder, join(options.cacheDir, "hub", "org--tiny", COMMIT));
  t.same((await readdir(folder)).sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
  t.same(await readFile(join(folder, "model.safetensors")), WEIGHTS);
  t.same(announced.sort(), [...hub.downloads].sort());
  t.same([...hub.authorizations], ["Bearer hf_secret"]);
  t.equal(await resolveModel("org/tiny@v1", options), folder, "another name of the same commit");
  t.equal(hub.downloads.length, 3);
  await hub.close();
  t.equal(await resolveModel("org/tiny", options), folder, "the hub is away: the last known commit");
  t.equal(await resolveModel(`org/tiny@${COMMIT}`, options), folder);
  await t.rejects(resolveModel("org/tiny@v2", options), { code: "model_not_found" });
});

t.test("every file that says how to tokenise and generate is downloaded, and no other", async (t) => {
  const read = [
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
  ];
  const other = ["vocab.txt", "tokenizer.model", "training_args.bin"];
  const hub = await fakeHub(t, {
    "model.safetensors": WEIGHTS,
    ...Object.fromEntries([...read, ...other].map((name) => [name, Buffer.from("{}")])),
  });
  const folder = await resolveModel("org/tiny", { cacheDir: t.testdir(), hubUrl: hub.url });
  t.same((await readdir(folder)).sort(), [...read, "model.safetensors"].sort());
});

t.test("the environment names hub and token", async (t) => {
  const hub = await fakeHub(t, FILES);
  const before = { ...process.env };
  t.teardown(() => void (process.env = before));
  process.env["HF_ENDPOINT"] = hub.url;
  process.env["HF_TOKEN"] = "hf_environment";
  await resolveModel("org/tiny", { cacheDir: t.testdir() });
  t.same([...hub.authorizations], ["Bearer hf_environment"]);
});

t.test("an interrupted download goes on where it was", async (t) => {
  let failing = true;
  const hub = await fakeHub(t, FILES, (name, content) =>
    failing && name === "model.safetensors" ? (content.map((byte) => byte ^ 1) as Buffer) : content,
  );
  const options = { cacheDir: t.testdir(), hubUrl: hub.url };
  await t.rejects(resolveModel("org/tiny", options), {
    name: "ModelLoadError",
    message: /model\.safetensors was damaged on the way/,
  });
  const parent = join(options.cacheDir, "hub", "org--tiny");
  t.same((await readdir(parent)).sort(), [`${COMMIT}.partial`, "ref-main"].sort(), "nothing under the final name");
  t.notOk((await readdir(join(parent, `${COMMIT}.partial`))).includes("model.safetensors"));
  await writeFile(join(parent, `${COMMIT}.partial`, "config.json.abc.tmp"), "left by a killed process");
  failing = false;
  hub.downloads.length = 0;
  const folder = await resolveModel("org/tiny", options);
  t.same(hub.downloads, ["model.safetensors"], "the small files are there already");
  t.same((await readdir(folder)).sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
});

t.test("two processes at once end with one good folder", async (t) => {
  const hub = await fakeHub(t, FILES);
  const options = { cacheDir: t.testdir(), hubUrl: hub.url };
  const [one, two] = await Promise.all([resolveModel("org/tiny", options), resolveModel("org/tiny", options)]);
  t.equal(one, two);
  t.same((await readdir(one ?? "")).sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
});

t.test("a process that comes second leaves nothing beside the first one's folder", async (t) => {
  const options = { cacheDir: t.testdir() };
  const parent = join(options.cacheDir, "hub", "org--tiny");
  const hub = await fakeHub(t, FILES, (name, content) => {
    if (name === "model.safetensors")
      cpSync(join(parent, `${COMMIT}.partial`), join(parent, COMMIT), { recursive: true });
    return content;
  });
  t.equal(await resolveModel("org/tiny", { ...options, hubUrl: hub.url }), join(parent, COMMIT));
  t.same((await readdir(parent)).sort(), [COMMIT, "ref-main"]);
});

t.test("shards, and models that cannot be served", async (t) => {
  const sharded = {
    "config.json": Buffer.from("{}"),
    "model.safetensors.index.json": Buffer.from("{}"),
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS,
  };
  const hub = await fakeHub(t, sharded);
  const folder = await resolveModel("org/tiny", { cacheDir: t.testdir(), hubUrl: hub.url });
  t.same((await readdir(folder)).sort(), Object.keys(sharded).sort());
  const pickled = await fakeHub(t, { "config.json": Buffer.from("{}"), "pytorch_model.bin": Buffer.from("x") });
  await t.rejects(resolveModel("org/tiny", { cacheDir: t.testdir(), hubUrl: pickled.url }), {
    code: "model_unsupported",
    message: /pickled weights.*never read/,
  });
});

t.test("errors say what to do", async (t) => {
  const hub = await fakeHub(t, FILES);
  const cacheDir = t.testdir();
  await t.rejects(resolveModel("org/other", { cacheDir, hubUrl: hub.url }), {
    code: "model_not_found",
    message: /no such repository, folder or revision \(404\).*HF_TOKEN/,
  });
  await t.rejects(resolveModel("models/dmeo", { cacheDir, hubUrl: "http://127.0.0.1:9" }), {
    code: "model_not_found",
    message:
      /"models\/dmeo" is not a folder here, and downloading it from http:\/\/127\.0\.0\.1:9 failed.*Without a network/,
  });
  for (const model of ["/no/such/folder", "nothing", "a/b/c", "../no-such-folder", "org/..", "org/tiny@../../x"]) {
    await t.rejects(
      resolveModel(model, { cacheDir, hubUrl: hub.url }),
      { code: "model_not_found", message: /neither a folder nor/ },
      model,
    );
  }
});

t.test("an adapter: PEFT's two files and no other, of the repository or a folder in it", async (t) => {
  const adapter = { "adapter_config.json": Buffer.from("{}"), "adapter_model.safetensors": WEIGHTS };
  const hub = await fakeHub(t, {
    ...adapter,
    "README.md": Buffer.from("read me"),
    "a/b/adapter_config.json": Buffer.from('{"of":"b"}'),
    "a/b/adapter_model.safetensors": WEIGHTS.subarray(0, 100),
    "a/pickled/adapter_config.json": Buffer.from("{}"),
    "a/pickled/adapter_model.bin": Buffer.from("x"),
  });
  const options = { cacheDir: t.testdir(), hubUrl: hub.url, token: "hf_secret" };
  const id = { name: "org/tiny", revision: null };
  const folder = await resolveAdapter(id, options);
  t.same((await readdir(folder)).sort(), Object.keys(adapter));
  t.same(await readFile(join(folder, "adapter_model.safetensors")), WEIGHTS);
  const inner = await resolveAdapter({ ...id, revision: "v1" }, { ...options, subfolder: "a/b" });
  t.equal(await readFile(join(inner, "adapter_config.json"), "utf8"), '{"of":"b"}');
  t.same([...hub.authorizations], ["Bearer hf_secret"]);
  const before = hub.downloads.length;
  t.equal(await resolveAdapter(id, options), folder);
  t.equal(hub.downloads.length, before, "what is there is not downloaded again");
  const refused = (
    options: { subfolder: string; message: RegExp; code: string },
    name = "org/tiny",
  ): Promise<unknown> =>
    t.rejects(resolveAdapter({ ...id, name }, { cacheDir: folder, hubUrl: hub.url, subfolder: options.subfolder }), {
      code: options.code,
      message: options.message,
    });
  await refused({
    subfolder: "a/pickled",
    code: "model_unsupported",
    message: /folder a\/pickled has its weights pickled/,
  });
  await refused({
    subfolder: "none",
    code: "model_not_found",
    message: /^downloading hf:org\/tiny, folder none from .*404/,
  });
  await refused({ subfolder: "a/b", code: "model_not_found", message: /no such repository/ }, "org/other");
  const bare = await fakeHub(t, { "adapter_config.json": Buffer.from("{}") });
  await t.rejects(resolveAdapter(id, { cacheDir: join(folder, "x"), hubUrl: bare.url }), {
    message: /hf:org\/tiny is not a PEFT adapter: it lacks adapter_model\.safetensors/,
  });
});
