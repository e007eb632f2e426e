/** The SDK of @hey-api/openapi-ts. */
import { client } from "../build/generated/hey-api/client.gen.js";
import {
  createCompletion,
  deletePrefix,
  generate,
  listPrefixes,
  putAdapter,
  putHardPrompt,
} from "../build/generated/hey-api/sdk.gen.js";
import type { GenerateStream, Problem } from "../build/generated/hey-api/types.gen.js";
import { ADAPTER, BASE, expect, KEY, PROMPT } from "./job.js";

client.setConfig({ baseUrl: BASE, auth: KEY });
const id = "from-hey-api";
const path = { id };

const uploaded = await putAdapter({ path, body: ADAPTER });
expect(uploaded.data?.access === "owner", JSON.stringify(uploaded.error));
const prompted = await putHardPrompt({ path: { id: `${id}-prompt` }, body: { text: "a polite answer :" } });
expect(prompted.data?.kind === "HARD_PROMPT", JSON.stringify(prompted.error));

const { data: list } = await listPrefixes({ query: { owner: "me" } });
expect(list !== undefined && list.prefixes.some((prefix) => prefix.id === id), "the list lacks the prefix");

const answer = await generate({ body: { prompt: PROMPT, prefix_id: id } });
expect(answer.data?.choices[0]?.finish_reason === "eos", JSON.stringify(answer.error));
const { text } = answer.data.choices[0];

// The operation answers JSON as well, so that its function is not one for events.
const { stream } = await client.sse.post<{ 200: GenerateStream }>({
  url: "/generate",
  body: { prompt: PROMPT, prefix_id: id, stream: true },
  headers: { "content-type": "application/json" },
  security: [{ scheme: "bearer", type: "http" }],
});
let streamed = "";
let tokens = 0;
for await (const event of stream as AsyncIterable<GenerateStream | "[DONE]">) {
  if (event === "[DONE]") break;
  streamed += event.choices.map((choice) => choice.text).join("");
  if (event.object === "generation.end") tokens = event.usage.completion_tokens;
}
expect(streamed === text && tokens > 0, `streamed ${streamed}, not ${text}`);

const completion = await createCompletion({ body: { model: id, prompt: PROMPT, temperature: 0 } });
expect(completion.data?.choices[0]?.text === text, JSON.stringify(completion.error));

const { error } = await generate({ body: { prompt: PROMPT, prefix_id: "nobody" } });
const code: Problem["code"] | undefined = error?.code;
expect(code === "prefix_not_found", JSON.stringify(error));

for (const one of [id, `${id}-prompt`]) {
  const { response } = await deletePrefix({ path: { id: one } });
  expect(response?.status === 204, `DELETE ${response?.status}`);
}
