/** The one file that is kept of a hard prompt. */
export const PROMPT_FILE = "prompt.json";

/** That file's content. `text`: what the ids came from, if it was a text that was uploaded. */
export function promptFile(ids: Int32Array, text: string | undefined): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ ...(text === undefined ? {} : { text }), token_ids: [...ids] }));
}

/**
 * What `PUT /prefixes/:id` takes of such a file: its text, which another base model may cut into other tokens, or else
 * its token ids. null if it has neither.
 */
export function bodyOfPromptFile(content: string): { text: unknown } | { token_ids: unknown } | null {
  try {
    const { text, token_ids } = JSON.parse(content) as { text?: unknown; token_ids?: unknown };
    if (text !== undefined) return { text };
    return token_ids === undefined ? null : { token_ids };
  } catch {
    return null;
  }
}
