import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as jinja from "@huggingface/jinja";
import { ModelLoadError, PrefixdError } from "../errors.ts";
import { isObject } from "./json-values.ts";

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string;
}

/** What a rendering may cost, counted, not timed: a step of the template, or 256 characters of a text that it handles. */
const MOST_WORK = 50_000;
const CHARACTERS_PER_STEP = 256;

/** The library's types do not resolve under Node's module resolution, so the part in use is typed here. */
interface Environment {
  set(name: string, value: unknown): unknown;
}
interface Interpreter {
  run(program: unknown): { readonly value: unknown };
  evaluate(statement: unknown, environment: Environment): { readonly value: unknown };
}
const { Environment, Interpreter, Template } = jinja as unknown as {
  Environment: new () => Environment;
  Interpreter: new (environment: Environment) => Interpreter;
  Template: new (source: string) => { readonly parsed: unknown };
};

class TooMuchWork extends Error {}

/** Interprets a template, and gives up after MOST_WORK. */
class BoundedInterpreter extends Interpreter {
  #work = 0;

  override evaluate(statement: unknown, environment: Environment): { readonly value: unknown } {
    const result = super.evaluate(statement, environment);
    this.#work += 1 + (typeof result.value === "string" ? result.value.length / CHARACTERS_PER_STEP : 0);
    if (this.#work > MOST_WORK) throw new TooMuchWork();
    return result;
  }
}

/** A chat template as transformers' `apply_chat_template` renders it, with `add_generation_prompt`. */
export class ChatTemplate {
  readonly source: string;
  readonly #program: unknown;
  readonly #specialTokens: ReadonlyMap<string, string>;

  /**
   * @param specialTokens contents of `bos_token`, `eos_token` and so on
   * @param origin names the template in errors
   * @throws ModelLoadError for a template that cannot be read, or that a single message of a user does not fit
   */
  constructor(source: string, specialTokens: ReadonlyMap<string, string>, origin: string) {
    this.source = source;
    this.#specialTokens = specialTokens;
    try {
      this.#program = new Template(source).parsed;
      this.#run([{ role: "user", content: "Hello" }]);
    } catch (error) {
      throw new ModelLoadError("model_unsupported", `${origin}: the chat template does not work: ${reason(error)}`, {
        cause: error,
      });
    }
  }

  /** The prompt of a conversation. Throws `invalid_parameter` for messages that the template refuses. */
  render(messages: readonly ChatMessage[]): string {
    try {
      return this.#run(messages);
    } catch (error) {
      throw new PrefixdError("invalid_parameter", `messages do not fit the chat template: ${reason(error)}`, {
        cause: error,
        field: "messages",
      });
    }
  }

  #run(messages: readonly ChatMessage[]): string {
    const environment = new Environment();
    const globals = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range: boundedRange,
      raise_exception: (message: unknown) => {
        throw new Error(String(message));
      },
      ...Object.fromEntries(this.#specialTokens),
      tools: null,
      documents: null,
      add_generation_prompt: true,
      messages,
    };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    return String(new BoundedInterpreter(environment).run(this.#program).value);
  }
}

function reason(error: unknown): string {
  if (error instanceof TooMuchWork) return "they take too much work; send fewer or shorter ones.";
  const message = error instanceof Error ? error.message : String(error);
  return `${message.slice(0, 200).replace(/[.\s]+$/, "")}.`;
}

/** Python's `range`, as the list that Jinja iterates over. */
function boundedRange(first: number, last?: number, step = 1): number[] {
  const [from, to] = last === undefined ? [0, first] : [first, last];
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= MOST_WORK)) throw new TooMuchWork();
  return Array.from({ length }, (_, i) => from + i * step);
}

const WITHOUT = " (--chat-template names another, or none)";

/**
 * The template of `file` (`--chat-template`), else the model's own: chat_template.jinja, or `chat_template` of
 * tokenizer_config.json, of several the one called "default". null if there is none, or if `file` is "none".
 * @param dir the model's folder
 * @throws ModelLoadError
 */
export async function loadChatTemplate(
  file: string,
  dir: string,
  specialTokens: ReadonlyMap<string, string>,
): Promise<ChatTemplate | null> {
  if (file === "none") return null;
  if (file !== "") {
    const source = await read(file);
    if (source === undefined) throw new ModelLoadError("model_not_found", `--chat-template ${file}: no such file`);
    return new ChatTemplate(source, specialTokens, `--chat-template ${file}`);
  }
  const own = await read(join(dir, "chat_template.jinja"));
  if (own !== undefined) return new ChatTemplate(own, specialTokens, `chat_template.jinja${WITHOUT}`);
  const source = templateOf(await read(join(dir, "tokenizer_config.json")));
  return source === null ? null : new ChatTemplate(source, specialTokens, `tokenizer_config.json${WITHOUT}`);
}

/** `chat_template` of a tokenizer_config.json that has been read before: it is valid. */
function templateOf(config: string | undefined): string | null {
  if (config === undefined) return null;
  const { chat_template: given = null } = JSON.parse(config) as { chat_template?: unknown };
  if (given === null || typeof given === "string") return given;
  const named = Array.isArray(given)
    ? (given as unknown[]).find(
        (one) => isObject(one) && one["name"] === "default" && typeof one["template"] === "string",
      )
    : undefined;
  if (named !== undefined) return (named as { template: string }).template;
  throw new ModelLoadError(
    "model_unsupported",
    'tokenizer_config.json: chat_template is neither a template nor a list with one called "default"; --chat-template names another, or none',
  );
}

async function read(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw new ModelLoadError("model_invalid", `cannot read ${path}`, { cause: error });
  }
}
