/** Every setting: what it is called, takes and means. */
import Type from "typebox";
import { DATA_SETTINGS } from "./config-data.ts";
import { OPERATION_SETTINGS } from "./config-operation.ts";
import { REDIS_SETTINGS } from "./config-redis.ts";
import { STRUCTURED_SETTINGS } from "./config-structured.ts";
import { TRAINING_SETTINGS } from "./config-training.ts";
import { WATCH_SETTINGS } from "./config-watch.ts";

/** Microseconds: longer than the gaps within and between decode steps. */
export const DEFAULT_SPIN_TIME = 1000;

/**
 * The single description of all settings. Flags (`--max-batch`), variables (`PREFIXD_MAX_BATCH`), `--help` and
 * docs/reference/configuration.md derive from it. Keywords beyond JSON Schema: `arg` names the value in the help text,
 * `shown` is the default as displayed, `unit: "bytes"` accepts sizes such as 512MiB.
 */
export const ConfigSchema = Type.Object({
  model: Type.String({
    minLength: 1,
    arg: "DIR|ORG/NAME",
    shown: "models/demo of the package",
    description: "Hugging Face folder of the base model, or an id on the hub to download",
  }),
  generationConfig: Type.Enum(["model", "none"], {
    default: "model",
    description:
      "Whether the model's generation_config.json sets defaults for requests, as in transformers; none: use only its EOS ids",
  }),
  chatTemplate: Type.String({
    arg: "FILE",
    default: "",
    shown: "the model's own, if it has one",
    description: "Jinja template that makes prompts of chats (/v1/chat/completions), as in transformers; none: no chat",
  }),
  store: Type.String({
    arg: "URL",
    default: "lmdb:./data",
    description:
      "Where prefixes and users are stored: lmdb:DIR, redis://HOST:PORT/DB (with ?cluster=true a Cluster, with ?sentinel=NAME Sentinels; several hosts by commas), rediss:// (TLS) or unix:///PATH?db=DB",
  }),
  ...REDIS_SETTINGS,
  prefixes: Type.String({
    arg: "DIR",
    default: "",
    shown: "none",
    description:
      "Directory whose sub-directories are PEFT adapters; at start, those new or changed are registered under their names",
  }),
  requireBaseName: Type.Boolean({
    default: false,
    description: "Refuse adapters whose base_model_name_or_path names another model, instead of warning",
  }),
  host: Type.String({
    minLength: 1,
    arg: "ADDR",
    default: "127.0.0.1",
    description: "Address to listen on; without an admin key only loopback",
  }),
  port: Type.Integer({
    minimum: 0,
    maximum: 65535,
    arg: "N",
    default: 8080,
    description: "Port to listen on; 0 picks a free one",
  }),
  corsOrigins: Type.String({
    arg: "ORIGIN,...",
    default: "",
    shown: "none",
    description: "Origins, such as https://app.example, whose web pages may use the API with a key that they have",
  }),
  device: Type.Enum(["cpu", "webgpu", "cuda"], { default: "cpu", description: "Where the model runs" }),
  precision: Type.Enum(["auto", "fp32", "int8", "fp16"], {
    default: "auto",
    description:
      "Arithmetic of the model: cpu takes fp32 (what Hugging Face computes) or int8 (faster and close to it), webgpu fp32 or fp16, cuda fp16; auto: the device's first",
  }),
  threads: Type.Integer({
    minimum: 0,
    maximum: 1024,
    arg: "N",
    default: 0,
    shown: "0 (all cores the container may use)",
    description: "Threads of the model",
  }),
  spinTime: Type.Integer({
    minimum: 0,
    maximum: 1_000_000,
    arg: "MICROSECONDS",
    default: DEFAULT_SPIN_TIME,
    description:
      "How long an idle thread of the model spins before it sleeps; use less, such as 100, where other processes want the same cores",
  }),
  maxBatch: Type.Integer({
    minimum: 1,
    maximum: 1024,
    arg: "N",
    default: 32,
    description: "Sequences that run concurrently: rows of the KV cache",
  }),
  maxQueue: Type.Integer({
    minimum: 0,
    maximum: 1_000_000,
    arg: "N",
    default: 256,
    description: "Requests that may wait, shared among users by weight; more get 429",
  }),
  queueTimeout: Type.Number({
    minimum: 0,
    maximum: 86_400,
    arg: "SECONDS",
    default: 0,
    shown: "0 (no limit)",
    description: "How long a request may wait before it gets 503",
  }),
  maxN: Type.Integer({
    minimum: 1,
    maximum: 1024,
    arg: "N",
    default: 8,
    description: "Largest n, best_of or num_beams of a request (rows per prompt); never more than max-batch",
  }),
  prefillChunk: Type.Integer({
    minimum: 1,
    maximum: 1_000_000,
    arg: "N",
    shown: "64, on cuda 512",
    description: "Maximum prompt tokens per step",
  }),
  prefillShare: Type.Number({
    minimum: 0.01,
    maximum: 1,
    arg: "PART",
    default: 0.4,
    description:
      "Share of a step's time for prompts while others decode: limits how much a long prompt delays them; 1: no limit",
  }),
  cacheDir: Type.String({
    minLength: 1,
    arg: "DIR",
    shown: "$XDG_CACHE_HOME/prefixd or ~/.cache/prefixd",
    description: "Where built model graphs are kept",
  }),
  prefixBankBytes: Type.Integer({
    minimum: 0,
    unit: "bytes",
    arg: "SIZE",
    default: 128 * 1024 ** 2,
    shown: "128MiB",
    description: "Device memory for hot prefixes; at least one slot's worth is allocated. Not used on the CPU",
  }),
  batchInvariant: Type.Enum(["on", "off"], {
    default: "off",
    description:
      "Whether no bit of an answer may depend on what else runs, as always on the CPU. On cuda steps then have max-batch rows and prompts run one by one; on webgpu the start fails where the GPU cannot do it",
  }),
  stepTimeout: Type.Number({
    minimum: 1,
    maximum: 86_400,
    arg: "SECONDS",
    default: 120,
    description: "A device that does not answer for this long counts as lost, and the server ends. Not used on the CPU",
  }),
  prefixCacheBytes: Type.Integer({
    minimum: 0,
    unit: "bytes",
    arg: "SIZE",
    default: 512 * 1024 ** 2,
    shown: "512MiB",
    description: "Memory for compiled prefixes",
  }),
  allowBaseModel: Type.Boolean({
    default: true,
    description: "Serve requests without a prefix with the bare base model",
  }),
  requestBodyLimit: Type.Integer({
    minimum: 1024,
    maximum: 1024 ** 3,
    unit: "bytes",
    arg: "SIZE",
    default: 1024 ** 2,
    shown: "1MiB",
    description: "Largest JSON body; the model's shape limits uploads",
  }),
  answerLimit: Type.Integer({
    minimum: 1024,
    maximum: 1024 ** 4,
    unit: "bytes",
    arg: "SIZE",
    default: 128 * 1024 ** 2,
    shown: "128MiB",
    description:
      "Largest answer a generate request may ask for, estimated as if each token were the vocabulary's longest; beyond it: 422",
  }),
  ...STRUCTURED_SETTINGS,
  ...TRAINING_SETTINGS,
  ...WATCH_SETTINGS,
  ...DATA_SETTINGS,
  maxConnections: Type.Integer({
    minimum: 0,
    maximum: 1_000_000,
    arg: "N",
    default: 0,
    shown: "0 (what ulimit -n allows)",
    description: "Maximum open connections; further ones are closed at once",
  }),
  headerTimeout: Type.Number({
    minimum: 0.1,
    maximum: 86_400,
    arg: "SECONDS",
    default: 20,
    description: "Time limit for a request's headers",
  }),
  requestTimeout: Type.Number({
    minimum: 0.1,
    maximum: 86_400,
    arg: "SECONDS",
    default: 300,
    description: "Time limit for a whole request to arrive, including the time an upload waits for its turn",
  }),
  receiveTimeout: Type.Number({
    minimum: 0.1,
    maximum: 86_400,
    arg: "SECONDS",
    default: 10,
    description:
      "A body of which nothing arrives for this long, or less than 4 KiB a second on average, is abandoned (408)",
  }),
  sendTimeout: Type.Number({
    minimum: 0.1,
    maximum: 86_400,
    arg: "SECONDS",
    default: 30,
    description: "A client that reads nothing of an answer or a stream for this long is cut off",
  }),
  keepAliveTimeout: Type.Number({
    minimum: 0.1,
    maximum: 86_400,
    arg: "SECONDS",
    default: 72,
    description: "How long an idle connection stays open; must be longer than the load balancer's limit",
  }),
  streamBuffer: Type.Integer({
    minimum: 1024,
    maximum: 1024 ** 3,
    unit: "bytes",
    arg: "SIZE",
    default: 256 * 1024,
    shown: "256KiB",
    description:
      "How much of a stream may wait for a slow reader, beyond the system's own buffers; then the reader is cut off",
  }),
  console: Type.Enum(["on", "off"], {
    default: "on",
    description: "Whether the console, a web page for users and operators, is served at /console",
  }),
  ...OPERATION_SETTINGS,
  drainDelay: Type.Number({
    minimum: 0,
    maximum: 86_400,
    arg: "SECONDS",
    default: 0,
    description:
      "How long the server goes on serving after a stop signal, no longer ready, so that load balancers notice",
  }),
  drainTimeout: Type.Number({
    minimum: 0,
    maximum: 86_400,
    arg: "SECONDS",
    default: 30,
    description: "How long running requests may then take to finish",
  }),
  logLevel: Type.Enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"], {
    default: "info",
    description: "Lowest level to log",
  }),
  logFormat: Type.Enum(["auto", "json", "pretty"], {
    default: "auto",
    description: "How lines are logged: auto is pretty on a terminal, and JSON elsewhere",
  }),
});

/** Precisions each device accepts, the default first. */
export const DEVICE_PRECISIONS = { cpu: ["fp32", "int8"], webgpu: ["fp32", "fp16"], cuda: ["fp16"] } as const;
