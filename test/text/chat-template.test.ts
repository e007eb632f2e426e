import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { ModelLoadError, PrefixdError } from "../../src/errors.ts";
import { ChatTemplate, loadChatTemplate, type ChatMessage } from "../../src/text/chat-template.ts";
import { repositoryFile } from "../support/docs-block.ts";

const FOLDER = repositoryFile("test/golden/chat");
const USER = [{ role: "user", content: "Hello" }];
const NONE = new Map<string, string>();

interface Golden {
  readonly tokens: Readonly<Record<string, string>>;
  readonly cases: Readonly<Record<string, readonly { messages: ChatMessage[]; text?: string; error?: string }[]>>;
}

t.test("conversations become the prompts that transformers makes", async (t) => {
  const { tokens, cases } = JSON.parse(readFileSync(join(FOLDER, "conversations.json"), "utf8")) as Golden;
  for (const [name, conversations] of Object.entries(cases)) {
    const source = readFileSync(join(FOLDER, `${name}.jinja`), "utf8");
    const template = new ChatTemplate(source, new Map(Object.entries(tokens)), name);
    for (const [i, { messages, text, error }] of conversations.entries()) {
      if (error === undefined) t.equal(template.render(messages), text, `${name} ${i}`);
      else
        t.throws(
          () => template.render(messages),
          { code: "invalid_parameter", field: "messages", message: new RegExp(error.replace(/\W+$/, "")) },
          `${name} ${i}`,
        );
    }
  }
});

t.test("a template that does not work ends the start", async (t) => {
  for (const [source, why] of [
    ["{% for m in messages %}{{ m.content }}", /does not work/],
    ["{{ messages | no_such_filter }}", /no_such_filter/],
    ["{{ raise_exception('no roles at all') }}", /no roles at all/],
    ["{% for i in range(100000000) %}x{% endfor %}", /too much work/],
    ["{% for i in range(1000) %}{% for j in range(1000) %}x{% endfor %}{% endfor %}", /too much work/],
  ] as const)
    t.throws(() => new ChatTemplate(source, NONE, "FILE"), { name: ModelLoadError.name, message: why }, source);
});

t.test("what messages may cost is bounded", async (t) => {
  const repeat = new ChatTemplate(
    "{% for m in messages %}{% for n in messages %}{{ n.content | replace('a', 'bb') }}{% endfor %}{% endfor %}",
    NONE,
    "FILE",
  );
  t.equal(repeat.render(USER), "Hello");
  for (const messages of [
    Array.from({ length: 256 }, () => ({ role: "user", content: "a" })),
    Array.from({ length: 16 }, () => ({ role: "user", content: "a".repeat(60_000) })),
  ])
    t.throws(() => repeat.render(messages), {
      name: PrefixdError.name,
      message: /too much work; send fewer or shorter/,
    });
  const plain = new ChatTemplate(readFileSync(join(FOLDER, "chatml.jinja"), "utf8"), NONE, "chatml");
  const long = Array.from({ length: 256 }, () => ({ role: "user", content: "a".repeat(4000) }));
  t.equal(plain.render(long).match(/a{4000}/g)?.length, 256, "what a body can hold");
});

t.test("where the template comes from", async (t) => {
  const dir = t.testdir();
  const tokens = new Map([["eos_token", "!"]]);
  const load = (file = ""): Promise<string | null> =>
    loadChatTemplate(file, dir, tokens).then((template) => template?.render(USER) ?? null);
  const config = (chat_template?: unknown): void =>
    writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify({ chat_template }));
  t.equal(await load(), null, "none");
  config();
  t.equal(await load(), null, "none in the config");
  config("config {{ messages[0].content }}{{ eos_token }}");
  t.equal(await load(), "config Hello!");
  config([
    { name: "rag", template: "rag" },
    { name: "default", template: "by default" },
  ]);
  t.equal(await load(), "by default");
  writeFileSync(join(dir, "chat_template.jinja"), "file");
  t.equal(await load(), "file");
  writeFileSync(join(dir, "mine.jinja"), "mine");
  t.equal(await load(join(dir, "mine.jinja")), "mine");
  t.equal(await load("none"), null);
  await t.rejects(load(join(dir, "nowhere.jinja")), {
    code: "model_not_found",
    message: /nowhere\.jinja: no such file/,
  });
  mkdirSync(join(dir, "folder"));
  await t.rejects(load(join(dir, "folder")), { code: "model_invalid" });
  writeFileSync(join(dir, "chat_template.jinja"), "{% bad");
  await t.rejects(load(), { code: "model_unsupported", message: /--chat-template names another, or none/ });
  const other = t.testdir({ "tokenizer_config.json": JSON.stringify({ chat_template: 5 }) });
  await t.rejects(loadChatTemplate("", other, tokens), {
    code: "model_unsupported",
    message: /chat_template is neither/,
  });
});
