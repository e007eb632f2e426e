import t from "tap";
import { createLogger, serializeError } from "../../src/observability/logging.ts";
import { observeErrors } from "../../src/observability/observe-errors.ts";

const capture = (): { lines: string[]; write(line: string): void } => {
  const lines: string[] = [];
  return { lines, write: (line) => void lines.push(line) };
};

t.test("lines are JSON with level names; secrets and texts are redacted, requests are not printed", async (t) => {
  const out = capture();
  const log = createLogger("info", out);
  log.debug("below the level");
  log.info({ prompt: "SECRET", body: { text: "SECRET" }, a: { headers: { authorization: "SECRET" } }, req: { url: "SECRET" }, rows: 3 }, "hello");
  t.equal(out.lines.length, 1);
  t.match(JSON.parse(out.lines[0] ?? ""), { level: "info", name: "prefixd", rows: 3, msg: "hello", prompt: "[redacted]" });
  t.notMatch(out.lines[0], /SECRET/);
});

t.test("errors are logged with stack, code and cause, without what libraries hang on them", async (t) => {
  const out = capture();
  const error = Object.assign(new Error("outer", { cause: new TypeError("inner") }), { code: "E_X", body: "SECRET" });
  createLogger("info", out).error({ err: error });
  t.match(JSON.parse(out.lines[0] ?? ""), { level: "error", err: { message: "outer", code: "E_X", stack: /outer/, cause: { message: "inner" } } });
  t.notMatch(out.lines[0], /SECRET/);
  t.same(serializeError("text"), { type: "string" });
});

t.test("failures of an observed object are reported and still thrown", async (t) => {
  const seen: string[] = [];
  class Store {
    #n = 1;
    async ok(): Promise<number> {
      return this.#n;
    }
    async bad(): Promise<never> {
      throw new Error("down");
    }
  }
  const store = observeErrors(new Store(), (method) => seen.push(method));
  t.equal(await store.ok(), 1);
  await t.rejects(store.bad(), /down/);
  t.same(seen, ["bad"]);
});
