import t from "tap";
import { createLogger } from "../../src/observability/logging.ts";
import { prettyLines } from "../../src/observability/pretty-log.ts";
import { SecretFilter } from "../../src/observability/secrets.ts";

function written(log: (logger: ReturnType<typeof createLogger>) => void, colours = false): string {
  let text = "";
  const destination = prettyLines({ write: (line) => void (text += line) }, colours);
  log(createLogger("info", destination, new SecretFilter(["a-secret-that-nobody-sees"])));
  return text;
}

t.test("a line for people: time, level, message, fields", async (t) => {
  const line = written((log) =>
    log.warn({ url: "http://127.0.0.1:8080", slots: 32, model: null, odd: "a b" }, "listening"),
  );
  t.match(
    line,
    /^\d\d:\d\d:\d\d\.\d{3} WARN {2}listening url=http:\/\/127\.0\.0\.1:8080 slots=32 model=null odd="a b"\n$/,
  );
  t.match(
    written((log) => log.error("x"), true),
    /\u001b\[31mERROR\u001b\[0m x\n$/,
  );
});

t.test("an error comes with its stack and its causes", async (t) => {
  const error = new Error("outer", { cause: new TypeError("inner") });
  const lines = written((log) => log.error({ err: error, code: "internal" }, "request failed")).split("\n");
  t.match(lines[0], /ERROR request failed code=internal$/);
  t.match(lines[1], /^ {4}Error: outer$/);
  t.match(lines[2], /^ {8}at /);
  t.ok(lines.includes("    caused by"));
  t.ok(lines.some((line) => line === "    TypeError: inner"));
});

t.test("nothing in a line moves the cursor, begins another, or is a secret", async (t) => {
  const text = written((log) =>
    log.info(
      { prefix_id: "\u001b[2Jx\nFAKE\u2028\u0085", "\u001b]0;": 1, key_: "a-secret-that-nobody-sees" },
      "a\rb\nc",
    ),
  );
  t.equal(text.split("\n").length, 2, text);
  t.notMatch(text, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/);
  t.notMatch(text, /nobody-sees/);
});
