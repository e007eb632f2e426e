import { randomInt, randomUUID } from "node:crypto";
import { PrefixdError } from "../../errors.ts";
import {
  DEFAULT_NEW_TOKENS,
  DEFAULT_SAMPLING,
  type AnswerLength,
  type ValidGenerateRequest,
} from "../../generation/service.ts";
import type { PrefixKey } from "../../prefixes/store.ts";
import { checkCombinations, isSampled, withDefaults, type GenerateFields } from "./combinations.ts";
import { parsePrefixId } from "../prefixes/id.ts";
import { OWN_DIALECT, type Dialect } from "./dialect.ts";
import type { PromptReader } from "./prompts.ts";
import type { GenerateBody } from "./schema.ts";
import type { GenerationDefaults } from "./defaults-schema.ts";
import { constraintOf } from "./structured-outputs.ts";

/** How the response looks; irrelevant to the engine. */
export interface ResponseOptions {
  readonly stream: boolean;
  readonly returnTokenIds: boolean;
  readonly timings: boolean;
}

/** What a request is read with, besides its body. */
export interface ParseContext {
  /** The sender. */
  readonly user: string;
  /** null: the bare base model. */
  readonly prefix: PrefixKey | null;
  readonly reader: PromptReader;
  /** Maximum rows per prompt: beams, or choices including those that best_of drops. */
  readonly maxN: number;
  readonly defaults: GenerationDefaults;
  readonly dialect?: Dialect;
}

/**
 * Parses a body that fits its schema: fills in defaults (those given, else transformers'), and checks what no schema
 * can express.
 */
export async function parseGenerate(
  given: GenerateBody,
  { user, prefix, reader, maxN, defaults, dialect = OWN_DIALECT }: ParseContext,
): Promise<{ request: ValidGenerateRequest; response: ResponseOptions }> {
  const body = withDefaults(given, defaults);
  checkCombinations(given, defaults, maxN, dialect);
  const n = body.n ?? 1;
  const stream = body.stream ?? false;
  const request: ValidGenerateRequest = {
    id: `${dialect.idPrefix}-${randomUUID()}`,
    user,
    prefix,
    prompts: await readPrompts(body, reader, dialect),
    n,
    bestOf: body.best_of !== undefined && body.best_of > n ? body.best_of : null,
    beams:
      (body.num_beams ?? 1) === 1
        ? null
        : {
            numBeams: body.num_beams ?? 1,
            lengthPenalty: body.length_penalty ?? 1,
            earlyStopping: body.early_stopping ?? false,
          },
    echo: body.echo ?? false,
    ...lengthOf(body, given),
    sampling: await readSampling(body, reader),
    seed: body.seed ?? randomInt(2 ** 32),
    logprobs: body.logprobs ?? null,
    stop: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
    stopTokenIds: reader.tokenIds(body.stop_token_ids ?? [], "stop_token_ids"),
    ignoreEos: body.ignore_eos ?? false,
    constraint: constraintOf(body.structured_outputs),
  };
  const { return_token_ids: returnTokenIds = stream, timings = false } = body;
  return { request, response: { stream, returnTokenIds, timings } };
}

/** The answers' length; defaults that do not fit are lowered. */
function lengthOf(body: GenerateFields, given: GenerateBody): AnswerLength {
  return {
    maxNewTokens: body.max_new_tokens ?? DEFAULT_NEW_TOKENS,
    maxLength: body.max_length ?? null,
    minLength: body.min_length ?? null,
    cutTo: given.max_new_tokens === undefined ? Math.max(1, given.min_new_tokens ?? 0) : null,
  };
}

async function readSampling(body: GenerateFields, reader: PromptReader): Promise<ValidGenerateRequest["sampling"]> {
  const byDefault = DEFAULT_SAMPLING;
  const logitBias = reader.logitBias(body.logit_bias ?? {});
  const {
    forced_bos_token_id: forcedBos,
    forced_eos_token_id: forcedEos = [],
    exponential_decay_length_penalty: decay,
  } = body;
  const forcedLast = reader.tokenIds([forcedEos].flat(), "forced_eos_token_id");
  return {
    logitBias,
    sequenceBias: reader.sequenceBias(body.sequence_bias ?? [], logitBias),
    repetitionPenalty: body.repetition_penalty ?? byDefault.repetitionPenalty,
    frequencyPenalty: body.frequency_penalty ?? byDefault.frequencyPenalty,
    presencePenalty: body.presence_penalty ?? byDefault.presencePenalty,
    noRepeatNgramSize: body.no_repeat_ngram_size ?? byDefault.noRepeatNgramSize,
    badWords: await reader.badWords(body.bad_words ?? []),
    minNewTokens: body.min_new_tokens ?? byDefault.minNewTokens,
    suppressIds: reader.tokenIds(body.suppress_tokens ?? [], "suppress_tokens"),
    beginSuppressIds: reader.tokenIds(body.begin_suppress_tokens ?? [], "begin_suppress_tokens"),
    forcedBosId: forcedBos === undefined ? null : reader.tokenIds([forcedBos], "forced_bos_token_id")[0]!,
    forcedLast:
      forcedLast.length === 0 ? null : { ids: forcedLast, index: (body.max_new_tokens ?? DEFAULT_NEW_TOKENS) - 1 },
    exponentialDecay: decay === undefined ? null : { start: decay[0], factor: decay[1] },
    renormalize: body.renormalize_logits ?? byDefault.renormalize,
    doSample: isSampled(body),
    temperature: body.temperature || byDefault.temperature,
    topH: body.top_h ?? byDefault.topH,
    topK: body.top_k ?? byDefault.topK,
    topP: body.top_p ?? byDefault.topP,
    minP: body.min_p ?? byDefault.minP,
    typicalP: body.typical_p ?? byDefault.typicalP,
    epsilonCutoff: body.epsilon_cutoff ?? byDefault.epsilonCutoff,
    etaCutoff: body.eta_cutoff ?? byDefault.etaCutoff,
  };
}

/** @throws PrefixdError invalid_prefix_id, invalid_parameter (the path names another prefix than the body) */
export function prefixOf(body: GenerateBody, pathId: string | undefined, user: string): PrefixKey | null {
  const bodyKey = body.prefix_id === undefined || body.prefix_id === null ? null : parsePrefixId(body.prefix_id, user);
  if (pathId === undefined) return bodyKey;
  const pathKey = parsePrefixId(pathId, user);
  if (bodyKey && (bodyKey.name !== pathKey.name || bodyKey.user !== pathKey.user))
    throw new PrefixdError("invalid_parameter", "prefix_id differs from the path's.", { field: "prefix_id" });
  return pathKey;
}

function readPrompts(body: GenerateBody, reader: PromptReader, { nameOf }: Dialect): Promise<Int32Array[]> {
  if ((body.prompt === undefined) === (body.prompts === undefined)) {
    throw new PrefixdError(
      "invalid_request",
      body.prompt === undefined ? 'The body lacks "prompt" (or "prompts").' : "Send either prompt or prompts.",
    );
  }
  const addSpecialTokens = body.add_special_tokens ?? true;
  if (body.prompt !== undefined) return reader.read([body.prompt], [nameOf("prompt")], addSpecialTokens);
  const prompts = body.prompts ?? [];
  return reader.read(
    prompts,
    prompts.map((_, i) => `${nameOf("prompts")}[${i}]`),
    addSpecialTokens,
  );
}
