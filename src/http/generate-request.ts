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

const DEFAULT_NEW_TOKENS = 20;

/**
 * A body that fits its schema, with defaults filled in and what no schema can say checked. `pathId` is the id in the path, `user` who asks.
 * `maxN`: the most rows per prompt: choices, also those that best_of drops, or beams.
 */
export async function parseGenerate(
  body: GenerateBody,
  pathId: string | undefined,
  user: string,
  reader: PromptReader,
  maxN: number,
): Promise<{ request: ValidGenerateRequest; response: ResponseOptions }> {
  const prefix = prefixOf(body, pathId, user);
  checkCombinations(body, maxN);
  const n = body.n ?? 1;
  const stream = body.stream ?? false;
  const request: ValidGenerateRequest = {
    id: `gen-${randomUUID()}`,
    user,
    prefix,
    prompts: await readPrompts(body, reader),
    n,
    bestOf: body.best_of !== undefined && body.best_of > n ? body.best_of : null,
    beams: (body.num_beams ?? 1) === 1 ? null : { numBeams: body.num_beams ?? 1, lengthPenalty: body.length_penalty ?? 1, earlyStopping: body.early_stopping ?? false },
    echo: body.echo ?? false,
    maxNewTokens: body.max_new_tokens ?? DEFAULT_NEW_TOKENS,
    sampling: await readSampling(body, reader),
    seed: body.seed ?? randomInt(2 ** 32),
    logprobs: body.logprobs ?? null,
    stop: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
    stopTokenIds: reader.tokenIds(body.stop_token_ids ?? [], "stop_token_ids"),
    ignoreEos: body.ignore_eos ?? false,
  };
  return { request, response: { stream, returnTokenIds: body.return_token_ids ?? stream } };
}

/** What fields say of each other. Throws `invalid_parameter`. */
function checkCombinations(body: GenerateBody, maxN: number): void {
  const { n = 1, best_of: bestOf = n, num_beams: numBeams = 1, do_sample: doSample = false, stream = false, max_new_tokens: maxNew = DEFAULT_NEW_TOKENS } = body;
  const beams = numBeams > 1;
  const refused: [boolean, string][] = [
    [n > maxN, `n must be <= ${maxN} on this server`],
    [bestOf > maxN, `best_of must be <= ${maxN} on this server`],
    [numBeams > maxN, `num_beams must be <= ${maxN} on this server`],
    [beams && n > numBeams, "n must be <= num_beams: a beam search has no more results"],
    [beams && bestOf > n, "best_of cannot be used with num_beams > 1, which returns the best already"],
    [beams && stream, "num_beams > 1 cannot be streamed: which tokens come first is known at the end"],
    [!beams && n > 1 && !doSample, "n > 1 needs do_sample true: without it all choices are the same"],
    [bestOf < n, "best_of must be >= n"],
    [bestOf > n && !doSample && !beams, "best_of needs do_sample true: without it all choices are the same"],
    [bestOf > n && stream, "best_of cannot be streamed: which choices are the best is known at the end"],
    [maxNew === 0 && !(body.echo ?? false), "max_new_tokens must be >= 1; 0 only with echo"],
    [maxNew === 0 && (beams || bestOf > n), "max_new_tokens 0 leaves nothing for num_beams or best_of to choose from"],
    [(body.min_new_tokens ?? 0) > maxNew, "min_new_tokens must be <= max_new_tokens"],
    [body.exponential_decay_length_penalty !== undefined && (body.ignore_eos ?? false), "exponential_decay_length_penalty changes the logit of EOS, which ignore_eos ignores"],
  ];
  for (const name of ["forced_bos_token_id", "forced_eos_token_id"] as const) {
    const forced = body[name] === undefined ? [] : [body[name]].flat();
    refused.push([forced.length > 0 && forced.every((id) => body.suppress_tokens?.includes(id) ?? false), `${name} forces what suppress_tokens forbids`]);
  }
  const first = refused.find(([applies]) => applies);
  if (first !== undefined) throw new PrefixdError("invalid_parameter", `${first[1]}.`);
}

async function readSampling(body: GenerateBody, reader: PromptReader): Promise<ValidGenerateRequest["sampling"]> {
  const byDefault = DEFAULT_SAMPLING;
  const logitBias = reader.logitBias(body.logit_bias ?? {});
  const { forced_bos_token_id: forcedBos, forced_eos_token_id: forcedEos, exponential_decay_length_penalty: decay } = body;
  const forcedLast = forcedEos === undefined ? null : reader.tokenIds(typeof forcedEos === "number" ? [forcedEos] : forcedEos, "forced_eos_token_id");
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
    forcedLast: forcedLast && { ids: forcedLast, index: (body.max_new_tokens ?? DEFAULT_NEW_TOKENS) - 1 },
    exponentialDecay: decay === undefined ? null : { start: decay[0], factor: decay[1] },
    renormalize: body.renormalize_logits ?? byDefault.renormalize,
    doSample: body.do_sample ?? byDefault.doSample,
    temperature: body.temperature ?? byDefault.temperature,
    topH: body.top_h ?? byDefault.topH,
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
