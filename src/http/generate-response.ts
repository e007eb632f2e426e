import type { ChoiceDelta, GenerationEnd, Generated, ValidGenerateRequest } from "../generate.ts";
import type { ResponseOptions } from "./generate-request.ts";
import { prefixIdOf } from "./prefix-id.ts";
import type { Audit } from "./requests.ts";
import type { GenerateEvent, GenerateResponse } from "./schemas/generate.ts";

type OpenChoice = GenerateEvent["choices"][number];

/** Results as clients see them; the shapes are those of schemas/generate.ts. */
export class ResponseWriter {
  readonly #request: ValidGenerateRequest;
  readonly #options: ResponseOptions;
  readonly #model: string;
  readonly #tokenText: (id: number) => string;

  constructor(request: ValidGenerateRequest, options: ResponseOptions, model: string, tokenText: (id: number) => string) {
    this.#request = request;
    this.#options = options;
    this.#model = model;
    this.#tokenText = tokenText;
  }

  whole({ choices, end }: Generated): GenerateResponse {
    return { ...this.#common(end), choices: choices.map((choice) => ({ ...this.#choice(choice), finish_reason: choice.finishReason ?? "length" })) };
  }

  /** A GenerateEvent as JSON. null: the step has nothing to show yet, as when a token is held back in case a stop string goes on. */
  event(deltas: readonly ChoiceDelta[]): string | null {
    const shows = this.#options.returnTokenIds || this.#request.logprobs !== null || deltas.some((delta) => delta.text !== "" || delta.finishReason !== null);
    return shows ? `{"choices":[${this.#choicesJson(deltas)}]}` : null;
  }

  /** A GenerateLastEvent as JSON. */
  lastEvent(deltas: readonly ChoiceDelta[], end: GenerationEnd): string {
    return `{"choices":[${this.#choicesJson(deltas)}],${JSON.stringify(this.#common(end)).slice(1)}`;
  }

  #common(end: GenerationEnd): Omit<GenerateResponse, "choices"> {
    const { prefix, prompt, completion } = end.usage;
    return {
      id: this.#request.id,
      prefix: end.prefix && { id: prefixIdOf(end.prefix.key, this.#request.user), digest: end.prefix.digest },
      model: this.#model,
      usage: { prefix_tokens: prefix, prompt_tokens: prompt, completion_tokens: completion },
      seed: this.#request.seed,
    };
  }

  #choice(delta: ChoiceDelta): OpenChoice {
    return {
      index: delta.index,
      text: delta.text,
      ...(this.#options.returnTokenIds ? { token_ids: delta.tokenIds } : {}),
      ...(this.#request.logprobs === null ? {} : { logprobs: this.#logprobs(delta) }),
      ...(delta.score === null ? {} : { score: delta.score }),
      finish_reason: delta.finishReason,
    };
  }

  /** What JSON.stringify says of every `#choice`, put together by hand where the shape is known: one of these is made per token. */
  #choicesJson(deltas: readonly ChoiceDelta[]): string {
    let json = "";
    for (const delta of deltas) {
      if (json !== "") json += ",";
      json += this.#request.logprobs === null && delta.score === null ? this.#plainJson(delta) : JSON.stringify(this.#choice(delta));
    }
    return json;
  }

  #plainJson({ index, text, tokenIds, finishReason }: ChoiceDelta): string {
    const ids = this.#options.returnTokenIds ? `,"token_ids":[${tokenIds.join()}]` : "";
    return `{"index":${index},"text":${JSON.stringify(text)}${ids},"finish_reason":${finishReason === null ? "null" : `"${finishReason}"`}}`;
  }

  #logprobs({ logprobs }: ChoiceDelta): NonNullable<OpenChoice["logprobs"]> {
    const top = logprobs.top.map((tokens) => tokens.map(({ id, logprob }) => ({ id, token: this.#tokenText(id), logprob })));
    return { token_logprobs: logprobs.token, top_logprobs: top };
  }
}

export function auditUsage(audit: Audit, end: GenerationEnd): void {
  audit.prefix_tokens = end.usage.prefix;
  audit.prompt_tokens = end.usage.prompt;
  audit.completion_tokens = end.usage.completion;
}
