import { checkContext, roomFor } from "../engine/scheduling/admission.ts";
import type { SamplingParams } from "../engine/request.ts";
import { PrefixdError } from "../errors.ts";

/** The default of transformers. */
export const DEFAULT_NEW_TOKENS = 20;

/** How many new tokens a request's choices may have. */
export interface AnswerLength {
  /** 0 only with `echo`. */
  readonly maxNewTokens: number;
  /** transformers' `max_length`: prompt plus new tokens. Replaces `maxNewTokens`; null: not given. */
  readonly maxLength: number | null;
  /** transformers' `min_length`. Replaces `sampling.minNewTokens`; null: not given. */
  readonly minLength: number | null;
  /**
   * A default may be cut to this many new tokens, at least 1, where the context ends; null: the request itself gave the
   * number.
   */
  readonly cutTo: number | null;
}

/** Exactly this many. */
export const exactly = (maxNewTokens: number): AnswerLength => ({
  maxNewTokens,
  maxLength: null,
  minLength: null,
  cutTo: null,
});

/** New tokens asked for behind a prefix and a prompt of these lengths. A default is cut to what fits. */
function wanted(
  { maxNewTokens, maxLength, cutTo }: AnswerLength,
  prefix: number,
  prompt: number,
  positions: number,
): number {
  const max = maxLength === null ? maxNewTokens : maxLength - prompt;
  return cutTo === null ? max : Math.max(cutTo, Math.min(max, roomFor({ prefix, prompt }, positions)));
}

/** The most new tokens that a choice can have behind a prompt of this length, whatever the prefix. */
export function mostNewTokens(length: AnswerLength, prompt: number, positions: number): number {
  return Math.max(0, Math.min(wanted(length, 0, prompt, positions), roomFor({ prefix: 0, prompt }, positions)));
}

/**
 * `maxNewTokens` and `minNewTokens` behind a prefix and a prompt of these lengths. `which` names the prompt, if there
 * are several.
 * @throws PrefixdError context_exceeded
 */
export function lengthsOf(
  length: AnswerLength,
  minNewTokens: number,
  {
    prefix,
    prompt,
    positions,
    which,
  }: { readonly prefix: number; readonly prompt: number; readonly positions: number; readonly which: string },
): { maxNewTokens: number; minNewTokens: number } {
  const { maxLength, minLength, cutTo } = length;
  if (maxLength !== null && maxLength - prompt < (cutTo ?? 1)) {
    throw new PrefixdError(
      "context_exceeded",
      `${prompt} prompt tokens${which} leave ${Math.max(0, maxLength - prompt)} of the ${maxLength} that the model's generation_config.json gives (max_length); send max_new_tokens.`,
    );
  }
  const max = wanted(length, prefix, prompt, positions);
  checkContext({ prefix, prompt, maxNew: max }, positions, which);
  return { maxNewTokens: max, minNewTokens: minLength === null ? minNewTokens : Math.max(0, minLength - prompt) };
}

/** Adjusts the parameters that depend on the lengths. */
export function samplingFor(
  sampling: SamplingParams,
  { maxNewTokens, minNewTokens }: { readonly maxNewTokens: number; readonly minNewTokens: number },
): SamplingParams {
  const forcedLast = sampling.forcedLast && { ...sampling.forcedLast, index: maxNewTokens - 1 };
  return { ...sampling, minNewTokens, forcedLast };
}
