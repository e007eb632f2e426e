/** Between OpenAI's fine-tuning documents and our jobs. */
import { PrefixdError } from "../../errors.ts";
import { DEFAULT_BATCH } from "../../training/defaults.ts";
import type { JobOrder } from "../../training/jobs/service.ts";
import {
  isEnded,
  TRIGGERS,
  type JobCheckpoint,
  type JobEvent,
  type JobSettings,
  type TrainingJob,
} from "../../training/jobs/types.ts";
import type {
  CreateJobBody,
  FineTuningCheckpoint,
  FineTuningEvent,
  FineTuningJob,
  Hyperparameters,
} from "./fine-tuning-schema.ts";

const KINDS = { PREFIX_TUNING: "prefix", PROMPT_TUNING: "prompt", TRIGGERS: "triggers" } as const;
const PEFT_TYPES = { prefix: "PREFIX_TUNING", prompt: "PROMPT_TUNING", triggers: "TRIGGERS" } as const;
const DEFAULTS = { batchSize: DEFAULT_BATCH, virtualTokens: 10, hidden: 512, seed: 1 };

/**
 * @param context the base model's name and positions
 * @throws PrefixdError invalid_parameter, unsupported_parameter
 */
export function parseJob(body: CreateJobBody, context: { modelName: string; positions: number }): JobOrder {
  const { model, training_file, validation_file = null, suffix = null, prefix_id = null, metadata = null } = body;
  if (model !== context.modelName)
    throw invalid(
      "model",
      `model must be the base model, ${JSON.stringify(context.modelName)}: only it is trained for.`,
    );
  if (suffix !== null && prefix_id !== null) throw invalid("prefix_id", "Send either suffix or prefix_id.");
  if (body.hyperparameters !== undefined && body.method !== undefined)
    throw invalid("hyperparameters", "Send the hyperparameters within method, and not beside it as well.");
  const hyperparameters = body.method?.supervised?.hyperparameters ?? body.hyperparameters ?? {};
  return {
    trainingFile: training_file,
    validationFile: validation_file,
    name: prefix_id,
    suffix,
    metadata,
    settings: settingsOf(hyperparameters, body.seed ?? DEFAULTS.seed, context.positions),
  };
}

function settingsOf(given: Hyperparameters, seed: number, positions: number): JobSettings {
  const kind = KINDS[given.peft_type ?? "PREFIX_TUNING"];
  const isSearch = kind === "triggers";
  const virtualTokens = given.num_virtual_tokens ?? (isSearch ? TRIGGERS.tokens : DEFAULTS.virtualTokens);
  const network = given.prefix_projection === true;
  if (virtualTokens >= positions - 1)
    throw invalid(
      "num_virtual_tokens",
      `num_virtual_tokens must leave room for examples: the model has ${positions} positions.`,
    );
  if (isSearch && typeof given.learning_rate_multiplier === "number")
    throw invalid("learning_rate_multiplier", "TRIGGERS are searched for, without a learning rate.");
  if (!isSearch && given.num_candidates !== undefined)
    throw invalid("num_candidates", "num_candidates is for TRIGGERS.");
  if (network && kind !== "prefix") throw invalid("prefix_projection", "prefix_projection is for PREFIX_TUNING.");
  if (!network && given.encoder_hidden_size !== undefined)
    throw invalid("encoder_hidden_size", "encoder_hidden_size is for prefix_projection true.");
  const epochs = numberOr(given.n_epochs, null);
  if (epochs !== null && given.n_steps !== undefined) throw invalid("n_steps", "Send either n_epochs or n_steps.");
  return {
    kind,
    virtualTokens,
    hidden: network ? (given.encoder_hidden_size ?? DEFAULTS.hidden) : null,
    batchSize: numberOr(given.batch_size, DEFAULTS.batchSize),
    ...(isSearch ? { candidates: given.num_candidates ?? TRIGGERS.candidates } : {}),
    steps: given.n_steps ?? (isSearch ? TRIGGERS.steps : null),
    epochs,
    rateFactor: numberOr(given.learning_rate_multiplier, 1),
    initText: given.init_text ?? null,
    seed,
  };
}

const numberOr = <T>(given: unknown, otherwise: T): number | T => (typeof given === "number" ? given : otherwise);

function hyperparametersOf({
  kind,
  virtualTokens,
  hidden,
  batchSize,
  steps,
  epochs,
  rateFactor,
  initText,
  candidates,
}: JobSettings): Hyperparameters {
  return {
    n_epochs: epochs ?? "auto",
    batch_size: batchSize,
    ...(candidates === undefined ? { learning_rate_multiplier: rateFactor } : { num_candidates: candidates }),
    ...(epochs === null && steps !== null ? { n_steps: steps } : {}),
    peft_type: PEFT_TYPES[kind],
    num_virtual_tokens: virtualTokens,
    prefix_projection: hidden !== null,
    ...(hidden === null ? {} : { encoder_hidden_size: hidden }),
    ...(initText === null ? {} : { init_text: initText }),
  };
}

export function jobDocument(job: TrainingJob, modelName: string): FineTuningJob {
  const hyperparameters = hyperparametersOf(job.settings);
  return {
    id: job.id,
    object: "fine_tuning.job",
    created_at: seconds(job.createdAt),
    finished_at: job.finishedAt === null ? null : seconds(job.finishedAt),
    estimated_finish: null,
    error: job.error,
    fine_tuned_model: job.status === "succeeded" ? job.name : null,
    hyperparameters,
    method: { type: "supervised", supervised: { hyperparameters } },
    model: modelName,
    organization_id: job.user,
    prefix_id: job.name,
    result_files: [],
    seed: job.settings.seed,
    status: job.status,
    trained_tokens: isEnded(job) ? job.tokens : null,
    training_file: job.trainingFile,
    validation_file: job.validationFile,
    integrations: [],
    metadata: job.metadata === null ? null : { ...job.metadata },
    triggers: job.triggers === undefined ? null : { text: job.triggers.text, token_ids: [...job.triggers.ids] },
  };
}

export function eventDocument({ id, createdAt, level, message, data }: JobEvent): FineTuningEvent {
  return {
    id,
    object: "fine_tuning.job.event",
    created_at: seconds(createdAt),
    level,
    message,
    type: data === null ? "message" : "metrics",
    data: { ...data },
  };
}

export function checkpointDocument(job: string, checkpoint: JobCheckpoint): FineTuningCheckpoint {
  const { id, createdAt, step, name, loss, accuracy } = checkpoint;
  return {
    id,
    object: "fine_tuning.job.checkpoint",
    created_at: seconds(createdAt),
    fine_tuned_model_checkpoint: name,
    fine_tuning_job_id: job,
    metrics: { step, full_valid_loss: loss, full_valid_mean_token_accuracy: accuracy },
    step_number: step,
  };
}

const seconds = (milliseconds: number): number => Math.floor(milliseconds / 1000);

const invalid = (field: string, what: string): PrefixdError => new PrefixdError("invalid_parameter", what, { field });
