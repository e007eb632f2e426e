/** Prefixes whose keys and values are finite but overflow the model's number range. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { DEVICE_PRECISIONS } from "../../src/config-schema.ts";
import { kvElements, type KvTensor } from "../../src/kv.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import { createPrefixRegistry } from "../../src/prefixes/registry.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { SIMULATED } from "../support/devices.ts";
import { engineRequest, goldenDir, isWiped, openTestModel, submit } from "../support/model.ts";
import { f32Bytes, safetensors } from "../support/safetensors.ts";
import { adapterForm, startServerProcess, temporaryFolder } from "../support/server.ts";

const own = { tenant: "ann" };
const cases = [
  ...DEVICE_PRECISIONS.cpu.map((precision) => ["cpu", DEVICES.cpu, precision] as const),
  ...Object.entries(SIMULATED).map(([name, device]) => [name, device, "fp32"] as const),
];

for (const [name, device, precision] of cases) {
  t.test(`${name}, ${precision}: one token behind a prefix tells whether it overflows`, async (t) => {
    const dir = goldenDir("gelu-new-f32");
    const model = await openTestModel(dir, { device, precision, slots: 2 });
    t.teardown(() => model.close());
    const { shape } = model.runner;
    const made = (length: number, value: (index: number, isKey: boolean) => number): KvTensor => {
      const perTensor = shape.heads * length * shape.headDim;
      return {
        length,
        data: Float32Array.from({ length: kvElements(shape, length) }, (_, index) =>
          value(index, Math.floor(index / perTensor) % 2 === 0),
        ),
      };
    };
    const request = engineRequest({
      promptIds: Int32Array.of(5, 9, 12),
      maxNewTokens: 20,
      prefix: made(3, (index) => Math.sin(index)),
    });
    const [alone] = await submit(model.engine, request).done;
    const beside = submit(model.engine, request).done;
    const signs = (index: number): number => (index % 2 === 0 ? 1 : -1);
    const bad: Record<string, KvTensor> = {
      "all of it": made(4, () => 3.4e38),
      "both signs": made(1, (index) => 3e38 * signs(index)),
      values: made(2, (_, isKey) => (isKey ? 0.5 : 3.4e38)),
      keys: made(2, (index, isKey) => (isKey ? 3.4e38 * signs(index) : 0.5)),
    };
    for (const [what, prefix] of Object.entries(bad)) {
      await t.rejects(
        model.engine.tryPrefix(prefix, own),
        { code: "prefix_overflows", status: 422, message: /whose largest value is 3(\.\d)?e\+38/ },
        what,
      );
      // As if stored by a version that did not try prefixes on upload.
      await t.rejects(submit(model.engine, { ...request, prefix }).done, { code: "prefix_overflows" }, what);
      await t.rejects(
        submit(model.engine, { ...request, prefix, scorePrompt: true }).done,
        { code: "prefix_overflows" },
        what,
      );
      await t.rejects(
        submit(model.engine, { ...request, prefix, beams: { numBeams: 2, lengthPenalty: 1, earlyStopping: false } })
          .done,
        { code: "prefix_overflows" },
        what,
      );
    }
    const good = [
      request.prefix!,
      made(shape.positions - 1, (index) => Math.cos(index)),
      made(2, () => 60_000),
      made(1, () => 0),
      await model.adapter(join(dir, "adapters", "prefix-p40-f16")),
    ];
    for (const prefix of good) await model.engine.tryPrefix(prefix, own);
    t.same((await beside)[0], alone, "nobody notices");
    t.same((await submit(model.engine, request).done)[0], alone, "nor after it");
    await model.engine.wipeFreed();
    t.ok(await isWiped(model.runner, model.runner.slots), "nothing is left of what was tried");
  });
}

t.test(
  "a server refuses such an upload, skips it in --prefixes by name, and refuses requests on a stored one",
  async (t) => {
    const folder = temporaryFolder();
    const [adapters, store] = [join(folder.path, "prefixes"), join(folder.path, "store")];
    cpSync("prefixes/intent", join(adapters, "sound"), { recursive: true });
    const config = JSON.parse(readFileSync("prefixes/intent/adapter_config.json", "utf8")) as {
      num_virtual_tokens: number;
      num_layers: number;
      token_dim: number;
    };
    const dims = [config.num_virtual_tokens, 2 * config.num_layers * config.token_dim];
    const weights = safetensors(
      {
        prompt_embeddings: {
          dtype: "F32",
          shape: dims,
          data: f32Bytes(new Float32Array(dims[0]! * dims[1]!).fill(3.4e38)),
        },
      },
      { format: "pt" },
    );
    mkdirSync(join(adapters, "runaway"));
    writeFileSync(join(adapters, "runaway", "adapter_config.json"), JSON.stringify(config));
    writeFileSync(join(adapters, "runaway", "adapter_model.safetensors"), weights);

    // Stored by a server that does not try prefixes.
    const checkpoint = await openCheckpoint("models/demo");
    await checkpoint.close();
    const before = await openLmdbStore({ dir: store });
    const cache = createPrefixCache({ store: before, shape: checkpoint.shape, maxBytes: 0 });
    const registry = createPrefixRegistry({
      store: before,
      cache,
      shape: checkpoint.shape,
      baseFingerprint: checkpoint.fingerprint,
      fold: () => Promise.reject(new Error("nothing to fold")),
      tryPrefix: async () => undefined,
    });
    await registry.register(
      { user: "local", name: "stored" },
      { kind: "peft", config: Buffer.from(JSON.stringify(config)), weights },
    );
    cache.close();
    await before.close();

    const server = await startServerProcess([
      "--cache-dir",
      join(folder.path, "cache"),
      "--store",
      `lmdb:${store}`,
      "--prefixes",
      adapters,
    ]);
    t.teardown(() => (server.signal("SIGKILL"), folder.remove()));
    t.match(
      server.log.filter(({ msg }) => msg === "left out of --prefixes"),
      [{ level: "error", path: join(adapters, "runaway"), reason: /whose largest value is 3\.4e\+38/ }],
    );
    const ask = (prefix_id: string): ReturnType<typeof server.json> =>
      server.json("/generate", { prompt: "i want to fly", prefix_id, max_new_tokens: 3 });
    t.equal((await ask("sound")).status, 200);
    t.match(await ask("runaway"), { status: 404, body: { code: "prefix_not_found" } });
    t.match(await ask("stored"), { status: 422, body: { code: "prefix_overflows" } });
    const put = await fetch(`${server.url}/prefixes/mine`, {
      method: "PUT",
      body: adapterForm(join(adapters, "runaway")),
    });
    t.match([put.status, await put.json()], [422, { code: "prefix_overflows", detail: /train it again/ }]);
    t.match(await ask("mine"), { status: 404 });
    const stored = await fetch(`${server.url}/prefixes/sound`, { method: "PUT", body: adapterForm("prefixes/intent") });
    t.equal(stored.status, 200);
    t.ok((await server.metric('prefixd_requests_total{outcome="prefix_overflows"}')) >= 1);
    t.notMatch(await (await fetch(`${server.url}/metrics`)).text(), /outcome="model_failed"\} [1-9]/);
  },
);
