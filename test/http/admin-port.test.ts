import { request } from "node:http";
import t from "tap";
import { AdminPort } from "../../src/http/admin-port.ts";
import type { AppState } from "../../src/http/app-parts.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { Metrics } from "../../src/observability/metrics.ts";
import { parseExposition } from "../support/exposition.ts";

const logger = createLogger("silent");
const metrics = new Metrics({ processMetrics: false });
const port = await AdminPort.open({ host: "127.0.0.1", port: 0, metrics, logger });
t.teardown(() => port.close());

const ask = async (
  path: string,
  init?: RequestInit,
): Promise<{ status: number; type: string | null; text: string }> => {
  const response = await fetch(port.url + path, init);
  return { status: response.status, type: response.headers.get("content-type"), text: await response.text() };
};
const readiness = async (path: string): Promise<[number, unknown]> => {
  const { status, text } = await ask(path);
  return [status, JSON.parse(text)];
};

t.test("while the model is loaded: alive, not ready, and metrics already", async (t) => {
  t.equal((await ask("/health/live")).status, 200);
  const loading = { status: "unavailable", checks: { model: "The model is being loaded." } };
  for (const path of ["/health/ready", "/health"]) t.same(await readiness(path), [503, loading], path);
  const { status, type, text } = await ask("/metrics");
  t.equal(status, 200);
  t.equal(type, metrics.contentType);
  t.equal(parseExposition(text).get("prefixd_queue_depth")!.samples[0]!.value, 0);
  t.equal((await ask("/metrics", { method: "HEAD" })).status, 200);
});

t.test("nothing else answers", async (t) => {
  const refused: [string, string?][] = [
    ["/"],
    ["/generate", "POST"],
    ["/prefixes"],
    ["/admin/users"],
    ["/admin/live"],
    ["/docs"],
    ["/console"],
    ["/openapi.yaml"],
    ["/metrics", "POST"],
    ["/metrics/", "GET"],
    ["/health/live", "DELETE"],
  ];
  for (const [path, method = "GET"] of refused) {
    const { status, type, text } = await ask(path, { method });
    t.match([status, type, JSON.parse(text)], [404, "application/problem+json", { code: "not_found" }], path);
  }
});

t.test("paths of OpenAI's API are not there either", async (t) => {
  const { status, text } = await ask("/v1/models");
  t.match([status, JSON.parse(text)], [404, { error: { code: "not_found" } }]);
});

t.test("on loopback a web page cannot reach it by a name of its own", async (t) => {
  const { hostname, port: number } = new URL(port.url);
  const status = await new Promise((resolve, reject) =>
    request({ hostname, port: number, path: "/metrics", headers: { host: "evil.example" } }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on("error", reject)
      .end(),
  );
  t.equal(status, 421);
});

t.test("once it is loaded it says what the server's own probe says", async (t) => {
  const state: AppState = { phase: "serving" };
  let store = (): void => {};
  port.loaded({ model: () => {}, store: () => store() }, state);
  t.same(await readiness("/health"), [200, { status: "ready", checks: { model: "ok", store: "ok" } }]);
  store = () => {
    throw new Error("secret");
  };
  t.same(await readiness("/health/ready"), [503, { status: "unavailable", checks: { model: "ok", store: "failed" } }]);
  store = () => {};
  state.phase = "leaving";
  t.match(await readiness("/health"), [503, { checks: { server: "shutting down" } }]);
  t.equal((await ask("/metrics")).status, 200, "metrics come while it drains");
});

t.test("a port in use is an error of the start", async (t) => {
  const taken = AdminPort.open({ host: "127.0.0.1", port: Number(new URL(port.url).port), metrics, logger });
  await t.rejects(taken, { code: "EADDRINUSE" });
});
