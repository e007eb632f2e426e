import { Socket } from "node:net";
import type { FastifyInstance } from "fastify";
import type { BodyWatch } from "./body-watch.ts";

/** What a client may still send after an answer that did not wait for its body: bytes, and milliseconds. */
const MOST_BYTES = 8 * 1024 * 1024;
const MOST_MS = 2_000;
const LOOK_MS = 50;

/**
 * An answer to a request that has not arrived as a whole (a refusal) is the connection's last. Node would then destroy the socket,
 * and the kernel of a client that is still sending would throw the answer away; or, with keep-alive, wait for the body as long as a
 * request may take. So our side is closed behind the answer, and what still comes is dropped, for a while. Must come before the hooks
 * that count requests.
 */
export function closeRefused(app: FastifyInstance, bodies: BodyWatch): void {
  const closing = new WeakSet<Socket>();
  app.addHook("onRequest", (request, reply, done) => {
    if (!closing.has(request.raw.socket)) return done();
    // It follows a body that came after all. Nothing could be answered, so nothing is done.
    reply.hijack();
    request.raw.socket.destroy();
  });
  app.addHook("onSend", (request, reply, payload, done) => {
    const { raw } = request;
    if (raw.complete || !(raw.socket instanceof Socket)) return done(null, payload);
    const { socket } = raw;
    // The parser may have the rest at hand and be in the middle of it.
    setImmediate(() => {
      if (!raw.complete) {
        bodies.stop(raw);
        reply.header("connection", "close");
        closing.add(socket);
        // Called by Node behind the last answer.
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
