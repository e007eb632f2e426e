/** openapi-zod-client: a Zodios client, which checks every request and answer against the schemas. */
import { isAxiosError } from "axios";
import { Readable } from "node:stream";
import { createApiClient, schemas } from "../build/generated/zod-client.js";
import { ADAPTER, BASE, dataOf, expect, KEY, PROMPT } from "./job.js";

const headers = { authorization: `Bearer ${KEY}` };
const api = createApiClient(BASE, { axiosConfig: { headers } });
const id = "from-zod-client";

const uploaded = await api.putAdapter(ADAPTER, { params: { id }, headers: {} });
expect(uploaded.access === "owner", "not the owner");
const prompted = await api.putHardPrompt(
  { text: "a polite answer :" },
  { params: { id: `${id}-prompt` }, headers: {} },
);
expect(prompted.kind === "HARD_PROMPT", prompted.kind);

const list = await api.listPrefixes({ queries: { owner: "me" } });
expect(
  list.prefixes.some((prefix) => prefix.id === id),
  "the list lacks the prefix",
);

const answer = await api.generate({ prompt: PROMPT, prefix_id: id });
expect(answer.choices[0]?.finish_reason === "eos", JSON.stringify(answer));
const { text } = answer.choices[0];

// Zodios knows answers, not streams; the schemas are as good for those.
const { data: body } = await api.axios.post<Readable>(
  `${BASE}/generate`,
  { prompt: PROMPT, prefix_id: id, stream: true },
  { responseType: "stream" },
);
let streamed = "";
let tokens = 0;
for await (const data of dataOf(Readable.toWeb(body) as ReadableStream<Uint8Array>)) {
  const event = schemas.GenerateStream.parse(data);
  streamed += event.choices.map((choice) => choice.text).join("");
  if (event.object === "generation.end") tokens = event.usage.completion_tokens;
}
expect(streamed === text && tokens > 0, `streamed ${streamed}, not ${text}`);

const completion = await api.createCompletion({ model: id, prompt: PROMPT, temperature: 0 });
expect(completion.choices[0]?.text === text, JSON.stringify(completion));

const error = await api.generate({ prompt: PROMPT, prefix_id: "nobody" }).catch((thrown: unknown) => thrown);
expect(isAxiosError(error), String(error));
const { code } = schemas.Problem.parse(error.response?.data);
expect(code === "prefix_not_found", code);

for (const one of [id, `${id}-prompt`]) await api.deletePrefix(undefined, { params: { id: one }, headers: {} });
