import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { rateLimitHeaders } from "../../src/http/rate-limit-headers.ts";
import { buildTestApp, post } from "../support/app.ts";

t.test("the headers give the limit, its quota, the rest and the time until there is room", async (t) => {
  t.same(rateLimitHeaders({ name: "tokens", quota: 60_000, remaining: 0.4, resetSeconds: 4.2, windowSeconds: 60 }), {
    "ratelimit-policy": '"tokens";q=60000;w=60',
    ratelimit: '"tokens";r=0;t=5',
  });
  t.same(rateLimitHeaders({ name: "queue", quota: 5, remaining: 0, resetSeconds: 1 }), {
    "ratelimit-policy": '"queue";q=5',
    ratelimit: '"queue";r=0;t=1',
  });
  t.match(rateLimitHeaders({ name: "tokens", quota: 1, remaining: -3, resetSeconds: Infinity }), {
    ratelimit: '"tokens";r=0;t=999999999999999',
  });
});

t.test("every 429 with a known limit has them", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const limit = { name: "tokens", quota: 600, remaining: 0, resetSeconds: 4.9, windowSeconds: 60 } as const;
  engine.submit = () => {
    throw new PrefixdError("token_rate_exceeded", "600 tokens per minute are used up.", { retryAfter: 4.9, limit });
  };
  const answer = await fastify.inject(post("/generate", { prompt: "a" }));
  t.equal(answer.statusCode, 429);
  t.match(answer.headers, {
    "retry-after": "5",
    "ratelimit-policy": '"tokens";q=600;w=60',
    ratelimit: '"tokens";r=0;t=5',
  });
  t.match(answer.json(), { code: "token_rate_exceeded", status: 429 });
});
