/** From a request, which is plain data, to a training that can run, and to files in the end. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { TrainingError } from "../errors.ts";
import { openCheckpoint, type Checkpoint } from "../model/checkpoint.ts";
import { resolveModel } from "../model/hub.ts";
import { TrainModel } from "../model/train-model.ts";
import { baseModelName } from "../prefixes/base-name.ts";
import { PROMPT_FILE, promptFile } from "../prefixes/hard-prompt.ts";
import { peftFiles } from "../prefixes/peft-files.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { beginOf, type InitialRequest } from "./begin.ts";
import { holdOut } from "./data/batches.ts";
import { readExamples, type Examples } from "./data/examples.ts";
import { defaultEvaluateEvery, defaultLearningRate, defaultSteps, defaultWarmup, stepsOf } from "./defaults.ts";
import { checkDevice, trainingDevice } from "../model/train-device.ts";
import { checkOptions, checkWarmup, graphKind, type TrainingOptions } from "./options.ts";
import { Training, type Selection } from "./training.ts";
import type { StateOrigin } from "./state.ts";
import { TriggerVocabulary, type Triggers } from "./triggers/vocabulary.ts";

/** Paths are absolute, so that a training can be resumed from anywhere. */
export interface TrainRequest extends InitialRequest {
  /** A folder or a Hugging Face id. */
  readonly model: string;
  readonly cacheDir: string;
  readonly data: string;
  /** Null: `holdOut` of the data. */
  readonly evalData: string | null;
  /** Share of the examples that are evaluated on, not trained; at most MOST_HELD. */
  readonly holdOut: number;
  /** Most tokens of an example, EOS included; null: as many as the model has positions for. */
  readonly maxTokens: number | null;
  readonly tooLong: "refuse" | "cut";
  readonly badLines: number;
  /** Instead of `options.steps`; null: not given. */
  readonly epochs: number | null;
  /** What is null follows from the rest. */
  readonly options: Omit<TrainingOptions, "steps" | "learningRate" | "warmup" | "evaluateEvery"> & {
    readonly steps: number | null;
    readonly learningRate: number | null;
    readonly warmup: number | null;
    readonly evaluateEvery: number | null;
  };
}

export interface JobEvents {
  readonly onFile?: (name: string, bytes: number) => void;
  readonly onBadLine?: (path: string, line: number, reason: string) => void;
  /** The root of the mean squared error with which the network begins as the given prefix. */
  readonly onFit?: (error: number) => void;
}

/** Evaluating more examples would take longer than it tells. */
const MOST_HELD = 200;
/** With fewer, the loss says nothing. */
const LEAST_HELD = 10;

export class Job implements AsyncDisposable {
  readonly training: Training;
  readonly origin: StateOrigin;
  /** Numbers of examples. */
  readonly counts: { readonly train: number; readonly held: number };
  readonly #request: TrainRequest;
  readonly #model: TrainModel;
  readonly #checkpoint: Checkpoint;
  readonly #vocabulary: TriggerVocabulary | null;

  /**
   * @param isNew false: the values will be restored from a state, so they need no beginning
   * @throws TrainingError, ModelLoadError, PrefixdError (the adapter to begin with), OrtError,
   * DeviceError, the system's errors
   */
  static async open(
    runtime: Parameters<typeof TrainModel.open>[0],
    request: TrainRequest,
    isNew: boolean,
    events: JobEvents = {},
  ): Promise<Job> {
    const dir = await resolveModel(request.model, {
      cacheDir: request.cacheDir,
      ...(events.onFile === undefined ? {} : { onFile: events.onFile }),
    });
    const checkpoint = await openCheckpoint(dir, { cacheDir: request.cacheDir });
    try {
      const tokenizer = await loadTokenizer(dir, checkpoint.shape.vocabSize);
      checkOptions(request.options, checkpoint.shape.positions);
      const data = await readData(request, checkpoint, tokenizer, events);
      const options = complete(request, data.train.indices.length);
      checkWarmup(options);
      const vocabulary =
        options.kind === "triggers"
          ? new TriggerVocabulary(tokenizer, checkpoint.config.eosIds, options.anyToken === true)
          : null;
      const parts = { checkpoint, tokenizer, vocabulary };
      const { deviceKind = "cpu" } = options;
      const begin = await beginOf(request, isNew, parts, options.virtualTokens, events.onFit);
      const model = await TrainModel.open(runtime, checkpoint, {
        ...options,
        kind: graphKind(options.kind),
        graphs: join(request.cacheDir, "graphs"),
        device: trainingDevice(deviceKind),
      });
      checkDevice(model.step, deviceKind);
      const learner = await begin(model, options);
      const training = new Training({ model: model.step, learner, ...data, options });
      return new Job(request, checkpoint, model, training, data, vocabulary);
    } catch (error) {
      await checkpoint.close();
      throw error;
    }
  }

  private constructor(
    request: TrainRequest,
    checkpoint: Checkpoint,
    model: TrainModel,
    training: Training,
    data: Data,
    vocabulary: TriggerVocabulary | null,
  ) {
    [this.#request, this.#checkpoint, this.#model, this.training] = [request, checkpoint, model, training];
    this.#vocabulary = vocabulary;
    this.counts = { train: data.train.indices.length, held: data.held?.indices.length ?? 0 };
    this.origin = { fingerprint: checkpoint.fingerprint, data: data.digest };
  }

  /** The triggers so far; null: another kind is trained. */
  triggers(): Triggers | null {
    const ids = this.training.triggers();
    return ids === null ? null : this.#vocabulary!.shown(ids);
  }

  /** The result so far, as files by name: PEFT's, or those of a hard prompt. */
  files(): ReadonlyMap<string, Uint8Array> {
    const { kind, virtualTokens, hidden } = this.training.options;
    if (kind === "triggers") {
      const { text, ids } = this.triggers()!;
      return new Map([[PROMPT_FILE, promptFile(Int32Array.from(ids), text ?? undefined)]]);
    }
    return peftFiles({
      kind,
      virtualTokens,
      hidden,
      values: this.training.result(),
      shape: this.#checkpoint.shape,
      baseName: baseModelName(this.#request.model),
      fingerprint: this.#checkpoint.fingerprint,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#model[Symbol.dispose]();
    await this.#checkpoint.close();
  }
}

interface Data {
  readonly train: Selection;
  readonly held: Selection | null;
  readonly digest: string;
}

async function readData(
  request: TrainRequest,
  { config, shape }: Checkpoint,
  tokenizer: Tokenizer,
  { onBadLine }: JobEvents,
): Promise<Data> {
  const eosId = config.eosIds[0] ?? tokenizer.eosId;
  if (eosId === null)
    throw new TrainingError("options_invalid", "The model has no end-of-text token, so completions cannot end.");
  // The last token is only predicted, so it needs no position.
  const fitting = shape.positions - request.options.virtualTokens + 1;
  const read = (path: string): Promise<Examples> =>
    readExamples(path, {
      tokenizer,
      eosId,
      maxTokens: Math.min(fitting, request.maxTokens ?? fitting),
      tooLong: request.tooLong,
      badLines: request.badLines,
      ...(onBadLine === undefined ? {} : { onBadLine: (line, reason) => onBadLine(path, line, reason) }),
    });
  const examples = await read(request.data);
  const others = request.evalData === null ? null : await read(request.evalData);
  const share = others === null ? Math.min(MOST_HELD, Math.floor(examples.count * request.holdOut)) : 0;
  const { held, rest } = holdOut(examples.count, share < LEAST_HELD ? 0 : share, request.options.seed);
  const evaluated =
    others === null ? { examples, indices: held } : { examples: others, indices: holdOut(others.count, 0, 0).rest };
  const digests = [examples.digest(), others?.digest() ?? null, held.length];
  return {
    train: { examples, indices: rest },
    held: evaluated.indices.length === 0 ? null : evaluated,
    digest: createHash("sha256").update(JSON.stringify(digests)).digest("hex"),
  };
}

function complete({ options, epochs }: TrainRequest, examples: number): TrainingOptions {
  const { batchSize, hidden } = options;
  const steps =
    epochs === null ? (options.steps ?? defaultSteps(examples, batchSize)) : stepsOf(epochs, examples, batchSize);
  return {
    ...options,
    steps,
    learningRate: options.learningRate ?? defaultLearningRate(hidden),
    warmup: options.warmup ?? defaultWarmup(steps),
    evaluateEvery: options.evaluateEvery ?? defaultEvaluateEvery(steps),
  };
}
