import t from "tap";
import { SseParser, type SseEvent } from "../../src/load/sse-parser.ts";

const parse = (pieces: readonly string[]): SseEvent[] => {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
};
const message = (data: string): SseEvent => ({ event: "message", data });

t.test("events, names, comments, several lines of data", async (t) => {
  t.same(
    parse([
      'data: one\n\n: keep-alive\n\nevent: error\ndata: {"a":1}\n\ndata:no space\ndata: second line\nid: 4\nretry: 9\n\ndata\n\n',
    ]),
    [message("one"), { event: "error", data: '{"a":1}' }, message("no space\nsecond line"), message("")],
  );
  t.same(
    parse(["event: nothing\n\ndata: x\n\n"]),
    [message("x")],
    "an event without data is none, and its name does not stay",
  );
  t.same(parse(["data: not ended"]), []);
});

t.test("events are the same with any cuts and line ends", async (t) => {
  const expected = [message("first"), { event: "error", data: "zweites\nübrig" }, message("[DONE]")];
  for (const end of ["\n", "\r\n", "\r"]) {
    const text = [
      "data: first",
      "",
      "event: error",
      "data: zweites",
      "data: übrig",
      "",
      ": c",
      "data: [DONE]",
      "",
      "",
    ].join(end);
    for (let cut = 0; cut <= text.length; cut++)
      t.same(parse([text.slice(0, cut), text.slice(cut)]), expected, `${JSON.stringify(end)} at ${cut}`);
    t.same(parse([...text]), expected, "one character at a time");
  }
});
