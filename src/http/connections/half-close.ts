import { Socket } from "node:net";
import type { FastifyInstance } from "fastify";
import type { BodyWatch } from "./body-watch.ts";

/** Limits of what a client may still send after a response that did not wait for its body: bytes, and milliseconds. */
const MOST_BYTES = 8 * 1024 * 1024;
const MOST_MS = 2_000;
const LOOK_MS = 50;

/**
 * Ends the connection after a response to a request that has not arrived whole (a refusal). Node would destroy the
 * socket, and the kernel of a client still sending would discard the response; or, with keep-alive, wait for the body
 * until the request timeout. Instead we close our side after the response, and drop what still arrives for a while.
 * Call before the hooks that count requests.
 */
export function closeRefused(app: FastifyInstance, bodies: BodyWatch): void {
  const closing = new WeakSet<Socket>();
  app.addHook("onRequest", (request, reply, done) => {
    if (!closing.has(request.raw.socket)) return done();
    // The previous request's body arrived after all. Nothing could be answered, so nothing is done.
    reply.hijack();
    request.raw.socket.destroy();
  });
  app.addHook("onSend", (request, reply, payload, done) => {
    const { raw } = request;
    if (raw.complete || !(raw.socket instanceof Socket)) return done(null, payload);
    const { socket } = raw;
    // The parser may already hold the rest of the body.
    setImmediate(() => {
      if (!raw.complete) {
        bodies.stop(raw);
        reply.header("connection", "close");
        closing.add(socket);
        // Node calls this after the last response.
        socket.destroySoon = () => linger(socket);
      }
      done(null, payload);
    });
  });
}

function linger(socket: Socket): void {
  const [since, from] = [performance.now(), socket.bytesRead];
  const timer = setInterval(() => {
    if (performance.now() - since > MOST_MS || socket.bytesRead - from > MOST_BYTES) socket.destroy();
  }, LOOK_MS);
  socket.once("close", () => clearInterval(timer));
  socket.end();
}
