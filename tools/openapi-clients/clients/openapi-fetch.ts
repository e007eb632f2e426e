/** openapi-typescript's types (its default flags) with openapi-fetch. */
import createClient from "openapi-fetch";
import type { components, paths } from "../build/generated/openapi-typescript.js";
import { ADAPTER, BASE, dataOf, expect, KEY, PROMPT } from "./job.js";

const client = createClient<paths>({ baseUrl: BASE, headers: { authorization: `Bearer ${KEY}` } });
const id = "from-openapi-fetch";
const path = { id };

// It types every binary string as a string.
const uploaded = await client.PUT("/prefixes/{id}/adapter", {
  params: { path },
  body: ADAPTER as unknown as Record<keyof typeof ADAPTER, string>,
  bodySerializer: () => {
    const form = new FormData();
    for (const [name, file] of Object.entries(ADAPTER)) form.append(name, file);
    return form;
  },
});
expect(uploaded.data?.access === "owner", JSON.stringify(uploaded.error));
const prompted = await client.PUT("/prefixes/{id}/prompt", {
  params: { path: { id: `${id}-prompt` } },
  body: { text: "a polite answer :" },
});
expect(prompted.data?.kind === "HARD_PROMPT", JSON.stringify(prompted.error));

const { data: list } = await client.GET("/prefixes", { params: { query: { owner: "me" } } });
expect(list !== undefined && list.prefixes.some((prefix) => prefix.id === id), "the list lacks the prefix");

const answer = await client.POST("/generate", { body: { prompt: PROMPT, prefix_id: id } });
expect(answer.data?.object === "generation", JSON.stringify(answer));
expect(answer.data.choices[0]?.finish_reason === "eos", JSON.stringify(answer));
const { text } = answer.data.choices[0];

const stream = await client.POST("/generate", {
  body: { prompt: PROMPT, prefix_id: id, stream: true },
  parseAs: "stream",
});
let streamed = "";
let tokens = 0;
for await (const data of dataOf(stream.data!)) {
  const event = data as components["schemas"]["GenerateStream"];
  streamed += event.choices.map((choice) => choice.text).join("");
  if (event.object === "generation.end") tokens = event.usage.completion_tokens;
}
expect(streamed === text && tokens > 0, `streamed ${streamed}, not ${text}`);

const completion = await client.POST("/v1/completions", { body: { model: id, prompt: PROMPT, temperature: 0 } });
expect(completion.data?.choices[0]?.text === text, JSON.stringify(completion));

const missing = await client.POST("/generate", { body: { prompt: PROMPT, prefix_id: "nobody" } });
const code: components["schemas"]["Problem"]["code"] | undefined = missing.error?.code;
expect(code === "prefix_not_found", JSON.stringify(missing.error));

for (const one of [id, `${id}-prompt`]) {
  const { response } = await client.DELETE("/prefixes/{id}", { params: { path: { id: one } } });
  expect(response.status === 204, `DELETE ${response.status}`);
}
