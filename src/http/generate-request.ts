import { randomInt, randomUUID } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { DEFAULT_SAMPLING, type ValidGenerateRequest } from "../generate.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import { parsePrefixId } from "./prefix-id.ts";
import type { PromptReader } from "./prompt-tokens.ts";
import type { GenerateBody } from "./schemas/generate.ts";

/** How the answer is to look; nothing that the engine needs to know. */
export interface ResponseOptions {
  readonly stream: boolean;
  readonly returnTokenIds: boolean;
}

/**
 * A body that fits its schema, with defaults filled in and what no schema can say checked. `pathId` is the id in the path, `user` who asks.
 * `maxN`: the most choices per prompt.
 */
export async function parseGenerate(
  body: GenerateBody,
  pathId: string | undefined,
  user: string,
  reader: PromptReader,
  maxN: number,
): Promise<{ request: ValidGenerateRequest; response: ResponseOptions }> {
  const prefix = prefixOf(body, pathId, user);
  const n = body.n ?? 1;
  const doSample = body.do_sample ?? false;
  const maxNewTokens = body.max_new_tokens ?? 20;
  const minNewTokens = body.min_new_tokens ?? 0;
  if (n > maxN) throw new PrefixdError("invalid_parameter", `n must be <= ${maxN} on this server.`);
  if (n > 1 && !doSample) throw new PrefixdError("invalid_parameter", "n > 1 needs do_sample true: without it all choices are the same.");
  if (minNewTokens > maxNewTokens) throw new PrefixdError("invalid_parameter", "min_new_tokens must be <= max_new_tokens.");
  const stream = body.stream ?? false;
  const request: ValidGenerateRequest = {
    id: `gen-${randomUUID()}`,
    user,
    prefix,
    prompts: await readPrompts(body, reader),
    n,
    maxNewTokens,
    sampling: await readSampling(body, reader),
    seed: body.seed ?? randomInt(2 ** 32),
    logprobs: body.logprobs ?? null,
    stop: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
    ignoreEos: body.ignore_eos ?? false,
  };
  return { request, response: { stream, returnTokenIds: body.return_token_ids ?? stream } };
}

async function readSampling(body: GenerateBody, reader: PromptReader): Promise<ValidGenerateRequest["sampling"]> {
  const byDefault = DEFAULT_SAMPLING;
  return {
    logitBias: reader.logitBias(body.logit_bias ?? {}),
    repetitionPenalty: body.repetition_penalty ?? byDefault.repetitionPenalty,
    frequencyPenalty: body.frequency_penalty ?? byDefault.frequencyPenalty,
    presencePenalty: body.presence_penalty ?? byDefault.presencePenalty,
    noRepeatNgramSize: body.no_repeat_ngram_size ?? byDefault.noRepeatNgramSize,
    badWords: await reader.badWords(body.bad_words ?? []),
    minNewTokens: body.min_new_tokens ?? byDefault.minNewTokens,
    doSample: body.do_sample ?? byDefault.doSample,
    temperature: body.temperature ?? byDefault.temperature,
    topK: body.top_k ?? byDefault.topK,
    topP: body.top_p ?? byDefault.topP,
    minP: body.min_p ?? byDefault.minP,
    typicalP: body.typical_p ?? byDefault.typicalP,
    epsilonCutoff: body.epsilon_cutoff ?? byDefault.epsilonCutoff,
    etaCutoff: body.eta_cutoff ?? byDefault.etaCutoff,
  };
}

function prefixOf(body: GenerateBody, pathId: string | undefined, user: string): PrefixKey | null {
  const bodyKey = body.prefix_id === undefined || body.prefix_id === null ? null : parsePrefixId(body.prefix_id, user);
  if (pathId === undefined) return bodyKey;
  const pathKey = parsePrefixId(pathId, user);
  if (bodyKey && (bodyKey.name !== pathKey.name || bodyKey.user !== pathKey.user)) throw new PrefixdError("invalid_parameter", "prefix_id is another one than the path's.");
  return pathKey;
}

function readPrompts(body: GenerateBody, reader: PromptReader): Promise<Int32Array[]> {
  if ((body.prompt === undefined) === (body.prompts === undefined)) {
    throw new PrefixdError("invalid_request", body.prompt === undefined ? "The body lacks \"prompt\" (or \"prompts\")." : "Send either prompt or prompts.");
  }
  if (body.prompt !== undefined) return reader.read([body.prompt], ["prompt"]);
  const prompts = body.prompts ?? [];
  return reader.read(prompts, prompts.map((_, i) => `prompts[${i}]`));
}
