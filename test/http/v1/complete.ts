/** Requests for completions, and their answers. */
import { post, type TestApp } from "../../support/app.ts";

export const URL = "/v1/completions";
export const BASE = { model: "demo", prompt: "ab", max_tokens: 3 };

export interface Completion {
  readonly choices: {
    readonly index: number;
    readonly text: string;
    readonly finish_reason: string;
    readonly logprobs: { readonly text_offset: number[]; readonly top_logprobs: (Record<string, number> | null)[] };
  }[];
}

export async function complete(app: Pick<TestApp, "fastify">, body: object): Promise<Completion> {
  const answer = await app.fastify.inject(post(URL, body));
  return answer.json<Completion>();
}
