import Type, { type Static, type TSchema } from "typebox";
import { DEFAULT_BATCH, DEFAULT_EPOCHS, LEAST_STEPS, MOST_STEPS } from "../../training/defaults.ts";
import { named, strict } from "../common-schema.ts";
import { PAGE_ENDS, pageQuery } from "./files-schema.ts";

const { Optional } = Type;
const orAuto = (schema: TSchema, description: string) =>
  Optional(Type.Union([Type.Literal("auto"), schema], { description }));
const orNull = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

const STATES = ["validating_files", "queued", "running", "succeeded", "failed", "cancelled"] as const;
export const MAX_SUFFIX = 64;

const Hyperparameters = named(
  "FineTuningHyperparameters",
  strict(
    {
      n_epochs: orAuto(
        Type.Number({ exclusiveMinimum: 0, maximum: 1000 }),
        `Passes over the data; auto: n_steps decides, and without it ${DEFAULT_EPOCHS}, but at least ${LEAST_STEPS} and at most ${MOST_STEPS} steps`,
      ),
      batch_size: orAuto(Type.Integer({ minimum: 1, maximum: 256 }), `Examples per step; auto: ${DEFAULT_BATCH}`),
      learning_rate_multiplier: orAuto(
        Type.Number({ exclusiveMinimum: 0, maximum: 100 }),
        "Times the default learning rate: 0.1, with prefix_projection 0.003; auto: 1",
      ),
      n_steps: Optional(
        Type.Integer({
          minimum: 1,
          maximum: 1_000_000,
          description: "Steps, instead of n_epochs; the default of TRIGGERS is 100",
        }),
      ),
      peft_type: Optional(
        Type.Enum(["PREFIX_TUNING", "PROMPT_TUNING", "TRIGGERS"], {
          default: "PREFIX_TUNING",
          description:
            "Keys and values of every layer; embeddings only; or, which PEFT does not have, tokens that are searched for and become a hard prompt",
        }),
      ),
      num_virtual_tokens: Optional(
        Type.Integer({
          minimum: 1,
          maximum: 100_000,
          default: 10,
          description: "Length of the prefix; the default of TRIGGERS is 5",
        }),
      ),
      num_candidates: Optional(
        Type.Integer({ minimum: 1, maximum: 1000, default: 20, description: "TRIGGERS: tokens that a step tries" }),
      ),
      prefix_projection: Optional(
        Type.Boolean({ default: false, description: "Train through a network, which is dropped at the end" }),
      ),
      encoder_hidden_size: Optional(
        Type.Integer({ minimum: 1, maximum: 4096, default: 512, description: "Its width" }),
      ),
      init_text: Optional(
        Type.String({
          minLength: 1,
          maxLength: 10_000,
          description:
            "Begin as the model reads this text; without it, as random tokens, with `prefix_projection` as random weights",
        }),
      ),
    },
    {
      description:
        "OpenAI's, then PEFT's by PEFT's names. What is not here is as in `prefixd train`. Within `method`, or beside it as OpenAI's older clients have it.",
    },
  ),
);
export type Hyperparameters = Static<typeof Hyperparameters>;

export const CreateJobBody = named(
  "CreateFineTuningJob",
  strict(
    {
      model: Type.String({ description: "The base model, by the name that `GET /v1/models` shows" }),
      training_file: Type.String({ maxLength: 64, description: "Id of an uploaded file" }),
      validation_file: Optional(
        Type.String({ maxLength: 64, description: "Id of a file to evaluate on; default: 5 % of the training file" }),
      ),
      suffix: Optional(
        Type.String({
          minLength: 1,
          maxLength: MAX_SUFFIX,
          description: "Becomes part of the prefix's name: ft-SUFFIX- and eight random characters",
        }),
      ),
      prefix_id: Optional(
        Type.String({
          description:
            "Instead: the whole name of the prefix. One of that name is replaced when the job has succeeded.",
        }),
      ),
      seed: Optional(
        Type.Integer({
          minimum: 0,
          maximum: 2 ** 31 - 1,
          default: 1,
          description: "The same seed trains the same prefix",
        }),
      ),
      metadata: Optional(
        Type.Record(Type.String({ maxLength: 64 }), Type.String({ maxLength: 512 }), {
          maxProperties: 16,
          description: "Kept with the job",
        }),
      ),
      method: Optional(
        strict(
          {
            type: Type.Literal("supervised"),
            supervised: Optional(strict({ hyperparameters: Optional(Hyperparameters) })),
          },
          { description: "How to train" },
        ),
      ),
      hyperparameters: Optional(Hyperparameters),
    },
    {
      description: "OpenAI's request. null for an optional field means that it is absent. Unknown fields are refused.",
      examples: [{ model: "gpt2", training_file: "file-019b0d2f8c003f7a6c51e2d4", suffix: "dates" }],
    },
  ),
);
export type CreateJobBody = Static<typeof CreateJobBody>;

/** OpenAI's; there are none here. */
const Integration = strict({ type: Type.Literal("wandb"), wandb: strict({ project: Type.String() }) });

export const FineTuningJob = named(
  "FineTuningJob",
  strict(
    {
      id: Type.String(),
      object: Type.Literal("fine_tuning.job"),
      created_at: Type.Integer({ description: "Unix time in seconds, as all of them" }),
      finished_at: orNull(Type.Integer()),
      estimated_finish: Type.Null(),
      error: orNull(
        strict(
          { code: Type.String(), message: Type.String(), param: orNull(Type.String()) },
          { description: "Why it failed" },
        ),
      ),
      fine_tuned_model: orNull(
        Type.String({ description: "The prefix, for `model` in requests; null until it can be used" }),
      ),
      hyperparameters: Hyperparameters,
      method: strict({ type: Type.Literal("supervised"), supervised: strict({ hyperparameters: Hyperparameters }) }),
      model: Type.String({ description: "The base model" }),
      organization_id: Type.String({ description: "The user" }),
      prefix_id: Type.String({
        description: "The prefix that it becomes, also before it has succeeded; our own field",
      }),
      result_files: Type.Array(Type.String(), { description: "Always empty: the events have the losses" }),
      seed: Type.Integer(),
      status: Type.Enum([...STATES], {
        description:
          "queued, then validating_files, then running; queued again where the server was restarted, or the day's tokens are used up",
      }),
      trained_tokens: orNull(Type.Integer({ description: "Null until it has ended" })),
      training_file: Type.String(),
      validation_file: orNull(Type.String()),
      integrations: Type.Array(Integration, { maxItems: 0, description: "Always empty" }),
      metadata: orNull(Type.Record(Type.String(), Type.String())),
      triggers: orNull(
        strict(
          {
            text: orNull(Type.String({ description: "As it can be typed; null: it is read as other tokens" })),
            token_ids: Type.Array(Type.Integer()),
          },
          {
            description:
              "Of TRIGGERS, those of the best evaluation so far, in the end the result; null: none yet, or another peft_type. Our own field",
          },
        ),
      ),
    },
    { description: "A training job, as OpenAI's API has it" },
  ),
);
export type FineTuningJob = Static<typeof FineTuningJob>;

export const FineTuningEvent = named(
  "FineTuningJobEvent",
  strict({
    id: Type.String(),
    object: Type.Literal("fine_tuning.job.event"),
    created_at: Type.Integer(),
    level: Type.Enum(["info", "warn", "error"]),
    message: Type.String(),
    type: Type.Enum(["message", "metrics"]),
    data: Type.Record(Type.String(), Type.Unknown(), {
      description: "Of metrics: step, losses, accuracy; else empty",
    }),
  }),
);
export type FineTuningEvent = Static<typeof FineTuningEvent>;

export const FineTuningCheckpoint = named(
  "FineTuningJobCheckpoint",
  strict({
    id: Type.String(),
    object: Type.Literal("fine_tuning.job.checkpoint"),
    created_at: Type.Integer(),
    fine_tuned_model_checkpoint: Type.String({ description: "A prefix with the best values until then" }),
    fine_tuning_job_id: Type.String(),
    metrics: strict({
      step: Type.Integer(),
      full_valid_loss: Type.Number({ description: "Mean of the held-out examples' tokens, in nats" }),
      full_valid_mean_token_accuracy: Type.Number({ description: "Share of them that are the likeliest token" }),
    }),
    step_number: Type.Integer(),
  }),
);
export type FineTuningCheckpoint = Static<typeof FineTuningCheckpoint>;

const listOfSchema = (title: string, item: TSchema, ends = {}) =>
  named(title, strict({ object: Type.Literal("list"), data: Type.Array(item), ...ends, has_more: Type.Boolean() }));
export const FineTuningJobs = listOfSchema("FineTuningJobs", FineTuningJob);
export const FineTuningEvents = listOfSchema("FineTuningJobEvents", FineTuningEvent);
export const FineTuningCheckpoints = listOfSchema("FineTuningJobCheckpoints", FineTuningCheckpoint, PAGE_ENDS);

export const JobParams = Type.Object({ job: Type.String({ description: "The job's id" }) });
export const JobsQuery = strict(pageQuery("Jobs"));
export const EventsQuery = strict({
  ...pageQuery("Events"),
  stream: Optional(
    Type.Enum(["true", "false"], {
      default: "false",
      description: "true: events as they happen, the oldest first, after `after`, until the job has ended; no `limit`",
    }),
  ),
});
export const CheckpointsQuery = strict(pageQuery("Checkpoints"));

export const JOB_EXAMPLE: FineTuningJob = {
  id: "ftjob-019b0d2f9c403f7a6c51e2d4",
  object: "fine_tuning.job",
  created_at: 1767225600,
  finished_at: 1767225900,
  estimated_finish: null,
  error: null,
  fine_tuned_model: "ft-dates-3f7a6c51",
  hyperparameters: { n_epochs: "auto", batch_size: 8, learning_rate_multiplier: 1, n_steps: 1000 },
  method: {
    type: "supervised",
    supervised: { hyperparameters: { n_epochs: "auto", batch_size: 8, learning_rate_multiplier: 1, n_steps: 1000 } },
  },
  model: "gpt2",
  organization_id: "ann",
  prefix_id: "ft-dates-3f7a6c51",
  result_files: [],
  seed: 1,
  status: "succeeded",
  trained_tokens: 120_000,
  training_file: "file-019b0d2f8c003f7a6c51e2d4",
  validation_file: null,
  integrations: [],
  metadata: null,
  triggers: null,
};
