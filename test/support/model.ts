/** Real models for tests: checkpoint, graph, runner and engine in a temporary cache folder. */
import { mkdtemp, rm } from "node:fs/promises";
import { readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/engine.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import {
  DEFAULT_SAMPLING,
  type EngineRequest,
  type FinishReason,
  type RequestHandle,
  type SamplingParams,
  type TokenEvent,
} from "../../src/engine/request.ts";
import type { PrefixdError } from "../../src/errors.ts";
import { foldLength, type FoldInput, type KvTensor } from "../../src/kv.ts";
import { openCheckpoint, type Gpt2Config } from "../../src/model/checkpoint.ts";
import { openRunner, type LocalRunner } from "../../src/model/open-runner.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import type { Precision } from "../../src/model/graph-weights.ts";
import type { EngineObserver } from "../../src/observability/engine-observer.ts";
import { parsePeftAdapter } from "../../src/prefixes/peft.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import type { GoldenParameters } from "./golden-parameters.ts";

export const GREEDY: SamplingParams = { ...DEFAULT_SAMPLING, topK: 0 };

export const silentObserver: EngineObserver = {
  step() {},
  queued() {},
  firstToken() {},
  interToken() {},
  finished() {},
};

export interface TestModel {
  readonly config: Gpt2Config;
  readonly runner: LocalRunner;
  readonly engine: Engine;
  /** A PEFT folder as the server would compile it. */
  adapter(dir: string): Promise<KvTensor>;
  close(): Promise<void>;
}

export interface TestModelOptions {
  readonly slots?: number;
  readonly prefillChunk?: number;
  /** Default: the server's, so that a prompt's chunks depend on how long the others take. */
  readonly prefillShare?: number;
  readonly maxQueue?: number;
  readonly device?: Device;
  readonly precision?: Precision;
  readonly batchInvariant?: boolean;
}

export async function openTestModel(dir: string, options: TestModelOptions = {}): Promise<TestModel> {
  const cacheDir = await mkdtemp(join(tmpdir(), "prefixd-model-"));
  const checkpoint = await openCheckpoint(dir);
  const { device = DEVICES.cpu, precision = "fp32", batchInvariant = false } = options;
  const modelPath = await ensureGraph(checkpoint, cacheDir, precision, device);
  await checkpoint.close();
  const { config, shape, fingerprint } = checkpoint;
  const runtime = new Runtime();
  // ORT's threads would spin as long as a model is open: half of all processor time, while test files run in parallel.
  const runner = await openRunner(runtime, {
    modelPath,
    shape,
    slots: options.slots ?? 32,
    threads: 2,
    spinTime: 0,
    device,
    precision,
    bankBytes: 1 << 20,
    batchInvariant,
  });
  const engine = new Engine({
    runner,
    maxQueue: options.maxQueue ?? 10_000,
    prefillChunk: options.prefillChunk ?? 64,
    prefillShare: options.prefillShare ?? 0.35,
    observer: silentObserver,
  });
  return {
    config,
    runner,
    engine,
    async adapter(folder) {
      const read = (file: string): Uint8Array => readFileSync(join(folder, file));
      const parsed = parsePeftAdapter(
        read("adapter_config.json"),
        read("adapter_model.safetensors"),
        shape,
        fingerprint,
      );
      return "kv" in parsed ? parsed.kv : engine.fold(parsed.fold, { tenant: "test" });
    },
    async close() {
      await engine.drain(0);
      await runner.close();
      runtime[Symbol.dispose]();
      await rm(cacheDir, { recursive: true });
    },
  };
}

export interface ChoiceResult {
  readonly ids: number[];
  readonly logprobs: number[];
  readonly top: TokenEvent["top"][];
  reason: FinishReason | null;
  /** Of beam search. */
  score: number | null;
}

/** A soft or hard prompt's keys and values, of a runner that nothing else uses; `chunk`: positions fed at once, at most. */
export async function foldWith(runner: ModelRunner, input: FoldInput, chunk = runner.longestChunk): Promise<KvTensor> {
  const length = foldLength(input);
  for (let from = 0; from < length; from += chunk) await runner.fold(input, from, Math.min(length, from + chunk));
  return runner.read(runner.slots, length);
}

/** Whether a row is zeros at all positions. */
export async function isWiped(runner: ModelRunner, row: number): Promise<boolean> {
  return (await runner.read(row, runner.shape.positions)).data.every((value) => value === 0);
}

let requests = 0;

/** An EngineRequest with defaults: greedy, one choice, no EOS. */
export function engineRequest(given: Partial<EngineRequest> & Pick<EngineRequest, "promptIds">): EngineRequest {
  return {
    id: `test-${requests++}`,
    tenant: "test",
    prefix: null,
    n: 1,
    beams: null,
    beamStop: null,
    scorePrompt: false,
    maxNewTokens: 16,
    sampling: GREEDY,
    seed: 0,
    topLogprobs: 0,
    eosIds: [],
    ...given,
  };
}

/** Submits a request; `done` holds every choice's result once all have ended. `onToken` sees each token first. */
export function submit(
  engine: Engine,
  request: EngineRequest,
  onToken?: (event: TokenEvent, handle: () => RequestHandle) => void,
): { handle: RequestHandle; done: Promise<ChoiceResult[]> } {
  const choices: ChoiceResult[] = Array.from({ length: request.n }, () => ({
    ids: [],
    logprobs: [],
    top: [],
    reason: null,
    score: null,
  }));
  let open = request.n;
  let handle: RequestHandle | undefined;
  const done = new Promise<ChoiceResult[]>((resolve, reject) => {
    handle = engine.submit(request, {
      onToken(event) {
        const choice = choices[event.choice]!;
        choice.ids.push(event.id);
        choice.logprobs.push(event.logprob);
        choice.top.push(event.top);
        onToken?.(event, () => handle!);
        return "continue";
      },
      onFinish(choice, reason, score) {
        choices[choice]!.reason = reason;
        choices[choice]!.score = score ?? null;
        if (--open === 0) resolve(choices);
      },
      onError: (error: PrefixdError) => reject(error),
    });
  });
  return { handle: handle!, done };
}

/**
 * One case of test/golden/models/<model>/cases.json, processor-cases.json or combination-cases.json;
 * tools/reference/README.md describes the fields.
 */
export interface GoldenCase extends GoldenParameters {
  readonly id: string;
  readonly adapter: string | null;
  readonly hard_prompt_ids?: number[];
  readonly prompt_ids: number[];
  readonly max_new_tokens: number;
  readonly token_ids: number[];
  readonly finish_reason: string;
  readonly token_logprobs: number[];
  readonly margins: number[];
  readonly top_logprobs: [number, number][];
}

const GOLDEN = new URL("../golden/models/", import.meta.url).pathname;

export const goldenModels = (): string[] => readdirSync(GOLDEN);
export const goldenDir = (model: string): string => join(GOLDEN, model);

/** Cases without processors, with one kind, and with many. */
export function goldenCases(model: string): { eosId: number; cases: GoldenCase[] } {
  const files = ["cases.json", "processor-cases.json", "combination-cases.json"].map((file) => {
    return JSON.parse(readFileSync(join(GOLDEN, model, file), "utf8")) as { eos_token_id: number; cases: GoldenCase[] };
  });
  return { eosId: files[0]!.eos_token_id, cases: files.flatMap(({ cases }) => cases) };
}

/** Seeded uniform numbers in [0, 1), so that a failing mix can be repeated. */
export { seededRandom } from "../../src/load/random.ts";
