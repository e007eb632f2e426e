import t from "tap";
import { ADMIN_KEY, buildTestApp } from "../support/app.ts";

const ORIGINS = ["https://app.example", "http://localhost:3000"];
const preflight = (origin: string, url = "/v1/completions") =>
  ({
    method: "OPTIONS",
    url,
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    },
  }) as const;

t.test("a preflight needs no key, and allows what the API has", async (t) => {
  const { fastify } = await buildTestApp(t, { keyed: true, origins: ORIGINS });
  for (const origin of ORIGINS) {
    const answer = await fastify.inject({ ...preflight(origin), headers: { ...preflight(origin).headers, host: "x" } });
    t.equal(answer.statusCode, 204);
    t.match(answer.headers, {
      "access-control-allow-origin": origin,
      "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
      "access-control-allow-headers": "authorization,content-type,x-stainless-lang",
      "access-control-max-age": "600",
      vary: /Origin/,
    });
    t.notOk(answer.headers["access-control-allow-credentials"]);
  }
  for (const origin of ["https://evil.example", "http://app.example", "https://app.example.evil.example", "null"])
    t.notOk((await fastify.inject(preflight(origin))).headers["access-control-allow-origin"], origin);
});

t.test("answers, errors and what a script may read of them", async (t) => {
  const { fastify } = await buildTestApp(t, { keyed: true, origins: ORIGINS });
  const origin = ORIGINS[0]!;
  const authorization = `Bearer ${ADMIN_KEY}`;
  for (const [url, headers, status] of [
    ["/prefixes", { authorization }, 200],
    ["/prefixes", {}, 401],
    ["/nothing", { authorization }, 404],
  ] as const) {
    const answer = await fastify.inject({ url, headers: { origin, host: "x", ...headers } });
    t.equal(answer.statusCode, status);
    t.equal(answer.headers["access-control-allow-origin"], origin);
    t.match(answer.headers["access-control-expose-headers"], /retry-after, x-request-id/);
  }
  const { headers } = await fastify.inject({ url: "/prefixes", headers: { authorization } });
  t.notOk(headers["access-control-allow-origin"], "asked for by no page");
});

t.test("a stream has the headers too, and paths keep their methods", async (t) => {
  const app = await buildTestApp(t, { origins: ORIGINS });
  const response = await fetch(`http://127.0.0.1:${await app.listen()}/v1/completions`, {
    method: "POST",
    headers: { origin: ORIGINS[1]!, "content-type": "application/json" },
    body: JSON.stringify({ model: "demo", prompt: "ab", stream: true }),
  });
  t.equal(response.headers.get("access-control-allow-origin"), ORIGINS[1]);
  t.match(await response.text(), /\[DONE\]/);
  const wrong = await app.fastify.inject({ method: "DELETE", url: "/generate" });
  t.same([wrong.statusCode, wrong.headers.allow], [405, "POST"]);
  t.equal((await app.fastify.inject({ method: "DELETE", url: "/nothing" })).statusCode, 404);
});

t.test("without origins there is none of it", async (t) => {
  const { fastify } = await buildTestApp(t);
  const answer = await fastify.inject(preflight(ORIGINS[0]!));
  t.equal(answer.statusCode, 405);
  t.notOk(Object.keys(answer.headers).some((name) => name.startsWith("access-control-")));
});
