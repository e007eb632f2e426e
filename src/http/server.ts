import { setTimeout as sleep } from "node:timers/promises";
import { PrefixdError } from "../errors.ts";
import type { GenerationService } from "../generate.ts";
import type { App } from "./app.ts";

/** Time for the last bytes of ended requests to leave, ms. */
const FLUSH_MS = 1_000;

export interface DrainParts {
  readonly app: App;
  readonly generation: GenerationService;
  readonly engine: { drain(graceMs: number): Promise<void> };
}

/** Starts to listen; answers the address with the port that was really taken. */
export function listen(app: App, address: { host: string; port: number }): Promise<string> {
  return app.fastify.listen({ host: address.host, port: address.port });
}

/**
 * Shuts the HTTP side down: no new connections, 503 for new requests on open ones, running requests may take `graceMs` to end.
 * What still runs then ends with `draining`: a 503, or an error event in a stream. Resolves when all connections are closed.
 */
export async function drain({ app, generation, engine }: DrainParts, graceMs: number): Promise<void> {
  app.state.draining = true;
  generation.stopAdmission();
  const closed = app.fastify.close();
  const { server } = app.fastify;
  // A request may be on its way to the engine (looking up its prefix): that counts as running.
  await Promise.all([engine.drain(graceMs), generation.idle(graceMs)]);
  generation.endAll(new PrefixdError("draining", "The server shut down before the answer was complete.", { retryAfter: 5 }));
  const done = new AbortController();
  const force = async (): Promise<void> => {
    const until = performance.now() + FLUSH_MS;
    while (performance.now() < until && !done.signal.aborted) {
      server.closeIdleConnections();
      await sleep(20);
    }
    server.closeAllConnections();
  };
  await Promise.all([closed.finally(() => done.abort()), force()]);
}
