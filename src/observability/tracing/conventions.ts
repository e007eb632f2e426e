/**
 * Names of attributes: OpenTelemetry's semantic conventions 1.38 for HTTP servers and for generative AI (the latter still in
 * development), and our own where they have none. Never content: no prompt, text, stop string, path with an id, user or key.
 */
import type { Attributes } from "./trace.ts";

/** Of the request's span, when it begins. `route` is the pattern: `/prefixes/:id`. */
export const httpAttributes = (method: string, route: string): Attributes => ({
  "http.request.method": method,
  "http.route": route,
  "url.scheme": "http",
});

/** When the answer is over. `outcome` is that of prefixd_requests_total, `ok` where nothing went wrong. */
export const endAttributes = (status: number | null, outcome: string, requestId: string): Attributes => ({
  ...(status === null ? {} : { "http.response.status_code": status }),
  ...(outcome === "ok" ? {} : { "error.type": outcome }),
  "prefixd.request_id": requestId,
});

/** The parameters of a generate request that have a name there. */
export interface TracedRequest {
  readonly operation: "text_completion" | "chat";
  /** The base model. */
  readonly model: string;
  readonly prefixed: boolean;
  readonly stream: boolean;
  readonly prompts: number;
  readonly choices: number;
  readonly beams: number | null;
  readonly maxTokens: number;
  readonly seed: number;
  /** null: greedy. */
  readonly sampling: { readonly temperature: number; readonly topP: number; readonly topK: number } | null;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly structured: boolean;
}

export const requestAttributes = (request: TracedRequest): Attributes => ({
  "gen_ai.operation.name": request.operation,
  "gen_ai.provider.name": "prefixd",
  "gen_ai.request.model": request.model,
  "gen_ai.request.max_tokens": request.maxTokens,
  "gen_ai.request.seed": request.seed,
  "gen_ai.request.stream": request.stream,
  ...(request.choices === 1 ? {} : { "gen_ai.request.choice.count": request.choices }),
  ...(request.sampling === null
    ? {}
    : {
        "gen_ai.request.temperature": request.sampling.temperature,
        "gen_ai.request.top_p": request.sampling.topP,
        "gen_ai.request.top_k": request.sampling.topK,
      }),
  ...(request.frequencyPenalty === 0 ? {} : { "gen_ai.request.frequency_penalty": request.frequencyPenalty }),
  ...(request.presencePenalty === 0 ? {} : { "gen_ai.request.presence_penalty": request.presencePenalty }),
  "prefixd.request.prefixed": request.prefixed,
  "prefixd.request.prompts": request.prompts,
  "prefixd.request.structured": request.structured,
  ...(request.beams === null ? {} : { "prefixd.request.num_beams": request.beams }),
});

/** When the engine is done with it. Tokens as in `usage`. */
export const usageAttributes = (
  tokens: { readonly prefix: number; readonly prompt: number; readonly completion: number },
  finishReasons: readonly string[],
): Attributes => ({
  "gen_ai.usage.input_tokens": tokens.prompt,
  "gen_ai.usage.output_tokens": tokens.completion,
  "prefixd.usage.prefix_tokens": tokens.prefix,
  ...(finishReasons.length === 0 ? {} : { "gen_ai.response.finish_reasons": finishReasons }),
});
