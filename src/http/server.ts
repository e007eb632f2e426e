import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { createServer, Server, type AddressInfo } from "node:net";
import { PrefixdError } from "../errors.ts";
import type { GenerationService } from "../generation/service.ts";
import type { App } from "./app.ts";
import { PROBE_MS } from "./connections/limits.ts";
import { allAccepted, stopHandshakes } from "./connections/handshakes.ts";
import type { HttpWorkers } from "./workers/pool.ts";

/** Milliseconds for the last bytes of ended requests to leave. */
const FLUSH_MS = 1_000;
/** Milliseconds without traffic before an address is closed, and the most to wait for that. */
const QUIET_MS = 20;
const SETTLE_MS = 2_000;
/**
 * Milliseconds for a client to complete its handshake, then to send a request: lost packets are resent after one second
 * and three.
 */
const CLIENT_MS = 5_000;

export interface DrainParts {
  readonly app: App;
  readonly generation: GenerationService;
  readonly engine: { drain(graceMs: number): Promise<void> };
}

export interface DrainTimes {
  /** Until it resolves, the server keeps serving while not ready. */
  readonly delay: Promise<unknown>;
  /** Milliseconds that running requests may take to finish after that. */
  readonly graceMs: number;
}

/** Starts to listen; returns the address with the actual port. With workers, these hold the connections. */
export async function listen(
  app: App,
  { host, port }: { host: string; port: number },
  workers: Pick<HttpWorkers, "serve"> | null = null,
): Promise<string> {
  workers?.serve(app.fastify.server);
  // localhost has two addresses on most machines. Fastify would create a second server for the other one, unknown to
  // everything that guards connections.
  const addresses =
    host.toLowerCase() === "localhost" ? (await lookup(host, { all: true })).map(({ address }) => address) : [host];
  return listenAt(app, addresses, port);
}

/** The first address must work; others may be of a family that the machine lacks. */
export async function listenAt(
  { fastify, doors }: App,
  [first, ...others]: readonly string[],
  port: number,
): Promise<string> {
  const url = await fastify.listen({ host: first!, port });
  const taken = (fastify.server.address() as AddressInfo).port;
  for (const address of others) {
    const opened = openDoor(fastify.server, address, taken).then((door) => void doors.push(door));
    await opened.catch((error: unknown) => fastify.log.warn({ err: error, address }, "not listening at this address"));
  }
  return url;
}

/** Opens another address whose connections belong to the same server. */
async function openDoor(server: Server, host: string, port: number): Promise<Server> {
  const door = createServer({
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: PROBE_MS,
    // With workers.
    pauseOnConnect: (server as Server & { pauseOnConnect?: boolean }).pauseOnConnect === true,
  });
  door.on("connection", (socket) => void server.emit("connection", socket));
  door.listen({ host, port });
  await once(door, "listening");
  server.once("close", () => door.close());
  return door;
}

/**
 * Closes the port at all its addresses; open connections stay. On Linux, every connection that a client considers
 * established is accepted first.
 */
async function closePort({ fastify, doors }: App): Promise<void> {
  const { port } = fastify.server.address() as AddressInfo;
  const servers: Server[] = [fastify.server, ...doors];
  if (servers.map(stopHandshakes).every(Boolean)) await allAccepted(port, CLIENT_MS);
  else fastify.log.warn("connections that come while the port closes may be reset");
  // Not http.Server's close, which would destroy kept-alive connections on which a request may be on its way.
  for (const server of servers) Server.prototype.close.call(server);
}

/**
 * Shuts the HTTP side down without breaking a connection in use:
 *
 *   leaving    until `delay` resolves: readiness is 503, everything is served, each response closes its connection
 *   refusing   new requests get 503 `draining`; the port closes once all connections have been accepted
 *   ending     running requests have `graceMs` to finish; the rest end with `draining`: a 503, or an error event in a
 *              stream
 *
 * Resolves when all connections are closed.
 */
export async function drain({ app, generation, engine }: DrainParts, { delay, graceMs }: DrainTimes): Promise<void> {
  const { state, traffic } = app;
  state.phase = "leaving";
  await delay;

  state.phase = "refusing";
  generation.stopAdmission();
  // A request still looking up its prefix, or one that needs no engine, also counts as running.
  const ended = Promise.all([engine.drain(graceMs), generation.idle(graceMs), traffic.idle(graceMs)]);
  await traffic.quiet(QUIET_MS, SETTLE_MS);
  await closePort(app);
  const heard = traffic.heard(CLIENT_MS);

  await ended;
  generation.endAll(
    new PrefixdError("draining", "The server shut down before the answer was complete.", { retryAfter: 5 }),
  );
  await heard;
  await traffic.idle(FLUSH_MS);
  // A client that has just been answered may be sending its next request on the same connection.
  await traffic.quiet(QUIET_MS, SETTLE_MS);
  app.fastify.server.closeAllConnections();
  await app.fastify.close();
}
