/** Opens the base model: from `--model` to a runner on `--device`. */
import { join } from "node:path";
import type { Config } from "../config.ts";
import type { ModelRunner } from "../engine/runner.ts";
import { SupervisedRunner } from "../engine/supervised-runner.ts";
import { DeviceError, PrefixdError } from "../errors.ts";
import type { GenerationDefaults } from "../http/generate/defaults-schema.ts";
import { generationDefaults } from "../http/generate/defaults.ts";
import { openCheckpoint, type Checkpoint } from "../model/checkpoint.ts";
import { ensureGraph } from "../model/graph-cache.ts";
import { resolveModel } from "../model/hub.ts";
import { openRunner, type LocalRunner } from "../model/open-runner.ts";
import type { Logger } from "../observability/logging.ts";
import { baseModelName } from "../prefixes/base-name.ts";
import { CudaError } from "../runtime/cuda.ts";
import type { Device } from "../runtime/device.ts";
import { DEVICES } from "../runtime/devices.ts";
import { OrtError } from "../runtime/ort-api.ts";
import { Runtime } from "../runtime/session.ts";
import { loadChatTemplate, type ChatTemplate } from "../text/chat-template.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { Resources } from "./resources.ts";

export interface OpenModel {
  readonly name: string;
  readonly checkpoint: Checkpoint;
  readonly tokenizer: Tokenizer;
  readonly chat: ChatTemplate | null;
  readonly eosIds: readonly number[];
  /** Maximum choices per prompt: `--max-n`, capped by the batch size. */
  readonly maxN: number;
  /** Generation parameters of requests that do not set them. */
  readonly defaults: GenerationDefaults;
  readonly runtime: Runtime;
  /** The runner for the engine. */
  readonly runner: ModelRunner;
  /** The runner without its supervision, for statistics. */
  readonly local: LocalRunner;
  /** Resolves if the device is lost. */
  readonly deviceLost: Promise<PrefixdError>;
  /** Throws when the device is lost. */
  check(): void;
}

/** @throws ModelLoadError, DeviceError, PrecisionError, OrtError; `resources` then holds what was opened so far */
export async function openModel(config: Config, logger: Logger, resources: Resources): Promise<OpenModel> {
  const checkpoint = await openFiles(config, logger);
  resources.defer(() => checkpoint.close());
  const { shape } = checkpoint;
  const tokenizer = await loadTokenizer(checkpoint.dir, shape.vocabSize);
  warnOfTokensBeyond(tokenizer, logger);
  const chat = await loadChatTemplate(config.chatTemplate, checkpoint.dir, tokenizer.named);
  const maxN = Math.min(config.maxN, config.maxBatch);
  const defaults =
    config.generationConfig === "none"
      ? {}
      : generationDefaults(checkpoint.generation, { vocabSize: shape.vocabSize, maxN });
  if (Object.keys(defaults).length > 0)
    logger.info({ defaults }, "the model's generation_config.json gives defaults of requests");

  const device = DEVICES[config.device];
  const modelPath = await ensureGraph(checkpoint, join(config.cacheDir, "graphs"), config.precision, device);
  const runtime = new Runtime();
  resources.defer(() => runtime[Symbol.dispose]());
  const local = await openOnDevice(runtime, modelPath, checkpoint, device, config);
  warnOfDevice(local, device, config, logger);
  let lost: PrefixdError | null = null;
  let resolveLost: (error: PrefixdError) => void;
  const deviceLost = new Promise<PrefixdError>((resolve) => (resolveLost = resolve));
  const onLost = (error: PrefixdError): void => {
    lost = error;
    resolveLost(error);
  };
  const runner = device.hostMemory
    ? local
    : new SupervisedRunner(local, { timeoutMs: config.stepTimeout * 1000, onLost });
  resources.defer(() => runner.close());

  const { eosIds } = checkpoint.config;
  return {
    name: baseModelName(config.model) ?? "model",
    checkpoint,
    tokenizer,
    chat,
    eosIds: eosIds.length > 0 || tokenizer.eosId === null ? eosIds : [tokenizer.eosId],
    maxN,
    defaults,
    runtime,
    runner,
    local,
    deviceLost,
    check: () => {
      if (lost !== null) throw lost;
    },
  };
}

async function openFiles(config: Config, logger: Logger): Promise<Checkpoint> {
  const onFile = (name: string, bytes: number): void => logger.info({ file: name, bytes }, "downloading");
  const dir = await resolveModel(config.model, { cacheDir: config.cacheDir, onFile });
  return openCheckpoint(dir, { cacheDir: config.cacheDir });
}

/** @throws DeviceError (not on the CPU), OrtError, CudaError */
async function openOnDevice(
  runtime: Runtime,
  modelPath: string,
  { shape }: Checkpoint,
  device: Device,
  config: Config,
): Promise<LocalRunner> {
  const { maxBatch: slots, threads, spinTime, precision, prefixBankBytes: bankBytes } = config;
  const batchInvariant = config.batchInvariant === "on";
  const options = { modelPath, shape, slots, threads, spinTime, device, precision, bankBytes, batchInvariant };
  try {
    return await openRunner(runtime, options);
  } catch (error) {
    const reported = error instanceof PrefixdError ? error.cause : error;
    if (device.hostMemory || !(reported instanceof OrtError || reported instanceof CudaError)) throw error;
    throw new DeviceError(device.kind, reported.reason.replace(/[^.]$/, "$&."), { cause: error });
  }
}

/** Happens after transformers' `add_special_tokens({"pad_token": "[PAD]"})` without resizing the embeddings. */
function warnOfTokensBeyond({ beyondModel, vocabSize }: Tokenizer, logger: Logger): void {
  if (beyondModel.size === 0) return;
  const tokens = [...beyondModel].slice(0, 20).map(([id, token]) => ({ id, token }));
  logger.warn(
    { count: beyondModel.size, tokens, vocab_size: vocabSize },
    "the tokenizer has tokens that the model has no embedding for: prompts with one of them are refused",
  );
}

function warnOfDevice(
  runner: LocalRunner,
  { kind }: Device,
  { prefillChunk, precision }: Config,
  logger: Logger,
): void {
  if (kind === "webgpu" && runner.longestChunk < prefillChunk) {
    logger.warn(
      { tokens: runner.longestChunk },
      "the GPU computes attention wrongly over long chunks of prompt: prompts are fed in shorter chunks",
    );
  }
  if (kind === "webgpu" && runner.rowsChangeBits === true)
    logger.warn(
      { precision },
      "the GPU's kernels round differently beside other requests: an answer's last bits, and rarely its tokens, depend on the load",
    );
  for (const { size, reason } of runner.graphStats()?.eager ?? [])
    logger.warn(
      { size, reason },
      "this size of step could not be captured as one graph: it runs kernel by kernel, which is slower",
    );
}
