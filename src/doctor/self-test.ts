/** Runs the built-in tiny model on a device, with several prefixes at once, and compares with what PEFT generated. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../engine/engine.ts";
import { DEFAULT_SAMPLING } from "../engine/request.ts";
import type { EngineRequest, FinishReason } from "../engine/request.ts";
import type { FoldInput, KvTensor } from "../kv.ts";
import { openCheckpoint, type Checkpoint } from "../model/checkpoint.ts";
import { openRunner, type LocalRunner } from "../model/open-runner.ts";
import { ensureGraph } from "../model/graph-cache.ts";
import type { Precision } from "../model/graph-weights.ts";
import { readAdapterFolder } from "../prefixes/folder.ts";
import { parsePeftAdapter } from "../prefixes/peft.ts";
import type { DeviceKind } from "../runtime/device.ts";
import { DEVICES } from "../runtime/devices.ts";
import { Runtime } from "../runtime/session.ts";
import { compare, type Comparison, type ExpectedCase, type GeneratedCase } from "./compare.ts";

export interface SelfTestOptions {
  readonly device: DeviceKind;
  readonly precision: Precision;
  /** Laid out as models/selftest. */
  readonly folder: string;
}

/** Fewer than the requests, so rows join, leave and move while others run. */
const SLOTS = 4;
/** Shorter than most prompts, so that they are fed in chunks. */
const PREFILL_CHUNK = 8;
const BANK_BYTES = 1 << 20;

/**
 * @throws OrtError when the device cannot be used, PrecisionError when its arithmetic is not exact, PrefixdError when a
 * run fails; file system errors
 */
export async function selfTest({ device, precision, folder }: SelfTestOptions): Promise<Comparison> {
  const cacheDir = await mkdtemp(join(tmpdir(), "prefixd-doctor-"));
  try {
    const checkpoint = await openCheckpoint(folder);
    try {
      const modelPath = await ensureGraph(checkpoint, cacheDir, precision, DEVICES[device]);
      using runtime = new Runtime();
      const { shape } = checkpoint;
      const runner = await openRunner(runtime, {
        modelPath,
        shape,
        slots: SLOTS,
        threads: 0,
        device: DEVICES[device],
        precision,
        bankBytes: BANK_BYTES,
      });
      try {
        return await serve(runner, checkpoint, folder, precision);
      } finally {
        await runner.close();
      }
    } finally {
      await checkpoint.close();
    }
  } finally {
    await rm(cacheDir, { recursive: true });
  }
}

async function serve(
  runner: LocalRunner,
  checkpoint: Checkpoint,
  folder: string,
  precision: Precision,
): Promise<Comparison> {
  const observer = { step() {}, queued() {}, firstToken() {}, interToken() {}, finished() {} };
  const engine = new Engine({ runner, maxQueue: 1024, prefillChunk: PREFILL_CHUNK, observer });
  const { eos_token_id, cases } = JSON.parse(await readFile(join(folder, "expected.json"), "utf8")) as {
    eos_token_id: number;
    cases: ExpectedCase[];
  };
  const prefixes = new Map<string, KvTensor>();
  for (const { adapter } of cases) {
    if (adapter !== null && !prefixes.has(adapter))
      prefixes.set(
        adapter,
        await compile(join(folder, "adapters", adapter), checkpoint, (input) =>
          engine.fold(input, { tenant: "doctor" }),
        ),
      );
  }
  const generated = await Promise.all(
    cases.map((item) =>
      generate(engine, {
        id: item.id,
        tenant: "doctor",
        promptIds: Int32Array.from(item.prompt_ids),
        prefix: item.adapter === null ? null : prefixes.get(item.adapter)!,
        n: 1,
        beams: null,
        beamStop: null,
        scorePrompt: false,
        maxNewTokens: item.max_new_tokens,
        sampling: DEFAULT_SAMPLING,
        seed: 0,
        topLogprobs: 0,
        eosIds: [eos_token_id],
      }),
    ),
  );
  await engine.drain(0);
  return compare(cases, generated, precision);
}

async function compile(
  dir: string,
  { shape, fingerprint }: Checkpoint,
  fold: (input: FoldInput) => Promise<KvTensor>,
): Promise<KvTensor> {
  const { config, weights } = await readAdapterFolder(dir);
  const adapter = parsePeftAdapter(config, weights, shape, fingerprint);
  return "kv" in adapter ? adapter.kv : fold(adapter.fold);
}

function generate(engine: Engine, request: EngineRequest): Promise<GeneratedCase> {
  const ids: number[] = [];
  const logprobs: number[] = [];
  return new Promise((resolve, reject) => {
    engine.submit(request, {
      onToken(event) {
        ids.push(event.id);
        logprobs.push(event.logprob);
        return "continue";
      },
      onFinish: (_, reason: FinishReason) => resolve({ ids, logprobs, reason }),
      onError: reject,
    });
  });
}
