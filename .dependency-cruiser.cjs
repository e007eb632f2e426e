/** Who may import whom. The direction is the architecture (docs/architecture.md); a forbidden arrow fails `npm run lint`. */
const only = (from, allowed, why) => ({
  name: `${from.replace(/[^a-z]+/g, "-").replace(/^-|-$/g, "")}-imports`,
  comment: why,
  severity: "error",
  from: { path: `^src/${from}` },
  to: { path: "^src/", pathNot: [`^src/${from}`, ...allowed.map((place) => `^src/${place}`)] },
});

module.exports = {
  forbidden: [
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true } },
    { name: "no-orphans", severity: "error", from: { orphan: true, path: "^src/", pathNot: "\\.d\\.ts$" }, to: {} },
    { name: "no-test-in-src", severity: "error", from: { path: "^src/" }, to: { path: "^(test|bench)/" } },
    { name: "no-dev-dependency-in-src", severity: "error", from: { path: "^src/" }, to: { dependencyTypes: ["npm-dev"] } },
    only("errors\\.ts", [], "errors is a leaf"),
    only("kv\\.ts", [], "kv is a leaf"),
    only("system-files\\.ts", [], "system-files is a leaf"),
    only("redis-url\\.ts", [], "redis-url is a leaf"),
    only("one-line\\.ts", [], "one-line is a leaf"),
    only("config", ["errors\\.ts", "redis-url\\.ts", "one-line\\.ts"], "config is a leaf"),
    only("observability/", ["errors\\.ts"], "observability is a leaf"),
    only("storage/", ["errors\\.ts"], "what the embedded stores share"),
    only("users/", ["errors\\.ts", "kv\\.ts", "storage/", "observability/", "engine/fair-share\\.ts", "prefixes/", "engine/request\\.ts"], "users know prefixes; the engine hears of them as numbers"),
    only("runtime/", ["errors\\.ts", "system-files\\.ts"], "the runtime has never heard of GPT-2"),
    only("engine/", ["errors\\.ts", "kv\\.ts", "observability/"], "the engine knows token ids and KV tensors: no HTTP, store, tokenizer or user"),
    only("model/", ["errors\\.ts", "kv\\.ts", "runtime/", "engine/model-runner\\.ts"], "the model implements the engine's ModelRunner on the runtime"),
    only("text/", ["errors\\.ts"], "text is the tokenizer's world"),
    only("prefixes/", ["errors\\.ts", "kv\\.ts", "redis-url\\.ts", "model/(safetensors|strict-json)\\.ts", "storage/", "observability/"], "prefixes never know the engine"),
    only("generat", ["errors\\.ts", "kv\\.ts", "users/", "engine/", "prefixes/", "text/", "observability/"], "one request's way joins engine, prefixes and text"),
    only("http/", ["errors\\.ts", "kv\\.ts", "system-files\\.ts", "config", "generat", "prefixes/", "users/", "text/", "observability/"], "HTTP knows requests and prefixes, never the model"),
    only("doctor/", ["errors\\.ts", "kv\\.ts", "system-files\\.ts", "config", "runtime/", "model/", "engine/", "storage/folder-lock\\.ts", "prefixes/(folder|peft)\\.ts"], "the doctor tries what a server does with a model, without serving"),
    only("load/", [], "the load test speaks HTTP and knows nothing else of the server"),
    {
      name: "only-composition-constructs",
      comment: "concrete stores, runners and runtimes are made in one place",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/(main|cli|doctor|model|runtime|prefixes|users/(lmdb|redis))" },
      to: { path: "^src/((prefixes/(lmdb|redis)-store|users/(lmdb|redis)-user-store)|model/gpt2-runner|runtime/)" },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^(dist|\\.tap)/" },
    enhancedResolveOptions: { extensions: [".ts", ".js", ".json"] },
  },
};
