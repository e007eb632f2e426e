/** Streams through the proxies configured in docker/ and docs/guides/deploy.md: each token passes without buffering. */
import { once } from "node:events";
import { connect } from "node:net";
import t, { type Test } from "tap";
import { startFakePrefixd } from "../load/fake-prefixd.ts";
import { startHaproxy } from "../support/haproxy.ts";
import { balancer, startNginx } from "../support/nginx.ts";
import { freePort } from "../support/free-port.ts";
import { lacking } from "../support/requirements.ts";

const TOKENS = 40;
/** Milliseconds between two tokens. A buffering proxy waits longer; any other has this long to pass each one on. */
const TOKEN_MS = 25;

/** The server runs in this process, so if the process stalls, no tokens pile up to arrive together. */
async function paced(t: Test): Promise<number> {
  const server = await startFakePrefixd({ tokenMs: TOKEN_MS });
  t.teardown(() => server.close());
  return Number(new URL(server.url).port);
}

/** Requests a stream over a bare connection. Returns the number of tokens in each read, without reads that had none. */
async function tokensByRead(url: string): Promise<number[]> {
  const body = JSON.stringify({ prompt: [1], max_new_tokens: TOKENS, stream: true });
  const socket = connect(Number(new URL(url).port), "127.0.0.1").setEncoding("utf8");
  socket.write(
    `POST /generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  const reads: number[] = [];
  socket.on("data", (text: unknown) => void reads.push(String(text).match(/data: \{/g)?.length ?? 0));
  await once(socket, "close");
  return reads.filter((count) => count > 0);
}

async function arriveOneByOne(t: Test, url: string): Promise<void> {
  const reads = await tokensByRead(url);
  t.comment(`tokens by read: ${reads.join(" ")}`);
  t.equal(
    reads.reduce((sum, count) => sum + count, 0),
    TOKENS,
  );
  t.ok(reads[0]! <= 3, "the first token waits for no others");
  t.ok(reads.length >= TOKENS / 2, `${reads.length} reads`);
}

t.test("directly", async (t) => arriveOneByOne(t, `http://127.0.0.1:${await paced(t)}`));

t.test("HAProxy", { skip: lacking("haproxy") }, async (t) => {
  const balancer = await startHaproxy([await paced(t), await freePort(), await freePort()]);
  t.teardown(() => balancer.stop());
  await arriveOneByOne(t, balancer.url);
});

t.test("nginx", { skip: lacking("nginx") }, async (t) => {
  const port = await paced(t);
  const proxy = await startNginx(balancer(port, port));
  t.teardown(() => proxy.stop());
  await arriveOneByOne(t, proxy.url);
});

/** A replica that answers each request to generate with 503. */
async function refusing(t: Test): Promise<{ readonly port: number; readonly asked: () => number }> {
  let asked = 0;
  const server = await startFakePrefixd({
    intercept: (_, response) => {
      asked++;
      response.writeHead(503).end('{"code":"draining"}');
      return true;
    },
  });
  t.teardown(() => server.close());
  return { port: Number(new URL(server.url).port), asked: () => asked };
}

async function generate(url: string): Promise<{ readonly status: number; readonly text: string }> {
  const answer = await fetch(`${url}/generate`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: [1], max_new_tokens: 1 }),
  });
  return { status: answer.status, text: await answer.text() };
}

t.test("nginx beside a replica that drains, and an adapter above 1 MiB", { skip: lacking("nginx") }, async (t) => {
  const draining = await refusing(t);
  const proxy = await startNginx(balancer(draining.port, await paced(t)));
  t.teardown(() => proxy.stop());
  while (draining.asked() === 0) t.equal((await generate(proxy.url)).status, 200, "the other one answers");
  const put = await fetch(`${proxy.url}/prefixes/large`, { method: "PUT", body: Buffer.alloc(2 << 20) });
  t.equal(put.status, 201);
});

t.test(
  "nginx where all replicas refuse, as without Redis, passes on what they say",
  { skip: lacking("nginx") },
  async (t) => {
    const proxy = await startNginx(balancer((await refusing(t)).port, (await refusing(t)).port));
    t.teardown(() => proxy.stop());
    for (let i = 0; i < 3; i++) t.same(await generate(proxy.url), { status: 503, text: '{"code":"draining"}' });
  },
);
