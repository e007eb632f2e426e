import { PrefixdError } from "../../errors.ts";
import type { ValidGenerateRequest } from "../../generation/service.ts";
import type { ChatMessage, ChatTemplate } from "../../text/chat-template.ts";
import type { Dialect } from "../generate/dialect.ts";
import { parseGenerate, type ResponseOptions } from "../generate/parse.ts";
import type { StructuredOutputs } from "../generate/structured-outputs.ts";
import type { ChatBody } from "./chat-schema.ts";
import { checkStreamOptions, inOurFields, OPENAI_DIALECT, type CompletionsContext } from "./completions-parse.ts";

/** OpenAI's names for chats; the length has two. */
export function chatDialect({ max_tokens }: Pick<ChatBody, "max_tokens">): Dialect {
  const length = max_tokens === undefined ? "max_completion_tokens" : "max_tokens";
  const names: Readonly<Record<string, string>> = {
    max_new_tokens: length,
    prompt: "messages",
    logprobs: "top_logprobs",
  };
  return {
    ...OPENAI_DIALECT,
    idPrefix: "chatcmpl",
    nameOf: (field) => names[field] ?? OPENAI_DIALECT.nameOf(field),
  };
}

export interface ChatContext extends CompletionsContext {
  readonly template: ChatTemplate;
  /** The model's n_positions: an answer's default length, which is lowered to fit. */
  readonly positions: number;
}

/**
 * Parses a body that fits its schema, as the same request to `/generate`. Throws what `parseGenerate` throws, and
 * `invalid_parameter` for messages that the template refuses.
 */
export function parseChat(
  body: ChatBody,
  { template, positions, ...context }: ChatContext,
): Promise<{ request: ValidGenerateRequest; response: ResponseOptions }> {
  checkStreamOptions(body);
  const {
    messages,
    max_completion_tokens: max = body.max_tokens,
    max_tokens,
    logprobs = false,
    top_logprobs: top = 0,
    response_format,
    ...others
  } = body;
  if (max_tokens !== undefined && max !== max_tokens)
    throw refused("max_tokens", "is the older name of max_completion_tokens; send only one of them");
  if (!logprobs && body.top_logprobs !== undefined) throw refused("top_logprobs", "needs logprobs true");
  const form = formOf(response_format, body.structured_outputs);
  return parseGenerate(
    {
      ...inOurFields(others),
      ...(max === undefined ? {} : { max_new_tokens: max }),
      ...(logprobs ? { logprobs: top } : {}),
      ...(form === undefined ? {} : { structured_outputs: form }),
      prompt: template.render(messages.map(plain)),
      // The template writes those that the model was trained with.
      add_special_tokens: false,
    },
    { ...context, defaults: { max_new_tokens: positions }, dialect: chatDialect(body) },
  );
}

/** A message with one text. Older templates know no role "developer". */
function plain({ role, content, name }: ChatBody["messages"][number]): ChatMessage {
  return {
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map(({ text }) => text).join("\n"),
    ...(name === undefined ? {} : { name }),
  };
}

/** @throws PrefixdError invalid_parameter */
function formOf(
  format: ChatBody["response_format"],
  structured: StructuredOutputs | undefined,
): StructuredOutputs | undefined {
  if (format === undefined) return structured;
  const { type, json_schema: schema } = format;
  if ((type === "json_schema") !== (schema !== undefined))
    throw refused("response_format", 'has json_schema exactly where its type is "json_schema"');
  if (type === "text") return structured;
  if (structured !== undefined) throw refused("response_format", "and structured_outputs are two forms; send one");
  return type === "json_object" ? { json_object: true } : { json: schema?.schema ?? true };
}

const refused = (field: string, why: string): PrefixdError =>
  new PrefixdError("invalid_parameter", `${field} ${why}.`, { field });
