import t from "tap";
import type { ChoiceDelta, ValidGenerateRequest } from "../../../src/generation/service.ts";
import { ResponseWriter } from "../../../src/http/generate/response.ts";
import { GenerateShape } from "../../../src/http/generate/shape.ts";

const TIMINGS = { queueMs: 0.5, prefillMs: 2, decodeMs: 10, tokensPerSecond: 200 };
const END = { prefix: null, usage: { prefix: 0, prompt: 2, completion: 3 }, timings: TIMINGS };

function writer(logprobs: number | null, returnTokenIds: boolean): ResponseWriter {
  const request = { id: "gen-1", user: "local", seed: 7, logprobs } as ValidGenerateRequest;
  const options = { stream: true, returnTokenIds, timings: false };
  return new ResponseWriter(new GenerateShape(request, options, "demo", (id) => `t${id}`));
}

t.test("events assembled by hand equal JSON.stringify's", async (t) => {
  const texts = [
    "",
    "a",
    '"\\"\n\r\t\b\f\u0000\u001f',
    "\u2028\u2029\u007f",
    "caf\u00e9 \u{1f600}",
    "\ud83d",
    "\ude00",
    "data: [DONE]\n\n",
    "</script>",
  ];
  for (const text of texts) {
    for (const finishReason of [null, "length", "eos", "stop", "removed"] as const) {
      for (const tokenIds of [[], [50256], [0, 1, 2]]) {
        for (const returned of [true, false]) {
          const deltas: ChoiceDelta[] = [0, 3].map((index) => ({
            index,
            text,
            tokenIds,
            logprobs: { token: [], top: [] },
            finishReason,
            score: null,
          }));
          const choices = deltas.map(({ index }) => ({
            index,
            text,
            ...(returned ? { token_ids: tokenIds } : {}),
            finish_reason: finishReason,
          }));
          const shows = returned || text !== "" || finishReason !== null;
          const event = writer(null, returned).event(deltas);
          const step = JSON.stringify({ object: "generation.step", choices });
          if (event !== (shows ? step : null)) t.equal(event, step);
          const [last] = writer(null, returned).last(deltas, END);
          const common = {
            id: "gen-1",
            prefix: null,
            model: "demo",
            usage: { prefix_tokens: 0, prompt_tokens: 2, completion_tokens: 3 },
            seed: 7,
          };
          const end = JSON.stringify({ object: "generation.end", choices, ...common });
          if (last !== end) t.equal(last, end);
        }
      }
    }
  }
  t.equal(
    writer(null, true).event([
      { index: 0, text: "a", tokenIds: [5], logprobs: { token: [], top: [] }, finishReason: null, score: null },
    ]),
    '{"object":"generation.step","choices":[{"index":0,"text":"a","token_ids":[5],"finish_reason":null}]}',
  );
});

t.test("log probabilities and scores keep their places", async (t) => {
  const delta: ChoiceDelta = {
    index: 1,
    text: "a",
    tokenIds: [5],
    logprobs: { token: [-0.5], top: [[{ id: 5, logprob: -0.5 }]] },
    finishReason: null,
    score: -1.5,
  };
  const step = (choice: object): string => JSON.stringify({ object: "generation.step", choices: [choice] });
  const logprobs = { token_logprobs: [-0.5], top_logprobs: [[{ id: 5, token: "t5", logprob: -0.5 }]] };
  t.equal(
    writer(1, true).event([delta]),
    step({ index: 1, text: "a", token_ids: [5], logprobs, score: -1.5, finish_reason: null }),
  );
  t.equal(writer(null, false).event([delta]), step({ index: 1, text: "a", score: -1.5, finish_reason: null }));
});
