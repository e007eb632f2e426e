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

  /** null: the step has nothing to show yet, as when a token is held back in case a stop string goes on. */
  event(deltas: readonly ChoiceDelta[]): GenerateEvent | null {
    const choices = deltas.map((delta) => this.#choice(delta));
    const shows = choices.some((choice) => choice.text !== "" || choice.finish_reason !== null || choice.token_ids !== undefined || choice.logprobs !== undefined);
    return shows ? { choices } : null;
  }

  lastEvent(deltas: readonly ChoiceDelta[], end: GenerationEnd): object {
    return { choices: deltas.map((delta) => this.#choice(delta)), ...this.#common(end) };
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
